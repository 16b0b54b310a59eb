//! Why there is no change to give, by what the caller must do.

use beyond_cdc_proto::v1::{self, ErrorCode};
use walbus::Position;

/// Why a client has nothing more to give. The kinds differ by what the caller must do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What is behind the position can't be had from there: changes may be missing in between. Start from another place, and fill the gap by
    /// other means where it matters.
    #[error("{message}")]
    Gap {
        /// What is wrong with the position.
        message: String,
        /// Where the log begins now, where the server said so.
        earliest: Option<Position>,
    },
    /// What came does not keep to the protocol: one of the two ends has a fault.
    #[error("{0}")]
    Protocol(String),
    /// The server can't be reached, or can't serve now: try again later. After the first connection the client does so by itself.
    #[error("{0}")]
    Retry(String),
    /// A setting is wrong (token, certificate, table, name): the text says which. Trying again is of no use.
    #[error("{0}")]
    Settings(String),
    /// Another session has taken the consumer's name over: leave it alone.
    #[error("{0}")]
    TakenOver(String),
    /// A transaction is larger than what may be gathered. Read it as changes, which arrive one by one, or allow for more.
    #[error("the transaction at {position} has more than {max} bytes: read changes instead of transactions, or allow for more")]
    TransactionTooLarge {
        /// The position of its first change.
        position: Position,
        /// The most that may be gathered, in bytes.
        max: usize,
    },
}

impl Error {
    /// What an error of the server asks of the caller.
    pub(crate) fn from_server(error: &v1::Error) -> Self {
        let message = if error.message.is_empty() { format!("{:?}", error.code()) } else { error.message.clone() };
        match error.code() {
            ErrorCode::Internal | ErrorCode::Limit | ErrorCode::ShuttingDown => Self::Retry(message),
            ErrorCode::Protocol | ErrorCode::Unspecified => Self::Protocol(message),
            ErrorCode::Unsupported | ErrorCode::Unauthenticated | ErrorCode::Forbidden | ErrorCode::Invalid => {
                Self::Settings(message)
            }
            ErrorCode::ConsumerBusy => Self::Settings(message),
            ErrorCode::TooFarBehind | ErrorCode::WrongEpoch | ErrorCode::Ahead => {
                Self::Gap { message, earliest: error.earliest.as_ref().map(Position::from) }
            }
            ErrorCode::TakenOver => Self::TakenOver(message),
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        matches!(self, Self::Retry(_))
    }
}
