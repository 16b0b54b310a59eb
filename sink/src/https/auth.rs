//! Who may read.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::failure::Failure;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A bearer token in a file, read again when the file changes.
#[derive(Debug)]
pub(super) struct TokenFile {
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

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    len: u64,
}

impl TokenFile {
    /// The token in that file.
    ///
    /// # Errors
    /// Where the file can't be read or holds no token.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let hash = read(&path)?;
        let stamp = stamp(&path)?;
        Ok(Self { path, last: Mutex::new(Last { stamp: Some(stamp), hash: Some(hash) }) })
    }

    /// Lets a request pass that carries the token.
    ///
    /// # Errors
    /// With the answer to one that does not.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(expected) = self.hash() else {
            return Err(Failure::unavailable("token_unreadable", "the sink's token file can't be read; its log says why"));
        };
        let Some(given) = headers.get(AUTHORIZATION) else {
            return Err(Failure::unauthorized("a token is needed: send `Authorization: Bearer TOKEN` (--token-file FILE)"));
        };
        // Hashes are compared, so that not even the length shows in the time that it takes.
        let given = bearer(given.as_bytes()).map(Sha256::digest);
        if given.is_some_and(|given| bool::from(given.as_slice().ct_eq(&expected))) {
            return Ok(());
        }
        Err(Failure::unauthorized("the token is not this sink's: see its data folder's file `token` (--token-file FILE)"))
    }

    /// The hash of the token that the file holds now.
    fn hash(&self) -> Option<[u8; 32]> {
        let now = stamp(&self.path).ok();
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

fn stamp(path: &PathBuf) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path)?;
    Ok(Stamp { modified: meta.modified().ok(), inode: meta.ino(), len: meta.len() })
}

fn read(path: &PathBuf) -> io::Result<[u8; 32]> {
    if fs::metadata(path)?.len() > TOKEN_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {TOKEN_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        token => Ok(Sha256::digest(token.as_bytes()).into()),
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, StatusCode};
    use axum::response::IntoResponse;

    fn answer(token: &TokenFile, header: Option<&str>) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        token.check(&headers).err().map(|failure| failure.into_response().status())
    }

    #[test]
    fn only_the_token_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "sesame\n").unwrap();
        let token = TokenFile::open(path.clone()).unwrap();
        assert_eq!(answer(&token, Some("Bearer sesame")), None);
        assert_eq!(answer(&token, Some("bearer  sesame ")), None);
        for wrong in ["Bearer sesam", "Bearer sesame1", "Bearer ", "Bearer", "sesame", "Basic sesame", ""] {
            assert_eq!(answer(&token, Some(wrong)), Some(StatusCode::UNAUTHORIZED), "{wrong:?}");
        }
        assert_eq!(answer(&token, None), Some(StatusCode::UNAUTHORIZED));

        fs::write(&path, "open up\n").unwrap();
        assert_eq!(answer(&token, Some("Bearer sesame")), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(answer(&token, Some("Bearer open up")), None);

        fs::remove_file(&path).unwrap();
        assert_eq!(answer(&token, Some("Bearer open up")), Some(StatusCode::SERVICE_UNAVAILABLE));
        fs::write(&path, "back").unwrap();
        assert_eq!(answer(&token, Some("Bearer back")), None);
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
