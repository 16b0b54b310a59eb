//! `fill`: puts what a dead server left in its `pg_wal` into the archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use walbus::archive::envelope::sha256;
use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, Put, StoreError};
use walbus::pgdata::refuse_running;
use walbus::proto::wal::PAGE_BYTES;
use walbus::{Lsn, Segment, SegmentSize, SystemId};

use crate::pgdata::DataFolder;
use crate::settings::StoreArgs;
use crate::walfile::WalFileError;
use crate::{fetch, push, walfile};

/// Put what a dead server left unarchived into the archive: every whole segment, and the last one as far as it goes.
///
/// For a server that died before it had archived all of its WAL, and whose data folder is still there. What is in the archive already is
/// compared; other content under the same name is an error, and nothing is replaced.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit codes: 0 all of it is in the archive; 1 it is not, and stderr says why; 2 wrong usage.")]
pub struct FillArgs {
    /// The data folder. Its server must not run.
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: PathBuf,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Runs the command.
///
/// # Errors
/// Where not all of it is in the archive.
pub async fn run(args: FillArgs) -> anyhow::Result<ExitCode> {
    let archive = args.store.archive()?;
    let folder = DataFolder::open(&args.pgdata)?;
    refuse_running(&args.pgdata)?;
    archive.probe().await?;
    let filled = fill(&archive, &folder.path.join("pg_wal"), folder.control.system, folder.control.segment).await?;
    println!("{} files put into the archive; {} were there", filled.put, filled.same);
    if let Some((segment, end)) = filled.tail {
        println!("the last segment, {}, as far as {end}", segment.name(folder.control.segment));
    }
    Ok(ExitCode::SUCCESS)
}

/// What was filled in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// How many files were put.
    pub put: u64,
    /// How many were there.
    pub same: u64,
    /// The last segment that is not whole, and where its last complete record ends.
    pub tail: Option<(Segment, Lsn)>,
}

/// Puts what is in `pg_wal` into the archive. [`Archive::probe`] must have been called. The server must not run.
///
/// # Errors
/// Where not all of it is in the archive.
pub async fn fill(archive: &Archive, pg_wal: &Path, system: SystemId, size: SegmentSize) -> anyhow::Result<Filled> {
    let (segments, others) = find(pg_wal, system, size)?;
    let mut filled = Filled::default();
    // Histories first, as Postgres does: what comes behind them belongs to their timelines.
    for file in others {
        let content = std::fs::read(pg_wal.join(&file)).with_context(|| format!("read {file}"))?;
        put(archive, &file, content.into(), system, size, &mut filled).await?;
    }
    for (segment, path) in &segments {
        let content: Bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?.into();
        // Postgres syncs a segment before it begins the next.
        let is_whole = segments.contains_key(&segment.next()) || is_complete(&content, *segment, system, size);
        let name = segment.name(size);
        if is_whole {
            let superseded = superseded(archive, system, *segment, size, &content, Unusable::IsSuperseded).await?.tails;
            put(archive, name.as_str(), content, system, size, &mut filled).await?;
            delete(archive, &superseded).await?;
            continue;
        }
        let end = fetch::complete_end(&content, *segment, size);
        let bytes = usize::try_from(end.bytes_after(segment.start(size))).unwrap_or(0);
        if bytes == 0 || archive.header(&ObjectName::Segment { system, segment: name.clone() }).await?.is_some() {
            continue;
        }
        let own = content.slice(..bytes);
        let mut superseded = superseded(archive, system, *segment, size, &own, Unusable::IsAnError).await?;
        if superseded.is_exceeded {
            // What the archive has reaches further: a part of it is nothing new.
            filled.same += 1;
            continue;
        }
        let tail = ObjectName::Tail { system, segment: name, end };
        let put = match archive.put(&tail, own.clone()).await {
            // It ends where ours does, in a record that was never whole and has become another one.
            Err(StoreError::Conflict { .. }) => archive.replace(&tail, own).await.map(|()| Put::Created)?,
            put => put?,
        };
        count(put, &mut filled);
        superseded.tails.retain(|superseded| *superseded != tail);
        delete(archive, &superseded.tails).await?;
        filled.tail = Some((*segment, end));
    }
    Ok(filled)
}

