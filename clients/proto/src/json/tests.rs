use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::v1;

const BYTEA: u32 = 17;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const TIMESTAMPTZ: u32 = 1184;

fn schema(columns: &[(&str, u32)]) -> Schema {
    let columns = columns.iter().map(|(name, type_oid)| v1::Column {
        name: (*name).to_owned(),
        type_oid: *type_oid,
        ..v1::Column::default()
    });
    Schema { id: 1, oid: 16384, schema: "public".into(), table: "t".into(), columns: columns.collect(), ..Schema::default() }
}

fn transaction() -> Transaction {
    Transaction {
        commit_lsn: 0x16B_3748,
        end_lsn: 0x16B_3778,
        commit_time: 1_772_366_400_123_456,
        xid: 742,
        ..Transaction::default()
    }
}

fn row(kinds: Vec<Option<Kind>>) -> Option<Row> {
    Some(Row { values: kinds.into_iter().map(|kind| Value { kind }).collect() })
}

fn insert(kinds: Vec<Kind>) -> Change {
    let new = row(kinds.into_iter().map(Some).collect());
    Change { ordinal: 3, operation: Operation::Insert.into(), schema: 1, new, ..Change::default() }
}

fn render(schema: &Schema, change: &Change) -> Result<String, JsonError> {
    let mut renderer = Renderer::new();
    renderer.learn(schema);
    let mut out = String::new();
    renderer.change(&mut out, &transaction(), change).map(|()| out)
}

/// How one value is written, in a column of this type.
fn value(type_oid: u32, kind: Kind) -> String {
    let text = render(&schema(&[("c", type_oid)]), &insert(vec![kind])).unwrap();
    let (_, rest) = text.split_once("\"new\":{\"c\":").unwrap();
    rest.strip_suffix("}}").unwrap().to_owned()
}

fn text(value: &str) -> Kind {
    Kind::Text(value.to_owned())
}

fn array(dimensions: &[u32], kinds: Vec<Kind>) -> Kind {
    let values = kinds.into_iter().map(|kind| Value { kind: Some(kind) }).collect();
    Kind::Array(Array { dimensions: dimensions.to_vec(), values })
}

#[test]
fn an_insert_byte_for_byte() {
    let text = render(&schema(&[("id", INT4), ("name", TEXT)]), &insert(vec![Kind::Integer(1), text("Ada")])).unwrap();
    assert_eq!(
        text,
        r#"{"position":"0/16B3748:3","xid":742,"commit_time":"2026-03-01T12:00:00.123456Z","op":"insert","schema":"public","table":"t","new":{"id":1,"name":"Ada"}}"#
    );
}

#[test]
fn an_update_names_what_is_unchanged_and_leaves_out_what_was_not_sent() {
    let change = Change {
        operation: Operation::Update.into(),
        new: row(vec![Some(Kind::Integer(2)), Some(Kind::Unchanged(true)), Some(Kind::Null(true))]),
        old: row(vec![Some(Kind::Integer(1)), None, None]),
        old_is_key: true,
        ..insert(Vec::new())
    };
    let text = render(&schema(&[("id", INT4), ("photo", BYTEA), ("note", TEXT)]), &change).unwrap();
    assert!(
        text.ends_with(
            r#""op":"update","schema":"public","table":"t","new":{"id":2,"note":null},"old":{"id":1},"unchanged":["photo"]}"#
        ),
        "{text}"
    );
}

