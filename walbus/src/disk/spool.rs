//! A [`Spool`] of the operating system's files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::os::read_from;
use crate::logical::{Spool, SpoolFile};

/// Files without names in one folder: whatever ends the process, the system takes their room back.
#[derive(Debug)]
pub struct FolderSpool {
    folder: PathBuf,
}

impl FolderSpool {
    /// The spool in a folder, which must exist and belong to this process alone.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
}

impl Spool for FolderSpool {
    type File = FolderSpoolFile;

    fn create(&mut self) -> io::Result<FolderSpoolFile> {
        // A process that was killed right here has left the name behind, and nothing in it.
        let path = self.folder.join("transaction.spool");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(FolderSpoolFile { file, len: 0 })
    }
}

/// A file of a [`FolderSpool`].
#[derive(Debug)]
pub struct FolderSpoolFile {
    file: File,
    len: u64,
}

impl SpoolFile for FolderSpoolFile {
    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.len)?;
        self.len += data.len() as u64;
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_from(&self.file, buf, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_shrinks_is_read_and_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = FolderSpool::new(folder.path());
        let (mut file, mut other) = (spool.create().unwrap(), spool.create().unwrap());
        file.append(b"abcdef").unwrap();
        other.append(b"other").unwrap();
        file.truncate(3).unwrap();
        file.append(b"xyz").unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, 1).unwrap(), 5);
        assert_eq!(&buf[..5], b"bcxyz");
        assert_eq!(other.read_at(&mut buf, 0).unwrap(), 5);
        assert_eq!(&buf[..5], b"other");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
