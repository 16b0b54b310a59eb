//! The spool's files. Nothing in it is trusted after a start: it is emptied then.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use walbus::SegmentName;
use walbus::disk::{Disk, OsDisk};

/// What a whole segment's file ends in.
const WHOLE: &str = ".spooled";
/// What a file ends in that is being written.
const DRAFT: &str = ".spooling";
/// What a file ends in that was given to somebody, after the number of who has it.
const TAKEN: &str = ".taken";

/// A folder of fetched segments.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// The spool in that folder, emptied. Of what else is in the folder, nothing is touched.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = folder.canonicalize()?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { folder })
    }

    /// Writes a segment's file; under its name it is whole and synced. Blocks.
    ///
    /// # Errors
    /// Of the operating system; nothing is left of it then.
    pub fn write(&self, segment: &SegmentName, content: &[u8]) -> io::Result<()> {
        let draft = format!("{segment}{DRAFT}");
        let disk = OsDisk::open(&self.folder)?;
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(self.folder.join(&draft))?;
        let written = file.write_all(content).and_then(|()| file.sync_data());
        let named = written.and_then(|()| disk.rename(&draft, &format!("{segment}{WHOLE}")));
        // Half a file holds room; that it can't be removed either changes nothing in what failed.
        named.inspect_err(|_| drop(disk.remove(&draft)))
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

    /// Removes a segment's file.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn remove(&self, segment: &SegmentName) -> io::Result<()> {
        OsDisk::open(&self.folder)?.remove(&format!("{segment}{WHOLE}"))
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
        names.sort();
        names
    }

    #[test]
    fn a_segment_is_written_given_and_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("deep/spool");
        let spool = Spool::open(&folder).unwrap();
        let segment = NAME.parse().unwrap();
        spool.write(&segment, b"wal").unwrap();
        let taken = spool.take(&segment, 7).unwrap();
        assert!(taken.is_absolute());
        assert_eq!(std::fs::read(&taken).unwrap(), b"wal");
        assert!(spool.take(&segment, 8).is_err() && spool.remove(&segment).is_err());
        spool.write(&segment, b"again").unwrap();
        spool.remove(&segment).unwrap();
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
