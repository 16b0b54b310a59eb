use super::*;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Column, Row, Schema, Value};

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
    assert!(Row::default().values.is_empty() && Schema::default().columns.is_empty() && v1::Change::default().ordinal == 0);
}