/// The tails of a segment, next to what is to be stored of it.
#[derive(Debug, Default)]
struct Superseded {
    /// Those that have no more complete records. One that is longer all the same ends in a record that was never whole, and recovery would
    /// take it for its length.
    tails: Vec<ObjectName>,
    /// Whether one has more.
    is_exceeded: bool,
}

/// What a tail is that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    /// It may have more than what is to be stored.
    IsAnError,
    /// Whatever it was to be is in the whole segment.
    IsSuperseded,
}

/// Compares the tails of a segment with `own`, which ends with a record.
///
/// # Errors
/// Where the complete records of one are others: two servers wrote one timeline.
async fn superseded(
    archive: &Archive,
    system: SystemId,
    segment: Segment,
    size: SegmentSize,
    own: &[u8],
    unusable: Unusable,
) -> anyhow::Result<Superseded> {
    let mut found = Superseded::default();
    for tail in archive.list_tails(system, &segment.name(size)).await?.objects {
        let content = match archive.get(&tail.name).await {
            Ok(Some(content)) => content,
            Ok(None) => continue,
            Err(StoreError::Damaged { .. }) if unusable == Unusable::IsSuperseded => {
                found.tails.push(tail.name);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let complete = fetch::complete_end(&content, segment, size).bytes_after(segment.start(size));
        let complete = usize::try_from(complete).ok().and_then(|bytes| content.get(..bytes)).unwrap_or(&content);
        if own.starts_with(complete) {
            found.tails.push(tail.name);
        } else if complete.starts_with(own) {
            found.is_exceeded = true;
        } else {
            let at = own.iter().zip(complete).position(|(ours, theirs)| ours != theirs).unwrap_or_default();
            bail!(
                "the WAL of {} differs at {} from what {} has of it: two servers wrote one timeline. Nothing of it is put into the archive",
                segment.name(size),
                Lsn(segment.start(size).0 + at as u64),
                archive.url_of(&tail.name)
            );
        }
    }
    Ok(found)
}

async fn delete(archive: &Archive, tails: &[ObjectName]) -> anyhow::Result<()> {
    for tail in tails {
        archive.delete(tail).await?;
    }
    Ok(())
}

/// Segments in their order with their paths, and the names of what else Postgres archives, histories first.
type Found = (BTreeMap<Segment, PathBuf>, Vec<String>);

fn find(pg_wal: &Path, system: SystemId, size: SegmentSize) -> anyhow::Result<Found> {
    let (mut segments, mut others) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(pg_wal).with_context(|| format!("list {}", pg_wal.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        match ObjectName::of_file(system, &name) {
            Some(ObjectName::Segment { segment, .. }) => {
                let start = read_start(&entry.path()).with_context(|| format!("read {name}"))?;
                match walfile::check_start(&segment, &start, system, size) {
                    Ok(segment) => {
                        segments.insert(segment, entry.path());
                    }
                    // Made or recycled for WAL to come.
                    Err(WalFileError::Page { .. } | WalFileError::PageAddress { .. }) => {}
                    Err(error) => return Err(error).context(name),
                }
            }
            Some(_) => others.push(name),
            None => {}
        }
    }
    others.sort_by_key(|name| (!name.ends_with(".history"), name.clone()));
    Ok((segments, others))
}

/// A file's first page.
fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(PAGE_BYTES.into()).read_to_end(&mut start)?;
    Ok(start)
}

/// Whether a segment that none follows is written to its end: nothing of it can be written anew then.
fn is_complete(content: &[u8], segment: Segment, system: SystemId, size: SegmentSize) -> bool {
    if content.len() as u64 != size.bytes() {
        return false;
    }
    let index = SegmentIndex::of(system, segment, size, content);
    index.switched || index.invalid.is_none() && index.tail.is_none()
}

async fn put(
    archive: &Archive,
    file: &str,
    content: Bytes,
    system: SystemId,
    size: SegmentSize,
    filled: &mut Filled,
) -> anyhow::Result<()> {
    let checked = push::File::check(file, content, system, size).with_context(|| file.to_owned())?;
    let there = archive.header(&checked.name).await?;
    // What is there with other content is told by what puts it.
    if there.is_some_and(|there| there.plain_sha256 == sha256(&checked.content)) {
        filled.same += 1;
        return Ok(());
    }
    count(push::archive_file(&checked, archive).await?, filled);
    tracing::info!(file, "filled in");
    Ok(())
}

const fn count(put: Put, filled: &mut Filled) {
    match put {
        Put::Created => filled.put += 1,
        Put::Same => filled.same += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Timeline;
    use walbus::archive::store::Options;
    use walbus::proto::wal::WalBuilder;

    const SIZE: SegmentSize = SegmentSize::MIN;
    const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);

    const fn segment(number: u64) -> Segment {
        Segment { number, timeline: Timeline::FIRST }
    }

    fn written() -> WalBuilder {
        let mut wal = WalBuilder::new(SIZE, Lsn(SIZE.bytes() * 3), SYSTEM);
        wal.filler(5, 100);
        wal.switch();
        wal.filler(5, 100);
        wal.filler(6, 100);
        wal
    }

    /// The names and contents of the tails of segment 4.
    async fn tails(archive: &Archive) -> Vec<(ObjectName, Bytes)> {
        let mut found = Vec::new();
        for listed in archive.list_tails(SYSTEM, &segment(4).name(SIZE)).await.unwrap().objects {
            let content = archive.get(&listed.name).await.unwrap().unwrap();
            found.push((listed.name, content));
        }
        found
    }

    /// A `pg_wal` with segment 3, whole, segment 4 as far as two records, segment 5 recycled; and an archive.
    async fn place() -> (tempfile::TempDir, PathBuf, Archive) {
        let scratch = tempfile::tempdir().unwrap();
        let (store, pg_wal) = (scratch.path().join("store"), scratch.path().join("pg_wal"));
        std::fs::create_dir(&store).unwrap();
        std::fs::create_dir(&pg_wal).unwrap();
        let wal = written();
        let mut bytes = wal.bytes().to_vec();
        bytes.resize(2 << 20, 0);
        std::fs::write(pg_wal.join(segment(3).name(SIZE).as_str()), &bytes[..1 << 20]).unwrap();
        std::fs::write(pg_wal.join(segment(4).name(SIZE).as_str()), &bytes[1 << 20..]).unwrap();
        std::fs::write(pg_wal.join(segment(5).name(SIZE).as_str()), &bytes[..1 << 20]).unwrap();
        let archive = Archive::open(&format!("file://{}", store.display()), Options::new([])).unwrap();
        archive.probe().await.unwrap();
        (scratch, pg_wal, archive)
    }

    #[tokio::test]
    async fn whole_segments_and_the_last_ones_records_are_filled_in_once() {
        let (_scratch, pg_wal, archive) = place().await;
        let filled = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        let Some((last, end)) = filled.tail else { panic!("{filled:?}") };
        assert_eq!((filled.put, filled.same, last), (2, 0, segment(4)));
        assert!(end > segment(4).start(SIZE) && end < segment(4).end(SIZE), "{end}");
        let tail = ObjectName::Tail { system: SYSTEM, segment: segment(4).name(SIZE), end };
        let content = archive.get(&tail).await.unwrap().unwrap();
        assert_eq!(content.len() as u64, end.bytes_after(segment(4).start(SIZE)));
        assert_eq!(archive.header(&ObjectName::Segment { system: SYSTEM, segment: segment(5).name(SIZE) }).await, Ok(None));
        let again = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        assert_eq!((again.put, again.same), (0, 2));
    }

    #[tokio::test]
    async fn a_longer_tail_goes_that_ends_in_a_record_that_was_never_whole() {
        let (_scratch, pg_wal, archive) = place().await;
        let own = std::fs::read(pg_wal.join(segment(4).name(SIZE).as_str())).unwrap();
        let (end, start) = (fetch::complete_end(&own, segment(4), SIZE), segment(4).start(SIZE));
        let complete = &own[..usize::try_from(end.bytes_after(start)).unwrap()];
        let torn = [complete, &[7; 99]].concat();
        let tail = |end| ObjectName::Tail { system: SYSTEM, segment: segment(4).name(SIZE), end };
        archive.put(&tail(Lsn(end.0 + 99)), torn.into()).await.unwrap();
        // One that ends where ours does, in a record that has become another one; and a shorter one.
        let cut = [&complete[..complete.len() - 48], &[7; 48]].concat();
        archive.put(&tail(end), cut.into()).await.unwrap();
        archive.put(&tail(Lsn(end.0 - 40)), complete[..complete.len() - 40].to_vec().into()).await.unwrap();
        let filled = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        assert_eq!(filled.tail, Some((segment(4), end)));
        assert_eq!(tails(&archive).await, [(tail(end), Bytes::copy_from_slice(complete))]);
    }

    #[tokio::test]
    async fn a_tail_that_has_more_stays_and_one_of_another_history_is_refused() {
        let (_scratch, pg_wal, archive) = place().await;
        let start = segment(4).start(SIZE);
        let tail_of = |wal: &WalBuilder| {
            let name = ObjectName::Tail { system: SYSTEM, segment: segment(4).name(SIZE), end: wal.end() };
            (name, Bytes::copy_from_slice(wal.between(start, wal.end())))
        };
        let mut more = written();
        more.filler(7, 100);
        let (name, content) = tail_of(&more);
        archive.put(&name, content.clone()).await.unwrap();
        let filled = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        assert_eq!((filled.tail, tails(&archive).await), (None, vec![(name.clone(), content)]));

        let mut other = WalBuilder::new(SIZE, start, SYSTEM);
        other.filler(8, 100);
        archive.delete(&name).await.unwrap();
        let (name, content) = tail_of(&other);
        archive.put(&name, content.clone()).await.unwrap();
        let refused = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap_err().to_string();
        assert!(refused.contains("two servers wrote one timeline") && refused.contains("differs at 0/4"), "{refused}");
        assert_eq!(tails(&archive).await, [(name.clone(), content)], "nothing of it was put");
    }

    #[tokio::test]
    async fn a_whole_segment_takes_its_tails_along() {
        let (_scratch, pg_wal, archive) = place().await;
        let start = segment(4).start(SIZE);
        let mut wal = written();
        let name = ObjectName::Tail { system: SYSTEM, segment: segment(4).name(SIZE), end: wal.end() };
        archive.put(&name, Bytes::copy_from_slice(wal.between(start, wal.end()))).await.unwrap();
        wal.switch();
        std::fs::write(pg_wal.join(segment(4).name(SIZE).as_str()), wal.between(start, wal.end())).unwrap();
        let filled = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        assert_eq!((filled.put, filled.tail, tails(&archive).await), (2, None, vec![]));
    }

    #[tokio::test]
    async fn other_content_and_another_cluster_are_refused() {
        let (_scratch, pg_wal, archive) = place().await;
        fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap();
        let path = pg_wal.join(segment(3).name(SIZE).as_str());
        let mut other = std::fs::read(&path).unwrap();
        other[900_000] ^= 1;
        std::fs::write(&path, other).unwrap();
        let refused = fill(&archive, &pg_wal, SYSTEM, SIZE).await.unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(StoreError::Conflict { .. })), "{refused:#}");
        let refused = format!("{:#}", fill(&archive, &pg_wal, SystemId(1), SIZE).await.unwrap_err());
        assert!(refused.contains("of the cluster"), "{refused}");
    }
}
