//! Who may read.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use walbus::service::token::{TokenFile, Verdict};

use super::failure::Failure;

/// Lets a request pass that carries the token.
///
/// # Errors
/// With the answer to one that does not.
pub(super) fn check(token: &TokenFile, headers: &HeaderMap) -> Result<(), Failure> {
    let unreadable = || Failure::unavailable("token_unreadable", "the sink's token file can't be read; its log says why");
    let wrong = || Failure::unauthorized("the token is not this sink's: see its data folder's file `token` (--token-file FILE)");
    let Some(given) = headers.get(AUTHORIZATION) else {
        return Err(if token.is_readable() {
            Failure::unauthorized("a token is needed: send `Authorization: Bearer TOKEN` (--token-file FILE)")
        } else {
            unreadable()
        });
    };
    match bearer(given.as_bytes()).map(|given| token.check(given)) {
        Some(Verdict::Right) => Ok(()),
        Some(Verdict::Unreadable) => Err(unreadable()),
        Some(Verdict::Wrong) => Err(wrong()),
        None if token.is_readable() => Err(wrong()),
        None => Err(unreadable()),
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use axum::http::{HeaderValue, StatusCode};
    use axum::response::IntoResponse;

    fn answer(token: &TokenFile, header: Option<&str>) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        check(token, &headers).err().map(|failure| failure.into_response().status())
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

        fs::remove_file(&path).unwrap();
        for given in [Some("Bearer sesame"), Some("sesame"), None] {
            assert_eq!(answer(&token, given), Some(StatusCode::SERVICE_UNAVAILABLE), "{given:?}");
        }
    }
}
