//! Rows and changes: from pgoutput's tuples to the contract's messages.

use walbus::logical::{Body, Change};
use walbus::proto::pgoutput::{LogicalMessage, Old, Tuple, Value};

use super::registry::{Plan, PlanColumn};
use super::{value, wire};

/// Fields of `Change`.
const ORDINAL: u32 = 1;
const OPERATION: u32 = 2;
const SCHEMA: u32 = 3;
const NEW: u32 = 4;
const OLD: u32 = 5;
const OLD_IS_KEY: u32 = 6;
const TRUNCATE: u32 = 7;
const MESSAGE: u32 = 8;

/// The field of `Row`.
const VALUES: u32 = 1;

const INSERT: u64 = 1;
const UPDATE: u64 = 2;
const DELETE: u64 = 3;
const TRUNCATED: u64 = 4;
const MESSAGED: u64 = 5;

/// Appends the fields of a `Change`. `plan` is that of its relation; a truncate's and a message's need none. `schemas` are the numbers of a
/// truncate's tables.
pub(super) fn encode(change: &Change, plan: Option<&Plan>, schemas: &[u32], out: &mut Vec<u8>) {
    wire::unsigned(out, ORDINAL, u64::from(change.position.ordinal));
    let head = |out: &mut Vec<u8>, operation| {
        wire::unsigned(out, OPERATION, operation);
        if let Some(plan) = plan {
            wire::unsigned(out, SCHEMA, u64::from(plan.schema));
        }
    };
    let columns = plan.map_or(&[][..], |plan| &plan.columns);
    match &change.body {
        Body::Insert { new, .. } => {
            head(out, INSERT);
            row(out, NEW, columns, new, Missing::Null);
        }
        Body::Update { old, new, .. } => {
            head(out, UPDATE);
            // What did not change and was not sent is in the old row, where all of that was.
            let full = match old {
                Some(Old::Full(tuple)) => Missing::In(tuple),
                _ => Missing::Null,
            };
            row(out, NEW, columns, new, full);
            if let Some(old) = old {
                old_row(out, columns, old);
            }
        }
        Body::Delete { old, .. } => {
            head(out, DELETE);
            old_row(out, columns, old);
        }
        Body::Truncate { cascade, restart_identity, .. } => {
            head(out, TRUNCATED);
            truncate(out, schemas, *cascade, *restart_identity);
        }
        Body::Message(message) => {
            head(out, MESSAGED);
            logical_message(out, message);
        }
    }
}

/// What stands for a value that was not sent.
#[derive(Clone, Copy)]
enum Missing<'a> {
    /// Look into this row.
    In(&'a Tuple),
    /// NULL is NULL.
    Null,
    /// NULL in a column outside of the key means nothing.
    OutsideOfKey,
}

fn old_row(out: &mut Vec<u8>, columns: &[PlanColumn], old: &Old) {
    match old {
        Old::Full(tuple) => row(out, OLD, columns, tuple, Missing::Null),
        Old::Key(tuple) => {
            row(out, OLD, columns, tuple, Missing::OutsideOfKey);
            wire::unsigned(out, OLD_IS_KEY, 1);
        }
    }
}

fn row(out: &mut Vec<u8>, field: u32, columns: &[PlanColumn], tuple: &Tuple, missing: Missing<'_>) {
    let mut full = match missing {
        Missing::In(tuple) => Some(tuple.values()),
        _ => None,
    };
    wire::nested(out, field, |out| {
        for (column, sent) in columns.iter().zip(tuple.values()) {
            let before = full.as_mut().and_then(Iterator::next);
            wire::nested(out, VALUES, |out| match (sent, missing, before) {
                (Value::Null, Missing::OutsideOfKey, _) if !column.key => {}
                (Value::Null, ..) | (Value::Unchanged, _, Some(Value::Null)) => wire::unsigned(out, value::NULL, 1),
                (Value::Text(text), ..) | (Value::Unchanged, _, Some(Value::Text(text))) => value::encode(column.kind, text, out),
                // Never asked for: the session is started with text.
                (Value::Binary(bytes), ..) => value::binary(bytes, out),
                (Value::Unchanged, ..) => wire::unsigned(out, value::UNCHANGED, 1),
            });
        }
    });
}

fn truncate(out: &mut Vec<u8>, schemas: &[u32], cascade: bool, restart_identity: bool) {
    let mut ids = Vec::new();
    schemas.iter().for_each(|id| wire::varint(&mut ids, u64::from(*id)));
    let mut fields = Vec::new();
    wire::bytes(&mut fields, 1, &ids);
    wire::unsigned(&mut fields, 2, u64::from(cascade));
    wire::unsigned(&mut fields, 3, u64::from(restart_identity));
    wire::bytes(out, TRUNCATE, &fields);
}

fn logical_message(out: &mut Vec<u8>, message: &LogicalMessage) {
    wire::nested(out, MESSAGE, |out| {
        wire::bytes(out, 1, message.prefix.as_bytes());
        wire::bytes(out, 2, &message.content);
        wire::unsigned(out, 3, u64::from(message.transactional));
        wire::unsigned(out, 4, message.lsn.0);
    });
}
