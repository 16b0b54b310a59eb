use std::sync::Arc;

use super::*;
use beyond_cdc_client::Operation;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Column, Row, Schema, Transaction, Truncate, Value};

fn schema() -> Schema {
    let columns = ["id", "body"].map(|name| Column { name: name.to_owned(), key: name == "id", ..Column::default() });
    Schema { id: 3, schema: "public".to_owned(), table: "t".to_owned(), columns: columns.to_vec(), ..Schema::default() }
}

fn row(id: i64, body: Option<Kind>) -> Option<Row> {
    Some(Row { values: vec![Value { kind: Some(Kind::Integer(id)) }, Value { kind: body }] })
}

fn text(text: &str) -> Option<Kind> {
    Some(Kind::Text(text.to_owned()))
}

fn printed(format: Format, change: v1::Change) -> String {
    let transaction = Transaction { commit_lsn: 0x10, xid: 5, ..Transaction::default() };
    let change = Change::new(transaction, vec![Arc::new(schema())], v1::Change { ordinal: 1, schema: 3, ..change });
    let mut out = String::new();
    Printer::new(format, false, false).change(&mut out, &change).unwrap();
    out
}

fn update(old: Option<Row>, new: Option<Row>) -> v1::Change {
    v1::Change { operation: Operation::Update.into(), old, new, ..v1::Change::default() }
}

#[test]
fn an_update_shows_what_was_there_before() {
    let shown = printed(Format::Pretty, update(row(1, text("a")), row(1, text("b"))));
    assert!(shown.ends_with("update   public.t id=1 body='a'→'b'\n"), "{shown}");
    let key = printed(Format::Pretty, update(row(1, None), row(2, text("b"))));
    assert!(key.ends_with("id=1→2 body='b'\n"), "{key}");
    let kept = printed(Format::Pretty, update(None, row(1, Some(Kind::Unchanged(true)))));
    assert!(kept.ends_with("id=1 body=(unchanged)\n"), "{kept}");
}

#[test]
fn what_is_not_there_is_told_apart_in_csv() {
    for (body, cell) in [
        (None, "\\N"),
        (Some(Kind::Unchanged(true)), "\\U"),
        (Some(Kind::Null(true)), ""),
        (text(""), "\"\""),
        (text("\\N"), "\"\\N\""),
        (text("a\nb"), "\"a\nb\""),
    ] {
        let shown = printed(Format::Csv, update(None, row(1, body)));
        assert!(shown.ends_with(&format!("public.t,1,{cell}\r\n")), "{shown:?}");
    }
}

#[test]
fn a_truncate_is_of_its_tables() {
    let truncate = v1::Change {
        operation: Operation::Truncate.into(),
        truncate: Some(Truncate { schemas: vec![3], cascade: true, ..Truncate::default() }),
        ..v1::Change::default()
    };
    assert!(printed(Format::Pretty, truncate.clone()).ends_with("truncate public.t\n"));
    assert!(printed(Format::Csv, truncate.clone()).ends_with("truncate,public.t\r\n"));
    assert!(printed(Format::Json, truncate).contains("\"cascade\":true"));
}

#[test]
fn what_would_move_a_terminal_s_cursor_is_not_printed() {
    let shown = printed(Format::Pretty, update(None, row(1, text("\u{1b}[2J\n"))));
    assert!(!shown.trim_end().contains(|c: char| c.is_control()), "{shown:?}");
    let long = printed(Format::Pretty, update(None, row(1, text(&"x".repeat(1000)))));
    assert!(long.len() < 200 && long.contains('…'), "{long}");
}

#[test]
fn values_as_text() {
    let column = |type_oid| Column { name: "c".to_owned(), type_oid, ..Column::default() };
    for (oid, kind, text) in [
        (25, Kind::Text("a\"b\n".to_owned()), "a\"b\n"),
        (20, Kind::Integer(-5), "-5"),
        (17, Kind::Bytes(vec![0xAB]), "\\xab"),
        (1184, Kind::Timestamp(0), "1970-01-01T00:00:00.000000Z"),
        (3802, Kind::Json("{\"a\": 1}".to_owned()), "{\"a\": 1}"),
        (16, Kind::Boolean(true), "true"),
    ] {
        assert_eq!(text_of(&column(oid), &Value { kind: Some(kind.clone()) }).as_deref(), Ok(text), "{kind:?}");
    }
}
