//! Where a change stands among all changes.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;

/// A change's place in the order in which subscribers see changes: its transaction's commit, and its number in that transaction.
///
/// The position of the change itself in the WAL will not do: several rows can share one, and those of a transaction that commits
/// later may lie before those of one that commits earlier. Commits have one order, and each a position of its own.
///
/// Printed and read as `0/16B3748:3`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The position of the commit record's first byte.
    pub commit_lsn: Lsn,
    /// The number of the change in its transaction, from 1; 0 is before the first.
    pub ordinal: u32,
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position: expected an LSN and the number of a change, as in 0/16B3748:3")]
pub struct ParsePositionError(pub String);

impl Position {
    /// Before the first change of the transaction that is committed at `commit_lsn`, and behind all changes of those before it.
    #[must_use]
    pub const fn before(commit_lsn: Lsn) -> Self {
        Self { commit_lsn, ordinal: 0 }
    }

    /// The position of a logical message that is not part of a transaction.
    ///
    /// pgoutput gives such a message the position behind its record. That is where the next record starts, which may well be a
    /// commit, so it would name two things. The last byte of the message's record is its own: behind the start of every commit before
    /// it, before the start of every one after it.
    #[must_use]
    pub const fn of_message(lsn: Lsn) -> Self {
        Self { commit_lsn: Lsn(lsn.0.saturating_sub(1)), ordinal: 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit_lsn, self.ordinal)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (lsn, ordinal) = text.split_once(':')?;
            let plain = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
            Some(Self { commit_lsn: lsn.parse().ok()?, ordinal: plain.then(|| ordinal.parse().ok()).flatten()? })
        };
        read().ok_or_else(|| ParsePositionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_commit_comes_first_in_the_order() {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1) && at(2, 9) < at(2, 10));
        assert_eq!(Position::before(Lsn(2)), at(2, 0));
    }

    #[test]
    fn a_message_never_shares_the_position_of_the_commit_behind_it() {
        let message = Position::of_message(Lsn(0x179_AB20));
        assert_eq!(message.to_string(), "0/179AB1F:1");
        assert!(message < Position::before(Lsn(0x179_AB20)));
    }

    #[test]
    fn what_is_no_position_is_named() {
        assert_eq!("0/16B3748:3".parse(), Ok(Position { commit_lsn: Lsn(0x16B_3748), ordinal: 3 }));
        for text in ["", ":", "0/0", "0/0:", "0/0:+1", "0/0:-1", "0/0: 1", "0/0:4294967296", "x:1", "0/0:1:1", "0/0:0x1"] {
            assert_eq!(text.parse::<Position>(), Err(ParsePositionError(text.to_owned())), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printed_and_read_back(lsn: u64, ordinal: u32) {
            let position = Position { commit_lsn: Lsn(lsn), ordinal };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}
