//! A position on the wire and in code.

use walbus::Lsn;
use walbus::position::Position;

use crate::v1;

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self { commit_lsn: position.commit_lsn.0, ordinal: position.ordinal }
    }
}

impl From<v1::Position> for Position {
    fn from(position: v1::Position) -> Self {
        Self { commit_lsn: Lsn(position.commit_lsn), ordinal: position.ordinal }
    }
}

impl From<&v1::Position> for Position {
    fn from(position: &v1::Position) -> Self {
        (*position).into()
    }
}

impl v1::Transaction {
    /// The position of a change of this transaction.
    #[must_use]
    pub fn position_of(&self, change: &v1::Change) -> Position {
        Position { commit_lsn: Lsn(self.commit_lsn), ordinal: change.ordinal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let position = Position { commit_lsn: Lsn(0x16B_3748), ordinal: 3 };
        let sent = v1::Position::from(position);
        assert_eq!((sent.commit_lsn, sent.ordinal), (0x16B_3748, 3));
        assert_eq!(Position::from(&sent), position);
        assert_eq!(Position::from(sent), position);
    }

    #[test]
    fn a_change_is_at_its_transactions_commit() {
        let transaction = v1::Transaction { commit_lsn: 0x16B_3748, ..Default::default() };
        let change = v1::Change { ordinal: 7, ..Default::default() };
        assert_eq!(transaction.position_of(&change).to_string(), "0/16B3748:7");
    }
}
