//! The bearer token that a client has to show.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::stamp::Stamp;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A bearer token in a file, read again when the file changes.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// What the file looked like when it was read.
    stamp: Option<Stamp>,
    /// The token's hash, `None` where there is none to compare with.
    hash: Option<[u8; 32]>,
}

/// What a token that was shown is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one in the file.
    Right,
    /// The file can't be read now, or holds none: nobody can be let in by it. The log says why.
    Unreadable,
    /// It is another.
    Wrong,
}

impl TokenFile {
    /// The token in that file.
    ///
    /// # Errors
    /// Where the file can't be read or holds no token.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let hash = read(&path)?;
        let stamp = Stamp::of(&path)?;
        Ok(Self { path, last: Mutex::new(Last { stamp: Some(stamp), hash: Some(hash) }) })
    }

    /// Whether `given` is the token that the file holds now. Takes as long for a wrong one as for the right one. Looks at the file.
    pub fn check(&self, given: &[u8]) -> Verdict {
        let Some(expected) = self.hash() else { return Verdict::Unreadable };
        // Hashes are compared, so that not even the length shows in the time that it takes.
        if bool::from(Sha256::digest(given).as_slice().ct_eq(&expected)) { Verdict::Right } else { Verdict::Wrong }
    }

    /// Whether there is a token to compare with now. Looks at the file.
    pub fn is_readable(&self) -> bool {
        self.hash().is_some()
    }

    /// The hash of the token that the file holds now.
    fn hash(&self) -> Option<[u8; 32]> {
        let now = Stamp::of(&self.path).ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.stamp != now {
            // A token that was taken away is none any more: better to refuse for a moment than to honour it for ever.
            last.hash = read(&self.path)
                .inspect_err(|error| tracing::error!(path = %self.path.display(), %error, "can't read the token (--token-file)"))
                .ok();
            last.stamp = now;
        }
        last.hash
    }
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    if fs::metadata(path)?.len() > TOKEN_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {TOKEN_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        token => Ok(Sha256::digest(token.as_bytes()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_passes_and_the_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "sesame\n").unwrap();
        let token = TokenFile::open(path.clone()).unwrap();
        assert_eq!(token.check(b"sesame"), Verdict::Right);
        for wrong in [&b"sesam"[..], b"sesame1", b"", b"sesame\n"] {
            assert_eq!(token.check(wrong), Verdict::Wrong, "{wrong:?}");
        }
        fs::write(&path, "open up\n").unwrap();
        assert_eq!((token.check(b"sesame"), token.check(b"open up")), (Verdict::Wrong, Verdict::Right));
        fs::remove_file(&path).unwrap();
        assert_eq!(token.check(b"open up"), Verdict::Unreadable);
        assert!(!token.is_readable());
        fs::write(&path, "back").unwrap();
        assert_eq!(token.check(b"back"), Verdict::Right);
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert_eq!(TokenFile::open(path.clone()).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, " \n").unwrap();
        assert_eq!(TokenFile::open(path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
