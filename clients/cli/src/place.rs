//! The position file: `EPOCH POSITION`, one line.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use beyond_cdc_client::{Epoch, Position, Start};
use walbus::disk::{OsDisk, write_whole};

use crate::exit::Failure;

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: usize = 200;

/// A file that keeps the place.
#[derive(Debug)]
pub struct PositionFile {
    path: PathBuf,
    disk: OsDisk,
    name: String,
    written: Option<(Epoch, Position)>,
}

impl PositionFile {
    /// The file at a path, and what it says; `None` where it is not there yet.
    ///
    /// # Errors
    /// Where it can't be read, or holds something else.
    pub fn open(path: &Path) -> Result<(Self, Option<Start>), Failure> {
        let failed = |reason: String| Failure::PositionFile { file: path.display().to_string(), reason };
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| failed("is no name of a file".to_owned()))?.to_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let disk = OsDisk::open(folder).map_err(|error| failed(format!("can't open its folder: {error}")))?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self { path: path.to_owned(), disk, name, written: None }, None));
            }
            Err(error) => return Err(failed(format!("can't be read: {error}"))),
        };
        let place =
            parse(&text).ok_or_else(|| failed("holds no position: remove it to start anew, or give another file".to_owned()))?;
        let (epoch, position) = place;
        let start = Start::After { position, epoch: Some(epoch) };
        Ok((Self { path: path.to_owned(), disk, name, written: Some(place) }, Some(start)))
    }

    /// Writes a place, durably, unless it is there already. Blocks.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn write(&mut self, epoch: Epoch, position: Position) -> Result<(), Failure> {
        if self.written == Some((epoch, position)) {
            return Ok(());
        }
        write_whole(&self.disk, &self.name, format!("{epoch} {position}\n").as_bytes()).map_err(|error| Failure::PositionFile {
            file: self.path.display().to_string(),
            reason: format!("can't be written: {error}"),
        })?;
        self.written = Some((epoch, position));
        Ok(())
    }
}

fn parse(text: &str) -> Option<(Epoch, Position)> {
    let (epoch, position) = text.strip_suffix('\n')?.split_once(' ').filter(|_| text.len() <= FILE_BYTES_MAX)?;
    Some((epoch.parse().ok()?, position.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beyond_cdc_client::Lsn;

    #[test]
    fn a_place_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("place");
        let (mut file, start) = PositionFile::open(&path).unwrap();
        assert_eq!(start, None);
        let (epoch, position) = (Epoch([7; 16]), Position { commit_lsn: Lsn(9), ordinal: 2 });
        file.write(epoch, position).unwrap();
        let (_, start) = PositionFile::open(&path).unwrap();
        assert_eq!(start, Some(Start::After { position, epoch: Some(epoch) }));
    }

    #[test]
    fn what_is_no_place_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("place");
        for text in ["", "junk", "0/1:1\n", "07070707070707070707070707070707 0/1:1", "07070707070707070707070707070707 0/1\n"] {
            std::fs::write(&path, text).unwrap();
            let error = PositionFile::open(&path).unwrap_err();
            assert!(error.to_string().contains("--position-file"), "{error}");
        }
        assert!(PositionFile::open(&dir.path().join("none/place")).is_err());
    }
}
