//! `fetch`: for `restore_command`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::Archive;
use walbus::disk::{Disk, OsDisk};
use walbus::proto::control::Control;
use walbus::proto::wal::{Scan, ScanEnd};
use walbus::{Lsn, Segment, SegmentName, SegmentSize};

use crate::daemon;
use crate::daemon::client::{self, Asked};
use crate::daemon::line::Request;
use crate::pgdata::DataFolder;
use crate::settings::StoreArgs;
use crate::walfile;

/// The exit code for a file that is known not to exist. Postgres takes every code from 1 to 125 for that, and ends recovery there or looks
/// elsewhere.
pub const ABSENT: u8 = 1;

/// The exit code for everything else that goes wrong. Above 125, Postgres stops recovery rather than ending it early.
pub const DOUBT: u8 = 130;

/// How often a segment is looked for again whose tails are replaced while they are read.
const ROUNDS_MAX: u32 = 5;

/// Bring a file of WAL back.
///
/// A segment that is not there whole, as the last one of a server that died, is given as far as it is there: from its .partial or from the
/// tail that `follow` keeps, with zeros behind. It is not given where the server's own pg_wal has as much of it, or more.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Exit codes: 0 the file is at PATH; 1 it is proven not to be in the archive, or pg_wal has more of it: Postgres takes its own, ends recovery, or goes on from its primary; \
130 it could not be found out, and stderr says why: Postgres stops, so that recovery does not end early. Start it again when the store is back.")]
pub struct FetchArgs {
    /// The name of the file: %f in restore_command.
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where to put it: %p in restore_command.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// The data folder that it is for [default: the one that PATH is in, or else the current folder].
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: Option<PathBuf>,

    /// Give whole segments only.
    #[arg(long)]
    pub no_tail: bool,

    /// Where the daemon (`serve`) listens, if there is one [default: .s.beyond-pg-archiver in the data folder's pg_wal].
    #[arg(long, value_name = "PATH", env = "BEYOND_PG_ARCHIVE_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Asks the daemon, if there is one, for a whole segment, and puts it in its place. Says whether it is there; if not, it is for [`run`].
#[must_use]
pub fn is_given_by_daemon(args: &FetchArgs) -> bool {
    // All else is small, or may be there in part: that takes a look into the store.
    let Ok(segment) = args.name.parse::<SegmentName>() else { return false };
    let socket = daemon::socket_of(args.socket.as_deref(), args.pgdata.as_deref(), &args.path);
    // What is wrong with the settings or the folder is told when the work is done without the daemon.
    let (Ok(archive), Ok(folder)) = (args.store.hash(), DataFolder::find(args.pgdata.as_deref(), &args.path)) else { return false };
    let Control { system, segment: size, .. } = folder.control;
    match client::ask(&socket, &Request::Fetch { archive, system, segment }, args.store.timeout) {
        Asked::Here(file, connection) => {
            let placed = place(&file, &args.path, size.bytes());
            drop(connection);
            if let Err(error) = &placed {
                tracing::warn!(%error, "what the daemon gave can't be put to {}; it is fetched without it", args.path.display());
            }
            placed.is_ok()
        }
        Asked::Nobody | Asked::Stored => false,
        Asked::Yourself(reason) => {
            tracing::info!("{reason}; {} is fetched without it", args.name);
            false
        }
    }
}

/// Moves a file of the daemon's to where it is wanted; copies it where that is another file system. It is whole, and checked. Neither it nor
/// its name is synced: Postgres syncs both before it takes the file for a segment of its own, and after a crash before that it asks again.
#[expect(clippy::disallowed_methods, reason = "Postgres syncs the file and its name when it takes it over")]
fn place(file: &Path, path: &Path, bytes: u64) -> std::io::Result<()> {
    if file.metadata()?.len() != bytes {
        return Err(std::io::Error::other("it has not the length of a segment"));
    }
    match std::fs::rename(file, path) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => write(path, &std::fs::read(file)?),
        renamed => renamed,
    }
}

