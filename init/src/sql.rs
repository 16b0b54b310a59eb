//! The little of the frontend/backend protocol that a boot needs: bytes in, answers out. No socket, no waiting.
//!
//! Sessions are local ones, that the server lets in by who they are (peer, ident map): no password is ever sent, and a server that asks
//! for one is an error. Source: the manual's chapter "Frontend/Backend Protocol".

use thiserror::Error;

/// The most bytes of an answer.
const ANSWER_MAX: usize = 16 << 20;

/// What went wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SqlError {
    /// The server asks for what such a session has not: a password.
    #[error("the server asks for authentication by method {0}: the session should be let in by its operating-system user")]
    Authentication(u32),
    /// The server's bytes are not of this protocol.
    #[error("not the frontend/backend protocol: {0}")]
    Protocol(&'static str),
    /// The server refuses.
    #[error("{severity}: {message} (SQLSTATE {code})")]
    Server {
        /// `FATAL` ends the session.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// What it says.
        message: String,
    },
    /// An answer that is larger than anything a boot asks for.
    #[error("an answer of more than {ANSWER_MAX} bytes")]
    TooLarge,
}

impl SqlError {
    /// The SQLSTATE, where it is the server that refuses.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::Authentication(_) | Self::Protocol(_) | Self::TooLarge => None,
        }
    }
}

/// What came back: the rows of all statements of a query, as text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// One session's bytes. `handle_bytes` with what was read, then `poll_answer` until it gives `None`.
#[derive(Debug, Default)]
pub struct Session {
    received: Vec<u8>,
    rows: Rows,
    error: Option<SqlError>,
}

impl Session {
    /// Takes what was read from the socket.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The answer to the startup or to the query that was sent last, once all of it is there.
    ///
    /// # Errors
    /// Where the server refuses (the session can go on, unless it is FATAL), or speaks another protocol (it can't).
    pub fn poll_answer(&mut self) -> Result<Option<Rows>, SqlError> {
        let mut at = 0;
        let answer = loop {
            let Some((tag, body, end)) = frame(&self.received, at)? else { break None };
            at = end;
            match tag {
                b'D' => self.rows.push(data_row(body).ok_or(SqlError::Protocol("a row that does not parse"))?),
                b'E' => {
                    let error = server_error(body);
                    let fatal = matches!(&error, SqlError::Server { severity, .. } if severity != "ERROR");
                    self.error = Some(error);
                    if fatal {
                        break Some(());
                    }
                }
                b'R' => match body.first_chunk().map(|method| u32::from_be_bytes(*method)) {
                    Some(0) => {}
                    Some(method) => return Err(SqlError::Authentication(method)),
                    None => return Err(SqlError::Protocol("an authentication without a method")),
                },
                b'Z' => break Some(()),
                // Parameters, the key for cancelling, notices, ends of commands, descriptions of rows.
                b'A' | b'C' | b'I' | b'K' | b'N' | b'S' | b'T' | b'v' => {}
                _ => return Err(SqlError::Protocol("a message that does not belong here")),
            }
        };
        self.received.drain(..at);
        if answer.is_none() {
            return if self.received.len() > ANSWER_MAX { Err(SqlError::TooLarge) } else { Ok(None) };
        }
        let rows = std::mem::take(&mut self.rows);
        self.error.take().map_or(Ok(Some(rows)), Err)
    }
}

/// The first message of a session.
#[must_use]
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    // Protocol 3.0.
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    with_length(None, &body)
}

/// A simple query.
#[must_use]
pub fn query(sql: &str) -> Vec<u8> {
    let mut body = sql.as_bytes().to_vec();
    body.push(0);
    with_length(Some(b'Q'), &body)
}

/// The last message of a session.
#[must_use]
pub fn terminate() -> Vec<u8> {
    with_length(Some(b'X'), &[])
}

/// `text` as a string constant, whatever it holds and whatever `standard_conforming_strings` says.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// `name` as a quoted identifier.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn with_length(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(body.len() + 5);
    message.extend(tag);
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// A message: its tag, its body, and where the next one begins.
type Frame<'a> = (u8, &'a [u8], usize);

/// The message at `at`: its tag, its body and where the next one begins; `None` where more bytes are needed.
fn frame(bytes: &[u8], at: usize) -> Result<Option<Frame<'_>>, SqlError> {
    let Some((tag, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let Some(length) = length.checked_sub(4) else { return Err(SqlError::Protocol("a message shorter than its length")) };
    if length > ANSWER_MAX {
        return Err(SqlError::TooLarge);
    }
    Ok(rest.get(..length).map(|body| (*tag, body, at + 5 + length)))
}

fn data_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        rest = after;
        // -1 is NULL.
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            continue;
        };
        let (value, after) = rest.split_at_checked(length)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Some(row)
}

/// The fields of an ErrorResponse: `S` is translated, `V` is not.
fn server_error(body: &[u8]) -> SqlError {
    let (mut severity, mut code, mut message) = ("ERROR".to_owned(), String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'V' => severity = text,
            b'C' => code = text,
            b'M' => message = text,
            // PgBouncer sends no V.
            b'S' if severity == "ERROR" => severity = text,
            _ => {}
        }
    }
    SqlError::Server { severity, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        with_length(Some(tag), body)
    }

    fn answer() -> Vec<u8> {
        let mut bytes = message(b'R', &0_u32.to_be_bytes());
        bytes.extend(message(b'S', b"a\0b\0"));
        bytes.extend(message(b'D', b"\0\x02\0\0\0\x01x\xff\xff\xff\xff"));
        bytes.extend(message(b'Z', b"I"));
        bytes
    }

    #[test]
    fn rows_are_read_over_any_cut() {
        let bytes = answer();
        for cut in 0..bytes.len() {
            let mut session = Session::default();
            session.handle_bytes(&bytes[..cut]);
            assert_eq!(session.poll_answer(), Ok(None), "at {cut}");
            session.handle_bytes(&bytes[cut..]);
            assert_eq!(session.poll_answer(), Ok(Some(vec![vec![Some("x".to_owned()), None]])));
        }
    }

    #[test]
    fn an_error_is_told_when_the_server_is_ready_again_and_a_fatal_one_at_once() {
        let mut session = Session::default();
        session.handle_bytes(&message(b'E', b"SFEHLER\0VERROR\0C42P01\0Mno such table\0\0"));
        assert_eq!(session.poll_answer(), Ok(None));
        session.handle_bytes(&message(b'Z', b"I"));
        assert_eq!(session.poll_answer().unwrap_err().code(), Some("42P01"));
        session.handle_bytes(&answer());
        assert_eq!(session.poll_answer().unwrap().map(|rows| rows.len()), Some(1));

        session.handle_bytes(&message(b'E', b"SFATAL\0C57P03\0Mstarting up\0\0"));
        assert_eq!(session.poll_answer().unwrap_err().to_string(), "FATAL: starting up (SQLSTATE 57P03)");
    }

    #[test]
    fn a_server_that_wants_a_password_is_an_error() {
        let mut session = Session::default();
        session.handle_bytes(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
        assert_eq!(session.poll_answer(), Err(SqlError::Authentication(10)));
    }

    #[test]
    fn text_is_quoted_whatever_it_holds() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_an_error_or_too_few(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut session = Session::default();
            session.handle_bytes(&bytes);
            session.poll_answer().ok();
        }
    }
}
