use bytes::Bytes;
use proptest::prelude::*;
use walbus::PgTime;
use walbus::logical::Definition;
use walbus::proto::pgoutput::{self, LogicalMessage, Old, Tuple, Value};

use super::*;
use beyond_cdc_proto::v1::value::Kind as Field;

fn column(name: &str, type_oid: u32, key: bool) -> pgoutput::Column {
    pgoutput::Column { key, name: name.into(), type_oid, type_modifier: -1 }
}

fn table(oid: u32, columns: Vec<pgoutput::Column>) -> Arc<Definition> {
    let types = columns.iter().map(|_| None).collect();
    let replica_identity = pgoutput::ReplicaIdentity::Default;
    let relation = pgoutput::Relation { oid, schema: "public".into(), name: format!("t{oid}"), replica_identity, columns };
    Arc::new(Definition { relation, types })
}

fn items() -> Arc<Definition> {
    table(10, vec![column("id", 23, true), column("body", 25, false)])
}

fn row(values: &[Value<'_>]) -> Tuple {
    Tuple::of(values).unwrap()
}

fn start(lsn: u64) -> TransactionStart {
    TransactionStart { xid: 700, commit_lsn: Lsn(lsn), commit_time: 1_000_000 + i64::try_from(lsn).unwrap() }
}

fn end(lsn: u64) -> Transaction {
    let (commit_lsn, end_lsn) = (Lsn(lsn), Lsn(lsn + 8));
    Transaction { xid: 700, commit_lsn, end_lsn, commit_time: PgTime(0), origin: None, prepare_lsn: None, gid: None }
}

fn change(lsn: u64, ordinal: u32, body: Body) -> Change {
    Change { position: Position { commit_lsn: Lsn(lsn), ordinal }, xid: 700, body }
}

fn insert(lsn: u64, ordinal: u32, relation: &Arc<Definition>, id: &str, body: &str) -> Change {
    let new = row(&[Value::Text(id.as_bytes()), Value::Text(body.as_bytes())]);
    change(lsn, ordinal, Body::Insert { relation: Arc::clone(relation), new })
}

fn encoder(batch_bytes: usize) -> Encoder {
    Encoder::new(Limits { batch_bytes }, std::iter::empty(), Lsn::INVALID)
}

fn all(encoder: &mut Encoder) -> Vec<(BatchMeta, v1::Batch)> {
    std::iter::from_fn(|| encoder.take()).map(|batch| (batch.meta, v1::Batch::decode(batch.payload).unwrap())).collect()
}

fn value(kind: Field) -> v1::Value {
    v1::Value { kind: Some(kind) }
}

#[test]
fn a_row_is_what_its_tuple_says() {
    let (mut encoder, items) = (encoder(1 << 20), items());
    encoder.begin(start(100)).unwrap();
    encoder.change(&insert(100, 1, &items, "7", "seven"));
    let (old, new) = (row(&[Value::Text(b"7"), Value::Null]), row(&[Value::Text(b"8"), Value::Unchanged]));
    encoder.change(&change(100, 2, Body::Update { relation: Arc::clone(&items), old: Some(Old::Key(old.clone())), new }));
    encoder.change(&change(100, 3, Body::Delete { relation: Arc::clone(&items), old: Old::Key(old) }));
    encoder.commit(&end(100));
    let [(meta, batch)] = &all(&mut encoder)[..] else { panic!("one batch") };
    assert_eq!((meta.first.ordinal, meta.last.ordinal, meta.end_lsn, meta.ends, meta.schemas), (1, 3, Lsn(108), true, true));
    assert_eq!(batch.through, Some(v1::Position { commit_lsn: 100, ordinal: 3 }));
    let [schema] = &batch.schemas[..] else { panic!("one schema") };
    assert_eq!(
        (schema.id, schema.table.as_str(), schema.columns[0].type_name.as_str(), schema.columns[0].key),
        (1, "t10", "int4", true)
    );
    let [transaction] = &batch.transactions[..] else { panic!("one transaction") };
    assert_eq!((transaction.commit_lsn, transaction.end_lsn, transaction.commit_time, transaction.xid), (100, 108, 1_000_100, 700));
    let [inserted, updated, deleted] = &transaction.changes[..] else { panic!("three changes") };
    assert_eq!(inserted.new.as_ref().unwrap().values, [value(Field::Integer(7)), value(Field::Text("seven".into()))]);
    assert_eq!(updated.new.as_ref().unwrap().values, [value(Field::Integer(8)), value(Field::Unchanged(true))]);
    assert!(updated.old_is_key && deleted.old_is_key && !inserted.old_is_key);
    // The column outside of the key was not sent, which is not NULL.
    assert_eq!(updated.old.as_ref().unwrap().values, [value(Field::Integer(7)), v1::Value { kind: None }]);
    assert_eq!(deleted.operation(), v1::Operation::Delete);
}

#[test]
fn what_was_not_sent_is_found_in_a_full_old_row() {
    let (mut encoder, items) = (encoder(1 << 20), items());
    let old = row(&[Value::Null, Value::Text(b"large")]);
    let new = row(&[Value::Text(b"1"), Value::Unchanged]);
    encoder.begin(start(100)).unwrap();
    encoder.change(&change(100, 1, Body::Update { relation: items, old: Some(Old::Full(old)), new }));
    encoder.commit(&end(100));
    let batch = all(&mut encoder).remove(0).1;
    let updated = &batch.transactions[0].changes[0];
    assert_eq!(updated.new.as_ref().unwrap().values, [value(Field::Integer(1)), value(Field::Text("large".into()))]);
    assert_eq!(updated.old.as_ref().unwrap().values, [value(Field::Null(true)), value(Field::Text("large".into()))]);
    assert!(!updated.old_is_key);
}

#[test]
fn truncates_and_messages() {
    let (mut encoder, items, others) = (encoder(1 << 20), items(), table(11, vec![column("a", 25, false)]));
    encoder.begin(start(100)).unwrap();
    let relations = vec![items, others];
    encoder.change(&change(100, 1, Body::Truncate { relations, cascade: true, restart_identity: false }));
    let content = Bytes::from_static(b"\x00\xff");
    encoder.change(&change(
        100,
        2,
        Body::Message(LogicalMessage { transactional: true, lsn: Lsn(90), prefix: "p".into(), content }),
    ));
    encoder.commit(&end(100));
    let batch = all(&mut encoder).remove(0).1;
    let [truncated, message] = &batch.transactions[0].changes[..] else { panic!("two changes") };
    assert_eq!(truncated.truncate, Some(v1::Truncate { schemas: vec![1, 2], cascade: true, restart_identity: false }));
    let expected = v1::LogicalMessage { prefix: "p".into(), content: vec![0, 255], transactional: true, lsn: 90 };
    assert_eq!(message.message, Some(expected));
}

#[test]
fn a_definition_travels_once_and_keeps_its_number_when_it_comes_back() {
    let mut encoder = encoder(1 << 20);
    let narrow = table(10, vec![column("id", 23, true), column("body", 25, false)]);
    let wide = table(10, vec![column("id", 20, true), column("body", 25, false)]);
    let again = table(10, vec![column("id", 23, true), column("body", 25, false)]);
    let mut schemas = Vec::new();
    for (lsn, definition) in [(100, &narrow), (200, &narrow), (300, &wide), (400, &again)] {
        encoder.begin(start(lsn)).unwrap();
        encoder.change(&insert(lsn, 1, definition, "1", "x"));
        encoder.commit(&end(lsn));
        let batch = all(&mut encoder).remove(0).1;
        schemas.push((batch.schemas.iter().map(|schema| schema.id).collect::<Vec<_>>(), batch.transactions[0].changes[0].schema));
    }
    assert_eq!(schemas, [(vec![1], 1), (vec![], 1), (vec![2], 2), (vec![], 1)]);
    let known = [Arc::new(v1::Schema { id: 7, oid: 99, ..v1::Schema::default() })];
    let mut after = Encoder::new(Limits::default(), known.iter(), Lsn(1));
    after.begin(start(100)).unwrap();
    after.change(&insert(100, 1, &narrow, "1", "x"));
    after.suspend();
    after.begin(start(100)).unwrap();
    after.change(&insert(100, 1, &narrow, "1", "x"));
    after.commit(&end(100));
    let batch = all(&mut after).remove(0).1;
    assert_eq!(batch.schemas.iter().map(|schema| schema.id).collect::<Vec<_>>(), [9], "what was abandoned is defined again");
}

#[test]
fn the_highest_durable_number_is_kept_though_a_higher_one_was_given() {
    let known = [7, 8].map(|id| Arc::new(v1::Schema { id, oid: 90 + id, ..v1::Schema::default() }));
    let mut encoder = Encoder::new(Limits::default(), known.iter(), Lsn(50));
    encoder.begin(start(200)).unwrap();
    encoder.change(&change(
        200,
        1,
        Body::Truncate { relations: vec![table(10, vec![column("id", 23, true)])], cascade: false, restart_identity: false },
    ));
    // 9 is in a transaction that a crash may still cut off: without 8, the log would not know that 9 is next.
    encoder.prune(Lsn(150));
    encoder.commit(&end(200));
    let batch = encoder.take().unwrap();
    assert_eq!((batch.schemas.len(), batch.schemas[0].id, batch.forgotten), (1, 9, vec![7]));
}

#[test]
fn definitions_that_the_log_does_not_need_any_more_are_forgotten() {
    let known = [7, 8].map(|id| Arc::new(v1::Schema { id, oid: 90 + id, ..v1::Schema::default() }));
    let mut encoder = Encoder::new(Limits::default(), known.iter(), Lsn(50));
    let (a, b) = (table(10, vec![column("id", 23, true), column("body", 25, false)]), table(11, vec![column("id", 23, true)]));
    let wide = table(10, vec![column("id", 20, true), column("body", 25, false)]);
    let truncated = |lsn, relation: &Arc<Definition>| {
        change(lsn, 1, Body::Truncate { relations: vec![Arc::clone(relation)], cascade: false, restart_identity: false })
    };
    let commit = |encoder: &mut Encoder, lsn, relation| {
        encoder.begin(start(lsn)).unwrap();
        encoder.change(&truncated(lsn, relation));
        encoder.commit(&end(lsn));
        let batch = encoder.take().unwrap();
        let schema = v1::Batch::decode(batch.payload).unwrap().transactions[0].changes[0].truncate.clone().unwrap().schemas[0];
        (schema, batch.schemas.len(), batch.forgotten)
    };
    assert_eq!(commit(&mut encoder, 100, &a), (9, 1, vec![]));
    assert_eq!(commit(&mut encoder, 200, &wide), (10, 1, vec![]));
    assert_eq!(commit(&mut encoder, 300, &b), (11, 1, vec![]));
    assert_eq!(commit(&mut encoder, 400, &wide), (10, 0, vec![]));
    encoder.prune(Lsn(50));
    assert_eq!(commit(&mut encoder, 410, &wide), (10, 0, vec![]), "all are needed");
    encoder.prune(Lsn(390));
    let (schema, new, mut forgotten) = commit(&mut encoder, 420, &wide);
    forgotten.sort_unstable();
    // 11, the highest of those, stays.
    assert_eq!((schema, new, forgotten), (10, 0, vec![7, 8, 9]));
    encoder.prune(Lsn(390));
    assert_eq!(commit(&mut encoder, 430, &a), (12, 1, vec![]), "another number: the old one may mean something to somebody");
    encoder.prune(Lsn(500));
    let (schema, new, mut forgotten) = commit(&mut encoder, 510, &b);
    forgotten.sort_unstable();
    assert_eq!((schema, new, forgotten), (13, 1, vec![10, 11]));
}

#[test]
fn a_transaction_without_changes_is_one() {
    let mut encoder = encoder(1 << 20);
    encoder.begin(start(100)).unwrap();
    encoder.commit(&end(100));
    let [(meta, batch)] = &all(&mut encoder)[..] else { panic!("one batch") };
    assert_eq!((meta.first, meta.last, meta.end_lsn), (Position::before(Lsn(100)), Position::before(Lsn(100)), Lsn(108)));
    assert_eq!(batch.transactions[0].part(), v1::Part::Whole);
}

#[test]
fn a_transaction_that_was_given_in_part_goes_on_where_it_was() {
    let (mut encoder, items) = (encoder(100), items());
    let send = |encoder: &mut Encoder, upto: u32| {
        (1..=upto).for_each(|ordinal| encoder.change(&insert(100, ordinal, &items, &ordinal.to_string(), &"x".repeat(40))));
    };
    encoder.begin(start(100)).unwrap();
    send(&mut encoder, 7);
    assert!(encoder.is_parted());
    encoder.suspend();
    assert_eq!(encoder.begin(start(200)), Err(Unfinished { given: Lsn(100), next: Lsn(200) }));
    encoder.begin(start(100)).unwrap();
    send(&mut encoder, 12);
    encoder.commit(&end(100));
    let batches = all(&mut encoder);
    let ordinals: Vec<_> =
        batches.iter().flat_map(|(_, batch)| &batch.transactions[0].changes).map(|change| change.ordinal).collect();
    assert_eq!(ordinals, (1..=12).collect::<Vec<_>>());
    assert_eq!(encoder.last_commit(), Lsn(100));
}

proptest! {
    /// Whatever the sizes: every change once and in order, parts marked, batches that end where transactions do.
    #[test]
    fn batches_hold_what_came(sizes in prop::collection::vec((0_u32..40, 0_usize..200), 1..20), limit in 1_usize..3000, each: bool) {
        let (mut encoder, items) = (encoder(limit), items());
        let (mut batches, mut expected) = (Vec::new(), Vec::new());
        for (number, (changes, len)) in sizes.into_iter().enumerate() {
            let lsn = 1000 * (number as u64 + 1);
            encoder.begin(start(lsn)).unwrap();
            for ordinal in 1..=changes {
                encoder.change(&insert(lsn, ordinal, &items, &ordinal.to_string(), &"x".repeat(len)));
            }
            encoder.commit(&end(lsn));
            expected.push((lsn, changes));
            if each {
                batches.extend(all(&mut encoder));
            }
        }
        batches.extend(all(&mut encoder));
        let mut last = Position::default();
        let (mut found, mut ordinals) = (Vec::new(), Vec::new());
        for (meta, batch) in batches {
            prop_assert!(last < meta.first && meta.first <= meta.last);
            last = meta.last;
            let parts: Vec<_> = batch.transactions.iter().map(v1::Transaction::part).collect();
            prop_assert!(meta.ends || parts.len() == 1);
            prop_assert_eq!(meta.ends, matches!(parts[parts.len() - 1], v1::Part::Whole | v1::Part::End));
            for (transaction, part) in batch.transactions.iter().zip(parts) {
                prop_assert_eq!(matches!(part, v1::Part::Whole | v1::Part::Begin), ordinals.is_empty() || part == v1::Part::Whole);
                ordinals.extend(transaction.changes.iter().map(|change| change.ordinal));
                if matches!(part, v1::Part::Whole | v1::Part::End) {
                    let count = u32::try_from(ordinals.len()).unwrap();
                    prop_assert_eq!(&ordinals, &(1..=count).collect::<Vec<_>>());
                    prop_assert_eq!(transaction.end_lsn, transaction.commit_lsn + 8);
                    found.push((transaction.commit_lsn, count));
                    ordinals.clear();
                }
            }
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn definitions_count_for_a_batch_as_rows_do() {
    let mut encoder = encoder(1 << 10);
    let wide = |oid| table(oid, (0..50).map(|number| column(&format!("a_column_{number}"), 23, number == 0)).collect());
    encoder.begin(start(100)).unwrap();
    for ordinal in 1..=20 {
        let body = Body::Truncate { relations: vec![wide(ordinal)], cascade: false, restart_identity: false };
        encoder.change(&change(100, ordinal, body));
    }
    encoder.commit(&end(100));
    for oid in 21..=40 {
        let body = Body::Truncate { relations: vec![wide(oid)], cascade: false, restart_identity: false };
        encoder.begin(start(100 * u64::from(oid))).unwrap();
        encoder.change(&change(100 * u64::from(oid), 1, body));
        encoder.commit(&end(100 * u64::from(oid)));
    }
    let batches: Vec<EncodedBatch> = std::iter::from_fn(|| encoder.take()).collect();
    let largest = batches.iter().map(|batch| batch.payload.len()).max().unwrap();
    assert!(largest < 4 << 10, "{largest} bytes: no more than the limit and one definition");
    assert_eq!(batches.iter().map(|batch| batch.schemas.len()).sum::<usize>(), 40);
}
