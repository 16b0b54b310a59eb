//! Filters over batches: two protobuf messages, a filter and a batch, of any bytes. What passes is a part of what was there, in its order, and
//! of tables that may be read.
#![no_main]

use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::{Batch, Filter, Part, Transaction};
use cdc::fanout::pattern::TablePattern;
use cdc::fanout::select::{Selection, cut};
use cdc::log::SchemaSet;
use libfuzzer_sys::fuzz_target;
use walbus::{Lsn, Position};

fuzz_target!(|data: &[u8]| {
    let Some((split, data)) = data.split_first() else { return };
    let (filter, batch) = data.split_at(usize::from(*split).min(data.len()));
    let (Ok(filter), Ok(batch)) = (Filter::decode(filter), Batch::decode(batch)) else { return };
    let permitted = TablePattern::parse("public.*").unwrap();
    let Ok(selection) = Selection::parse(filter, std::slice::from_ref(&permitted)) else { return };
    let passed = selection.apply(batch.clone(), &SchemaSet::default());
    assert!(passed.schemas.iter().all(|schema| permitted.matches(&schema.schema, &schema.table)));
    assert!(passed.schemas.len() <= batch.schemas.len());
    let mut rest = batch.transactions.iter();
    for transaction in &passed.transactions {
        let of = rest.find(|of| is_part(transaction, of)).expect("a transaction that was not there, or not in this order");
        assert!(!transaction.changes.is_empty() || matches!(of.part(), Part::Begin | Part::End));
    }
    let after = Position { commit_lsn: Lsn(batch.transactions.first().map_or(0, |first| first.commit_lsn)), ordinal: 1 };
    let mut rest = batch;
    cut(&mut rest, after);
    let position = |of: &Transaction, ordinal| Position { commit_lsn: Lsn(of.commit_lsn), ordinal };
    assert!(rest.transactions.iter().all(|of| of.changes.iter().all(|change| position(of, change.ordinal) > after)));
});

/// Whether a transaction is another one with some of its changes left out.
fn is_part(transaction: &Transaction, of: &Transaction) -> bool {
    let mut changes = of.changes.iter();
    (transaction.commit_lsn, transaction.xid, transaction.part) == (of.commit_lsn, of.xid, of.part)
        && transaction
            .changes
            .iter()
            .all(|change| changes.any(|of| of.ordinal == change.ordinal && of.operation == change.operation))
}
