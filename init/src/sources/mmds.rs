//! Firecracker's metadata service: version 2, which wants a token, and version 1, which has none.
//!
//! [`Exchange`] decides and is pure; whoever drives it opens a connection, sends [`Exchange::request`], hands over what comes, and does so
//! again as long as it is told [`Progress::Again`]. [`fetch`] does that blocking; the engine does it in its loop.

use core::net::SocketAddr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use thiserror::Error;

use super::json::{self, JsonError};
use crate::http::{HttpError, Response, parse_response, request};
use crate::settings::{Origin, Source};

/// Where a token is made.
const TOKEN_PATH: &str = "/latest/api/token";
/// How long a token lasts, in seconds: it is used at once.
const TOKEN_TTL_S: &str = "60";
/// The longest token that is taken.
const TOKEN_BYTES_MAX: usize = 1024;

/// What the service says instead of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MmdsError {
    /// No HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No settings.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A status that can't be dealt with.
    #[error("{what} was answered with status {status}: {excerpt}")]
    Status {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        status: u16,
        /// The beginning of what came with it.
        excerpt: String,
    },
    /// A token that can't be sent back.
    #[error("the token has characters that no header can hold, or none")]
    Token,
}

/// What has come of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Open a new connection, and send the next request.
    Again,
    /// All is there.
    Done(Source),
    /// Read on.
    More,
    /// There is a service, and no metadata in it yet: try later, from the start.
    NotYet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Token,
    Document(Option<String>),
}

/// One reading of the metadata.
#[derive(Clone, Debug)]
pub struct Exchange {
    host: String,
    path: String,
    stage: Stage,
    received: Vec<u8>,
}

impl Exchange {
    /// Of the object at `path`.
    #[must_use]
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self { host: address.to_string(), path: path.to_owned(), stage: Stage::Token, received: Vec::new() }
    }

    /// What to send on a new connection.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        match &self.stage {
            Stage::Token => request("PUT", &self.host, TOKEN_PATH, &[("X-metadata-token-ttl-seconds", TOKEN_TTL_S)]),
            Stage::Document(None) => request("GET", &self.host, &self.path, &[("Accept", "application/json")]),
            Stage::Document(Some(token)) => {
                request("GET", &self.host, &self.path, &[("Accept", "application/json"), ("X-metadata-token", token)])
            }
        }
    }

    /// What came; empty where the service has closed.
    ///
    /// # Errors
    /// Where it is not what a metadata service answers.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Progress, MmdsError> {
        self.received.extend_from_slice(bytes);
        let Some(response) = parse_response(&self.received, bytes.is_empty())? else { return Ok(Progress::More) };
        self.received.clear();
        match self.stage.clone() {
            Stage::Token => self.handle_token(&response),
            Stage::Document(token) => handle_document(&response, token.is_some()),
        }
    }

    fn handle_token(&mut self, response: &Response) -> Result<Progress, MmdsError> {
        let token = match response.status {
            200 => {
                let token = std::str::from_utf8(&response.body).map_err(|_| MmdsError::Token)?.trim();
                let plain =
                    !token.is_empty() && token.len() <= TOKEN_BYTES_MAX && token.bytes().all(|byte| byte.is_ascii_graphic());
                Some(if plain { token.to_owned() } else { return Err(MmdsError::Token) })
            }
            // Version 1 knows no such method, or no such path.
            400 | 404 | 405 | 501 => None,
            _ => return Err(unexpected("a token", response)),
        };
        self.stage = Stage::Document(token);
        Ok(Progress::Again)
    }
}

fn handle_document(response: &Response, with_token: bool) -> Result<Progress, MmdsError> {
    match response.status {
        200 => {
            let values = json::parse(&response.body)?.ours()?;
            let origin = if with_token { Origin::MmdsV2 } else { Origin::MmdsV1 };
            Ok(Progress::Done(Source::new(origin, values)))
        }
        404 => Ok(Progress::NotYet),
        _ => Err(unexpected("the metadata", response)),
    }
}

fn unexpected(what: &'static str, response: &Response) -> MmdsError {
    let text = String::from_utf8_lossy(&response.body);
    MmdsError::Status { what, status: response.status, excerpt: format!("{:?}", text.chars().take(80).collect::<String>()) }
}

