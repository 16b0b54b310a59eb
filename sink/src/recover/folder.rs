//! The data folder: its parts as disks, and what can be read off it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use walbus::Segment;
use walbus::disk::Disk;
use walbus::pgdata::{BackupLabel, OwnedDisk, Owner};
use walbus::segment::WalFile;

use super::control;
use super::error::RecoverError;
use super::history::ancestors;
use super::plan::Local;

/// The three folders that a recovery reads and writes.
#[derive(Debug)]
pub struct Folders<D: Disk> {
    /// The data folder itself.
    pub pgdata: D,
    /// `global`.
    pub global: D,
    /// `pg_wal`, which may be elsewhere.
    pub wal: D,
}

impl Folders<OwnedDisk> {
    /// The folders of the data folder at `pgdata`.
    ///
    /// # Errors
    /// [`RecoverError::NotUsable`] where it is none, or this user may not write it as its owner would.
    pub fn open(pgdata: &Path) -> Result<Self, RecoverError> {
        let owner = Owner::of(pgdata).map_err(RecoverError::folder(format!("open {}", pgdata.display())))?;
        if !pgdata.join("global/pg_control").is_file() {
            return Err(RecoverError::NotUsable(format!(
                "{} is no data folder of Postgres: it has no global/pg_control. Check --pgdata",
                pgdata.display()
            )));
        }
        owner.check(pgdata).map_err(|error| RecoverError::NotUsable(error.to_string()))?;
        let open = |path: PathBuf| OwnedDisk::open(&path, owner).map_err(RecoverError::folder(format!("open {}", path.display())));
        Ok(Self { pgdata: open(pgdata.to_owned())?, global: open(pgdata.join("global"))?, wal: open(pgdata.join("pg_wal"))? })
    }

    /// Keeps another `recover` out of the folder for as long as what it gives lives.
    ///
    /// # Errors
    /// [`RecoverError::NotUsable`] where another one is at work.
    pub fn lock(pgdata: &Path) -> Result<fs::File, RecoverError> {
        let dir = fs::File::open(pgdata).map_err(RecoverError::folder("open the data folder"))?;
        match rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(dir),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(RecoverError::NotUsable("another recover is at work on this folder: wait for its end".to_owned()))
            }
            Err(error) => Err(RecoverError::folder("lock the data folder")(error.into())),
        }
    }

    /// How many bytes this user may still write on `pg_wal`'s filesystem.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn free_bytes(&self) -> Result<u64, RecoverError> {
        let stat = rustix::fs::statvfs(self.wal.path()).map_err(|error| RecoverError::folder("look at pg_wal")(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A file's content, `None` where there is no such file.
pub(super) fn read_whole<D: Disk>(disk: &D, name: &str) -> Result<Option<Vec<u8>>, RecoverError> {
    walbus::pgdata::read_whole(disk, name).map_err(RecoverError::folder(format!("read {name}")))
}

/// Reads what decides.
pub(super) fn read_local<D: Disk>(folders: &Folders<D>) -> Result<Local, RecoverError> {
    let bytes = read_whole(&folders.global, "pg_control")?
        .ok_or_else(|| RecoverError::NotUsable("there is no global/pg_control: check --pgdata".to_owned()))?;
    let control = control::read(&bytes)?;
    let label =
        read_whole(&folders.pgdata, "backup_label")?.map(|text| BackupLabel::parse(&String::from_utf8_lossy(&text))).transpose()?;
    let names = folders.pgdata.list().map_err(RecoverError::folder("list the data folder"))?;
    let signal = ["standby.signal", "recovery.signal"].into_iter().find(|signal| names.iter().any(|(name, _)| name == signal));
    let history = WalFile::History(control.recovery_timeline()).name();
    let ancestors = match read_whole(&folders.wal, &history)? {
        Some(text) => Some(ancestors(control.recovery_timeline(), &text).map_err(|error| {
            RecoverError::NotUsable(format!(
                "pg_wal/{history} can't be read ({error}): remove it, recover writes the sink's in its place"
            ))
        })?),
        None => None,
    };
    let mut segments: BTreeMap<Segment, u64> = BTreeMap::new();
    for (name, len) in folders.wal.list().map_err(RecoverError::folder("list pg_wal"))? {
        if let Some(WalFile::Segment(name)) = WalFile::parse(&name)
            && let Some(segment) = name.segment(control.segment_size)
        {
            segments.insert(segment, len);
        }
    }
    Ok(Local { control, label, signal, segments, ancestors })
}
