//! Heads of HTTP/1.1 messages, as far as a proxy between one client and one server has to know them.

/// The longest head.
pub(super) const HEAD_MAX: usize = 64 * 1024;

/// The end of the head that `bytes` begin with, behind its empty line; `None` while it is not whole.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The first line and the headers, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let first = lines.next()?.to_owned();
        let headers = lines.take_while(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Some(Self { first, headers: headers.collect::<Option<_>>()? })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(of, _)| !of.eq_ignore_ascii_case(name));
    }

    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// A request without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestHead(Head);

impl RequestHead {
    /// `None` where it is none, or one whose body has no length: the programs under test send no such.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = Head::parse(bytes)?;
        (head.first.split(' ').count() == 3 && head.header("transfer-encoding").is_none()).then_some(Self(head))
    }

    pub(super) fn method(&self) -> &str {
        self.0.first.split(' ').next().unwrap_or_default()
    }

    pub(super) fn target(&self) -> &str {
        self.0.first.split(' ').nth(1).unwrap_or_default()
    }

    /// Who signed it; empty where nobody did.
    pub(super) fn authorization(&self) -> &str {
        self.0.header("authorization").unwrap_or_default()
    }

    /// The bytes of its body.
    pub(super) fn length(&self) -> u64 {
        self.0.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// Whether its client waits to be told that its body is wanted.
    pub(super) fn expects(&self) -> bool {
        self.0.header("expect").is_some()
    }

    pub(super) fn ignore_conditions(&mut self) {
        self.0.remove("if-none-match");
    }

    /// As it goes to the server: one request a connection, and its body is on its way already.
    pub(super) fn to_server(&self) -> Vec<u8> {
        let mut head = self.0.clone();
        head.remove("expect");
        head.set("connection", "close");
        head.to_bytes()
    }
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResponseHead(Head);

impl ResponseHead {
    /// `None` where it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = Head::parse(bytes)?;
        let is_one = head.first.starts_with("HTTP/1.") && head.header("transfer-encoding").is_none();
        is_one.then_some(Self(head))
    }

    /// The bytes of its body, of an answer to this method; `None` where its end is that of the connection.
    pub(super) fn length(&self, method: &str) -> Option<u64> {
        let status = self.0.first.split(' ').nth(1).unwrap_or_default();
        if method == "HEAD" || status == "204" || status == "304" {
            return Some(0);
        }
        self.0.header("content-length").and_then(|length| length.parse().ok())
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.0.set("content-length", &length.to_string());
    }

    /// As it goes to the client, whose connection stays, or ends with it.
    pub(super) fn to_client(&self, closes: bool) -> Vec<u8> {
        let mut head = self.0.clone();
        head.set("connection", if closes { "close" } else { "keep-alive" });
        head.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_apart_and_put_together() {
        let text =
            b"PUT /b/k?x=1 HTTP/1.1\r\nHost: a:1\r\nIf-None-Match: *\r\ncontent-length: 5\r\nConnection: keep-alive\r\n\r\nhello";
        let end = end_of_head(text).unwrap();
        assert_eq!(&text[end..], b"hello");
        let mut head = RequestHead::parse(&text[..end]).unwrap();
        assert_eq!((head.method(), head.target(), head.length()), ("PUT", "/b/k?x=1", 5));
        head.ignore_conditions();
        let sent = String::from_utf8(head.to_server()).unwrap();
        assert_eq!(sent, "PUT /b/k?x=1 HTTP/1.1\r\nHost: a:1\r\ncontent-length: 5\r\nconnection: close\r\n\r\n");
        assert_eq!(end_of_head(&text[..end - 1]), None);
    }

    #[test]
    fn bodies_end_where_their_heads_say() {
        let response = |text: &str| ResponseHead::parse(text.as_bytes()).unwrap();
        assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").length("GET"), Some(7));
        assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").length("HEAD"), Some(0));
        assert_eq!(response("HTTP/1.1 204 No Content\r\n\r\n").length("DELETE"), Some(0));
        assert_eq!(response("HTTP/1.0 200 OK\r\n\r\n").length("GET"), None);
        assert_eq!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
    }
}
