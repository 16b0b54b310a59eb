//! The client's side of HTTP/1.1, as far as a metadata service needs it: one request a connection, a whole answer or an error. Bytes in,
//! bytes out; all of it bounded.

use thiserror::Error;

/// The most bytes of a status line and its headers.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The most bytes of a body. Firecracker's store has 51,200 unless told otherwise.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// What is no answer of an HTTP server, or one that is too large.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HttpError {
    /// Not HTTP.
    #[error("what answers does not speak HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// More than is taken.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// It ended before it was whole.
    #[error("the connection was closed in the middle of the answer")]
    Truncated,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status: 200 to 599.
    pub status: u16,
    /// Its body, without the framing.
    pub body: Vec<u8>,
}

/// A request, after whose answer the server closes. `headers` are the request's own; those that HTTP needs are added.
///
/// # Panics
/// Where a part holds what would end its line: none of them comes from outside unchecked.
#[must_use]
pub fn request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if method != "GET" {
        text.push_str("Content-Length: 0\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let lines = 3 + usize::from(method != "GET") + headers.len();
    assert_eq!(text.matches(['\r', '\n']).count(), 2 * lines, "a line of a request holds a line's end");
    text.push_str("\r\n");
    text.into_bytes()
}

/// The answer that `bytes` hold; `None` where more have to come. `ended`: the server has closed.
///
/// # Errors
/// [`HttpError`].
pub fn parse_response(bytes: &[u8], ended: bool) -> Result<Option<Response>, HttpError> {
    let Some(head_end) = find(bytes, b"\r\n\r\n") else {
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(HttpError::TooLarge(HEAD_BYTES_MAX));
        }
        return unfinished(ended);
    };
    let (head, body) = (bytes.get(..head_end).unwrap_or_default(), bytes.get(head_end + 4..).unwrap_or_default());
    if head.len() > HEAD_BYTES_MAX {
        return Err(HttpError::TooLarge(HEAD_BYTES_MAX));
    }
    let head = std::str::from_utf8(head).map_err(|_| HttpError::Malformed("its head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = parse_status(lines.next().unwrap_or_default())?;
    let body = match framing(lines)? {
        _ if status == 204 || status == 304 => Some(Vec::new()),
        Framing::Chunked => dechunk(body)?,
        Framing::Length(length) => body.get(..length).map(<[u8]>::to_vec),
        Framing::UntilClosed if body.len() > BODY_BYTES_MAX => return Err(HttpError::TooLarge(BODY_BYTES_MAX)),
        Framing::UntilClosed => ended.then(|| body.to_vec()),
    };
    body.map_or_else(|| unfinished(ended), |body| Ok(Some(Response { status, body })))
}

fn unfinished(ended: bool) -> Result<Option<Response>, HttpError> {
    if ended { Err(HttpError::Truncated) } else { Ok(None) }
}

fn parse_status(line: &str) -> Result<u16, HttpError> {
    let malformed = HttpError::Malformed("its first line is no status line");
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")).ok_or_else(|| malformed.clone())?;
    let code = rest.split(' ').next().unwrap_or_default();
    let plain = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    // An interim answer (1xx) is sent to who expects one: we don't.
    code.parse().ok().filter(|status| plain && (200..600).contains(status)).ok_or(malformed)
}

/// How a body's end is known.
enum Framing {
    Chunked,
    Length(usize),
    UntilClosed,
}

fn framing<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Framing, HttpError> {
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(HttpError::Malformed("a header has no colon"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") || chunked {
                return Err(HttpError::Malformed("a transfer encoding that is not chunked"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            let number = number(value, 10)?;
            if length.is_some_and(|other| other != number) {
                return Err(HttpError::Malformed("two lengths"));
            }
            length = Some(number);
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Err(HttpError::Malformed("a length, and chunks as well")),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::UntilClosed),
    }
}

/// The body that chunks make together; `None` where more have to come.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = find(rest, b"\r\n") else {
            return if rest.len() > 256 { Err(HttpError::Malformed("a chunk without its size")) } else { Ok(None) };
        };
        let line = rest.get(..line_end).and_then(|line| std::str::from_utf8(line).ok());
        let size = line.and_then(|line| line.split(';').next()).ok_or(HttpError::Malformed("a chunk without its size"))?;
        let size = number(size.trim(), 16)?;
        rest = rest.get(line_end + 2..).unwrap_or_default();
        if size == 0 {
            // Trailers are skipped: nothing here reads them.
            let whole = rest.starts_with(b"\r\n") || find(rest, b"\r\n\r\n").is_some();
            let too_large = !whole && rest.len() > HEAD_BYTES_MAX;
            return if too_large { Err(HttpError::TooLarge(HEAD_BYTES_MAX)) } else { Ok(whole.then_some(body)) };
        }
        if body.len() + size > BODY_BYTES_MAX {
            return Err(HttpError::TooLarge(BODY_BYTES_MAX));
        }
        let (Some(chunk), Some(after)) = (rest.get(..size), rest.get(size..size + 2)) else { return Ok(None) };
        if after != b"\r\n" {
            return Err(HttpError::Malformed("a chunk is longer than it says"));
        }
        body.extend_from_slice(chunk);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
}

/// A number of bytes, at most what is taken.
fn number(text: &str, radix: u32) -> Result<usize, HttpError> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return Err(HttpError::Malformed("a length is no number"));
    }
    usize::from_str_radix(text, radix).ok().filter(|size| *size <= BODY_BYTES_MAX).ok_or(HttpError::TooLarge(BODY_BYTES_MAX))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Result<Option<Response>, HttpError> {
        parse_response(text.as_bytes(), true)
    }

    #[test]
    fn a_request_is_one() {
        let bytes = request("PUT", "169.254.169.254", "/latest/api/token", &[("X-metadata-token-ttl-seconds", "60")]);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text,
            "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\nContent-Length: 0\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n"
        );
    }

    #[test]
    fn the_three_ways_a_body_ends() {
        let expected = Ok(Some(Response { status: 200, body: b"hello".to_vec() }));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more"), expected);
        assert_eq!(whole("HTTP/1.1 200 \r\n\r\nhello"), expected);
        assert_eq!(
            whole("HTTP/1.0 200\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: x\r\n\r\n"),
            expected
        );
        assert_eq!(whole("HTTP/1.1 204 No\r\nA: b\r\n\r\n").unwrap().unwrap().body, b"");
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for text in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            assert!(matches!(whole(text), Err(HttpError::Malformed(_))), "{text:?}: {:?}", whole(text));
        }
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"), Err(HttpError::TooLarge(BODY_BYTES_MAX)));
        assert_eq!(whole(&"x".repeat(HEAD_BYTES_MAX + 1)), Err(HttpError::TooLarge(HEAD_BYTES_MAX)));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"), Err(HttpError::Truncated));
        assert_eq!(whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), Err(HttpError::Truncated));
    }

    proptest! {
        #[test]
        fn any_cut_waits_and_the_whole_is_read(body in proptest::collection::vec(any::<u8>(), 0..200), sizes in proptest::collection::vec(1usize..50, 1..20), chunked: bool, cut in 0.0..1.0f64) {
            let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
            if chunked {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                let (mut rest, mut sizes) = (&body[..], sizes.iter().cycle());
                while !rest.is_empty() {
                    let (chunk, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                    rest = after;
                }
                bytes.extend(b"0\r\n\r\n");
            } else {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(&body);
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short text")]
            let at = (bytes.len() as f64 * cut) as usize;
            prop_assert_eq!(parse_response(&bytes[..at], false), Ok(None));
            prop_assert_eq!(parse_response(&bytes[..at], true), Err(HttpError::Truncated));
            prop_assert_eq!(parse_response(&bytes, false), Ok(Some(Response { status: 200, body })));
        }

        #[test]
        fn nothing_is_taken_apart_badly(bytes in proptest::collection::vec(any::<u8>(), 0..300), head in "(HTTP/1.1 [0-9]{3}\r\n(Transfer-Encoding: chunked|Content-Length: [0-9]{1,9})?\r\n(\r\n)?)?", ended: bool) {
            let bytes = [head.as_bytes(), &bytes].concat();
            if let Ok(Some(response)) = parse_response(&bytes, ended) {
                prop_assert!(response.body.len() <= bytes.len());
            }
        }
    }
}
