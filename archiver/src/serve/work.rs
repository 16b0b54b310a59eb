//! What the daemon does with files and the store: one upload, one fetch. What follows from it is for [`super::uploads`] and
//! [`super::prefetch`] to decide.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, GetError, StoreError};
use walbus::{Segment, SegmentSize, SystemId};

use super::prefetch::Fetched;
use super::spool::Spool;
use super::uploads::Uploaded;
use crate::daemon::identity;
use crate::daemon::line::FileIdentity;
use crate::{push, walfile};

/// Whose WAL it is, and where.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The cluster.
    pub system: SystemId,
    /// Its `wal_segment_size`.
    pub size: SegmentSize,
    /// Its `pg_wal`.
    pub pg_wal: PathBuf,
}

/// What has come of a piece of work, and what it says of the store.
#[derive(Debug)]
pub struct Done<T> {
    /// For who decides.
    pub outcome: T,
    /// What the store has said; `None` where it was not asked.
    pub store: Option<Result<(), StoreError>>,
    /// How many bytes of WAL have gone or come.
    pub bytes: u64,
}

/// Uploads a file of `pg_wal`, as `push` does.
pub async fn upload(archive: &Archive, cluster: &Cluster, name: &str) -> Done<Uploaded> {
    let not_asked = |outcome| Done { outcome, store: None, bytes: 0 };
    let (path, limit) = (cluster.pg_wal.join(name), cluster.size.bytes());
    let read = tokio::task::spawn_blocking(move || read(&path, limit)).await.map_err(io::Error::other).flatten();
    let (content, identity) = match read {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return not_asked(Uploaded::Gone),
        Err(error) => return not_asked(Uploaded::Refused(format!("read {name}: {error}"))),
    };
    let file = match push::File::check(name, content, cluster.system, cluster.size) {
        Ok(file) => file,
        Err(error) => return not_asked(Uploaded::Refused(format!("{error:#}"))),
    };
    let bytes = file.content.len() as u64;
    let put = push::archive_file(&file, archive).await;
    match put.map_err(|error| error.downcast::<StoreError>()) {
        Ok(_) => Done { outcome: Uploaded::Stored(identity), store: Some(Ok(())), bytes },
        Err(Ok(error)) => {
            let outcome = match &error {
                StoreError::Conflict { .. } | StoreError::Damaged { .. } => Uploaded::Refused(error.to_string()),
                _ => Uploaded::Away(error.to_string()),
            };
            Done { outcome, store: Some(Err(error)), bytes: 0 }
        }
        Err(Err(error)) => not_asked(Uploaded::Refused(format!("{error:#}"))),
    }
}

/// A file's content, and what identified it before and after it was read. Blocks.
fn read(path: &Path, limit: u64) -> io::Result<(Bytes, FileIdentity)> {
    let file = File::open(path)?;
    let before = identity(&file.metadata()?);
    let mut content = Vec::with_capacity(usize::try_from(before.bytes.min(limit)).unwrap_or(0));
    // One byte more than there may be shows that there is more.
    (&file).take(limit + 1).read_to_end(&mut content)?;
    let after = identity(&file.metadata()?);
    // It may have been renamed meanwhile, and another one be under its name.
    if before != after || identity(&path.metadata()?) != after {
        return Err(io::Error::other("it changed while it was read"));
    }
    Ok((content.into(), after))
}