#[test]
fn a_delete_has_its_old_row_alone() {
    let change = Change {
        operation: Operation::Delete.into(),
        new: None,
        old: row(vec![Some(Kind::Integer(1)), None]),
        ..insert(Vec::new())
    };
    let text = render(&schema(&[("id", INT4), ("note", TEXT)]), &change).unwrap();
    assert!(text.ends_with(r#""op":"delete","schema":"public","table":"t","old":{"id":1}}"#), "{text}");
}

#[test]
fn a_filter_may_leave_only_some_columns() {
    let change = Change { new: row(vec![None, Some(text("x")), None]), ..insert(Vec::new()) };
    let text = render(&schema(&[("a", INT4), ("b", TEXT), ("c", TEXT)]), &change).unwrap();
    assert!(text.ends_with(r#""new":{"b":"x"}}"#), "{text}");
}

#[test]
fn a_truncate_names_all_its_tables() {
    let mut renderer = Renderer::new();
    renderer.learn(&schema(&[]));
    renderer.learn(&Schema { id: 2, table: "u".into(), ..schema(&[]) });
    let change = |schemas| Change {
        ordinal: 1,
        operation: Operation::Truncate.into(),
        truncate: Some(Truncate { schemas, cascade: true, restart_identity: false }),
        ..Change::default()
    };
    let mut out = String::new();
    renderer.change(&mut out, &transaction(), &change(vec![1, 2])).unwrap();
    assert!(
        out.ends_with(
            r#""op":"truncate","tables":[{"schema":"public","table":"t"},{"schema":"public","table":"u"}],"cascade":true,"restart_identity":false}"#
        ),
        "{out}"
    );
    out.clear();
    renderer.change(&mut out, &transaction(), &change(vec![2])).unwrap();
    assert!(out.contains(r#""op":"truncate","schema":"public","table":"u","tables":["#), "{out}");
}

#[test]
fn a_message_is_text_where_it_can_be() {
    let change = |content: &[u8]| Change {
        operation: Operation::Message.into(),
        message: Some(LogicalMessage { prefix: "app".into(), content: content.to_vec(), transactional: true, lsn: 0x16B_0000 }),
        ..Change::default()
    };
    let text = render(&schema(&[]), &change(b"a \"b\"")).unwrap();
    assert!(
        text.ends_with(r#""op":"message","prefix":"app","content":"a \"b\"","transactional":true,"lsn":"0/16B0000"}"#),
        "{text}"
    );
    let bytes = render(&schema(&[]), &change(&[0xFF, 0])).unwrap();
    assert!(bytes.ends_with(r#""content_hex":"ff00","transactional":true,"lsn":"0/16B0000"}"#), "{bytes}");
}

#[test]
fn begin_and_commit_stand_around() {
    let mut renderer = Renderer::new();
    let mut out = String::new();
    renderer.begin(&mut out, &Transaction { origin: "a\"b".into(), gid: "g1".into(), ..transaction() });
    let head = r#""xid":742,"commit_time":"2026-03-01T12:00:00.123456Z""#;
    assert_eq!(out, format!(r#"{{"position":"0/16B3748:0",{head},"op":"begin","origin":"a\"b","gid":"g1"}}"#));
    out.clear();
    renderer.commit(&mut out, &transaction(), 12);
    assert_eq!(out, format!(r#"{{"position":"0/16B3748:12",{head},"op":"commit","end_lsn":"0/16B3778"}}"#));
}

#[test]
fn the_head_is_that_of_the_change_s_own_transaction() {
    let mut renderer = Renderer::new();
    renderer.learn(&schema(&[("id", INT4)]));
    let mut heads = Vec::new();
    for transaction in
        [transaction(), Transaction { xid: 743, ..transaction() }, Transaction { commit_lsn: 0x1_0000_0020, ..transaction() }]
    {
        let mut out = String::new();
        renderer.change(&mut out, &transaction, &insert(vec![Kind::Integer(1)])).unwrap();
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        heads.push(format!("{} {}", object["position"], object["xid"]));
    }
    assert_eq!(heads, [r#""0/16B3748:3" 742"#, r#""0/16B3748:3" 743"#, r#""1/20:3" 742"#]);
}

#[test]
fn numbers() {
    assert_eq!(value(20, Kind::Integer(i64::MIN)), "-9223372036854775808");
    assert_eq!(value(20, Kind::Integer(i64::MAX)), "9223372036854775807");
    assert_eq!(value(16, Kind::Boolean(true)), "true");
    assert_eq!(value(16, Kind::Boolean(false)), "false");
    for (float, text) in [(0.1, "0.1"), (-0.0, "-0.0"), (1e300, "1e300"), (5e-324, "5e-324"), (2.0, "2.0")] {
        assert_eq!(value(701, Kind::Float(float)), text);
    }
    assert_eq!(value(701, Kind::Float(f64::NAN)), r#""NaN""#);
    assert_eq!(value(701, Kind::Float(f64::INFINITY)), r#""Infinity""#);
    assert_eq!(value(701, Kind::Float(f64::NEG_INFINITY)), r#""-Infinity""#);
    assert_eq!(value(1700, text("123456789012345678901234567890.10")), r#""123456789012345678901234567890.10""#);
}

#[test]
fn null_bytes_and_uuid() {
    assert_eq!(value(TEXT, Kind::Null(true)), "null");
    assert_eq!(value(BYTEA, Kind::Bytes(Vec::new())), r#""\\x""#);
    assert_eq!(value(BYTEA, Kind::Bytes(vec![0, 0xDE, 0xAD, 9])), r#""\\x00dead09""#);
    let uuid = (0..16).map(|n| n * 17).collect();
    assert_eq!(value(2950, Kind::Uuid(uuid)), r#""00112233-4455-6677-8899-aabbccddeeff""#);
}

#[test]
fn moments() {
    let at = |type_oid, micros| value(type_oid, Kind::Timestamp(micros));
    assert_eq!(at(TIMESTAMPTZ, 0), r#""1970-01-01T00:00:00.000000Z""#);
    assert_eq!(at(TIMESTAMPTZ, -1), r#""1969-12-31T23:59:59.999999Z""#);
    assert_eq!(at(TIMESTAMPTZ, 951_782_400_000_001), r#""2000-02-29T00:00:00.000001Z""#);
    // The zone of `timestamp` is not known.
    assert_eq!(at(1114, 951_868_800_000_000), r#""2000-03-01T00:00:00.000000""#);
    // The greatest that fits, and Postgres' least, 4714-11-24 00:00 BC.
    assert_eq!(at(TIMESTAMPTZ, i64::MAX), r#""+294247-01-10T04:00:54.775807Z""#);
    assert_eq!(at(TIMESTAMPTZ, -210_866_803_200_000_000), r#""-4713-11-24T00:00:00.000000Z""#);
    assert_eq!(value(1082, Kind::Date(19_723)), r#""2024-01-01""#);
    assert_eq!(value(1082, Kind::Date(-719_528)), r#""0000-01-01""#);
    assert_eq!(value(1082, Kind::Date(i32::MAX)), r#""+5881580-07-11""#);
    assert_eq!(value(1083, Kind::Time(0)), r#""00:00:00.000000""#);
    assert_eq!(value(1083, Kind::Time(86_400_000_000)), r#""24:00:00.000000""#);
    assert_eq!(value(1083, Kind::Time(45_296_000_007)), r#""12:34:56.000007""#);
}

#[test]
fn what_must_be_escaped_is() {
    assert_eq!(value(TEXT, text("a\"b\\c/d")), r#""a\"b\\c/d""#);
    assert_eq!(value(TEXT, text("\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}")), "\"\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}\"");
    assert_eq!(value(TEXT, text("é\"日本\\\u{1F600}")), "\"é\\\"日本\\\\\u{1F600}\"");
    assert_eq!(value(TEXT, text("")), "\"\"");
}

#[test]
fn names_are_escaped_too() {
    let odd = Schema { schema: "a\"b".into(), table: "c\\d".into(), ..schema(&[("e\nf", INT4)]) };
    let text = render(&odd, &insert(vec![Kind::Integer(1)])).unwrap();
    assert!(text.ends_with(r#""schema":"a\"b","table":"c\\d","new":{"e\nf":1}}"#), "{text}");
}

#[test]
fn json_is_embedded_on_one_line() {
    assert_eq!(value(3802, Kind::Json(r#"{"a": [1, 2.50]}"#.into())), r#"{"a": [1, 2.50]}"#);
    assert_eq!(value(114, Kind::Json("{\r\n\t\"a\":\n \"x\\n\"}".into())), r#"{   "a":  "x\n"}"#);
    let empty = render(&schema(&[("c", 114)]), &insert(vec![Kind::Json(" \n".into())]));
    assert_eq!(empty, Err(JsonError::Value { column: "c".into(), reason: "JSON that is empty" }));
}

#[test]
fn arrays_have_their_dimensions() {
    let integers = |range: std::ops::Range<i64>| range.map(Kind::Integer).collect();
    assert_eq!(value(1007, array(&[], vec![])), "[]");
    assert_eq!(value(1007, array(&[3], vec![Kind::Integer(1), Kind::Null(true), Kind::Integer(3)])), "[1,null,3]");
    assert_eq!(value(1007, array(&[2, 3], integers(0..6))), "[[0,1,2],[3,4,5]]");
    assert_eq!(value(1007, array(&[2, 1, 2], integers(0..4))), "[[[0,1]],[[2,3]]]");
    assert_eq!(value(1007, array(&[1, 1], integers(7..8))), "[[7]]");
    assert_eq!(value(1009, array(&[1], vec![text("\"")])), r#"["\""]"#);
    // An array of `timestamp` has no zone either.
    assert_eq!(value(1115, array(&[1], vec![Kind::Timestamp(0)])), r#"["1970-01-01T00:00:00.000000"]"#);
}

#[test]
fn an_array_that_is_none_is_refused() {
    let refused = |kind| render(&schema(&[("c", 1007)]), &insert(vec![kind])).unwrap_err();
    for (dimensions, values) in [(vec![2], 1), (vec![0], 0), (vec![], 1), (vec![1; 7], 1), (vec![u32::MAX; 6], 4)] {
        let error = refused(array(&dimensions, vec![Kind::Integer(1); values]));
        assert_eq!(error, JsonError::Array { dimensions, values });
    }
    let inner = array(&[1], vec![Kind::Integer(1)]);
    assert_eq!(refused(array(&[1], vec![inner])), JsonError::Value { column: "c".into(), reason: "an array within an array" });
    let unchanged = refused(array(&[1], vec![Kind::Unchanged(true)]));
    assert_eq!(unchanged, JsonError::Value { column: "c".into(), reason: "an unchanged value within an array" });
}

#[test]
fn what_breaks_the_protocol_is_named_and_leaves_nothing() {
    let mut renderer = Renderer::new();
    renderer.learn(&schema(&[("id", INT4)]));
    let mut refused = |change: &Change| {
        let mut out = String::from("before");
        let error = renderer.change(&mut out, &transaction(), change).unwrap_err();
        assert_eq!(out, "before");
        error.to_string()
    };
    let good = insert(vec![Kind::Integer(1)]);
    assert_eq!(refused(&Change { schema: 9, ..good.clone() }), "schema 9 was not sent before its first use");
    assert_eq!(refused(&Change { operation: 17, ..good.clone() }), "operation 17 is not known");
    assert_eq!(refused(&Change { new: None, ..good.clone() }), "insert without a new row");
    assert_eq!(refused(&Change { operation: Operation::Delete.into(), ..good.clone() }), "delete without an old row");
    assert_eq!(refused(&insert(vec![])), "a row of 0 values for the 1 columns of public.t");
    let uuid = insert(vec![Kind::Uuid(vec![1; 15])]);
    assert_eq!(refused(&uuid), "column \"id\": a UUID that has not 16 bytes");
}

fn any_kind() -> impl Strategy<Value = (u32, Kind, serde_json::Value)> {
    prop_oneof![
        any::<String>().prop_map(|value| (TEXT, Kind::Text(value.clone()), json!(value))),
        any::<i64>().prop_map(|value| (20, Kind::Integer(value), json!(value))),
        any::<f64>().prop_filter("JSON has no such number", |value| value.is_finite()).prop_map(|value| (
            701,
            Kind::Float(value),
            json!(value)
        )),
        any::<bool>().prop_map(|value| (16, Kind::Boolean(value), json!(value))),
        any::<String>().prop_map(|value| (3802, Kind::Json(json!({ "a": value }).to_string()), json!({ "a": value }))),
        Just((TEXT, Kind::Null(true), json!(null))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_by_another_reader(
        values in prop::collection::vec((any::<String>(), any_kind()), 0..8), table: String,
    ) {
        let columns: Vec<_> = values.iter().enumerate().map(|(n, (name, (oid, ..)))| (format!("{n}{name}"), *oid)).collect();
        let columns: Vec<_> = columns.iter().map(|(name, oid)| (name.as_str(), *oid)).collect();
        let schema = Schema { table: table.clone(), ..schema(&columns) };
        let text = render(&schema, &insert(values.iter().map(|(_, (_, kind, _))| kind.clone()).collect())).unwrap();
        prop_assert!(!text.bytes().any(|byte| byte < 0x20), "one line, and no control character");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read["table"], &json!(table));
        for ((name, _), (_, (_, _, wanted))) in columns.iter().zip(&values) {
            prop_assert_eq!(&read["new"][*name], wanted);
        }
    }

    #[test]
    fn dates_are_those_of_another_calendar(days in -719_162_i32..2_932_897) {
        // Counted from year 1 to 9999, by adding up.
        let mut left = i64::from(days) + 719_162;
        let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let mut year = 1;
        while left >= 365 + i64::from(leap(year)) {
            left -= 365 + i64::from(leap(year));
            year += 1;
        }
        let months = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= months[month] {
            left -= months[month];
            month += 1;
        }
        prop_assert_eq!(value(1082, Kind::Date(days)), format!("\"{year:04}-{:02}-{:02}\"", month + 1, left + 1));
    }
}