/// Runs the command.
///
/// # Errors
/// Where the file is not at its place, and it is not proven that the archive does not have it: to end in [`DOUBT`].
pub async fn run(args: FetchArgs) -> anyhow::Result<ExitCode> {
    let archive = args.store.archive()?;
    let folder = DataFolder::find(args.pgdata.as_deref(), &args.path)?;
    let found = args.store.in_time(look(&archive, &folder.control, &args.name, !args.no_tail)).await?;
    let content = match found {
        Found::Whole(content) => content,
        Found::Part(segment, content) => {
            if let Some(own) = own_that_reaches(&folder, &args.path, &segment, &content)? {
                tracing::warn!(
                    "{} reaches as far as what the archive has of it, or further: it is left to Postgres",
                    own.display()
                );
                return Ok(ABSENT.into());
            }
            content
        }
        Found::None => {
            tracing::info!("{} has no {}", archive.url(), args.name);
            return Ok(ABSENT.into());
        }
    };
    write(&args.path, &content).with_context(|| format!("write {}", args.path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// A file's content, checked to be what its name says; `None` where it is proven not to be in the archive. With `tails`, a segment that is
/// not there whole is given as far as it is there.
///
/// # Errors
/// Where that can't be told.
pub async fn find(archive: &Archive, control: &Control, file: &str, tails: bool) -> anyhow::Result<Option<Bytes>> {
    match look(archive, control, file, tails).await? {
        Found::Part(_, content) | Found::Whole(content) => Ok(Some(content)),
        Found::None => Ok(None),
    }
}

/// Whether the archive has all the complete records of `part` of a segment, byte by byte: in the whole one, its `.partial` or its longest tail.
///
/// # Errors
/// Where that can't be told.
pub(crate) async fn has_all_of(archive: &Archive, control: &Control, name: &ObjectName, part: &[u8]) -> anyhow::Result<bool> {
    let Some((name, segment)) = name.segment().and_then(|name| Some((name, name.segment(control.segment)?))) else {
        return Ok(false);
    };
    let Some(held) = find(archive, control, name.as_str(), true).await? else { return Ok(false) };
    let complete = scan(part, segment, control.segment).filter(|found| found.last_record.is_some());
    let complete = complete.and_then(|found| usize::try_from(found.complete_end.bytes_after(segment.start(control.segment))).ok());
    // Without a record that ends in it, there is no more to go by than its bytes.
    let end = complete.unwrap_or_else(|| part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok(part.get(..end).is_some_and(|part| held.starts_with(part)))
}

/// What there is of a file.
enum Found {
    /// Nothing, and that is proven.
    None,
    /// A segment that is not there whole, filled up to its length.
    Part(SegmentName, Bytes),
    /// All of it.
    Whole(Bytes),
}

impl Found {
    fn whole(content: Option<Bytes>) -> Self {
        content.map_or(Self::None, Self::Whole)
    }
}

async fn look(archive: &Archive, control: &Control, file: &str, tails: bool) -> anyhow::Result<Found> {
    let name = ObjectName::of_file(control.system, file);
    let name = name.with_context(|| format!("{file:?} is the name of no file that Postgres archives"))?;
    let ObjectName::Segment { segment, .. } = &name else {
        return Ok(Found::whole(checked(archive, control, &name).await?));
    };
    // `follow` puts the whole segment before it deletes its tails, and a longer tail before a shorter one. So where nothing of a segment was
    // found, or what was listed is gone, the whole one may have come meanwhile.
    for _ in 0..ROUNDS_MAX {
        if let Some(content) = checked(archive, control, &name).await? {
            return Ok(Found::Whole(content));
        }
        if !tails {
            return Ok(Found::None);
        }
        match part_of(archive, control, segment).await? {
            Part::Found(content) => return Ok(Found::Part(segment.clone(), content)),
            Part::Gone => {}
            Part::None => return Ok(Found::whole(checked(archive, control, &name).await?)),
        }
    }
    anyhow::bail!("the tails of {} were replaced each time while they were read: try again", archive.url_of(&name))
}

/// What there is of a segment that is not there whole.
enum Part {
    /// This, filled up to a segment's length.
    Found(Bytes),
    /// Something was listed, and then it was not there.
    Gone,
    /// Nothing.
    None,
}

/// The server's own file of a segment, where that has all the complete records of `part`, which the archive has of it. Postgres asks
/// the archive first, and puts what it gets in the place of its own: what only that one has would be gone.
fn own_that_reaches(folder: &DataFolder, path: &Path, name: &SegmentName, part: &[u8]) -> anyhow::Result<Option<PathBuf>> {
    let Control { system, segment: size, .. } = folder.control;
    let Some(segment) = name.segment(size) else { return Ok(None) };
    let beside = path.parent().map(|around| around.join(name.as_str()));
    for own in [beside, Some(folder.path.join("pg_wal").join(name.as_str()))].into_iter().flatten() {
        let content = match std::fs::read(&own) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.with_context(|| format!("read {}, to compare it with what the archive has of it", own.display()))?,
        };
        // One that was recycled has another address.
        let is_it = content.len() as u64 == size.bytes() && walfile::check_start(name, &content, system, size).is_ok();
        if is_it && reaches(&content, part, segment, size) {
            return Ok(Some(own));
        }
    }
    Ok(None)
}

/// Whether `own` has all the complete records that `part` of the same segment has.
pub(crate) fn reaches(own: &[u8], part: &[u8], segment: Segment, size: SegmentSize) -> bool {
    let (Some(held), Some(found)) = (scan(own, segment, size), scan(part, segment, size)) else { return false };
    if found.last_record.is_some() || held.last_record.is_some() {
        return held.complete_end >= found.complete_end;
    }
    // Both may have no more than of a record that comes in over the segment's start: there, only the bytes tell.
    let written = part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    own.starts_with(&part[..written])
}

/// An object's content, checked.
async fn checked(archive: &Archive, control: &Control, name: &ObjectName) -> anyhow::Result<Option<Bytes>> {
    let Some(content) = archive.get(name).await? else { return Ok(None) };
    walfile::check(name, &content, control.system, control.segment).with_context(|| archive.url_of(name))?;
    Ok(Some(content))
}

/// A segment that is not there whole, as far as it is there: what reaches further of its `.partial` and its longest tail.
async fn part_of(archive: &Archive, control: &Control, name: &SegmentName) -> anyhow::Result<Part> {
    let partial = ObjectName::Partial { system: control.system, segment: name.clone() };
    let partial = checked(archive, control, &partial).await?;
    let tail = longest_tail(archive, control, name).await?;
    let segment = name.segment(control.segment);
    let reach = |content: &Bytes| segment.map_or(Lsn::INVALID, |segment| complete_end(content, segment, control.segment));
    let (found, from) = match (partial, tail) {
        (Some(partial), Part::Found(tail)) if reach(&tail) > reach(&partial) => (tail, "tail"),
        (Some(partial), _) => (partial, ".partial"),
        (None, Part::Found(tail)) => (tail, "tail"),
        (None, none) => return Ok(none),
    };
    tracing::warn!("{name} is not there whole: there is its {from}, whose last record ends at {}", reach(&found));
    Ok(Part::Found(found))
}

/// The longest tail of a segment, filled up with zeros.
async fn longest_tail(archive: &Archive, control: &Control, name: &SegmentName) -> anyhow::Result<Part> {
    let tails = archive.list_tails(control.system, name).await?;
    let Some(longest) = tails.objects.into_iter().next_back().map(|listed| listed.name) else { return Ok(Part::None) };
    let Some(content) = archive.get(&longest).await? else { return Ok(Part::Gone) };
    walfile::check_start(name, &content, control.system, control.segment).with_context(|| archive.url_of(&longest))?;
    let mut whole = content.to_vec();
    let size = usize::try_from(control.segment.bytes()).context("a segment's size")?;
    anyhow::ensure!(whole.len() <= size, "{} is longer than a segment", archive.url_of(&longest));
    whole.resize(size, 0);
    Ok(Part::Found(whole.into()))
}

/// Where the last complete record ends that is in a part of a segment.
pub(crate) fn complete_end(content: &[u8], segment: Segment, size: SegmentSize) -> Lsn {
    scan(content, segment, size).map_or(Lsn::INVALID, |found| found.complete_end)
}

/// Where a segment's valid WAL ends.
fn scan(content: &[u8], segment: Segment, size: SegmentSize) -> Option<ScanEnd> {
    let mut scan = Scan::new(size, segment.start(size), segment.timeline).ok()?;
    scan.feed(content, &mut |_| ());
    Some(scan.finish())
}

/// Writes a file under a temporary name, and gives it its own when it is durable: whatever happens, there is no half of it under its name.
///
/// # Errors
/// Of the operating system.
pub fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| std::io::Error::other("it is no file's name"))?;
    let disk = OsDisk::open(folder)?;
    let temporary = format!("{name}.tmp");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(folder.join(&temporary))?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| disk.rename(&temporary, name));
    if let Err(error) = written {
        // Half a file holds room that recovery needs; that it can't be removed either changes nothing in what failed.
        drop(disk.remove(&temporary));
        return Err(error);
    }
    disk.sync_dir()
}

#[cfg(test)]
mod tests;
