//! The spool's files. Nothing in it is trusted after a start: it is emptied then.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walbus::SegmentName;
use walbus::disk::{Disk, OsDisk};
use walbus::service::lock::{FolderLock, LockError};

/// What a whole segment's file ends in.
const WHOLE: &str = ".spooled";
/// What a file ends in that is being written.
const DRAFT: &str = ".spooling";
/// How much of a segment's start is kept in memory: its first page's header is within it.
const HEAD_BYTES: usize = 8192;
/// What a file ends in that was given to somebody, after the number of who has it.
const TAKEN: &str = ".taken";

/// The file by which one daemon has the spool for its own.
const LOCK_FILE: &str = "lock";

/// A folder of fetched segments, of one daemon alone: their names say nothing of the cluster that they are of.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
    _lock: Arc<FolderLock>,
}

impl Spool {
    /// The spool in that folder, emptied. Of what else is in the folder, nothing is touched.
    ///
    /// # Errors
    /// Of the operating system; [`io::ErrorKind::ResourceBusy`] where another daemon has it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = folder.canonicalize()?;
        let lock = FolderLock::take(&folder, LOCK_FILE, "beyond-pg-archiver serve").map_err(|error| match error {
            LockError::Held { holder, .. } => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("another `beyond-pg-archiver serve` (process {holder}) has it: give each cluster its own"),
            ),
            LockError::Io { source, .. } => source,
        })?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { folder, _lock: Arc::new(lock) })
    }

    /// A file for a segment, to be written. Blocks.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn draft(&self, segment: &SegmentName) -> io::Result<Draft> {
        let disk = OsDisk::open(&self.folder)?;
        let name = format!("{segment}{DRAFT}");
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(self.folder.join(&name))?;
        let whole = format!("{segment}{WHOLE}");
        Ok(Draft { file, disk, name, whole, head: Vec::with_capacity(HEAD_BYTES), bytes: 0, is_named: false })
    }

    /// Gives a segment's file to somebody, under a name of their own.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn take(&self, segment: &SegmentName, id: u64) -> io::Result<PathBuf> {
        let taken = format!("{segment}.{id}{TAKEN}");
        OsDisk::open(&self.folder)?.rename(&format!("{segment}{WHOLE}"), &taken)?;
        Ok(self.folder.join(taken))
    }

    /// Makes a segment's content durable, not its name. Blocks.
    ///
    /// # Errors
    /// Of the operating system: the file is then nobody's to use. One that was removed meanwhile is no error.
    pub fn sync(&self, segment: &SegmentName) -> io::Result<()> {
        match File::open(self.folder.join(format!("{segment}{WHOLE}"))) {
            Ok(file) => file.sync_data(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes a segment's file.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn remove(&self, segment: &SegmentName) -> io::Result<()> {
        OsDisk::open(&self.folder)?.remove(&format!("{segment}{WHOLE}"))
    }
}

/// A segment's file that is being written; dropped, it is gone.
///
/// It need not be synced to be given away: the spool is emptied at each start, and Postgres syncs what `restore_command` gave it before it
/// takes the file for a segment of its own (`KeepFileRestoredFromArchive` in xlogarchive.c). After a crash before that it asks again.
#[derive(Debug)]
pub struct Draft {
    file: File,
    disk: OsDisk,
    name: String,
    whole: String,
    head: Vec<u8>,
    bytes: u64,
    is_named: bool,
}

impl Draft {
    /// The first bytes that were written, as many as it takes to know a segment by.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// How many bytes were written.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the file its name: it is whole, and checked. Blocks.
    ///
    /// # Errors
    /// Of the operating system; nothing is left of it then.
    pub fn finish(mut self) -> io::Result<()> {
        self.disk.rename(&self.name, &self.whole)?;
        self.is_named = true;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let written = self.file.write(content)?;
        let missing = HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend(&content[..written.min(missing)]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_named {
            // Half a file holds room; that it can't be removed either changes nothing in what failed.
            drop(self.disk.remove(&self.name));
        }
    }
}

/// Whether a file is one of the spool's, by its name: the folder may be somebody's who has other files there.
fn is_ours(name: &str) -> bool {
    let is_segment = |stem: &str| stem.parse::<SegmentName>().is_ok();
    let is_taken = |stem: &str| stem.split_once('.').is_some_and(|(segment, id)| is_segment(segment) && id.parse::<u64>().is_ok());
    name.strip_suffix(WHOLE).or_else(|| name.strip_suffix(DRAFT)).is_some_and(is_segment)
        || name.strip_suffix(TAKEN).is_some_and(is_taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000002";

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != LOCK_FILE);
        names.sort();
        names
    }

    #[test]
    fn two_daemons_have_not_one_spool() {
        let folder = tempfile::tempdir().unwrap();
        let first = Spool::open(folder.path()).unwrap();
        drop(first.draft(&NAME.parse().unwrap()).unwrap());
        let refused = Spool::open(folder.path()).unwrap_err();
        assert!(refused.kind() == io::ErrorKind::ResourceBusy && refused.to_string().contains("its own"), "{refused}");
        drop(first);
        Spool::open(folder.path()).unwrap();
    }

    #[test]
    fn a_segment_is_written_given_and_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("deep/spool");
        let spool = Spool::open(&folder).unwrap();
        let segment = NAME.parse().unwrap();
        let write = |content: &[u8]| {
            let mut draft = spool.draft(&segment).unwrap();
            draft.write_all(content).unwrap();
            assert_eq!((draft.head(), draft.bytes()), (&content[..content.len().min(HEAD_BYTES)], content.len() as u64));
            draft
        };
        drop(write(b"half"));
        assert_eq!(names(&folder), Vec::<String>::new(), "nothing is left of half a file");
        write(b"wal").finish().unwrap();
        spool.sync(&segment).unwrap();
        let taken = spool.take(&segment, 7).unwrap();
        assert!(taken.is_absolute());
        assert_eq!(std::fs::read(&taken).unwrap(), b"wal");
        assert!(spool.take(&segment, 8).is_err() && spool.remove(&segment).is_err());
        write(&[7; HEAD_BYTES + 1]).finish().unwrap();
        spool.remove(&segment).unwrap();
        spool.sync(&segment).unwrap();
        assert_eq!(names(&folder), [format!("{NAME}.7.taken")]);
    }

    #[test]
    fn a_start_removes_its_own_files_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let ours = [format!("{NAME}.spooled"), format!("{NAME}.spooling"), format!("{NAME}.12.taken")];
        let others = [
            NAME.to_owned(),
            format!("{NAME}.partial"),
            "x.spooled".to_owned(),
            format!("{NAME}.x.taken"),
            "PG_VERSION".to_owned(),
        ];
        for name in ours.iter().chain(&others) {
            std::fs::write(folder.path().join(name), "content").unwrap();
        }
        Spool::open(folder.path()).unwrap();
        let mut expected = others.to_vec();
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }
}
