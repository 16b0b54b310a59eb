//! The data folder, as readers see it.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use walbus::{Segment, SegmentSize, Timeline, WalFile};

/// Where the WAL files are. Paths are made from parsed values alone.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Opens a segment's file: whole or partial, since the receiver may rename it at any moment. Blocks.
    ///
    /// What is below `flushed` is the same under both names, so whichever is met will do.
    pub(super) fn open_segment(&self, segment: Segment, size: SegmentSize) -> io::Result<File> {
        let name = segment.name(size);
        let names = [WalFile::Segment(name.clone()).name(), WalFile::Partial(name.clone()).name(), WalFile::Segment(name).name()];
        let mut result = Err(io::ErrorKind::NotFound.into());
        for name in names {
            result = File::open(self.dir.join(name));
            match &result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        result
    }

    /// The content of a timeline's history file. Blocks.
    pub(super) fn history(&self, timeline: Timeline) -> io::Result<Vec<u8>> {
        std::fs::read(self.dir.join(WalFile::History(timeline).name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_segment_is_found_under_either_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned());
        let segment = Segment { number: 3, timeline: Timeline::FIRST };
        let open = || {
            let mut text = String::new();
            folder.open_segment(segment, SegmentSize::DEFAULT).map(|mut file| file.read_to_string(&mut text).map(|_| text))
        };
        assert_eq!(open().unwrap_err().kind(), io::ErrorKind::NotFound);
        let name = dir.path().join("000000010000000000000003");
        std::fs::write(name.with_extension("partial"), "partial").unwrap();
        assert_eq!(open().unwrap().unwrap(), "partial");
        std::fs::write(name, "whole").unwrap();
        assert_eq!(open().unwrap().unwrap(), "whole");
    }
}
