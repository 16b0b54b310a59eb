//! A change as one JSON object, as `walcat` prints it and as `ENCODING_JSON` sends it.
//!
//! ```json
//! {"position":"0/16B3748:3","xid":742,"commit_time":"2026-03-01T12:00:00.123456Z","op":"update","schema":"public","table":"users",
//!  "new":{"id":1,"name":"Ada"},"old":{"id":7},"unchanged":["avatar"]}
//! ```
//!
//! - `new` and `old` hold what was sent: a column outside of an old key, or outside of the filter, is in neither. A TOASTed value that
//!   the update did not touch is named in `unchanged`, and is in `new` as little; it is never null.
//! - Integers and floats are numbers (`NaN`, `Infinity` and `-Infinity` strings), bool is a bool, `json` and `jsonb` are embedded, arrays are
//!   arrays. All else is a string: numeric as Postgres writes it, bytea as `\x` and hexadecimal digits, timestamps as RFC 3339 with
//!   microseconds (`timestamp`, which has no zone, without one), dates and times as ISO 8601.
//! - A truncate has `tables`, `cascade` and `restart_identity`, and `schema` and `table` where it is of one table.
//! - A logical message has `prefix`, `content` (or, where that is no text, `content_hex`), `transactional` and `lsn`.
//!
//! Object and line are the same thing: there is no line break within an object.

use std::collections::HashMap;

use walbus::Lsn;

use crate::v1;
use crate::v1::value::Kind;
use crate::v1::{Array, Change, LogicalMessage, Operation, Row, Schema, Transaction, Truncate, Value};

mod number;
mod text;

#[cfg(test)]
mod tests;

/// How deep arrays may be: Postgres' own limit (`MAXDIM`).
const DIMENSIONS_MAX: usize = 6;
/// The type OID of `timestamp`, and of its array: they have no zone, so none is written.
const TIMESTAMP_OIDS: [u32; 2] = [1114, 1115];

