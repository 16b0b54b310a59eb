//! What to subscribe to.

use std::fmt;
use std::str::FromStr;

use beyond_cdc_proto::v1::subscribe::Start as WireStart;
use beyond_cdc_proto::v1::{ColumnEquals, Encoding, Filter, Operation, Subscribe};
use walbus::Position;

/// Which life of the server's slot positions are of: in another one they mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 16]);

/// A text that is no epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no epoch: expected 32 hexadecimal digits")]
pub struct ParseEpochError(pub String);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Epoch {
    type Err = ParseEpochError;

    fn from_str(text: &str) -> Result<Self, ParseEpochError> {
        let wrong = || ParseEpochError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Behind this position.
    After {
        /// The position.
        position: Position,
        /// The epoch that it is of; `None` for whichever there is, which can't tell a slot that was made anew.
        epoch: Option<Epoch>,
    },
    /// With the oldest change that the server holds.
    Earliest,
    /// With the next change.
    Latest,
    /// Where the named consumer has acknowledged to.
    Resume {
        /// Where one that has acknowledged nothing yet starts: with the oldest change, or else with the next one.
        fresh_from_earliest: bool,
    },
    /// With the first transaction that was committed at this time or later, in microseconds since 1970-01-01 00:00 UTC.
    Time(i64),
}

/// What to subscribe to: where to start, and what passes.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub(crate) start: Start,
    pub(crate) consumer: String,
    pub(crate) take_over: bool,
    pub(crate) filter: Filter,
}

impl Subscription {
    /// All changes from there on.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self { start, consumer: String::new(), take_over: false, filter: Filter::default() }
    }

    /// A name, under which the server keeps the acknowledged position.
    #[must_use]
    pub fn consumer(mut self, name: impl Into<String>) -> Self {
        self.consumer = name.into();
        self
    }

    /// Takes the name over from a session that has it.
    #[must_use]
    pub const fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }

    /// Only tables that match `schema.table`, each part a name or a pattern with `*` and `?`. Called again: those as well.
    #[must_use]
    pub fn table(mut self, pattern: impl Into<String>) -> Self {
        self.filter.tables.push(pattern.into());
        self
    }

    /// Only this operation. Called again: that one as well.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.filter.operations.push(operation.into());
        self
    }

    /// Only this column, in tables that have it, and the key. Called again: that one as well.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        self.filter.columns.push(name.into());
        self
    }

    /// Only rows whose column has this value, as Postgres writes it; `None` for NULL. Called again: both have to hold.
    #[must_use]
    pub fn equals(mut self, column: impl Into<String>, value: Option<String>) -> Self {
        self.filter.equals.push(ColumnEquals { column: column.into(), value });
        self
    }

    /// What is sent to the server: from the start, or from where an earlier connection had come to.
    pub(crate) fn request(&self, id: u32, reached: Option<(Position, Epoch)>) -> Subscribe {
        let start = reached.map_or(self.start, |(position, epoch)| Start::After { position, epoch: Some(epoch) });
        let (start, epoch, fresh_from_earliest) = match start {
            Start::After { position, epoch } => (WireStart::After(position.into()), epoch, false),
            Start::Earliest => (WireStart::Earliest(true), None, false),
            Start::Latest => (WireStart::Latest(true), None, false),
            Start::Resume { fresh_from_earliest } => (WireStart::Resume(true), None, fresh_from_earliest),
            Start::Time(micros) => (WireStart::Time(micros), None, false),
        };
        Subscribe {
            subscription: id,
            consumer: self.consumer.clone(),
            take_over: self.take_over,
            start: Some(start),
            epoch: epoch.map(|epoch| epoch.0.to_vec()).unwrap_or_default(),
            filter: Some(self.filter.clone()),
            encoding: Encoding::Typed.into(),
            required_features: Vec::new(),
            fresh_from_earliest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Lsn;

    #[test]
    fn an_epoch_is_read_as_it_is_printed() {
        let epoch = Epoch([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xFF]);
        assert_eq!(epoch.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        for text in ["", "00", "+00102030405060708090a0b0c0d0eff", "000102030405060708090a0b0c0d0eff0"] {
            assert_eq!(text.parse::<Epoch>(), Err(ParseEpochError(text.to_owned())));
        }
    }

    #[test]
    fn a_second_connection_goes_on_where_the_first_had_come_to() {
        let subscription = Subscription::new(Start::Resume { fresh_from_earliest: true }).consumer("a");
        let first = subscription.request(1, None);
        assert_eq!((first.start, first.fresh_from_earliest), (Some(WireStart::Resume(true)), true));
        let reached = Position { commit_lsn: Lsn(7), ordinal: 2 };
        let second = subscription.request(2, Some((reached, Epoch([9; 16]))));
        assert_eq!((second.start, second.epoch.as_slice()), (Some(WireStart::After(reached.into())), &[9; 16][..]));
        assert_eq!(second.consumer, "a");
    }
}
