use super::*;
use beyond_cdc_proto::v1::{Array, Schema};
use serde::Deserialize;

fn table(columns: &[(&str, u32)]) -> Schema {
    let column = |&(name, type_oid): &(&str, u32)| v1::Column { name: name.to_owned(), type_oid, ..v1::Column::default() };
    Schema { columns: columns.iter().map(column).collect(), ..Schema::default() }
}

fn read<T: DeserializeOwned>(fields: Vec<(&str, u32, Option<Kind>)>) -> Result<T, RowError> {
    let schema = table(&fields.iter().map(|(name, oid, _)| (*name, *oid)).collect::<Vec<_>>());
    let row = v1::Row { values: fields.into_iter().map(|(_, _, kind)| Value { kind }).collect() };
    from_row(Row { schema: &schema, row: &row })
}

fn text(text: &str) -> Option<Kind> {
    Some(Kind::Text(text.to_owned()))
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mood {
    Happy,
    Sad,
}

#[test]
fn each_kind_of_value_becomes_what_is_asked_for() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct All {
        id: i32,
        big: u64,
        ratio: f32,
        price: f64,
        exact: String,
        ok: bool,
        name: Option<String>,
        nothing: Option<String>,
        mood: Mood,
        at: String,
        at_micros: i64,
        uuid: String,
        data: serde_json::Value,
        tags: Vec<String>,
        matrix: Vec<Vec<i64>>,
    }
    let integers = |values: &[i64]| values.iter().map(|value| Value { kind: Some(Kind::Integer(*value)) }).collect();
    let all: All = read(vec![
        ("id", 23, Some(Kind::Integer(7))),
        ("big", 20, Some(Kind::Integer(i64::MAX))),
        ("ratio", 700, Some(Kind::Float(0.5))),
        ("price", 1700, text("12.25")),
        ("exact", 1700, text("12.2500")),
        ("ok", 16, Some(Kind::Boolean(true))),
        ("name", 25, text("Ada")),
        ("nothing", 25, Some(Kind::Null(true))),
        ("mood", 9999, text("sad")),
        ("at", 1184, Some(Kind::Timestamp(1_000_000))),
        ("at_micros", 1184, Some(Kind::Timestamp(1_000_001))),
        ("uuid", 2950, Some(Kind::Uuid(vec![0x11; 16]))),
        ("data", 3802, Some(Kind::Json("{\"a\": [1]}".to_owned()))),
        ("tags", 1009, Some(Kind::Array(Array { dimensions: vec![1], values: vec![Value { kind: text("x") }] }))),
        ("matrix", 1016, Some(Kind::Array(Array { dimensions: vec![2, 2], values: integers(&[1, 2, 3, 4]) }))),
    ])
    .unwrap();
    assert_eq!((all.id, all.big, all.ok), (7, i64::MAX as u64, true));
    assert!((all.ratio - 0.5).abs() < f32::EPSILON && (all.price - 12.25).abs() < f64::EPSILON);
    assert_eq!((all.exact.as_str(), all.name.as_deref(), all.nothing.as_deref()), ("12.2500", Some("Ada"), None));
    assert_eq!((all.mood, all.at.as_str(), all.at_micros), (Mood::Sad, "1970-01-01T00:00:01.000000Z", 1_000_001));
    assert_eq!(all.uuid, "11111111-1111-1111-1111-111111111111");
    assert_eq!(all.data, serde_json::json!({"a": [1]}));
    assert_eq!((all.tags, all.matrix), (vec!["x".to_owned()], vec![vec![1, 2], vec![3, 4]]));
}

#[test]
fn an_unchanged_column_is_never_null() {
    #[derive(Debug, Deserialize)]
    struct Plain {
        #[expect(dead_code, reason = "asked for, and refused")]
        body: Option<String>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Knows {
        body: Toast<Option<String>>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Other {
        id: i64,
    }
    let unchanged = || vec![("id", 20, Some(Kind::Integer(1))), ("body", 25, Some(Kind::Unchanged(true)))];
    assert_eq!(read::<Plain>(unchanged()).unwrap_err(), RowError::Unchanged("body".to_owned()));
    assert_eq!(read::<Knows>(unchanged()), Ok(Knows { body: Toast::Unchanged }));
    assert_eq!(read::<Other>(unchanged()), Ok(Other { id: 1 }));
    let null = vec![("body", 25, Some(Kind::Null(true)))];
    assert_eq!(read::<Knows>(null), Ok(Knows { body: Toast::Value(None) }));
    assert_eq!(read::<Knows>(vec![("body", 25, text("x"))]), Ok(Knows { body: Toast::Value(Some("x".to_owned())) }));
}

#[test]
fn what_does_not_fit_names_its_column() {
    #[derive(Debug, Deserialize)]
    struct Id {
        #[expect(dead_code, reason = "never read")]
        id: i16,
    }
    let error = |fields| read::<Id>(fields).unwrap_err().to_string();
    assert!(error(vec![("id", 20, Some(Kind::Integer(1 << 20)))]).contains("column \"id\""));
    assert!(error(vec![("id", 25, text("x"))]).contains("column \"id\""));
    assert!(error(vec![("id", 20, Some(Kind::Null(true)))]).contains("column \"id\""));
    assert!(error(vec![("other", 20, None)]).contains("missing field `id`"));
    let odd = Kind::Array(Array { dimensions: vec![3], values: vec![] });
    assert!(error(vec![("id", 1016, Some(odd))]).contains("lengths"));
}
