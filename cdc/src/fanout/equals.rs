//! `column = value`, the value as Postgres writes it. Pure.

use std::fmt::Write;

use beyond_cdc_proto::json;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{Array, Change, Column, ColumnEquals, Row, Schema, Value};

/// The type OID of `timestamptz`, and of its array.
const ZONED: [u32; 2] = [1184, 1185];

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    column: String,
    /// `None` for NULL.
    value: Option<String>,
}

impl From<ColumnEquals> for Condition {
    fn from(wire: ColumnEquals) -> Self {
        Self { column: wire.column, value: wire.value }
    }
}

impl Condition {
    /// Whether a change passes: in its new row, or in its old one where it has no new one. A value that an update did not touch and that was
    /// not sent is looked for in the old row; where it is not there either it can't be told, and the change passes rather than being missed.
    /// A table without that column has no row that passes.
    #[must_use]
    pub fn holds(&self, schema: &Schema, change: &Change) -> bool {
        let Some(at) = schema.columns.iter().position(|column| column.name == self.column) else { return false };
        let in_row = |row: &Option<Row>| row.as_ref().and_then(|row| row.values.get(at)).and_then(|value| value.kind.clone());
        let kind = match (&change.new, &change.old) {
            (Some(_), _) => match in_row(&change.new) {
                Some(Kind::Unchanged(_)) => in_row(&change.old),
                kind => kind,
            },
            (None, Some(_)) => in_row(&change.old),
            (None, None) => return false,
        };
        match kind {
            // Not sent: of an old key, say.
            None | Some(Kind::Unchanged(_)) => true,
            Some(kind) => self.equals(&schema.columns[at], &kind),
        }
    }

    fn equals(&self, column: &Column, kind: &Kind) -> bool {
        match (&self.value, kind) {
            (None, kind) => matches!(kind, Kind::Null(_)),
            (Some(_), Kind::Null(_)) => false,
            (Some(text), Kind::Integer(value)) => text.parse() == Ok(*value),
            (Some(text), Kind::Float(value)) => {
                text.parse::<f64>().is_ok_and(|wanted| wanted == *value || (wanted.is_nan() && value.is_nan()))
            }
            (Some(text), Kind::Text(value) | Kind::Json(value)) => text == value,
            (Some(text), kind) => {
                let mut written = String::new();
                write(&mut written, column, kind);
                *text == written
            }
        }
    }
}

/// Appends a value as Postgres writes it with the settings of the slot's connection (ISO dates, UTC, hexadecimal bytea).
fn write(out: &mut String, column: &Column, kind: &Kind) {
    match kind {
        Kind::Boolean(value) => out.push(if *value { 't' } else { 'f' }),
        Kind::Bytes(bytes) => {
            out.push_str("\\x");
            for byte in bytes {
                // Writing to a text can't fail.
                write!(out, "{byte:02x}").ok();
            }
        }
        Kind::Integer(value) => {
            write!(out, "{value}").ok();
        }
        Kind::Float(value) => {
            write!(out, "{value}").ok();
        }
        Kind::Text(text) | Kind::Json(text) => out.push_str(text),
        Kind::Array(array) => write_array(out, column, array),
        Kind::Null(_) | Kind::Unchanged(_) => {}
        Kind::Timestamp(_) => {
            let text = through_json(column, kind);
            let text = text.trim_end_matches('Z').replacen('T', " ", 1);
            out.push_str(without_zeros(&text));
            if ZONED.contains(&column.type_oid) {
                out.push_str("+00");
            }
        }
        Kind::Time(_) => out.push_str(without_zeros(&through_json(column, kind))),
        Kind::Date(_) | Kind::Uuid(_) => out.push_str(&through_json(column, kind)),
    }
}

/// What JSON has as a string, without its quotes: none of these kinds has anything that JSON escapes.
fn through_json(column: &Column, kind: &Kind) -> String {
    let mut text = String::new();
    // A UUID of another length equals nothing.
    if json::value(&mut text, column, &Value { kind: Some(kind.clone()) }).is_err() {
        text.clear();
    }
    text.trim_matches('"').to_owned()
}

/// Seconds as Postgres writes them: a fraction without zeros at its end.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// An array as `array_out` writes it.
fn write_array(out: &mut String, column: &Column, array: &Array) {
    fn part(out: &mut String, column: &Column, dimensions: &[u32], values: &[Value]) {
        let Some((len, inner)) = dimensions.split_first() else {
            out.push_str("{}");
            return;
        };
        let each = values.len() / usize::try_from(*len).unwrap_or(usize::MAX).max(1);
        out.push('{');
        for (number, part_values) in values.chunks(each.max(1)).enumerate() {
            if number > 0 {
                out.push(',');
            }
            match part_values {
                [value] if inner.is_empty() => element(out, column, value),
                more => part(out, column, inner, more),
            }
        }
        out.push('}');
    }
    part(out, column, &array.dimensions, &array.values);
}

