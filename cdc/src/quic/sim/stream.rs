//! What arrives on a subscription's stream, held against what was committed.

use std::collections::BTreeMap;

use beyond_cdc_proto::frame::{BATCH_BYTES_MAX, Frames};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Batch, Change, Encoding, JsonBatch, Operation, Part, Row, Schema};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use walbus::{Lsn, Position};

use super::history::{Cell, History};
use super::wanted::{Seen, Wanted};

/// What is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth<'a> {
    pub(super) history: &'a History,
    pub(super) wanted: &'a Wanted,
    /// Nobody is ever given what is above this.
    pub(super) durable: Position,
}

/// The receiving end of a subscription.
#[derive(Debug)]
pub(super) struct Stream {
    encoding: Encoding,
    frames: Frames,
    schemas: BTreeMap<u32, Schema>,
    /// All up to here has been dealt with; not known before the subscription has started.
    at: Option<Position>,
    /// The transaction of which the end has not come.
    open: Option<Lsn>,
}

/// What of a transaction came: where it was committed, which part, and how many changes.
type Came = (Lsn, Part, usize);

impl Stream {
    pub(super) fn new(encoding: Encoding) -> Self {
        Self { encoding, frames: Frames::new(BATCH_BYTES_MAX), schemas: BTreeMap::new(), at: None, open: None }
    }

    /// How far it is, once it has started.
    pub(super) const fn at(&self) -> Option<Position> {
        self.at
    }

    /// The subscription has started behind a position.
    pub(super) fn start(&mut self, start: Position, history: &History) {
        self.at = Some(start);
        // Within a transaction, the rest of it comes first.
        let within = history.at(start.commit_lsn).filter(|of| start.ordinal > 0 && start < of.end());
        self.open = within.map(|of| of.lsn);
    }

    /// Takes bytes that have arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// Deals with the next batch, if it has come whole and the subscription has started; says whether there was one.
    pub(super) fn next(&mut self, truth: Truth<'_>) -> Result<bool, String> {
        let Some(at) = self.at else { return Ok(false) };
        let Some(frame) = self.frames.next().map_err(|error| error.to_string())? else { return Ok(false) };
        match self.encoding {
            Encoding::Typed => self.typed(at, frame, truth)?,
            Encoding::Json => self.json(at, frame, truth)?,
        }
        Ok(true)
    }

    fn typed(&mut self, at: Position, frame: Bytes, truth: Truth<'_>) -> Result<(), String> {
        let batch = Batch::decode(frame).map_err(|error| error.to_string())?;
        for schema in batch.schemas {
            if !truth.wanted.may_have(&schema.schema, &schema.table) {
                return Err(format!("the definition of {}.{} came, which was not asked for", schema.schema, schema.table));
            }
            match self.schemas.get(&schema.id) {
                Some(known) if *known != schema => return Err(format!("schema {} is two", schema.id)),
                _ => drop(self.schemas.insert(schema.id, schema)),
            }
        }
        let Some(through) = batch.through.map(Position::from) else {
            return if batch.transactions.is_empty() { Ok(()) } else { Err("changes came without a through".to_owned()) };
        };
        let mut seen = Vec::new();
        for transaction in &batch.transactions {
            for change in &transaction.changes {
                seen.push(self.seen(transaction, change)?);
            }
        }
        same(&seen, &truth.wanted.of(truth.history, at, through), at, through)?;
        let came = |transaction: &v1::Transaction| (Lsn(transaction.commit_lsn), transaction.part(), transaction.changes.len());
        self.advance(at, through, batch.transactions.iter().map(came), truth)
    }