/// Why there is no metadata.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nobody answers.
    #[error("the metadata service {0} does not answer")]
    Away(SocketAddr, #[source] std::io::Error),
    /// Something answers, but not with metadata.
    #[error("the metadata service {0} answers otherwise than one")]
    Mmds(SocketAddr, #[source] MmdsError),
}

/// Reads the metadata once, blocking; each step may take `limit`. `None`: there is a service, and nothing in it yet.
///
/// # Errors
/// Where nobody answers, or not with metadata.
pub fn fetch(address: SocketAddr, path: &str, limit: Duration) -> Result<Option<Source>, FetchError> {
    let away = |error| FetchError::Away(address, error);
    let mut exchange = Exchange::new(address, path);
    let mut bytes = [0; 16 * 1024];
    loop {
        let mut stream = TcpStream::connect_timeout(&address, limit).map_err(away)?;
        stream.set_read_timeout(Some(limit)).map_err(away)?;
        stream.set_write_timeout(Some(limit)).map_err(away)?;
        stream.write_all(&exchange.request()).map_err(away)?;
        let progress = loop {
            let read = stream.read(&mut bytes).map_err(away)?;
            match exchange.handle_bytes(bytes.get(..read).unwrap_or_default()).map_err(|error| FetchError::Mmds(address, error))? {
                Progress::More => {}
                progress => break progress,
            }
        };
        match progress {
            Progress::Again | Progress::More => {}
            Progress::Done(source) => return Ok(Some(source)),
            Progress::NotYet => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn exchange() -> Exchange {
        Exchange::new("169.254.169.254:80".parse().unwrap(), "/latest/meta-data")
    }

    fn sent(exchange: &Exchange) -> String {
        String::from_utf8(exchange.request()).unwrap()
    }

    #[test]
    fn version_2_has_a_token() {
        let mut exchange = exchange();
        assert!(sent(&exchange).starts_with("PUT /latest/api/token HTTP/1.1\r\n"));
        assert!(sent(&exchange).contains("X-metadata-token-ttl-seconds: 60\r\n"));
        let (first, second) = (answer(200, "abc="), answer(200, r#"{"BEYOND_PG_MEMORY_MB":512}"#));
        assert_eq!(exchange.handle_bytes(&first[..20]), Ok(Progress::More));
        assert_eq!(exchange.handle_bytes(&first[20..]), Ok(Progress::Again));
        assert!(sent(&exchange).contains("X-metadata-token: abc=\r\n") && sent(&exchange).contains("Accept: application/json\r\n"));
        let done = Progress::Done(Source::new(Origin::MmdsV2, [("BEYOND_PG_MEMORY_MB", "512")]));
        assert_eq!(exchange.handle_bytes(&second), Ok(done));
    }

    #[test]
    fn version_1_has_none() {
        for status in [404, 405] {
            let mut exchange = exchange();
            assert_eq!(exchange.handle_bytes(&answer(status, "Not allowed")), Ok(Progress::Again));
            assert!(sent(&exchange).starts_with("GET /latest/meta-data HTTP/1.1\r\n") && !sent(&exchange).contains("token"));
            assert_eq!(
                exchange.handle_bytes(&answer(200, "{}")),
                Ok(Progress::Done(Source { origin: Origin::MmdsV1, values: Vec::new() }))
            );
        }
    }

    #[test]
    fn what_is_not_there_yet_is_no_error_and_garbage_is_one() {
        let with_token = || {
            let mut exchange = exchange();
            assert_eq!(exchange.handle_bytes(&answer(200, "t")), Ok(Progress::Again));
            exchange
        };
        assert_eq!(with_token().handle_bytes(&answer(404, "Resource not found")), Ok(Progress::NotYet));
        for (answer, wanted) in [
            (answer(401, "no"), "the metadata was answered with status 401: \"no\""),
            (answer(200, "ami-id\nhostname"), "expected a JSON object of settings, found \"ami-id\\nhostname\""),
            (answer(200, r#"{"BEYOND_PG_TIER":{}}"#), "BEYOND_PG_TIER: expected a string, a number or a switch, found an object"),
            (b"garbage\r\n\r\n".to_vec(), "does not speak HTTP/1.1"),
            (Vec::new(), "closed in the middle"),
        ] {
            let error = with_token().handle_bytes(&answer).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(exchange().handle_bytes(&answer(200, "a b")), Err(MmdsError::Token));
        assert!(matches!(exchange().handle_bytes(&answer(500, "")), Err(MmdsError::Status { status: 500, .. })));
    }

    #[test]
    fn nobody_there_is_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(fetch(address, "/", Duration::from_millis(200)), Err(FetchError::Away(..))));
    }
}