/// Fetches a whole segment into the spool, checked as `fetch` does.
pub async fn fetch(archive: &Archive, cluster: &Cluster, spool: &Spool, segment: Segment) -> Done<Fetched> {
    let segment_name = segment.name(cluster.size);
    let name = ObjectName::Segment { system: cluster.system, segment: segment_name.clone() };
    let draft = {
        let (spool, segment_name) = (spool.clone(), segment_name.clone());
        move || spool.draft(&segment_name)
    };
    let full = |error: io::Error| Fetched::Full(format!("the spool (--spool) can't be written: {error}"));
    let draft = match archive.get_into(&name, draft).await {
        Ok(Some(draft)) => draft,
        Ok(None) => return Done { outcome: Fetched::Absent, store: Some(Ok(())), bytes: 0 },
        Err(GetError::Write(error)) => return Done { outcome: full(error), store: Some(Ok(())), bytes: 0 },
        Err(GetError::Store(error)) => {
            let outcome = match &error {
                StoreError::Damaged { .. } => Fetched::Damaged(error.to_string()),
                _ => Fetched::Away(error.to_string()),
            };
            return Done { outcome, store: Some(Err(error)), bytes: 0 };
        }
    };
    let bytes = draft.bytes();
    let checked = walfile::check_fetched(&segment_name, draft.head(), bytes, cluster.system, cluster.size);
    let outcome = match checked.with_context(|| archive.url_of(&name)) {
        // A rename alone: it waits for no disk.
        Ok(_) => draft.finish().map_or_else(full, |()| Fetched::Stored),
        Err(error) => Fetched::Damaged(format!("{error:#}")),
    };
    Done { outcome, store: Some(Ok(())), bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Lsn;
    use walbus::archive::store::Options;
    use walbus::proto::wal::WalBuilder;

    const SIZE: SegmentSize = SegmentSize::MIN;
    const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);
    const NAME: &str = "000000010000000000000003";

    struct Place {
        archive: Archive,
        cluster: Cluster,
        scratch: tempfile::TempDir,
    }

    /// An archive in a folder, and a `pg_wal` with one segment.
    async fn place() -> Place {
        let scratch = tempfile::tempdir().unwrap();
        let (store, pg_wal) = (scratch.path().join("store"), scratch.path().join("pg_wal"));
        std::fs::create_dir(&store).unwrap();
        std::fs::create_dir(&pg_wal).unwrap();
        let mut wal = WalBuilder::new(SIZE, Lsn(SIZE.bytes() * 3), SYSTEM);
        wal.filler(5, 100);
        wal.switch();
        std::fs::write(pg_wal.join(NAME), wal.bytes()).unwrap();
        let archive = Archive::open(&format!("file://{}", store.display()), Options::new([])).unwrap();
        archive.probe().await.unwrap();
        Place { archive, cluster: Cluster { system: SYSTEM, size: SIZE, pg_wal }, scratch }
    }

    #[tokio::test]
    async fn what_is_uploaded_is_fetched() {
        let Place { archive, cluster, scratch } = place().await;
        let file = cluster.pg_wal.join(NAME);
        let done = upload(&archive, &cluster, NAME).await;
        assert_eq!(done.outcome, Uploaded::Stored(identity(&file.metadata().unwrap())));
        assert_eq!((done.bytes, done.store), (SIZE.bytes(), Some(Ok(()))));
        let spool = Spool::open(&scratch.path().join("spool")).unwrap();
        let segment = |number| Segment { number, timeline: walbus::Timeline::FIRST };
        assert_eq!(fetch(&archive, &cluster, &spool, segment(3)).await.outcome, Fetched::Stored);
        let taken = spool.take(&NAME.parse().unwrap(), 1).unwrap();
        assert_eq!(std::fs::read(taken).unwrap(), std::fs::read(file).unwrap());
        assert_eq!(fetch(&archive, &cluster, &spool, segment(4)).await.outcome, Fetched::Absent);
        std::fs::remove_dir_all(scratch.path().join("spool")).unwrap();
        assert!(matches!(fetch(&archive, &cluster, &spool, segment(3)).await.outcome, Fetched::Full(_)));
    }

    #[tokio::test]
    async fn what_cant_be_archived_is_refused_by_its_reason() {
        let Place { archive, mut cluster, scratch: _scratch } = place().await;
        assert_eq!(upload(&archive, &cluster, "000000010000000000000004").await.outcome, Uploaded::Gone);
        let file = cluster.pg_wal.join(NAME);
        assert!(matches!(upload(&archive, &cluster, NAME).await.outcome, Uploaded::Stored(_)));
        let mut other = std::fs::read(&file).unwrap();
        other[70_000] ^= 1;
        std::fs::write(&file, other).unwrap();
        let done = upload(&archive, &cluster, NAME).await;
        assert!(matches!(&done.outcome, Uploaded::Refused(reason) if reason.contains("other content")), "{done:?}");
        assert!(matches!(done.store, Some(Err(StoreError::Conflict { .. }))));
        cluster.system = SystemId(1);
        let done = upload(&archive, &cluster, NAME).await;
        assert!(matches!(&done.outcome, Uploaded::Refused(reason) if reason.contains("cluster")), "{done:?}");
        assert_eq!(done.store, None);
    }
}
