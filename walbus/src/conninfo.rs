//! Connection strings, as libpq reads them: keywords and values, URIs, the `PG*` environment, passfiles.
//!
//! Follows the manual's chapter "Database Connection Control Functions" (PostgreSQL 18). Pure: the environment comes in as a value,
//! and files are named here but read by `walbus::source`. What libpq knows and this crate does not do is in [`keyword`], each with
//! its reason; nothing is skipped in silence.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

mod environment;
pub mod keyword;
mod options;
pub mod passfile;
mod syntax;
#[cfg(test)]
mod tests;
mod uri;

pub use environment::Environment;
use options::Settings;
pub use options::{
    AuthMethod, CertificateMode, ChannelBinding, KeepaliveOptions, RootCertificate, SslMode, SslNegotiation, TargetSession,
    TlsOptions, TlsVersion,
};

/// A setting that can't be followed: fix what [`ConninfoError::keyword`] names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{keyword}{origin}: {problem}")]
pub struct ConninfoError {
    /// The keyword, as libpq spells it.
    pub keyword: String,
    /// Where its value came from, when that was not the connection string: ` (from PGSSLMODE)`.
    pub(crate) origin: String,
    /// What is wrong, and the way out. Never holds a password.
    pub problem: String,
}

impl ConninfoError {
    pub(crate) fn new(keyword: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { keyword: keyword.into(), origin: String::new(), problem: problem.into() }
    }
}

/// A password or the like: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps these bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where one server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A name or an address to look up, and perhaps the address to connect to instead of looking it up.
    Tcp {
        /// `host`: what a certificate is checked against; empty where only `hostaddr` is given.
        host: String,
        /// `hostaddr`.
        addr: Option<IpAddr>,
    },
    /// A unix socket's folder, or `@` and a name in Linux' abstract namespace. `None` is the default folder:
    /// [`DEFAULT_SOCKET_DIR`], or `/tmp` where that does not exist.
    Unix(Option<String>),
}

/// Where Debian and others have Postgres put its socket.
pub const DEFAULT_SOCKET_DIR: &str = "/var/run/postgresql";

/// The port where none is said.
pub const DEFAULT_PORT: u16 = 5432;

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it listens.
    pub address: Address,
    /// Its port; for a unix socket a part of the file's name.
    pub port: u16,
}

impl Host {
    /// How a passfile names it.
    #[must_use]
    pub fn passfile_name(&self) -> String {
        match &self.address {
            Address::Tcp { host, addr: Some(addr) } if host.is_empty() => addr.to_string(),
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(Some(dir)) if dir != DEFAULT_SOCKET_DIR => dir.clone(),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, addr: Some(addr) } if host.is_empty() => write!(f, "{addr} port {}", self.port),
            Address::Tcp { host, addr: Some(addr) } => write!(f, "{host} ({addr}) port {}", self.port),
            Address::Tcp { host, addr: None } => write!(f, "{host} port {}", self.port),
            Address::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.as_deref().unwrap_or(DEFAULT_SOCKET_DIR), self.port),
        }
    }
}

/// A parsed and completed connection string. Its `Debug` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    /// `None` where there is no home folder to find the default in.
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) dbname: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) fallback_application_name: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: KeepaliveOptions,
    pub(crate) tls: TlsOptions,
    pub(crate) channel_binding: ChannelBinding,
    /// Which methods of authentication are taken; `None` takes any.
    pub(crate) require_auth: Option<Vec<AuthMethod>>,
    pub(crate) require_peer: Option<String>,
    pub(crate) target_session: TargetSession,
    pub(crate) load_balance: bool,
    /// Minor versions of protocol 3: the lowest taken, and the one asked for.
    pub(crate) protocol: (u32, u32),
}

impl Config {
    /// Reads a connection string, either `keyword=value` pairs or a `postgresql://` URI, and completes it from the environment and
    /// from libpq's defaults, in that order. An empty string is a valid one.
    ///
    /// # Errors
    /// Where a keyword is unknown, not supported, or has a value that it can't have; the first such is named.
    pub fn parse(conninfo: &str, environment: &Environment) -> Result<Self, ConninfoError> {
        let given = if uri::is_uri(conninfo) { uri::parse(conninfo)? } else { syntax::parse(conninfo)? };
        Settings::complete(given, environment)?.into_config(environment)
    }

    /// Names the program where neither the string nor the environment does. `synchronous_standby_names` matches this name.
    #[must_use]
    pub fn or_application_name(mut self, name: &str) -> Self {
        if self.application_name().is_none() {
            self.fallback_application_name = Some(name.to_owned());
        }
        self
    }

    /// Names the program, whatever the string says.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> Self {
        self.application_name = Some(name.to_owned());
        self
    }

    /// Limits the time for one address to be connected to, where the string does not say. libpq's own default is for ever.
    #[must_use]
    pub fn or_connect_timeout(mut self, timeout: Duration) -> Self {
        // What was said to be 0 is said to be for ever, and kept as the longest time there is.
        self.connect_timeout.get_or_insert(timeout);
        self
    }

    /// The servers, in the order in which they are written.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database, where one is named.
    #[must_use]
    pub fn dbname(&self) -> Option<&str> {
        self.dbname.as_deref()
    }

    /// How the connection names itself, where that is known.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref().or(self.fallback_application_name.as_deref())
    }

    /// `sslmode`.
    #[must_use]
    pub const fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }
}
