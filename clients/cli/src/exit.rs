//! How it ends: one code for each thing that a script would do differently.

use std::io;
use std::process::ExitCode;

use beyond_cdc_client::Error;

/// Why there is nothing more to print, and the exit code that says so.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client's side.
    #[error(transparent)]
    Client(#[from] Error),
    /// The output can't be written. A closed pipe is none of these.
    #[error("can't write the output: {0}")]
    Output(io::Error),
    /// The position file can't be used.
    #[error("--position-file {file}: {reason}")]
    PositionFile {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a script may rely on; `--help` lists it.
pub const CODES: &str = "\
Exit codes:
  0  all that was asked for was printed, or the reader of the pipe has gone
  1  output or position file can't be written
  2  a flag makes no sense
  3  a setting is wrong: token, certificate, table, consumer in use
  4  the server can't be reached
  5  the position can't be had any more (too far behind, or of another slot): changes may be missing
  6  another session has taken the consumer's name over
  7  what came does not keep to the protocol";

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Output(_) | Self::PositionFile { .. } => 1,
            Self::Client(Error::Settings(_)) => 3,
            Self::Client(Error::Retry(_)) => 4,
            Self::Client(Error::Gap { .. }) => 5,
            Self::Client(Error::TakenOver(_)) => 6,
            Self::Client(Error::Protocol(_) | Error::TransactionTooLarge { .. }) => 7,
        })
    }
}
