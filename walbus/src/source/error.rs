//! What goes wrong, by what is to be done about it.

use std::io;
use std::time::Duration;

use crate::conninfo::ConninfoError;
use crate::proto::backend::{Diagnostic, ProtocolError, SqlState};

/// Why there is no connection, or none any more. Its text holds its reason, so that there is no source to be printed beside it.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// This side refuses to log in as the server wants it, or can't.
    #[error("log in to {host}: {problem}")]
    Authentication {
        /// The server.
        host: String,
        /// Why, and the way out.
        problem: String,
    },
    /// A setting, or a file that it names, can't be used.
    #[error("connection setting {0}")]
    Config(ConninfoError),
    /// The server closed the connection.
    #[error("{doing}: the server closed the connection{}", if *.orderly { ", as it is shutting down" } else { "" })]
    Closed {
        /// What was being done.
        doing: &'static str,
        /// Whether it said that it would.
        orderly: bool,
    },
    /// The operating system failed us.
    #[error("{doing}: {reason}")]
    Io {
        /// What was being done.
        doing: String,
        /// Its reason.
        reason: io::Error,
    },
    /// The server does not let us in.
    #[error("log in to {host}: {diagnostic}")]
    LoginRefused {
        /// The server.
        host: String,
        /// What it said.
        diagnostic: Box<Diagnostic>,
    },
    /// No host is such a server as `target_session_attrs` asks for.
    #[error("{problem}")]
    NoServer {
        /// What is missing.
        problem: String,
    },
    /// What came is not what a Postgres server sends.
    #[error("{doing}: {reason}")]
    Protocol {
        /// What was being done.
        doing: &'static str,
        /// What came.
        reason: ProtocolError,
    },
    /// The server said no.
    #[error("{doing}: {diagnostic}")]
    Refused {
        /// What was being done.
        doing: String,
        /// What it said.
        diagnostic: Box<Diagnostic>,
    },
    /// It took too long.
    #[error("{doing}: not done after {after:?}")]
    Timeout {
        /// What was being done.
        doing: String,
        /// The limit.
        after: Duration,
    },
    /// TLS is not there, or not as `sslmode` wants it.
    #[error("TLS to {host}: {problem}")]
    Tls {
        /// The server.
        host: String,
        /// Why, and the way out.
        problem: String,
    },
    /// A message that the protocol has, but not here.
    #[error("{doing}: unexpected {message}")]
    Unexpected {
        /// What was being done.
        doing: &'static str,
        /// The message's name.
        message: String,
    },
}

/// What the receiver of an error must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Have a person fix credentials or `pg_hba.conf`.
    Authentication,
    /// Have a person fix a setting, a file that it names, or a certificate.
    Configuration,
    /// Make the slot, or name another.
    NoSuchSlot,
    /// Give up: the peer is no Postgres server, or refuses for a reason that is not known here.
    Other,
    /// Try again after a while.
    Retry,
    /// Drop the slot and make it anew: it was invalidated, or is of the other kind. WAL may be missing.
    SlotUnusable,
    /// Take the WAL from elsewhere: the server has removed it.
    WalRemoved,
}

impl From<ConninfoError> for SourceError {
    fn from(error: ConninfoError) -> Self {
        Self::Config(error)
    }
}

impl SourceError {
    pub(super) fn refused(doing: impl Into<String>, diagnostic: Box<Diagnostic>) -> Self {
        Self::Refused { doing: doing.into(), diagnostic }
    }

    pub(super) fn io(doing: impl Into<String>, reason: io::Error) -> Self {
        Self::Io { doing: doing.into(), reason }
    }

    /// What the server's error is numbered, where it was the server that said no.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::LoginRefused { diagnostic, .. } | Self::Refused { diagnostic, .. } => Some(diagnostic.code),
            _ => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Authentication { .. } => Class::Authentication,
            Self::Config(_) | Self::Tls { .. } => Class::Configuration,
            Self::Closed { .. } | Self::Io { .. } | Self::NoServer { .. } | Self::Timeout { .. } => Class::Retry,
            Self::Protocol { .. } | Self::Unexpected { .. } => Class::Other,
            Self::LoginRefused { diagnostic, .. } => match diagnostic.code.class() {
                "08" | "53" | "57" => Class::Retry,
                // Insufficient privilege: the role lacks REPLICATION.
                "28" | "42" if diagnostic.code != SqlState::UNDEFINED_OBJECT => Class::Authentication,
                // The string names a database, a setting or a value that the server does not have.
                _ => Class::Configuration,
            },
            Self::Refused { diagnostic, .. } => match diagnostic.code {
                SqlState::OBJECT_IN_USE => Class::Retry,
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Class::SlotUnusable,
                SqlState::UNDEFINED_FILE => Class::WalRemoved,
                SqlState::UNDEFINED_OBJECT => Class::NoSuchSlot,
                code => match code.class() {
                    // Connection exceptions, no resources, an operator at work.
                    "08" | "53" | "57" => Class::Retry,
                    _ => Class::Other,
                },
            },
        }
    }

    /// Whether the same may work later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.class() == Class::Retry
    }

    /// Whether another address may do better: libpq goes on where there is no connection, the server is not ready, or is of the wrong
    /// kind, but not where it refuses to log us in.
    pub(super) fn is_another_hosts(&self) -> bool {
        match self {
            Self::Authentication { .. } | Self::Config(_) => false,
            Self::LoginRefused { diagnostic, .. } => diagnostic.code == SqlState::CANNOT_CONNECT_NOW,
            _ => true,
        }
    }

    /// Whether the same server may do better with TLS, or without.
    pub(super) const fn may_be_encryptions(&self) -> bool {
        matches!(self, Self::LoginRefused { .. } | Self::Tls { .. })
    }
}
