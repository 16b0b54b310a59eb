//! Files in a data folder that its server can read.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Uid};

use crate::disk::{Disk, DiskFile, OsDisk, OsFile};

/// No file that is read whole is longer than this, in bytes: settings, labels, histories.
const WHOLE_BYTES_MAX: u64 = 16 << 20;

/// A folder whose new files belong to the data folder's owner, with the mode that the data folder asks for.
#[derive(Debug)]
pub struct OwnedDisk {
    disk: OsDisk,
    owner: Owner,
}

/// Whom a data folder belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    uid: u32,
    gid: u32,
    /// 0600, or 0640 where the folder was made with `initdb --allow-group-access`.
    mode: u32,
}

/// This user may not write a data folder as its owner would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{folder} belongs to user {owner}, this program runs as {me}: run it as that user, or as root")]
pub struct NotOwner {
    folder: String,
    owner: u32,
    me: u32,
}

impl Owner {
    /// Whom the data folder at `pgdata` belongs to.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn of(pgdata: &Path) -> io::Result<Self> {
        let meta = fs::metadata(pgdata)?;
        Ok(Self { uid: meta.uid(), gid: meta.gid(), mode: if meta.mode() & 0o050 == 0o050 { 0o640 } else { 0o600 } })
    }

    /// Refuses a user who is neither the owner nor root.
    ///
    /// # Errors
    /// [`NotOwner`], whose text names both.
    pub fn check(self, pgdata: &Path) -> Result<(), NotOwner> {
        let me = rustix::process::geteuid().as_raw();
        if me == 0 || me == self.uid {
            return Ok(());
        }
        Err(NotOwner { folder: pgdata.display().to_string(), owner: self.uid, me })
    }
}

impl OwnedDisk {
    /// The folder at `path`, of a data folder that belongs to `owner`.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn open(path: &Path, owner: Owner) -> io::Result<Self> {
        Ok(Self { disk: OsDisk::open(path)?, owner })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.disk.path()
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
///
/// # Errors
/// Of the operating system, and [`io::ErrorKind::FileTooLarge`] for a file that is too long for what Postgres writes.
pub fn read_whole<D: Disk>(disk: &D, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > WHOLE_BYTES_MAX {
        let text = format!("{name} is of {len} bytes: that is no such file as Postgres writes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut content = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(Some(content))
}
