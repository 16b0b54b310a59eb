//! Changes, and the values in them.

use std::sync::Arc;

use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Schema};
use serde::de::DeserializeOwned;
use walbus::{Lsn, Position};

pub use beyond_cdc_proto::v1::Operation;

use crate::row::{self, RowError};

/// What all changes of a transaction have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub(crate) wire: v1::Transaction,
}

impl Header {
    /// Where its commit record starts: what transactions are ordered by.
    #[must_use]
    pub const fn commit_lsn(&self) -> Lsn {
        Lsn(self.wire.commit_lsn)
    }

    /// Behind its commit record.
    #[must_use]
    pub const fn end_lsn(&self) -> Lsn {
        Lsn(self.wire.end_lsn)
    }

    /// When it was committed, in microseconds since 1970-01-01 00:00 UTC.
    #[must_use]
    pub const fn commit_time(&self) -> i64 {
        self.wire.commit_time
    }

    /// Its number.
    #[must_use]
    pub const fn xid(&self) -> u32 {
        self.wire.xid
    }

    /// Where it came from, if it was replicated to the source; empty where not.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.wire.origin
    }

    /// Its name, if it was prepared; empty where not.
    #[must_use]
    pub fn gid(&self) -> &str {
        &self.wire.gid
    }

    /// As it came, without its changes.
    #[must_use]
    pub const fn wire(&self) -> &v1::Transaction {
        &self.wire
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    pub(crate) header: Arc<Header>,
    /// Of the change, or of what was truncated.
    pub(crate) schemas: Vec<Arc<Schema>>,
    pub(crate) wire: v1::Change,
}

impl Change {
    /// A change as it comes in a batch; for tests of what is done with one. `schemas` is its table's definition, or those of all tables that
    /// were truncated.
    #[must_use]
    pub fn new(transaction: v1::Transaction, schemas: Vec<Arc<Schema>>, change: v1::Change) -> Self {
        Self { header: Arc::new(Header { wire: transaction }), schemas, wire: change }
    }

    /// Its place: behind it is what is to be asked for next.
    #[must_use]
    pub fn position(&self) -> Position {
        self.header.wire.position_of(&self.wire)
    }

    /// Its transaction.
    #[must_use]
    pub fn transaction(&self) -> &Header {
        &self.header
    }

    /// What was done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.wire.operation()
    }

    /// The table's definition at that moment; the first one where several were truncated together, and `None` for a message.
    #[must_use]
    pub fn table(&self) -> Option<&Schema> {
        self.schemas.first().map(|schema| &**schema)
    }

    /// All tables that were truncated together.
    #[must_use]
    pub fn tables(&self) -> &[Arc<Schema>] {
        &self.schemas
    }

    /// The row as it is now.
    #[must_use]
    pub fn new_row(&self) -> Option<Row<'_>> {
        Some(Row { schema: self.table()?, row: self.wire.new.as_ref()? })
    }

    /// The row as it was, as far as Postgres says so: the whole row or only its key, which [`Change::old_is_key`] tells.
    #[must_use]
    pub fn old_row(&self) -> Option<Row<'_>> {
        Some(Row { schema: self.table()?, row: self.wire.old.as_ref()? })
    }

    /// Whether the old row is only the key.
    #[must_use]
    pub const fn old_is_key(&self) -> bool {
        self.wire.old_is_key
    }

    /// The row that the change is about, as a type of yours: the new row, of a delete the old one.
    ///
    /// Columns become fields by their names. Integers, floats, bools and texts are what they are; numeric comes as text or as a number,
    /// timestamps as RFC 3339 or, for an integer, as microseconds since 1970; json as what it says. A TOASTed column that an update did not
    /// touch was not sent: asked for as [`crate::Toast`] it says so, asked for as anything else it is an error, never a null.
    ///
    /// # Errors
    /// Where there is no row, or it does not fit the type.
    pub fn row<T: DeserializeOwned>(&self) -> Result<T, RowError> {
        let row = self.new_row().or_else(|| self.old_row()).ok_or_else(|| RowError::NoRow(self.operation()))?;
        row.to()
    }

    /// A logical message (`pg_logical_emit_message`).
    #[must_use]
    pub const fn message(&self) -> Option<&v1::LogicalMessage> {
        self.wire.message.as_ref()
    }

    /// As it came.
    #[must_use]
    pub const fn wire(&self) -> &v1::Change {
        &self.wire
    }
}

/// One row: values by the names of their columns.
#[derive(Debug, Clone, Copy)]
pub struct Row<'c> {
    pub(crate) schema: &'c Schema,
    pub(crate) row: &'c v1::Row,
}

/// What is in a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Column<'c> {
    /// It was not sent: a column outside of an old key, or outside of the filter.
    NotSent,
    /// NULL.
    Null,
    /// TOASTed and untouched by the update: it has the value that it had, which was not sent.
    Unchanged,
    /// A value.
    Value(&'c Kind),
}

impl<'c> Row<'c> {
    /// The value in the column of that name; `None` where the table has none.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<Column<'c>> {
        let at = self.schema.columns.iter().position(|column| column.name == name)?;
        self.row.values.get(at).map(Column::of)
    }

    /// All columns, in the table's order.
    pub fn columns(&self) -> impl Iterator<Item = (&'c v1::Column, Column<'c>)> + use<'c> {
        self.schema.columns.iter().zip(&self.row.values).map(|(column, value)| (column, Column::of(value)))
    }

    /// The row as a type of yours; see [`Change::row`].
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, RowError> {
        row::from_row(*self)
    }
}

impl<'c> Column<'c> {
    /// What a value says.
    #[must_use]
    pub fn of(value: &'c v1::Value) -> Self {
        match &value.kind {
            None => Self::NotSent,
            Some(Kind::Null(_)) => Self::Null,
            Some(Kind::Unchanged(_)) => Self::Unchanged,
            Some(kind) => Self::Value(kind),
        }
    }

    /// An integer: int2, int4, int8, oid.
    #[must_use]
    pub const fn integer(&self) -> Option<i64> {
        if let Self::Value(Kind::Integer(value)) = self { Some(*value) } else { None }
    }

    /// A text, or whatever comes as Postgres writes it: numeric, enums, intervals.
    #[must_use]
    pub fn text(&self) -> Option<&'c str> {
        if let Self::Value(Kind::Text(value) | Kind::Json(value)) = self { Some(value) } else { None }
    }

    /// A bool.
    #[must_use]
    pub const fn boolean(&self) -> Option<bool> {
        if let Self::Value(Kind::Boolean(value)) = self { Some(*value) } else { None }
    }

    /// A float4 or float8.
    #[must_use]
    pub const fn float(&self) -> Option<f64> {
        if let Self::Value(Kind::Float(value)) = self { Some(*value) } else { None }
    }

    /// A bytea.
    #[must_use]
    pub fn bytes(&self) -> Option<&'c [u8]> {
        if let Self::Value(Kind::Bytes(value)) = self { Some(value) } else { None }
    }

    /// A timestamp, in microseconds since 1970-01-01 00:00 UTC.
    #[must_use]
    pub const fn timestamp(&self) -> Option<i64> {
        if let Self::Value(Kind::Timestamp(value)) = self { Some(*value) } else { None }
    }
}

/// A whole transaction.
#[derive(Debug, Clone)]
pub struct Transaction {
    pub(crate) header: Arc<Header>,
    pub(crate) changes: Vec<Change>,
    pub(crate) position: Position,
}

impl Transaction {
    /// What its changes have in common.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its changes, in order: at least one.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Its changes, in order.
    #[must_use]
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Its end: acknowledge this once it has been dealt with.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }
}
