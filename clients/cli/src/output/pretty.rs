//! For eyes: a line a change, with what is new and what was there before.

use std::fmt::Write;

use beyond_cdc_client::{Change, Column, Header, Operation};
use beyond_cdc_proto::v1;

use super::{name_of, text_of, time_of};

/// How many characters of a value are shown.
const VALUE_CHARS_MAX: usize = 80;

/// Writes for eyes.
#[derive(Debug)]
pub(super) struct Pretty {
    color: bool,
}

/// Escape sequences of a terminal (ECMA-48, select graphic rendition).
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const BOLD: &str = "1";

impl Pretty {
    pub(super) const fn new(color: bool) -> Self {
        Self { color }
    }

    pub(super) fn begin(&self, out: &mut String, header: &Header) {
        let origin = if header.origin().is_empty() { String::new() } else { format!(" from {}", clean(header.origin())) };
        self.painted(out, DIM, &format!("BEGIN {} xid {} {}{origin}", header.commit_lsn(), header.xid(), time_of(header)));
        out.push('\n');
    }

    pub(super) fn commit(&self, out: &mut String, header: &Header) {
        self.painted(out, DIM, &format!("COMMIT {}", header.end_lsn()));
        out.push('\n');
    }

    pub(super) fn change(&self, out: &mut String, change: &Change) -> Result<(), String> {
        self.painted(out, DIM, &format!("{} {} ", time_of(change.transaction()), change.position()));
        let color = match change.operation() {
            Operation::Insert => GREEN,
            Operation::Delete | Operation::Truncate => RED,
            Operation::Update | Operation::Message | Operation::Unspecified => YELLOW,
        };
        self.painted(out, color, &format!("{:<8}", name_of(change)));
        out.push(' ');
        if let Some(message) = change.message() {
            self.painted(out, BOLD, &clean(&message.prefix));
            out.push(' ');
            out.push_str(&short(&String::from_utf8_lossy(&message.content)));
        }
        let tables: Vec<String> = change.tables().iter().map(|table| clean(&format!("{}.{}", table.schema, table.table))).collect();
        self.painted(out, BOLD, &tables.join(" "));
        match (&change.wire().old, &change.wire().new) {
            (Some(old), Some(new)) => self.update(out, change, old, new)?,
            (old, new) => {
                for row in [old, new].into_iter().flatten() {
                    self.row(out, change, row)?;
                }
            }
        }
        out.push('\n');
        Ok(())
    }

    fn row(&self, out: &mut String, change: &Change, row: &v1::Row) -> Result<(), String> {
        for (column, value) in change.table().map(|table| table.columns.as_slice()).unwrap_or_default().iter().zip(&row.values) {
            if let Some(text) = shown(column, value)? {
                self.name(out, column);
                out.push_str(&text);
            }
        }
        Ok(())
    }

    /// What is new, with what was there where that is known to be another.
    fn update(&self, out: &mut String, change: &Change, old: &v1::Row, new: &v1::Row) -> Result<(), String> {
        let columns = change.table().map(|table| table.columns.as_slice()).unwrap_or_default();
        for ((column, old), new) in columns.iter().zip(&old.values).zip(&new.values) {
            let (before, after) = (shown(column, old)?, shown(column, new)?);
            let Some(after) = after else { continue };
            self.name(out, column);
            if let Some(before) = before.filter(|before| *before != after) {
                self.painted(out, RED, &before);
                self.painted(out, DIM, "→");
            }
            out.push_str(&after);
        }
        Ok(())
    }

    fn name(&self, out: &mut String, column: &v1::Column) {
        out.push(' ');
        self.painted(out, DIM, &clean(&column.name));
        out.push('=');
    }

    fn painted(&self, out: &mut String, color: &str, text: &str) {
        if self.color && !text.is_empty() {
            // Writing to a text can't fail.
            write!(out, "\x1b[{color}m{text}\x1b[0m").ok();
        } else {
            out.push_str(text);
        }
    }
}

/// A value, `None` where it was not sent.
fn shown(column: &v1::Column, value: &v1::Value) -> Result<Option<String>, String> {
    Ok(match Column::of(value) {
        Column::NotSent => None,
        Column::Null => Some("NULL".to_owned()),
        Column::Unchanged => Some("(unchanged)".to_owned()),
        Column::Value(_) => {
            let text = text_of(column, value)?;
            let plain = matches!(&value.kind, Some(v1::value::Kind::Text(_)));
            Some(if plain { format!("'{}'", short(&text)) } else { short(&text) })
        }
    })
}

/// The start of a text, without what would move a terminal's cursor.
fn short(text: &str) -> String {
    let mut shown = clean(&text.chars().take(VALUE_CHARS_MAX).collect::<String>());
    if text.chars().nth(VALUE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