fn element(out: &mut String, column: &Column, value: &Value) {
    let Some(kind) = value.kind.as_ref().filter(|kind| !matches!(kind, Kind::Null(_))) else {
        out.push_str("NULL");
        return;
    };
    let mut text = String::new();
    write(&mut text, column, kind);
    let special = |c: char| c.is_ascii_whitespace() || "{},\"\\".contains(c);
    if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(special) {
        out.push('"');
        for c in text.chars() {
            if c == '"' || c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    } else {
        out.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(oid: u32, kind: Kind, text: Option<&str>) -> bool {
        let column = Column { name: "c".to_owned(), type_oid: oid, ..Column::default() };
        let schema = Schema { columns: vec![column], ..Schema::default() };
        let new = Some(Row { values: vec![Value { kind: Some(kind) }] });
        let condition = Condition { column: "c".to_owned(), value: text.map(str::to_owned) };
        condition.holds(&schema, &Change { new, ..Change::default() })
    }

    #[test]
    fn values_are_compared_as_postgres_writes_them() {
        let texts = |values: &[Option<&str>]| {
            let value =
                |text: &Option<&str>| Value { kind: Some(text.map_or(Kind::Null(true), |text| Kind::Text(text.to_owned()))) };
            values.iter().map(value).collect::<Vec<_>>()
        };
        let array = |dimensions: &[u32], values| Kind::Array(Array { dimensions: dimensions.to_vec(), values });
        for (oid, kind, text) in [
            (20, Kind::Integer(-7), "-7"),
            (701, Kind::Float(0.1), "0.1"),
            (701, Kind::Float(f64::NAN), "NaN"),
            (701, Kind::Float(1e300), "1e+300"),
            (16, Kind::Boolean(true), "t"),
            (16, Kind::Boolean(false), "f"),
            (25, Kind::Text("a b".to_owned()), "a b"),
            (1700, Kind::Text("1.50".to_owned()), "1.50"),
            (17, Kind::Bytes(vec![0, 0xAB]), "\\x00ab"),
            (1184, Kind::Timestamp(1_500_000), "1970-01-01 00:00:01.5+00"),
            (1114, Kind::Timestamp(60_000_000), "1970-01-01 00:01:00"),
            (1082, Kind::Date(1), "1970-01-02"),
            (1083, Kind::Time(1), "00:00:00.000001"),
            (2950, Kind::Uuid(vec![0xAB; 16]), "abababab-abab-abab-abab-abababababab"),
            (1009, array(&[5], texts(&[Some("a"), None, Some("b c"), Some(""), Some("\"")])), "{a,NULL,\"b c\",\"\",\"\\\"\"}"),
            (1009, array(&[2, 1], texts(&[Some("a"), Some("null")])), "{{a},{\"null\"}}"),
            (1009, array(&[], vec![]), "{}"),
        ] {
            assert!(holds(oid, kind.clone(), Some(text)), "{kind:?} {text}");
            assert!(!holds(oid, kind.clone(), Some("another")), "{kind:?}");
            assert!(!holds(oid, kind.clone(), None), "{kind:?}");
            assert!(!holds(oid, Kind::Null(true), Some(text)));
        }
        assert!(holds(25, Kind::Null(true), None));
    }

    #[test]
    fn a_value_that_was_not_sent_is_looked_for_in_the_old_row() {
        let columns = ["id", "body"].map(|name| Column { name: name.to_owned(), ..Column::default() }).to_vec();
        let schema = Schema { columns, ..Schema::default() };
        let row = |body: Option<Kind>| Some(Row { values: vec![Value { kind: Some(Kind::Integer(1)) }, Value { kind: body }] });
        let text = |text: &str| Some(Kind::Text(text.to_owned()));
        let is_x = Condition { column: "body".to_owned(), value: Some("x".to_owned()) };
        let holds = |new, old| is_x.holds(&schema, &Change { new, old, ..Change::default() });
        let unchanged = || row(Some(Kind::Unchanged(true)));
        assert!(holds(unchanged(), row(text("x"))));
        assert!(!holds(unchanged(), row(text("y"))));
        assert!(holds(unchanged(), None), "it can't be told");
        assert!(!holds(row(text("y")), row(text("x"))), "the new row counts");
        assert!(holds(None, row(text("x"))) && !holds(None, row(text("y"))), "a delete has the old row alone");
        assert!(holds(None, row(None)), "an old key does not tell");
        let other = Condition { column: "none".to_owned(), value: None };
        assert!(!other.holds(&schema, &Change { new: row(text("x")), ..Change::default() }));
    }
}
