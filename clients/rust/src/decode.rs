//! Batches into events. Pure.
//!
//! Keeps what a stream has said: definitions, the transaction that is open, and the position reached. It lives as long as the subscription,
//! over any number of connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use beyond_cdc_proto::v1::{self, Batch, Operation, Part, Schema};
use walbus::{Lsn, Position};

use crate::change::{Change, Header};
use crate::error::Error;
use crate::events::Event;

/// What a subscription's batches have said so far.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    schemas: HashMap<u32, Arc<Schema>>,
    /// The transaction whose end has not come.
    open: Option<Arc<Header>>,
    reached: Position,
}

impl Decoder {
    /// What has been given out: all up to here.
    pub(crate) const fn reached(&self) -> Position {
        self.reached
    }

    /// Starts behind this position.
    pub(crate) fn start(&mut self, position: Position) {
        self.reached = self.reached.max(position);
    }

    /// Appends what a batch says to `events`.
    ///
    /// # Errors
    /// Where it does not keep to the protocol.
    pub(crate) fn handle_batch(&mut self, batch: Batch, events: &mut VecDeque<Event>) -> Result<(), Error> {
        for schema in batch.schemas {
            self.schemas.insert(schema.id, Arc::new(schema));
        }
        let through = batch.through.as_ref().map(Position::from);
        let mut rest = batch.transactions.into_iter().peekable();
        while let Some(transaction) = rest.next() {
            let end = through.filter(|through| rest.peek().is_none() && through.commit_lsn.0 == transaction.commit_lsn);
            self.transaction(transaction, end, events)?;
        }
        if let Some(through) = through {
            if through < self.reached {
                return Err(Error::Protocol(format!("a batch goes back from {} to {through}", self.reached)));
            }
            self.reached = through;
            events.push_back(Event::Through(through));
        }
        Ok(())
    }

