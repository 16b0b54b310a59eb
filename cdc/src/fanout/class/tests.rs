use super::*;
use crate::fanout::pattern::TablePattern;
use crate::log::BatchMeta;
use beyond_cdc_proto::v1::{Change, Filter, Operation, Row};
use walbus::Lsn;

fn at(lsn: u64, ordinal: u32) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal }
}

/// One transaction with an insert into each of tables 1 and 2.
fn entry(lsn: u64) -> Entry {
    let schema = |id: u32| Schema { id, schema: "public".to_owned(), table: format!("t{id}"), ..Schema::default() };
    let mut schemas = SchemaSet::default();
    schemas.add(schema(1)).unwrap();
    schemas.add(schema(2)).unwrap();
    let insert = |id: u32| Change {
        ordinal: id,
        operation: Operation::Insert.into(),
        schema: id,
        new: Some(Row::default()),
        ..Change::default()
    };
    let transaction = Transaction { commit_lsn: lsn, changes: vec![insert(1), insert(2)], ..Transaction::default() };
    let batch = Batch { transactions: vec![transaction], ..Batch::default() };
    let (first, last) = (at(lsn, 1), at(lsn, 2));
    let meta = BatchMeta { first, last, end_lsn: Lsn(lsn), time_min: 0, time_max: 0, ends: true, schemas: false };
    Entry { meta, payload: batch.encode_to_vec().into(), schemas: Arc::new(schemas) }
}

fn selection(tables: &[&str]) -> Selection {
    let tables = tables.iter().map(|&text| text.to_owned()).collect();
    Selection::parse(Filter { tables, ..Filter::default() }, &[TablePattern::parse("*.*").unwrap()]).unwrap()
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let [length, rest @ ..] = frame;
    let body = rest.concat();
    assert_eq!(length[..], u32::try_from(body.len()).unwrap().to_be_bytes());
    body
}

fn ordinals(frame: &Frame) -> (Vec<u32>, Position) {
    let batch = Batch::decode(bytes(frame).as_slice()).unwrap();
    let changes = batch.transactions.iter().flat_map(|transaction| &transaction.changes);
    (changes.map(|change| change.ordinal).collect(), batch.through.unwrap().into())
}

#[test]
fn everything_is_the_log_s_own_bytes() {
    let classes = Classes::new(0);
    let entry = entry(7);
    let frame = classes.class(selection(&[]), Encoding::Typed).frame(&entry, true).unwrap();
    assert_eq!(frame[1].as_ptr(), entry.payload.as_ptr(), "not copied");
    assert_eq!(ordinals(&frame), (vec![1, 2], at(7, 2)));
    assert_eq!(classes.cached_bytes(), 0);
}

#[test]
fn who_asks_for_the_same_gets_the_same_bytes() {
    let classes = Classes::new(1 << 20);
    let first = classes.class(selection(&["public.t1"]), Encoding::Typed);
    let second = classes.class(selection(&["public.t1"]), Encoding::Typed);
    let other = classes.class(selection(&["public.t2"]), Encoding::Typed);
    assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
    let entry = entry(7);
    let frame = first.frame(&entry, true).unwrap();
    assert_eq!(ordinals(&frame), (vec![1], at(7, 2)), "through is behind what was left out");
    assert_eq!(second.frame(&entry, true).unwrap()[1].as_ptr(), frame[1].as_ptr(), "encoded once");
    assert_ne!(second.frame(&entry, false).unwrap()[1].as_ptr(), frame[1].as_ptr());
    assert_eq!(ordinals(&other.frame(&entry, true).unwrap()).0, [2]);
    drop((first, second, other));
    assert_eq!(classes.cached_bytes(), 0, "what nobody wants is not kept");
}

#[test]
fn a_filter_that_leaves_nothing_still_moves_on() {
    let class = Classes::new(0).class(selection(&["other.*"]), Encoding::Typed);
    assert_eq!(ordinals(&class.frame(&entry(9), true).unwrap()), (vec![], at(9, 2)));
    assert_eq!(class.definitions(&entry(9).schemas), Vec::<Frame>::new());
}

#[test]
fn what_is_kept_is_bounded() {
    let classes = Classes::new(200);
    let class = classes.class(selection(&["public.t1"]), Encoding::Typed);
    for lsn in 1..100 {
        class.frame(&entry(lsn), true).unwrap();
        assert!(classes.cached_bytes() <= 200 + 100, "{}", classes.cached_bytes());
    }
    assert!(classes.cached_bytes() > 0);
}

#[test]
fn a_start_within_a_batch_cuts_it() {
    let class = Classes::new(0).class(selection(&[]), Encoding::Typed);
    let frame = class.frame_after(&entry(7), at(7, 1)).unwrap();
    assert_eq!(ordinals(&frame), (vec![2], at(7, 2)));
    let definitions = class.definitions(&entry(7).schemas);
    assert_eq!(Batch::decode(bytes(&definitions[0]).as_slice()).unwrap().schemas.len(), 2);
}

#[test]
fn json_is_an_object_a_change() {
    let class = Classes::new(1 << 20).class(selection(&["public.t1"]), Encoding::Json);
    assert_eq!(class.definitions(&entry(7).schemas), Vec::<Frame>::new());
    let batch = JsonBatch::decode(bytes(&class.frame(&entry(7), true).unwrap()).as_slice()).unwrap();
    assert_eq!(Position::from(batch.through.unwrap()), at(7, 2));
    let change: serde_json::Value = serde_json::from_str(&batch.transactions[0].changes[0]).unwrap();
    assert_eq!((change["position"].as_str(), change["table"].as_str()), (Some("0/7:1"), Some("t1")));
}

#[test]
fn a_batch_that_is_none_is_named() {
    let mut damaged = entry(7);
    damaged.payload = Bytes::from_static(&[0xFF; 7]);
    let class = Classes::new(1 << 20).class(selection(&["public.t1"]), Encoding::Typed);
    assert_eq!(class.frame(&damaged, true).unwrap_err().at, at(7, 1));
}
