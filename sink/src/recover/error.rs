//! What keeps `recover` from its end.

use std::io;

use walbus::pgdata::{LabelError, RunningError};
use walbus::proto::control::ControlError;

use crate::client::ClientError;

use super::plan::Refusal;

/// Why a recovery did not come to its end. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// `pg_control` can't be used.
    #[error("global/{0}")]
    Control(#[from] ControlError),
    /// The folder can't be read or written.
    #[error("{doing}: {source}")]
    Folder {
        /// The verb and the file.
        doing: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The sink's WAL grew in the meantime.
    #[error(
        "the sink's WAL grew from {planned} to {now} while this ran: a primary is still writing. Stop it, then run recover again; until \
         then Postgres will not start on this folder"
    )]
    Grew {
        /// The end at first.
        planned: walbus::Lsn,
        /// The end now.
        now: walbus::Lsn,
    },
    /// `backup_label` can't be used.
    #[error("backup_label can't be used: {0}")]
    Label(#[from] LabelError),
    /// There is no room.
    #[error(
        "no room in pg_wal: up to {needed} bytes are needed for the sink's WAL, {free} are free. Make {} bytes of room on its filesystem \
         (move nothing out of pg_wal itself), then run recover again", .needed.saturating_sub(*.free)
    )]
    NoRoom {
        /// The bytes needed.
        needed: u64,
        /// The bytes free.
        free: u64,
    },
    /// The folder is not as recover expects it.
    #[error("{0}")]
    NotUsable(String),
    /// It would not be sure to lose nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A server runs on the folder.
    #[error(transparent)]
    Running(#[from] RunningError),
    /// The sink gave no answer.
    #[error("{0}")]
    Sink(#[from] ClientError),
    /// Another thread failed first; never given out.
    #[error("stopped")]
    Stopped,
}

impl RecoverError {
    /// An I/O error with what was being done.
    pub(super) fn folder(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Folder { doing, source }
    }
}
