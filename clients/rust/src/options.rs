//! Where the server is, and who we are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// The port of a URL that has none.
pub const DEFAULT_PORT: u16 = 8433;

/// How to reach a server, and what to show it.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) token: Token,
    pub(crate) agent: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff_max: Duration,
}

/// Where the bearer token is.
#[derive(Clone)]
pub(crate) enum Token {
    File(PathBuf),
    None,
    Text(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("(not shown)"),
        }
    }
}

impl Options {
    /// The server at `url`: `quic://HOST:PORT`, `quic://HOST` for the port 8433.
    ///
    /// # Errors
    /// [`Error::Settings`] where that is no such URL.
    pub fn new(url: &str) -> Result<Self, Error> {
        let (host, port) = parse_url(url).ok_or_else(|| {
            Error::Settings(format!(
                "{url:?} is no URL of a server: write quic://HOST:PORT, as in quic://cdc.example.com:{DEFAULT_PORT}"
            ))
        })?;
        Ok(Self {
            host,
            port,
            ca: None,
            identity: None,
            token: Token::None,
            agent: concat!("beyond-cdc-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            backoff_max: Duration::from_secs(5),
        })
    }

    /// The authority that signed the server's certificate, as a PEM file. Without it, the system's authorities are trusted.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// A bearer token, in a file: it is read at each connection.
    #[must_use]
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token = Token::File(file.into());
        self
    }

    /// A bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::Text(token.into());
        self
    }

    /// A client certificate with its chain, and its key, as PEM files: they are read at each connection.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// What the server's log calls this client, such as `orders-sync/1.2`.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = agent.into();
        self
    }

    /// How long a connection may take to be made (10 s unless said).
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest pause between two tries to connect again (5 s unless said).
    #[must_use]
    pub const fn backoff_max(mut self, pause: Duration) -> Self {
        self.backoff_max = pause;
        self
    }

    /// The server, as in a URL.
    #[must_use]
    pub fn url(&self) -> String {
        if self.host.contains(':') {
            format!("quic://[{}]:{}", self.host, self.port)
        } else {
            format!("quic://{}:{}", self.host, self.port)
        }
    }
}

fn parse_url(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("quic://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    let wrong = |c: char| c.is_whitespace() || "/@?#[]".contains(c);
    (!host.is_empty() && !host.contains(wrong)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, host, port) in [
            ("quic://localhost:9000", "localhost", 9000),
            ("quic://localhost", "localhost", DEFAULT_PORT),
            ("quic://10.0.0.7:1/", "10.0.0.7", 1),
            ("quic://[fd00::7]:9000", "fd00::7", 9000),
            ("quic://[::1]", "::1", DEFAULT_PORT),
        ] {
            assert_eq!(parse_url(url), Some((host.to_owned(), port)), "{url}");
        }
        assert_eq!(Options::new("quic://[::1]").unwrap().url(), "quic://[::1]:8433");
    }

    #[test]
    fn what_is_no_url_is_named() {
        for url in [
            "",
            "localhost:9000",
            "https://a:1",
            "quic://",
            "quic://a:0",
            "quic://a:x",
            "quic://a:70000",
            "quic://a/b",
            "quic://[::1",
        ] {
            let error = Options::new(url).unwrap_err();
            assert!(matches!(&error, Error::Settings(text) if text.contains("quic://HOST:PORT")), "{url}: {error}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let shown = format!("{:?}", Options::new("quic://a").unwrap().token("sesame"));
        assert!(!shown.contains("sesame"), "{shown}");
    }
}
