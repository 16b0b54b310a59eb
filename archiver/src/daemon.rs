//! What `push` and `fetch` say to the daemon, and what it says to them.
//!
//! The daemon can only say yes. Whatever else it says, and whatever goes wrong with it, the one who asked does the work itself.

pub mod client;
pub mod line;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use line::FileIdentity;

/// The socket's name in a data folder's `pg_wal`, which is in no base backup.
const SOCKET: &str = ".s.beyond-pg-archiver";

/// Where the daemon of a data folder listens, unless it is told otherwise: in its `pg_wal`.
#[must_use]
pub fn default_socket(pg_wal: &Path) -> PathBuf {
    pg_wal.join(SOCKET)
}

/// The socket that a command asks: the one named, or the one of the named data folder, or the one beside the file, which Postgres has in
/// `pg_wal`.
#[must_use]
pub fn socket_of(named: Option<&Path>, pgdata: Option<&Path>, file: &Path) -> PathBuf {
    match (named, pgdata) {
        (Some(socket), _) => socket.to_owned(),
        (None, Some(pgdata)) => default_socket(&pgdata.join("pg_wal")),
        (None, None) => default_socket(file.parent().unwrap_or_else(|| Path::new(""))),
    }
}

/// What tells a file from every other, and from itself with other content.
#[must_use]
pub fn identity(meta: &Metadata) -> FileIdentity {
    let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    FileIdentity {
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
        changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_beside_the_file_unless_named() {
        let file = Path::new("pg_wal/000000010000000000000001");
        assert_eq!(socket_of(None, None, file), Path::new("pg_wal/.s.beyond-pg-archiver"));
        assert_eq!(socket_of(None, Some(Path::new("/d")), file), Path::new("/d/pg_wal/.s.beyond-pg-archiver"));
        assert_eq!(socket_of(Some(Path::new("/s")), Some(Path::new("/d")), file), Path::new("/s"));
        assert_eq!(socket_of(None, None, Path::new("x")), Path::new(".s.beyond-pg-archiver"));
    }

    #[test]
    fn an_identity_changes_with_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let one = identity(&path.metadata().unwrap());
        assert_eq!(identity(&path.metadata().unwrap()), one);
        std::fs::write(&path, "three").unwrap();
        assert_ne!(identity(&path.metadata().unwrap()), one);
    }
}
