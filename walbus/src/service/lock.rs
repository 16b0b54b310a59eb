//! One process a folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A lock on a data folder, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder can't be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the data folder {} is in use by another {program} (process {holder}). Stop that one, or give this one its own --data-dir", folder.display())]
    Held {
        /// The program.
        program: &'static str,
        /// The folder.
        folder: PathBuf,
        /// The other's process id, as it wrote it.
        holder: String,
    },
    /// The lock file can't be made or locked.
    #[error("lock the data folder {}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl FolderLock {
    /// Locks a folder for a program, by a file of that name in it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(folder: &Path, name: &str, program: &'static str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { folder: folder.to_owned(), source };
        let path = folder.join(name);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who it is only helps to find it: unreadable, the error is still the same.
                drop(file.read_to_string(&mut holder));
                return Err(LockError::Held { program, folder: folder.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path(), "x.lock", "x").unwrap();
        let refused = FolderLock::take(folder.path(), "x.lock", "x").unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())) && refused.contains("--data-dir"), "{refused}");
        drop(first);
        FolderLock::take(folder.path(), "x.lock", "x").unwrap();
    }
}
