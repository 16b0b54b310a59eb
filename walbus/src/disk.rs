//! The files of one folder, as the log needs them.
//!
//! The trait is what a simulator can stand in for; [`OsDisk`] is the real one. Names are plain file names within the folder: no
//! separators, no links followed on the way.

use std::fmt::Debug;
use std::io;

#[cfg(feature = "disk")]
mod os;
#[cfg(feature = "disk")]
mod spool;
#[cfg(feature = "disk")]
pub use os::{OsDisk, OsFile};
#[cfg(feature = "disk")]
pub use spool::{FolderSpool, FolderSpoolFile};

/// Whether an error says that there is no room: the one that waiting, or the operator, can end. A quota that is used up is the same to
/// whoever writes.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// One folder of files.
///
/// Nothing here retries. What is durable after each call: what [`DiskFile::sync`] returned for, under a name that
/// [`Disk::sync_dir`] returned for.
pub trait Disk: Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes a new file of `len` bytes of zeros, its blocks allocated and its content synced; its name is not, until
    /// [`Disk::sync_dir`]. A file of that name is replaced.
    ///
    /// # Errors
    /// Of the operating system, [`io::ErrorKind::StorageFull`] where there is no room. No file is left behind then.
    fn create_zeroed(&self, name: &str, len: u64) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Of the operating system, [`io::ErrorKind::NotFound`] where there is none.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Names and lengths in bytes of the regular files in the folder, in no order.
    ///
    /// # Errors
    /// Of the operating system.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Gives a file another name, replacing what had it. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Of the operating system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// Of the operating system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in the folder durable.
    ///
    /// # Errors
    /// Of the operating system. Never call it again after a failure: the kernel may have dropped what it could not write.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file of a [`Disk`].
#[expect(clippy::len_without_is_empty, reason = "a file's length is asked of the system, and may fail")]
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Of the operating system; some of the data may have been written then.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Reads into `buf` from `offset` and gives how many bytes were read: fewer than asked only at the end of the file.
    ///
    /// # Errors
    /// Of the operating system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes durable what was written (`fdatasync`).
    ///
    /// # Errors
    /// Of the operating system. Never call it again after a failure: the kernel may have dropped what it could not write, and
    /// would answer that all is well.
    fn sync(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Of the operating system.
    fn len(&self) -> io::Result<u64>;
}

/// Writes a whole small file so that, killed at any moment, either the old content or the new one is there, and the new one is
/// durable on return.
///
/// # Errors
/// Of the operating system.
pub fn write_whole<D: Disk>(disk: &D, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = disk.create_zeroed(&temporary, content.len() as u64)?;
    file.write_at(content, 0)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}
