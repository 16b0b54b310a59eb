//! What can be wrong with a message.

/// Bytes that are no message of `pgoutput`'s, or that come where they may not. The stream is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PgoutputError {
    /// No byte at all.
    #[error("a message of pgoutput is empty")]
    Empty,
    /// A message whose content does not follow its type.
    #[error("malformed {message} message of pgoutput: {problem}")]
    Malformed {
        /// The message's name in the manual.
        message: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A message that was not asked for, by this version of the protocol or by these options.
    #[error("{message} message of pgoutput, which needs {needs}")]
    NotAsked {
        /// The message's name in the manual.
        message: &'static str,
        /// What a client has to ask for to be sent it.
        needs: &'static str,
    },
    /// A message that may not come where it came.
    #[error("{message} message of pgoutput out of place: {problem}")]
    OutOfPlace {
        /// The message's name in the manual.
        message: &'static str,
        /// Why it may not come there.
        problem: &'static str,
    },
    /// A length or count above a limit of this crate.
    #[error("{message} message of pgoutput: {count} {what}, at most {limit} are taken")]
    TooMany {
        /// The message's name in the manual.
        message: &'static str,
        /// What was counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A column of a tuple that is none of `n`, `u`, `t`, `b`.
    #[error("{message} message of pgoutput: unknown kind of column {character:?} (0x{kind:02X})", character = char::from(*.kind))]
    UnknownColumnKind {
        /// The message's name in the manual.
        message: &'static str,
        /// The kind.
        kind: u8,
    },
    /// A type byte that no version from 1 to 4 has.
    #[error("unknown message {character:?} (0x{0:02X}) of pgoutput", character = char::from(*.0))]
    UnknownMessage(u8),
}
