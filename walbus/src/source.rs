//! The one replication connection to Postgres.
//!
//! [`connect`] gives a [`Client`], which runs replication commands; [`Client::start_physical`] or [`Client::start_logical`] turns it into a
//! [`CopyStream`], which is where WAL comes from and where acknowledgements go. Nothing is spawned and nothing is retried here: a [`SourceError`] says by
//! its [`Class`] what its receiver must do.
//!
//! ```text
//!   Config ── connect ──▶ Client ── start_physical ──▶ CopyStream ── next, try_next ──▶ Event
//!                           ▲                              │ ▲
//!                           └───────── finish ─────────────┘ └── send_status, try_send_status
//! ```

use std::time::Duration;

mod auth;
mod buffer;
mod certificate;
mod client;
mod copy;
mod environment;
mod error;
mod logical;
mod session;
mod socket;
mod tls;
mod transport;

pub use client::{Client, NextTimeline, PhysicalSlot, SystemIdentity};
pub use copy::{CopyStream, Event};
pub use environment::environment;
pub use error::{Class, SourceError};
pub use logical::{CreatedSlot, LogicalSlotOptions, Rows};

use crate::conninfo::{Config, Host, SslMode, SslNegotiation, TargetSession};
use crate::proto::backend::{LOGICAL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX};
use session::Session;
use transport::Transport;

/// What is to be streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// What an output plugin makes of one database's changes.
    Logical {
        /// The database.
        dbname: String,
    },
    /// WAL as it is.
    Physical,
}

impl Mode {
    /// The longest message that is taken.
    const fn message_bytes_max(&self) -> usize {
        match self {
            Self::Logical { .. } => LOGICAL_MESSAGE_BYTES_MAX,
            Self::Physical => MESSAGE_BYTES_MAX,
        }
    }

    /// The database as a passfile and a pooler know it. libpq's programs say `replication` for physical replication.
    fn dbname(&self) -> &str {
        match self {
            Self::Logical { dbname } => dbname,
            Self::Physical => "replication",
        }
    }

    const fn parameter(&self) -> &'static str {
        match self {
            Self::Logical { .. } => "database",
            Self::Physical => "true",
        }
    }
}

/// Connects and logs in: every host in order, and every address of a host, until one takes us. As in libpq the next one is tried
/// where there is no connection or no session of the wanted kind, but not where a server refuses to log us in.
///
/// # Errors
/// Of the last address tried. Not cancellation-safe: when dropped, what is open is closed.
pub async fn connect(config: &Config, mode: Mode) -> Result<Client, SourceError> {
    if config.target_session == TargetSession::PreferStandby {
        match connect_any(config, &mode, TargetSession::Standby).await {
            Err(error) if error.is_another_hosts() => {}
            done => return done,
        }
    }
    connect_any(config, &mode, config.target_session).await
}

async fn connect_any(config: &Config, mode: &Mode, target: TargetSession) -> Result<Client, SourceError> {
    let mut hosts: Vec<&Host> = config.hosts.iter().collect();
    if config.load_balance {
        socket::shuffle(&mut hosts);
    }
    let mut last = None;
    for host in hosts {
        let after = config.connect_timeout.unwrap_or(Duration::MAX);
        let addresses = match tokio::time::timeout(after, socket::resolve(host, config.load_balance)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                last = Some(error);
                continue;
            }
            Err(_) => {
                last = Some(SourceError::Timeout { doing: format!("look up {host}"), after });
                continue;
            }
        };
        for address in addresses {
            let attempt = Box::pin(connect_one(config, mode, target, host, &address));
            match tokio::time::timeout(after, attempt).await {
                Ok(Ok(session)) => return Ok(Client::new(session)),
                Ok(Err(error)) if !error.is_another_hosts() => return Err(error),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(SourceError::Timeout { doing: format!("connect to {host}"), after }),
            }
            if let Some(error) = &last {
                tracing::debug!(%host, %error, "this address is passed over");
            }
        }
    }
    Err(last.unwrap_or_else(|| SourceError::NoServer { problem: "host names no address".to_owned() }))
}

/// Whether a session over TLS or in the clear comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    /// In the clear where the server has no TLS.
    TlsIfOffered,
    Tls,
}

async fn connect_one(
    config: &Config,
    mode: &Mode,
    target: TargetSession,
    host: &Host,
    address: &socket::SocketAddress,
) -> Result<Session, SourceError> {
    use Encryption::{Plain, Tls, TlsIfOffered};
    let (first, second) = match config.tls.mode {
        // As in libpq, sslmode means nothing on a unix socket.
        _ if address.is_unix() => (Plain, None),
        SslMode::Disable => (Plain, None),
        SslMode::Allow => (Plain, Some(Tls)),
        SslMode::Prefer => (TlsIfOffered, Some(Plain)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Tls, None),
    };
    let attempt = |encryption| open(config, mode, host, address, encryption);
    let session = match (attempt(first).await, second) {
        (Err(failure), Some(second)) if failure.may_be_encryptions() && (second == Tls || failure.was_tls) => {
            match attempt(second).await {
                Ok(session) => Ok(session),
                // What was said over TLS is said by the server that was meant: of two refusals it is the one worth knowing.
                Err(_) if failure.was_tls && matches!(failure.error, SourceError::LoginRefused { .. }) => Err(failure.error),
                Err(failure) => Err(failure.error),
            }
        }
        (outcome, _) => outcome.map_err(|failure| failure.error),
    }?;
    session.check_target(target, host)?;
    Ok(session)
}

/// Why a session did not come about, and over what.
struct OpenFailure {
    error: SourceError,
    was_tls: bool,
    /// Whether the handshake failed, whatever its reason.
    was_handshake: bool,
}

impl OpenFailure {
    /// Whether the same server may do better with TLS, or without.
    const fn may_be_encryptions(&self) -> bool {
        self.was_handshake && !matches!(self.error, SourceError::Config(_)) || self.error.may_be_encryptions()
    }
}

async fn open(
    config: &Config,
    mode: &Mode,
    host: &Host,
    address: &socket::SocketAddress,
    encryption: Encryption,
) -> Result<Session, OpenFailure> {
    let clear = |error| OpenFailure { error, was_tls: false, was_handshake: false };
    let transport = socket::dial(config, host, address).await.map_err(clear)?;
    let (transport, binding) = match (encryption, transport) {
        (Encryption::Tls | Encryption::TlsIfOffered, Transport::Tcp(mut stream)) => {
            let offered = match config.tls.negotiation {
                SslNegotiation::Direct => true,
                SslNegotiation::Postgres => session::ask_for_tls(&mut stream).await.map_err(clear)?,
            };
            if offered {
                let secured = tls::handshake(&config.tls, host, stream).await;
                let (transport, binding) = secured.map_err(|error| OpenFailure { error, was_tls: true, was_handshake: true })?;
                (transport, Some(binding))
            } else if encryption == Encryption::Tls {
                return Err(clear(tls::not_offered(&config.tls, host)));
            } else {
                (Transport::Tcp(stream), None)
            }
        }
        (_, transport) => (transport, None),
    };
    let was_tls = binding.is_some();
    let session = session::log_in(config, mode, host, transport, binding).await;
    session.map_err(|error| OpenFailure { error, was_tls, was_handshake: false })
}
