//! What a file looks like from outside.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// What a file looks like from outside: when any of it differs, its content has to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    len: u64,
}

impl Stamp {
    /// What the file looks like now.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self { modified: meta.modified().ok(), inode: meta.ino(), len: meta.len() })
    }
}