    fn transaction(
        &mut self,
        mut transaction: v1::Transaction,
        end: Option<Position>,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Error> {
        let changes = std::mem::take(&mut transaction.changes);
        let part = Part::try_from(transaction.part)
            .map_err(|_unknown| Error::Protocol(format!("part {} of a transaction is not known", transaction.part)))?;
        let header = self.header(transaction, part, events)?;
        for change in changes {
            self.change(&header, change, events)?;
        }
        if matches!(part, Part::Whole | Part::End) {
            self.reached = self.reached.max(end.unwrap_or_default());
            self.open = None;
            events.push_back(Event::Commit { position: self.reached, header });
        }
        Ok(())
    }

    /// The header that a part's changes have.
    fn header(&mut self, transaction: v1::Transaction, part: Part, events: &mut VecDeque<Event>) -> Result<Arc<Header>, Error> {
        let at = Lsn(transaction.commit_lsn);
        if let Some(open) = &self.open {
            if open.commit_lsn() != at {
                return Err(Error::Protocol(format!("the transaction at {at} begins within the one at {}", open.commit_lsn())));
            }
            return Ok(Arc::clone(open));
        }
        if at < self.reached.commit_lsn {
            return Err(Error::Protocol(format!("the transaction at {at} comes behind {}", self.reached)));
        }
        let header = Arc::new(Header { wire: transaction });
        // Behind a start within a transaction, its rest comes without its begin.
        if matches!(part, Part::Whole | Part::Begin) {
            events.push_back(Event::Begin(Arc::clone(&header)));
        }
        self.open = Some(Arc::clone(&header));
        Ok(header)
    }

    fn change(&mut self, header: &Arc<Header>, change: v1::Change, events: &mut VecDeque<Event>) -> Result<(), Error> {
        let position = header.wire().position_of(&change);
        if position <= self.reached {
            return Err(Error::Protocol(format!("the change at {position} comes behind {}", self.reached)));
        }
        let ids = match change.operation() {
            Operation::Unspecified => {
                return Err(Error::Protocol(format!("operation {} at {position} is not known", change.operation)));
            }
            Operation::Message => &[][..],
            Operation::Truncate => change.truncate.as_ref().map(|truncate| truncate.schemas.as_slice()).unwrap_or_default(),
            Operation::Delete | Operation::Insert | Operation::Update => std::slice::from_ref(&change.schema),
        };
        let schemas = ids.iter().map(|id| self.schemas.get(id).cloned().ok_or(*id)).collect::<Result<Vec<_>, _>>();
        let schemas = schemas.map_err(|id| Error::Protocol(format!("schema {id} was not sent before the change at {position}")))?;
        self.reached = position;
        events.push_back(Event::Change(Change { header: Arc::clone(header), schemas, wire: change }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beyond_cdc_proto::v1::{Row, Transaction};

    fn at(lsn: u64, ordinal: u32) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal }
    }

    fn part(lsn: u64, part: Part, ordinals: &[u32]) -> Transaction {
        let change = |ordinal: &u32| v1::Change {
            ordinal: *ordinal,
            operation: Operation::Insert.into(),
            schema: 1,
            new: Some(Row::default()),
            ..v1::Change::default()
        };
        Transaction { commit_lsn: lsn, part: part.into(), changes: ordinals.iter().map(change).collect(), ..Transaction::default() }
    }

    fn batch(transactions: Vec<Transaction>, through: Position) -> Batch {
        let schemas = vec![Schema { id: 1, ..Schema::default() }];
        Batch { schemas, transactions, through: Some(through.into()) }
    }

    fn names(decoder: &mut Decoder, batch: Batch) -> Result<Vec<String>, Error> {
        let mut events = VecDeque::new();
        decoder.handle_batch(batch, &mut events)?;
        Ok(events
            .into_iter()
            .map(|event| match event {
                Event::Begin(header) => format!("begin {}", header.commit_lsn()),
                Event::Change(change) => change.position().to_string(),
                Event::Commit { position, .. } => format!("commit {position}"),
                Event::Through(position) => format!("through {position}"),
            })
            .collect())
    }

    #[test]
    fn whole_transactions_and_parts() {
        let mut decoder = Decoder::default();
        let first = batch(vec![part(1, Part::Whole, &[1, 2]), part(2, Part::Begin, &[1])], at(2, 1));
        assert_eq!(
            names(&mut decoder, first).unwrap(),
            ["begin 0/1", "0/1:1", "0/1:2", "commit 0/1:2", "begin 0/2", "0/2:1", "through 0/2:1"]
        );
        let second = batch(vec![part(2, Part::Middle, &[5])], at(2, 8));
        assert_eq!(names(&mut decoder, second).unwrap(), ["0/2:5", "through 0/2:8"]);
        // A filter has left nothing of the end, and all the same it ends.
        let third = batch(vec![part(2, Part::End, &[])], at(2, 9));
        assert_eq!(names(&mut decoder, third).unwrap(), ["commit 0/2:9", "through 0/2:9"]);
        assert_eq!(decoder.reached(), at(2, 9));
    }

    #[test]
    fn a_transaction_goes_on_over_a_second_connection() {
        let mut decoder = Decoder::default();
        names(&mut decoder, batch(vec![part(2, Part::Begin, &[1, 2])], at(2, 2))).unwrap();
        let rest = batch(vec![part(2, Part::Middle, &[3]), part(2, Part::End, &[4])], at(2, 4));
        assert_eq!(names(&mut decoder, rest).unwrap(), ["0/2:3", "0/2:4", "commit 0/2:4", "through 0/2:4"]);
        // One that starts within a transaction gets its rest without its begin.
        let mut fresh = Decoder::default();
        fresh.start(at(2, 3));
        let rest = batch(vec![part(2, Part::End, &[4])], at(2, 4));
        assert_eq!(names(&mut fresh, rest).unwrap(), ["0/2:4", "commit 0/2:4", "through 0/2:4"]);
    }

    #[test]
    fn positions_have_to_rise() {
        let mut decoder = Decoder::default();
        decoder.start(at(5, 3));
        for wrong in [
            batch(vec![part(5, Part::Whole, &[3])], at(5, 3)),
            batch(vec![part(4, Part::Whole, &[9])], at(5, 3)),
            batch(vec![], at(5, 2)),
            batch(vec![part(6, Part::Begin, &[1]), part(7, Part::Whole, &[1])], at(7, 1)),
        ] {
            let mut decoder = Decoder::default();
            decoder.start(at(5, 3));
            assert!(matches!(names(&mut decoder, wrong.clone()), Err(Error::Protocol(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_definition_comes_first() {
        let mut unknown = batch(vec![part(1, Part::Whole, &[1])], at(1, 1));
        unknown.schemas.clear();
        let error = names(&mut Decoder::default(), unknown).unwrap_err().to_string();
        assert!(error.contains("schema 1"), "{error}");
    }
}