/// Why a change can't be written: it does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// An array's lengths do not fit its values.
    #[error("an array of {values} values has dimensions {dimensions:?}")]
    Array {
        /// The lengths.
        dimensions: Vec<u32>,
        /// How many values there are.
        values: usize,
    },
    /// A change without what its operation needs.
    #[error("{operation} without {missing}")]
    Incomplete {
        /// The operation.
        operation: &'static str,
        /// What is not there.
        missing: &'static str,
    },
    /// No such operation.
    #[error("operation {0} is not known")]
    Operation(i32),
    /// A row of another number of columns.
    #[error("a row of {values} values for the {columns} columns of {table}")]
    RowWidth {
        /// The table.
        table: String,
        /// How many values there are.
        values: usize,
        /// How many there should be.
        columns: usize,
    },
    /// A definition that has not been sent.
    #[error("schema {0} was not sent before its first use")]
    UnknownSchema(u32),
    /// A value that is none of its type.
    #[error("column {column:?}: {reason}")]
    Value {
        /// The column.
        column: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Writes changes as JSON.
///
/// Give it each [`Schema`] with [`Renderer::learn`] as it arrives, then changes in their order.
#[derive(Debug, Default)]
pub struct Renderer {
    tables: HashMap<u32, Table>,
    /// The members that all changes of a transaction have in common, kept for the next change.
    head: Head,
}

/// A definition, with what is written again and again written already.
#[derive(Debug)]
struct Table {
    display: String,
    /// `"schema":"public","table":"users"`.
    name: String,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    /// `"name"`, escaped.
    quoted: String,
    zoned: bool,
}

#[derive(Debug, Default)]
struct Head {
    of: Option<(u64, u32, i64)>,
    position: String,
    rest: String,
}

impl Renderer {
    /// A renderer that knows no schema.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a definition for the changes behind it.
    pub fn learn(&mut self, schema: &Schema) {
        let mut name = String::from("\"schema\":");
        text::string(&mut name, &schema.schema);
        name.push_str(",\"table\":");
        text::string(&mut name, &schema.table);
        let columns = schema.columns.iter().map(Column::new).collect();
        let table = Table { display: format!("{}.{}", schema.schema, schema.table), name, columns };
        self.tables.insert(schema.id, table);
    }

    /// Appends a change as one object, without a line break behind it.
    ///
    /// # Errors
    /// Where the change does not keep to the protocol; `out` is as it was then.
    pub fn change(&mut self, out: &mut String, transaction: &Transaction, change: &Change) -> Result<(), JsonError> {
        let len = out.len();
        let written = self.write_change(out, transaction, change);
        if written.is_err() {
            out.truncate(len);
        }
        written
    }

    /// Appends the object that stands before a transaction's changes where begin and commit are asked for: its position is before that of
    /// the first change.
    pub fn begin(&mut self, out: &mut String, transaction: &Transaction) {
        self.open(out, transaction, 0, "begin");
        for (name, value) in [("origin", &transaction.origin), ("gid", &transaction.gid)] {
            if !value.is_empty() {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                text::string(out, value);
            }
        }
        out.push('}');
    }

    /// Appends the object that stands behind a transaction's changes: `last` is the ordinal of the last of them, and `end_lsn` in the object
    /// is what the slot would be told.
    pub fn commit(&mut self, out: &mut String, transaction: &Transaction, last: u32) {
        self.open(out, transaction, last, "commit");
        out.push_str(",\"end_lsn\":");
        text::string(out, &Lsn(transaction.end_lsn).to_string());
        out.push('}');
    }

    fn write_change(&mut self, out: &mut String, transaction: &Transaction, change: &Change) -> Result<(), JsonError> {
        let operation = Operation::try_from(change.operation).unwrap_or_default();
        let name = match operation {
            Operation::Unspecified => return Err(JsonError::Operation(change.operation)),
            Operation::Delete => "delete",
            Operation::Insert => "insert",
            Operation::Message => "message",
            Operation::Truncate => "truncate",
            Operation::Update => "update",
        };
        self.open(out, transaction, change.ordinal, name);
        let incomplete = |missing| JsonError::Incomplete { operation: name, missing };
        match operation {
            Operation::Message => message(out, change.message.as_ref().ok_or_else(|| incomplete("a message"))?),
            Operation::Truncate => self.truncate(out, change.truncate.as_ref().ok_or_else(|| incomplete("its tables"))?)?,
            Operation::Delete if change.old.is_none() => return Err(incomplete("an old row")),
            Operation::Insert | Operation::Update if change.new.is_none() => return Err(incomplete("a new row")),
            _ => self.rows(out, change)?,
        }
        out.push('}');
        Ok(())
    }

    /// Writes an object up to its operation.
    fn open(&mut self, out: &mut String, transaction: &Transaction, ordinal: u32, operation: &str) {
        let of = (transaction.commit_lsn, transaction.xid, transaction.commit_time);
        if self.head.of != Some(of) {
            self.head = Head::new(transaction);
        }
        out.push_str(&self.head.position);
        number::integer(out, ordinal);
        out.push_str(&self.head.rest);
        out.push_str(operation);
        out.push('"');
    }

    fn table(&self, id: u32) -> Result<&Table, JsonError> {
        self.tables.get(&id).ok_or(JsonError::UnknownSchema(id))
    }

    fn rows(&self, out: &mut String, change: &Change) -> Result<(), JsonError> {
        let table = self.table(change.schema)?;
        out.push(',');
        out.push_str(&table.name);
        let mut unchanged = Vec::new();
        if let Some(new) = &change.new {
            out.push_str(",\"new\":");
            table.row(out, new, &mut unchanged)?;
        }
        if let Some(old) = &change.old {
            out.push_str(",\"old\":");
            // What an old row leaves out is not there to be named: `unchanged` speaks of the new one.
            table.row(out, old, &mut Vec::new())?;
        }
        if !unchanged.is_empty() {
            out.push_str(",\"unchanged\":");
            list(out, unchanged, |out, column| out.push_str(&column.quoted));
        }
        Ok(())
    }

    fn truncate(&self, out: &mut String, truncate: &Truncate) -> Result<(), JsonError> {
        let tables = truncate.schemas.iter().map(|id| self.table(*id)).collect::<Result<Vec<_>, _>>()?;
        if let [table] = tables[..] {
            out.push(',');
            out.push_str(&table.name);
        }
        out.push_str(",\"tables\":");
        list(out, tables, |out, table| {
            out.push('{');
            out.push_str(&table.name);
            out.push('}');
        });
        flag(out, "cascade", truncate.cascade);
        flag(out, "restart_identity", truncate.restart_identity);
        Ok(())
    }
}

impl Head {
    fn new(transaction: &Transaction) -> Self {
        // As a `Position` is printed, up to its ordinal.
        let position = format!("{{\"position\":\"{}:", Lsn(transaction.commit_lsn));
        let mut rest = String::from("\",\"xid\":");
        number::integer(&mut rest, transaction.xid);
        rest.push_str(",\"commit_time\":\"");
        number::timestamp(&mut rest, transaction.commit_time);
        rest.push_str("Z\",\"op\":\"");
        Self { of: Some((transaction.commit_lsn, transaction.xid, transaction.commit_time)), position, rest }
    }
}

impl Table {
    fn row<'a>(&'a self, out: &mut String, row: &Row, unchanged: &mut Vec<&'a Column>) -> Result<(), JsonError> {
        if row.values.len() != self.columns.len() {
            let (values, columns) = (row.values.len(), self.columns.len());
            return Err(JsonError::RowWidth { table: self.display.clone(), values, columns });
        }
        out.push('{');
        let mut separator = "";
        for (column, value) in self.columns.iter().zip(&row.values) {
            match &value.kind {
                None => {}
                Some(Kind::Unchanged(_)) => unchanged.push(column),
                Some(kind) => {
                    out.push_str(separator);
                    separator = ",";
                    out.push_str(&column.quoted);
                    out.push(':');
                    column.value(out, kind)?;
                }
            }
        }
        out.push('}');
        Ok(())
    }
}

