//! What a client is told where a subscription does not start, or ends. Pure but for the server's own log.

use beyond_cdc_proto::v1::{self, ErrorCode};
use walbus::Position;

use super::pump::End;
use crate::fanout::consumers::AttachError;
use crate::fanout::cursor::CursorError;
use crate::log::{Epoch, ReadError};

/// An error of a subscription whose number the caller fills in.
pub(super) fn refusal(code: ErrorCode, message: impl Into<String>) -> v1::Error {
    v1::Error { code: code.into(), message: message.into(), ..v1::Error::default() }
}

/// The server has failed, and its log has the reason.
pub(super) fn fault() -> v1::Error {
    refusal(ErrorCode::Internal, "the server has a fault; its log says more")
}

/// A name can't be had.
pub(super) fn of_name(error: &AttachError) -> v1::Error {
    let code = match error {
        AttachError::Busy { .. } => ErrorCode::ConsumerBusy,
        AttachError::Name(_) => ErrorCode::Invalid,
        AttachError::TooMany(_) => ErrorCode::Limit,
    };
    refusal(code, error.to_string())
}

/// A position is of another epoch.
pub(super) fn of_epoch(epoch: Epoch, now: Epoch, earliest: Position) -> v1::Error {
    v1::Error {
        epoch: now.bytes().to_vec(),
        earliest: Some(earliest.into()),
        ..refusal(
            ErrorCode::WrongEpoch,
            format!(
                "the position is of epoch {epoch}, and this is {now}: the slot was lost or made anew, and changes may be missing in \
                 between. Start from the earliest position or the latest one, and copy the tables anew where that matters"
            ),
        )
    }
}

/// The log does not give what is behind a position.
pub(super) fn of_read(error: &ReadError) -> v1::Error {
    match error {
        ReadError::Ahead { head } => refusal(
            ErrorCode::Ahead,
            format!("the position is ahead of the log, which ends at {head}: it is of another log, or of no log at all"),
        ),
        ReadError::TooFarBehind { earliest } => v1::Error {
            earliest: Some((*earliest).into()),
            ..refusal(
                ErrorCode::TooFarBehind,
                format!(
                    "the position is older than what the log holds, which begins behind {earliest}: changes are missing in between"
                ),
            )
        },
        ReadError::Damaged(_) | ReadError::Io { .. } => {
            tracing::error!(error = error as &dyn std::error::Error, "the event log can't be read");
            refusal(ErrorCode::Internal, "the server can't read its log; its own log says why")
        }
    }
}

/// The last word on a subscription that the client did not end itself; `None` where it did.
pub(super) fn of_end(end: End) -> Option<v1::Error> {
    match end {
        End::Broken => Some(fault()),
        End::Failed(CursorError::Read(error)) => Some(of_read(&error)),
        End::Failed(CursorError::Encode(error)) => {
            tracing::error!(%error, "a batch of the event log can't be given out");
            Some(refusal(ErrorCode::Internal, "the server can't give out what its log holds; its own log says why"))
        }
        End::Gone | End::Stopped => None,
        End::TakenOver => Some(refusal(ErrorCode::TakenOver, "another session has taken the consumer's name over")),
    }
}
