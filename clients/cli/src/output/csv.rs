//! Comma-separated values (RFC 4180): a header each time that another table, or another version of one, begins.
//!
//! Of each change the row that there is: the new one, of a delete the old one. NULL is empty, an empty text is `""`; a column that was not
//! sent, or is unchanged, is `\N` and `\U`, which a text that looks like it is quoted from.

use beyond_cdc_client::{Change, Column, Header, Operation, Position};

use super::{name_of, text_of, time_of};

const NOT_SENT: &str = "\\N";
const UNCHANGED: &str = "\\U";

/// Writes CSV.
#[derive(Debug, Default)]
pub(super) struct Csv {
    /// The definition whose header was written last.
    schema: Option<u32>,
}

impl Csv {
    pub(super) fn begin(&mut self, out: &mut String, header: &Header) {
        self.mark(out, header, Position { commit_lsn: header.commit_lsn(), ordinal: 0 }, "begin", "");
    }

    pub(super) fn commit(&mut self, out: &mut String, header: &Header, position: Position) {
        self.mark(out, header, position, "commit", "");
    }

    pub(super) fn change(&mut self, out: &mut String, change: &Change) -> Result<(), String> {
        let header = change.transaction();
        match change.operation() {
            Operation::Truncate => {
                for schema in change.tables() {
                    self.mark(out, header, change.position(), "truncate", &format!("{}.{}", schema.schema, schema.table));
                }
                return Ok(());
            }
            Operation::Message => {
                let prefix = change.message().map(|message| message.prefix.clone()).unwrap_or_default();
                self.mark(out, header, change.position(), "message", &prefix);
                return Ok(());
            }
            _ => {}
        }
        let (Some(table), Some(row)) = (change.table(), change.new_row().or_else(|| change.old_row())) else {
            return Err(format!("the change at {} has no row", change.position()));
        };
        if self.schema != Some(table.id) {
            self.schema = Some(table.id);
            out.push_str("position,xid,commit_time,op,table");
            for column in &table.columns {
                out.push(',');
                field(out, &column.name);
            }
            out.push_str("\r\n");
        }
        Self::head(out, header, change.position(), name_of(change));
        field(out, &format!("{}.{}", table.schema, table.table));
        let values =
            change.wire().new.as_ref().or_else(|| change.wire().old.as_ref()).map(|row| row.values.as_slice()).unwrap_or_default();
        for ((column, state), value) in row.columns().zip(values) {
            out.push(',');
            match state {
                Column::NotSent => out.push_str(NOT_SENT),
                Column::Null => {}
                Column::Unchanged => out.push_str(UNCHANGED),
                Column::Value(_) => field(out, &text_of(column, value)?),
            }
        }
        out.push_str("\r\n");
        Ok(())
    }

    fn head(out: &mut String, header: &Header, position: Position, op: &str) {
        out.push_str(&format!("{position},{},{},{op},", header.xid(), time_of(header)));
    }

    /// A line that is of no row.
    fn mark(&mut self, out: &mut String, header: &Header, position: Position, op: &str, what: &str) {
        if self.schema.is_none() {
            self.schema = Some(0);
            out.push_str("position,xid,commit_time,op,table\r\n");
        }
        Self::head(out, header, position, op);
        field(out, what);
        out.push_str("\r\n");
    }
}

/// One field: quoted where it has to be, or could be taken for a sign.
fn field(out: &mut String, text: &str) {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) || text == NOT_SENT || text == UNCHANGED {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(text);
    }
}
