use super::*;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{Column, ColumnEquals, LogicalMessage, Truncate, Value};

fn patterns(texts: &[&str]) -> Vec<TablePattern> {
    texts.iter().map(|text| TablePattern::parse(text).unwrap()).collect()
}

fn all() -> Vec<TablePattern> {
    patterns(&["*.*"])
}

fn filter(tables: &[&str]) -> Filter {
    Filter { tables: tables.iter().map(|&text| text.to_owned()).collect(), ..Filter::default() }
}

fn schema(id: u32, table: &str) -> Schema {
    let column = |name: &str, key| Column { name: name.to_owned(), key, ..Column::default() };
    let columns = vec![column("id", true), column("name", false), column("note", false)];
    Schema { id, schema: "public".to_owned(), table: table.to_owned(), columns, ..Schema::default() }
}

fn row(id: i64, name: &str) -> Option<Row> {
    let values = [Kind::Integer(id), Kind::Text(name.to_owned()), Kind::Text("n".to_owned())];
    Some(Row { values: values.into_iter().map(|kind| Value { kind: Some(kind) }).collect() })
}

fn insert(ordinal: u32, schema: u32, name: &str) -> Change {
    Change { ordinal, operation: Operation::Insert.into(), schema, new: row(ordinal.into(), name), ..Change::default() }
}

fn message(ordinal: u32) -> Change {
    Change { ordinal, operation: Operation::Message.into(), message: Some(LogicalMessage::default()), ..Change::default() }
}

fn truncate(ordinal: u32, schemas: &[u32]) -> Change {
    let truncate = Some(Truncate { schemas: schemas.to_vec(), ..Truncate::default() });
    Change { ordinal, operation: Operation::Truncate.into(), truncate, ..Change::default() }
}

fn transaction(lsn: u64, part: Part, changes: Vec<Change>) -> Transaction {
    Transaction { commit_lsn: lsn, part: part.into(), changes, ..Transaction::default() }
}

/// Two tables, one known before and one defined in the batch.
fn batch() -> (Batch, SchemaSet) {
    let mut known = SchemaSet::default();
    known.add(schema(1, "users")).unwrap();
    let transactions = vec![
        transaction(1, Part::Whole, vec![insert(1, 1, "a"), insert(2, 2, "b"), message(3)]),
        transaction(2, Part::Whole, vec![insert(1, 2, "a")]),
        transaction(3, Part::Begin, vec![insert(1, 2, "a")]),
        transaction(3, Part::Middle, vec![insert(2, 2, "a")]),
        transaction(3, Part::End, vec![truncate(3, &[2, 1]), truncate(4, &[2])]),
    ];
    (Batch { schemas: vec![schema(2, "orders")], transactions, through: None }, known)
}

/// What passes, as `LSN part ordinals`.
fn passes(filter: Filter, permitted: &[TablePattern]) -> Vec<String> {
    let (batch, known) = batch();
    show(&Selection::parse(filter, permitted).unwrap().apply(batch, &known))
}

fn show(batch: &Batch) -> Vec<String> {
    let one = |transaction: &Transaction| {
        let ordinals: Vec<String> = transaction.changes.iter().map(|change| change.ordinal.to_string()).collect();
        format!("{} {:?} {}", transaction.commit_lsn, transaction.part(), ordinals.join(","))
    };
    batch.transactions.iter().map(one).collect()
}

#[test]
fn tables_and_parts() {
    assert_eq!(passes(filter(&["public.users"]), &all()), ["1 Whole 1", "3 Begin ", "3 End 3"]);
    assert_eq!(passes(filter(&["*.ord*"]), &all()), ["1 Whole 2", "2 Whole 1", "3 Begin 1", "3 Middle 2", "3 End 3,4"]);
    assert_eq!(passes(Filter::default(), &all()).len(), 5);
    assert_eq!(passes(Filter::default(), &[]), ["3 Begin ", "3 End "]);
}