/// Appends one value of a column as JSON, as it stands in a row.
///
/// # Errors
/// Where it was not sent or is unchanged, or is none of its type.
pub fn value(out: &mut String, column: &v1::Column, value: &Value) -> Result<(), JsonError> {
    let column = Column::new(column);
    match &value.kind {
        None => Err(column.wrong("a value that was not sent")),
        Some(Kind::Unchanged(_)) => Err(column.wrong("an unchanged value")),
        Some(kind) => column.value(out, kind),
    }
}

impl Column {
    fn new(column: &v1::Column) -> Self {
        let mut quoted = String::new();
        text::string(&mut quoted, &column.name);
        Self { name: column.name.clone(), quoted, zoned: !TIMESTAMP_OIDS.contains(&column.type_oid) }
    }

    fn wrong(&self, reason: &'static str) -> JsonError {
        JsonError::Value { column: self.name.clone(), reason }
    }

    fn value(&self, out: &mut String, kind: &Kind) -> Result<(), JsonError> {
        match kind {
            Kind::Array(array) => {
                let Array { dimensions, values } = array;
                if values_of(dimensions) != Some(values.len()) {
                    return Err(JsonError::Array { dimensions: dimensions.clone(), values: values.len() });
                }
                return self.array(out, dimensions, values);
            }
            Kind::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
            Kind::Bytes(bytes) => {
                out.push_str("\"\\\\x");
                number::hex(out, bytes);
                out.push('"');
            }
            Kind::Date(days) => quoted(out, |out| number::date(out, i64::from(*days))),
            Kind::Float(value) => number::float(out, *value),
            Kind::Integer(value) => number::integer(out, *value),
            Kind::Json(json) if json.trim().is_empty() => return Err(self.wrong("JSON that is empty")),
            Kind::Json(json) => text::embedded(out, json),
            Kind::Null(_) => out.push_str("null"),
            Kind::Text(value) => text::string(out, value),
            Kind::Time(micros) => quoted(out, |out| number::time(out, *micros)),
            Kind::Timestamp(micros) => quoted(out, |out| {
                number::timestamp(out, *micros);
                if self.zoned {
                    out.push('Z');
                }
            }),
            Kind::Unchanged(_) => return Err(self.wrong("an unchanged value within an array")),
            Kind::Uuid(bytes) => {
                let bytes = bytes.as_slice().try_into().map_err(|_| self.wrong("a UUID that has not 16 bytes"))?;
                quoted(out, |out| number::uuid(out, bytes));
            }
        }
        Ok(())
    }

    /// Writes an array of as many values as [`values_of`] says.
    fn array(&self, out: &mut String, dimensions: &[u32], values: &[Value]) -> Result<(), JsonError> {
        let Some((len, inner)) = dimensions.split_first() else {
            out.push_str("[]");
            return Ok(());
        };
        out.push('[');
        let len = usize::try_from(*len).unwrap_or(usize::MAX);
        for (n, part) in values.chunks(values.len() / len).enumerate() {
            if n > 0 {
                out.push(',');
            }
            match part {
                [value] if inner.is_empty() => match &value.kind {
                    Some(Kind::Array(_)) => return Err(self.wrong("an array within an array")),
                    Some(kind) => self.value(out, kind)?,
                    None => return Err(self.wrong("an array with a value that was not sent")),
                },
                part => self.array(out, inner, part)?,
            }
        }
        out.push(']');
        Ok(())
    }
}

/// How many values an array of these lengths has, `None` where Postgres has no such array.
fn values_of(dimensions: &[u32]) -> Option<usize> {
    if dimensions.is_empty() {
        return Some(0);
    }
    let product = dimensions.iter().try_fold(1_usize, |len, n| len.checked_mul(usize::try_from(*n).ok()?));
    product.filter(|values| *values > 0 && dimensions.len() <= DIMENSIONS_MAX)
}

fn message(out: &mut String, message: &LogicalMessage) {
    out.push_str(",\"prefix\":");
    text::string(out, &message.prefix);
    if let Ok(content) = std::str::from_utf8(&message.content) {
        out.push_str(",\"content\":");
        text::string(out, content);
    } else {
        out.push_str(",\"content_hex\":");
        quoted(out, |out| number::hex(out, &message.content));
    }
    flag(out, "transactional", message.transactional);
    out.push_str(",\"lsn\":");
    text::string(out, &Lsn(message.lsn).to_string());
}

fn flag(out: &mut String, name: &str, value: bool) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str(if value { "\":true" } else { "\":false" });
}

fn quoted(out: &mut String, content: impl FnOnce(&mut String)) {
    out.push('"');
    content(out);
    out.push('"');
}

fn list<T>(out: &mut String, items: Vec<T>, mut each: impl FnMut(&mut String, T)) {
    out.push('[');
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        each(out, item);
    }
    out.push(']');
}
