//! The data folder: its parts as disks, and what can be read off it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Uid};
use walbus::Segment;
use walbus::disk::{Disk, DiskFile, OsDisk, OsFile};
use walbus::segment::WalFile;

use super::control;
use super::error::RecoverError;
use super::history::ancestors;
use super::label::BackupLabel;
use super::plan::Local;

/// No file that is read whole is longer than this, in bytes: settings, labels, histories.
const WHOLE_BYTES_MAX: u64 = 16 << 20;

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

/// A folder whose new files belong to the data folder's owner, with the mode that the data folder asks for.
#[derive(Debug)]
pub struct OwnedDisk {
    disk: OsDisk,
    owner: Owner,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    /// 0600, or 0640 where the folder was made with `initdb --allow-group-access`.
    mode: u32,
}

impl Folders<OwnedDisk> {
    /// The folders of the data folder at `pgdata`.
    ///
    /// # Errors
    /// [`RecoverError::NotUsable`] where it is none, or this user may not write it as its owner would.
    pub fn open(pgdata: &Path) -> Result<Self, RecoverError> {
        let meta = fs::metadata(pgdata).map_err(RecoverError::folder(format!("open {}", pgdata.display())))?;
        if !pgdata.join("global/pg_control").is_file() {
            return Err(RecoverError::NotUsable(format!(
                "{} is no data folder of Postgres: it has no global/pg_control. Check --pgdata",
                pgdata.display()
            )));
        }
        let owner = Owner { uid: meta.uid(), gid: meta.gid(), mode: if meta.mode() & 0o050 == 0o050 { 0o640 } else { 0o600 } };
        let me = rustix::process::geteuid().as_raw();
        if me != 0 && me != owner.uid {
            return Err(RecoverError::NotUsable(format!(
                "{} belongs to user {}, this program runs as {me}: run it as that user, or as root",
                pgdata.display(),
                owner.uid
            )));
        }
        let open = |path: PathBuf| {
            let disk = OsDisk::open(&path).map_err(RecoverError::folder(format!("open {}", path.display())))?;
            Ok::<_, RecoverError>(OwnedDisk { disk, owner })
        };
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
        let stat =
            rustix::fs::statvfs(self.wal.disk.path()).map_err(|error| RecoverError::folder("look at pg_wal")(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl Disk for OwnedDisk {
    type File = OsFile;

    fn create_zeroed(&self, name: &str, len: u64) -> io::Result<OsFile> {
        let file = self.disk.create_zeroed(name, len)?;
        let path = self.disk.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(self.owner.mode))?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
            rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<OsFile> {
        self.disk.open(name)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// A file's content, `None` where there is no such file.
pub(super) fn read_whole<D: Disk>(disk: &D, name: &str) -> Result<Option<Vec<u8>>, RecoverError> {
    let doing = || RecoverError::folder(format!("read {name}"));
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(doing()(error)),
    };
    let len = file.len().map_err(doing())?;
    if len > WHOLE_BYTES_MAX {
        return Err(RecoverError::NotUsable(format!("{name} is of {len} bytes: that is no such file as Postgres writes")));
    }
    let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = file.read_at(&mut content, 0).map_err(doing())?;
    content.truncate(read);
    Ok(Some(content))
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
