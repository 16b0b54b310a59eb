//! `push`: for `archive_command`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, Put, StoreError};
use walbus::proto::control::Control;
use walbus::{Segment, SegmentSize, SystemId};

use crate::daemon;
use crate::daemon::client::{self, Asked};
use crate::daemon::line::Request;
use crate::fetch;
use crate::pgdata::DataFolder;
use crate::settings::StoreArgs;
use crate::walfile::{self, WalFile, WalFileError};

/// Put a file of WAL into the archive.
///
/// Ends with 0 only when the store has acknowledged it, or has it already with the same content. Otherwise Postgres keeps the file, and tries
/// again later.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit codes: 0 it is in the archive; 1 it is not, and stderr says why; 2 wrong usage.")]
pub struct PushArgs {
    /// The file: %p in archive_command. A segment, a .partial, a .history or a .backup.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// The data folder whose WAL it is [default: the one that PATH is in, or else the current folder].
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: Option<PathBuf>,

    /// Where the daemon (`serve`) listens, if there is one [default: .s.beyond-pg-archiver in the data folder's pg_wal].
    #[arg(long, value_name = "PATH", env = "BEYOND_PG_ARCHIVE_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Asks the daemon, if there is one: whether the store has the file. Whatever is not a clear yes leaves it to [`run`].
#[must_use]
pub fn is_stored_by_daemon(args: &PushArgs) -> bool {
    let socket = daemon::socket_of(args.socket.as_deref(), args.pgdata.as_deref(), &args.path);
    let name = args.path.file_name().and_then(|name| name.to_str());
    // What is wrong with the settings or the file is told when the work is done without the daemon.
    let (Some(name), Ok(archive), Ok(meta)) = (name, args.store.hash(), args.path.metadata()) else { return false };
    let request = Request::Push { archive, name: name.to_owned(), identity: daemon::identity(&meta) };
    match client::ask(&socket, &request, args.store.timeout) {
        Asked::Stored => true,
        Asked::Here(..) | Asked::Nobody => false,
        Asked::Yourself(reason) => {
            tracing::warn!("{reason}; {name} is pushed without it");
            false
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where the file is not in the archive.
pub async fn run(args: PushArgs) -> anyhow::Result<ExitCode> {
    let archive = args.store.archive()?;
    let control = DataFolder::find(args.pgdata.as_deref(), &args.path)?.control;
    let file = File::read(&args.path, &control)?;
    if let Err(part) = file.check_whole() {
        return args.store.in_time(leave(&archive, &control, &file, part)).await;
    }
    let put = args.store.in_time(push(&archive, &file)).await?;
    tracing::info!(object = archive.url_of(&file.name), ?put, "pushed");
    Ok(ExitCode::SUCCESS)
}

/// A part of a segment, as a standby that archives by itself has it from `fetch`: done with where the archive has all of its records, and
/// else refused.
async fn leave(archive: &Archive, control: &Control, file: &File, part: WalFileError) -> anyhow::Result<ExitCode> {
    if !fetch::has_all_of(archive, control, &file.name, &file.content).await? {
        anyhow::bail!(
            "{}: {part}. The archive does not have all of its records; if the server was promoted and nothing will fill it, remove its .ready \
             file from pg_wal/archive_status",
            file.name
        );
    }
    tracing::warn!("{}: {part}. There is nothing to put: the archive has all of its records", file.name);
    Ok(ExitCode::SUCCESS)
}

/// Puts a file into the archive, with the index of what is in it. [`Archive::probe`] must have been called.
///
/// # Errors
/// Where the store has not acknowledged both: a [`StoreError`], or a defect of the packing.
pub async fn archive_file(file: &File, archive: &Archive) -> anyhow::Result<Put> {
    file.prepare(archive).await?.put(archive).await
}

async fn push(archive: &Archive, file: &File) -> anyhow::Result<Put> {
    // The probe waits for the network, what seals the file for a processor.
    let (probed, ready) = tokio::join!(archive.probe(), file.prepare(archive));
    probed?;
    ready?.put(archive).await
}

/// A file of Postgres that is what its name says.
#[derive(Debug, Clone)]
pub struct File {
    /// What it will be in the archive.
    pub name: ObjectName,
    /// What it is.
    pub kind: WalFile,
    /// Its content.
    pub content: Bytes,
    size: SegmentSize,
    system: SystemId,
}

/// A file that is packed, and what is in it.
#[derive(Debug, Clone)]
pub struct Ready {
    name: ObjectName,
    sealed: walbus::archive::store::Sealed,
    index: Option<SegmentIndex>,
}

impl File {
    /// Reads a file, and checks that it is what its name says, whole or not.
    fn read(path: &Path, control: &Control) -> anyhow::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let content = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::named(name, content.into(), control.system, control.segment).with_context(|| path.display().to_string())
    }

    /// The file of that name and content, of the cluster `system` with segments of `size`.
    ///
    /// # Errors
    /// Where it is not what its name says, or a part of a segment.
    pub fn check(file: &str, content: Bytes, system: SystemId, size: SegmentSize) -> anyhow::Result<Self> {
        let file = Self::named(file, content, system, size)?;
        file.check_whole()?;
        Ok(file)
    }

    fn named(file: &str, content: Bytes, system: SystemId, size: SegmentSize) -> anyhow::Result<Self> {
        let name = ObjectName::of_file(system, file).with_context(|| {
            format!("{file:?} is the name of no file that Postgres archives (a segment, .partial, .history or .backup)")
        })?;
        let kind = walfile::check(&name, &content, system, size)?;
        Ok(Self { name, kind, content, size, system })
    }

    fn check_whole(&self) -> Result<(), WalFileError> {
        let WalFile::Segment(segment) = self.kind else { return Ok(()) };
        walfile::check_whole(segment, &self.content, self.size)
    }

    /// Packs it and reads what is in it, both at once.
    ///
    /// # Errors
    /// Where it can't be packed.
    pub async fn prepare(&self, archive: &Archive) -> anyhow::Result<Ready> {
        let (sealed, index) = tokio::join!(archive.seal(self.content.clone()), self.index());
        let (sealed, mut index) = (sealed?, index?);
        if let Some(index) = &mut index {
            index.sha256 = sealed.header.plain_sha256;
            if let Some(invalid) = &index.invalid {
                // Refusing it would fill the server's disk, and lose what is valid.
                tracing::warn!(file = %self.name, at = %invalid.at, "is no valid WAL from there on: {}", invalid.reason);
            }
        }
        Ok(Ready { name: self.name.clone(), sealed, index })
    }

    async fn index(&self) -> anyhow::Result<Option<SegmentIndex>> {
        let WalFile::Segment(segment) = self.kind else { return Ok(None) };
        let (content, system, size) = (self.content.clone(), self.system, self.size);
        let index = tokio::task::spawn_blocking(move || index_of(&content, system, segment, size));
        Ok(Some(index.await?))
    }
}

/// What is in a segment; its hash is put in by who has it.
fn index_of(content: &[u8], system: SystemId, segment: Segment, size: SegmentSize) -> SegmentIndex {
    SegmentIndex::with_hash(system, segment, size, content, walbus::archive::envelope::ContentHash([0; 32]))
}

impl Ready {
    /// Puts it into the archive, with the index of what is in it. [`Archive::probe`] must have been called.
    ///
    /// # Errors
    /// Where the store has not acknowledged both.
    pub async fn put(&self, archive: &Archive) -> anyhow::Result<Put> {
        // The index comes second: the segment stored is the one that it is of, whoever else has put one meanwhile.
        let put = archive.put_sealed(&self.name, &self.sealed).await?;
        match self.put_index(archive).await {
            // It can be made again, and the segment is what counts.
            Err(error @ (StoreError::Conflict { .. } | StoreError::Damaged { .. })) => {
                tracing::warn!("{error}; it is an index: `verify --repair` makes it again");
            }
            indexed => indexed?,
        }
        Ok(put)
    }

    async fn put_index(&self, archive: &Archive) -> Result<(), StoreError> {
        let Some((index, segment)) = self.index.as_ref().zip(self.name.segment()) else { return Ok(()) };
        let name = ObjectName::Index { system: index.system, segment: segment.clone() };
        let json: Bytes = index.encode().map_err(|error| StoreError::Settings { problem: error.to_string() })?.into();
        let problem = match archive.put(&name, json.clone()).await {
            Err(problem @ (StoreError::Conflict { .. } | StoreError::Damaged { .. })) => problem,
            put => return put.map(drop),
        };
        // One of another segment, from a server that lost against this one; or of this one, by another version.
        let is_of_another = match archive.get(&name).await {
            Ok(Some(there)) => SegmentIndex::parse(&there).map_or(true, |there| there.sha256 != index.sha256),
            Ok(None) | Err(StoreError::Damaged { .. }) => true,
            Err(error) => return Err(error),
        };
        if is_of_another { archive.replace(&name, json).await } else { Err(problem) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Lsn;
    use walbus::archive::store::Options;
    use walbus::proto::wal::WalBuilder;

    const SIZE: SegmentSize = SegmentSize::MIN;
    const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);

    #[tokio::test]
    async fn an_index_is_of_the_segment_that_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&format!("file://{}", folder.path().display()), Options::new([])).unwrap();
        archive.probe().await.unwrap();
        let file = |records: u32| {
            let mut wal = WalBuilder::new(SIZE, Lsn(SIZE.bytes() * 3), SYSTEM);
            for xid in 0..records {
                wal.filler(xid, 100);
            }
            wal.switch();
            File::check("000000010000000000000003", wal.bytes().to_vec().into(), SYSTEM, SIZE).unwrap()
        };
        let (ours, other) = (file(3), file(4));
        let name = ObjectName::Index { system: SYSTEM, segment: "000000010000000000000003".parse().unwrap() };
        let index = async || SegmentIndex::parse(&archive.get(&name).await.unwrap().unwrap()).unwrap().sha256;
        let hash = |file: &File| walbus::archive::envelope::sha256(&file.content);
        // Another server's index came before its segment, which then lost.
        let left = other.prepare(&archive).await.unwrap();
        left.put_index(&archive).await.unwrap();
        assert_eq!(index().await, hash(&other));
        archive_file(&ours, &archive).await.unwrap();
        assert_eq!(index().await, hash(&ours));
        // Who loses does not touch it.
        assert!(archive_file(&other, &archive).await.is_err());
        assert_eq!(index().await, hash(&ours));
        archive.delete(&name).await.unwrap();
        assert!(archive_file(&other, &archive).await.is_err());
        assert!(archive.get(&name).await.unwrap().is_none(), "no index without its segment");
        archive.put(&name, Bytes::from_static(b"no index")).await.unwrap();
        archive_file(&ours, &archive).await.unwrap();
        assert_eq!(index().await, hash(&ours));
    }
}