#[test]
fn what_may_not_be_read_is_not_there() {
    let users = patterns(&["public.users"]);
    assert_eq!(passes(Filter::default(), &users), ["1 Whole 1", "3 Begin ", "3 End 3"]);
    let forbidden = |tables: &[&str]| Selection::parse(filter(tables), &users).unwrap_err();
    assert!(matches!(forbidden(&["public.*"]), SelectError::Forbidden(_)));
    assert!(matches!(forbidden(&["public.users", "public.orders"]), SelectError::Forbidden(_)));

    let (batch, known) = batch();
    let selected = Selection::parse(Filter::default(), &users).unwrap().apply(batch, &known);
    assert_eq!(selected.schemas, [], "not even the definition of a table that may not be read");
    let of_both = selected.transactions.last().unwrap().changes[0].truncate.clone().unwrap();
    assert_eq!(of_both.schemas, [1]);
    // Messages can hold anything.
    let messages = Filter { operations: vec![Operation::Message.into()], ..Filter::default() };
    assert_eq!(passes(messages.clone(), &users), ["3 Begin ", "3 End "]);
    assert_eq!(passes(messages, &all()), ["1 Whole 3", "3 Begin ", "3 End "]);
}

#[test]
fn operations_rows_and_columns() {
    let inserts = Filter { operations: vec![Operation::Insert.into()], ..Filter::default() };
    assert_eq!(passes(inserts, &all()), ["1 Whole 1,2", "2 Whole 1", "3 Begin 1", "3 Middle 2", "3 End "]);
    let equals = vec![ColumnEquals { column: "name".to_owned(), value: Some("b".to_owned()) }];
    let rows = Filter { equals, ..Filter::default() };
    // A truncate takes rows that were given out before: it always passes. A message has no row.
    assert_eq!(passes(rows, &all()), ["1 Whole 2", "3 Begin ", "3 End 3,4"]);

    let (batch, known) = batch();
    let columns = Filter { columns: vec!["name".to_owned()], ..Filter::default() };
    let selected = Selection::parse(columns, &all()).unwrap().apply(batch, &known);
    let values = &selected.transactions[0].changes[0].new.as_ref().unwrap().values;
    assert!(values[0].kind.is_some(), "the key is always sent");
    assert!(values[1].kind.is_some() && values[2].kind.is_none());
}

#[test]
fn what_means_the_same_is_the_same() {
    let parse = |tables: &[&str], permitted: &[&str]| Selection::parse(filter(tables), &patterns(permitted)).unwrap();
    assert_eq!(parse(&["a.b", "a.c", "a.b"], &["*.*"]), parse(&["a.c", "a.b"], &["*.*", "a.*"]));
    assert_eq!(parse(&[], &["*.*"]), parse(&["*.*"], &["*.*"]));
    assert_ne!(parse(&["a.b"], &["*.*"]), parse(&["a.b"], &["a.*"]));
    assert!(parse(&[], &["*.*"]).is_all() && !parse(&[], &["a.*"]).is_all() && !parse(&["a.*"], &["*.*"]).is_all());
}

#[test]
fn nonsense_is_named() {
    let invalid = |filter: Filter| match Selection::parse(filter, &all()) {
        Err(SelectError::Invalid(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(invalid(filter(&["users"])).contains("\"users\""));
    assert!(invalid(Filter { operations: vec![99], ..Filter::default() }).contains("99"));
    assert!(invalid(Filter { operations: vec![0], ..Filter::default() }).contains("operation 0"));
    assert!(invalid(Filter { columns: vec![String::new()], ..Filter::default() }).contains("name"));
    assert!(invalid(Filter { columns: vec!["a".to_owned(); FILTER_ITEMS_MAX + 1], ..Filter::default() }).contains("257"));
}

#[test]
fn a_batch_is_cut_behind_a_position() {
    let cut_at = |lsn, ordinal| {
        let (mut batch, _) = batch();
        cut(&mut batch, Position { commit_lsn: Lsn(lsn), ordinal });
        show(&batch)
    };
    assert_eq!(cut_at(0, 0).len(), 5);
    assert_eq!(cut_at(1, 0)[0], "1 Whole 1,2,3", "a transaction that has not begun");
    assert_eq!(cut_at(1, 2)[0], "1 End 3");
    assert_eq!(cut_at(1, 3)[0], "2 Whole 1");
    assert_eq!(cut_at(3, 1), ["3 Middle 2", "3 End 3,4"]);
    assert_eq!(cut_at(3, 3), ["3 End 4"]);
    assert_eq!(cut_at(3, 4), Vec::<String>::new());
    assert_eq!(cut_at(9, 0), Vec::<String>::new());
}