    fn json(&mut self, at: Position, frame: Bytes, truth: Truth<'_>) -> Result<(), String> {
        let batch = JsonBatch::decode(frame).map_err(|error| error.to_string())?;
        let through = batch.through.map(Position::from).ok_or("a batch of JSON came without a through")?;
        let mut seen = Vec::new();
        for text in batch.transactions.iter().flat_map(|transaction| &transaction.changes) {
            let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|error| format!("{text}: {error}"))?;
            object.retain(|name, _| {
                !["cascade", "commit_time", "lsn", "prefix", "restart_identity", "transactional"].contains(&name.as_str())
            });
            seen.push(Value::Object(object));
        }
        let expected: Vec<Value> = truth.wanted.of(truth.history, at, through).iter().map(as_json).collect();
        same(&seen, &expected, at, through)?;
        let came = |transaction: &v1::JsonTransaction| (Lsn(transaction.commit_lsn), transaction.part(), transaction.changes.len());
        self.advance(at, through, batch.transactions.iter().map(came), truth)
    }

    /// A batch has what it should: moves behind it, unless it says too much or transactions are not whole.
    fn advance(
        &mut self,
        at: Position,
        through: Position,
        came: impl Iterator<Item = Came>,
        truth: Truth<'_>,
    ) -> Result<(), String> {
        if through <= at {
            return Err(format!("through {through} behind {at}"));
        }
        if through > truth.durable {
            return Err(format!("sent up to {through}, where no more than {} is durable", truth.durable));
        }
        for (lsn, part, changes) in came {
            let wrong = |what: &str| Err(format!("{part:?} of {lsn} {what} (up to {through})"));
            let Some(committed) = truth.history.at(lsn) else { return wrong("was never committed") };
            match part {
                Part::Whole | Part::Begin if self.open.is_some() => return wrong("before the end of another one"),
                Part::Middle | Part::End if self.open != Some(lsn) => return wrong("without its begin"),
                Part::Whole if changes == 0 && !committed.deeds.is_empty() => return wrong("is empty"),
                Part::Middle if changes == 0 => return wrong("is empty"),
                Part::Whole | Part::End if committed.end() > through => return wrong("before all of it has come"),
                Part::Begin | Part::Middle => self.open = Some(lsn),
                Part::Whole | Part::End => self.open = None,
            }
        }
        if let Some(open) = self.open
            && truth.history.at(open).is_none_or(|committed| through >= committed.end())
        {
            return Err(format!("{open} has no end (up to {through})"));
        }
        self.at = Some(through);
        Ok(())
    }

    fn seen(&self, transaction: &v1::Transaction, change: &Change) -> Result<Seen, String> {
        let at = transaction.position_of(change);
        let mut seen = Seen {
            at,
            time: transaction.commit_time,
            xid: transaction.xid,
            operation: change.operation(),
            tables: vec![],
            new: cells(change.new.as_ref())?,
            old: cells(change.old.as_ref())?,
            old_is_key: change.old_is_key,
            message: None,
        };
        let ids = match change.operation() {
            Operation::Message => {
                let content = change.message.as_ref().map(|message| String::from_utf8_lossy(&message.content).into_owned());
                seen.message = content;
                vec![]
            }
            Operation::Truncate => change.truncate.as_ref().map(|truncate| truncate.schemas.clone()).unwrap_or_default(),
            _ => vec![change.schema],
        };
        for id in ids {
            let schema = self.schemas.get(&id).ok_or_else(|| format!("schema {id} of {at} was not sent before it"))?;
            let columns = schema.columns.iter().map(|column| column.name.clone()).collect();
            seen.tables.push((schema.schema.clone(), schema.table.clone(), columns));
        }
        Ok(seen)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(seen: &[T], expected: &[T], at: Position, through: Position) -> Result<(), String> {
    if seen == expected {
        return Ok(());
    }
    let first = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    let first = first.unwrap_or_else(|| seen.len().min(expected.len()));
    Err(format!(
        "behind {at} up to {through}: {} changes where {} are; number {first} is {:?} and should be {:?}",
        seen.len(),
        expected.len(),
        seen.get(first),
        expected.get(first)
    ))
}

fn cells(row: Option<&Row>) -> Result<Option<Vec<Cell>>, String> {
    let cell = |value: &v1::Value| match &value.kind {
        None => Ok(Cell::NotSent),
        Some(Kind::Null(_)) => Ok(Cell::Null),
        Some(Kind::Unchanged(_)) => Ok(Cell::Unchanged),
        Some(Kind::Integer(number)) => Ok(Cell::Number(*number)),
        Some(Kind::Text(text)) => Ok(Cell::Text(text.clone())),
        Some(other) => Err(format!("a value of another kind: {other:?}")),
    };
    row.map(|row| row.values.iter().map(cell).collect()).transpose()
}

/// A change as the contract's JSON has it, but for what is the same in all of them.
fn as_json(seen: &Seen) -> Value {
    let name = match seen.operation {
        Operation::Delete => "delete",
        Operation::Insert => "insert",
        Operation::Message => "message",
        Operation::Truncate => "truncate",
        Operation::Update | Operation::Unspecified => "update",
    };
    let mut object = json!({ "position": seen.at.to_string(), "xid": seen.xid, "op": name });
    let table = |(schema, table, _): &(String, String, Vec<String>)| json!({ "schema": schema, "table": table });
    if let [(schema, table, _)] = &seen.tables[..] {
        (object["schema"], object["table"]) = (json!(schema), json!(table));
    }
    if seen.operation == Operation::Truncate {
        object["tables"] = seen.tables.iter().map(table).collect();
    }
    if let Some(message) = &seen.message {
        object["content"] = json!(message);
    }
    for (member, row) in [("new", &seen.new), ("old", &seen.old)] {
        let Some(row) = row else { continue };
        let columns = seen.tables[0].2.iter().zip(row);
        object[member] = columns.clone().filter_map(|(name, cell)| Some((name.clone(), json_of(cell)?))).collect();
        let unchanged: Vec<&String> = columns.filter(|(_, cell)| **cell == Cell::Unchanged).map(|(name, _)| name).collect();
        if member == "new" && !unchanged.is_empty() {
            object["unchanged"] = json!(unchanged);
        }
    }
    object
}

fn json_of(cell: &Cell) -> Option<Value> {
    match cell {
        Cell::NotSent | Cell::Unchanged => None,
        Cell::Null => Some(Value::Null),
        Cell::Number(number) => Some(json!(number)),
        Cell::Text(text) => Some(json!(text)),
    }
}
