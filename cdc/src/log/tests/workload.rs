//! Transactions to fill a log with, all of them a function of a seed; and readers that know what must come next.

use std::sync::Arc;

use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::disk::Disk;
use walbus::sim::Random;
use walbus::{Lsn, Position, SystemId};

use crate::log::{BatchMeta, Entry, Epoch, EventLog, Identity, ReadError, Reader, Recent, SchemaSet, Writer};

/// Where the slot begins.
pub(crate) const START: Lsn = Lsn(1000);
/// The first epoch.
pub(crate) const EPOCH: Epoch = Epoch::new([7; 16]);
const FIRST_COMMIT: u64 = 2000;
const STEP: u64 = 100;

pub(crate) fn identity() -> Identity {
    Identity { system_id: SystemId(42), slot: "slot".into() }
}

/// Transaction number `n`, the same each time it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) n: u64,
    pub(crate) changes: u32,
    schema: u32,
    text_bytes: usize,
}

impl Transaction {
    pub(crate) fn of(seed: u64, n: u64) -> Self {
        let mut random = Random::new(seed ^ (n << 20));
        let large = random.chance(1, 12);
        let changes = if large { 30 + random.below(90) } else { 1 + random.below(5) };
        let schema = u32::try_from(n / 7).unwrap();
        Self { n, changes: u32::try_from(changes).unwrap(), schema, text_bytes: usize::try_from(random.below(60)).unwrap() }
    }

    pub(crate) fn at(self, ordinal: u32) -> Position {
        Position { commit_lsn: Lsn(FIRST_COMMIT + self.n * STEP), ordinal }
    }

    pub(crate) fn end(self) -> Position {
        self.at(self.changes)
    }

    pub(crate) fn end_lsn(self) -> Lsn {
        Lsn(FIRST_COMMIT + self.n * STEP + 50)
    }

    /// Commit times rise by 10, but for every fifth, which is late by 15.
    pub(crate) fn time(self) -> i64 {
        let time = i64::try_from(self.n * 10).unwrap();
        if self.n.is_multiple_of(5) && self.n > 0 { time - 15 } else { time }
    }

    fn text(self, ordinal: u32) -> String {
        format!("{}:{ordinal}:{}", self.n, "x".repeat(self.text_bytes))
    }

    fn definition(self) -> v1::Schema {
        let columns = vec![v1::Column { name: "note".into(), type_oid: 25, type_name: "text".into(), ..v1::Column::default() }];
        v1::Schema {
            id: self.schema,
            oid: 16384,
            schema: "public".into(),
            table: format!("t{}", self.schema),
            columns,
            ..Default::default()
        }
    }

    /// The changes from one ordinal to another one.
    fn part(self, from: u32, to: u32) -> v1::Transaction {
        let changes = (from..=to).map(|ordinal| v1::Change {
            ordinal,
            operation: v1::Operation::Insert.into(),
            schema: self.schema,
            new: Some(v1::Row { values: vec![v1::Value { kind: Some(v1::value::Kind::Text(self.text(ordinal))) }] }),
            ..v1::Change::default()
        });
        let part = match (from == 1, to == self.changes) {
            (true, true) => v1::Part::Whole,
            (true, false) => v1::Part::Begin,
            (false, false) => v1::Part::Middle,
            (false, true) => v1::Part::End,
        };
        v1::Transaction {
            commit_lsn: self.at(0).commit_lsn.0,
            end_lsn: self.end_lsn().0,
            commit_time: self.time(),
            xid: 700,
            part: part.into(),
            changes: changes.collect(),
            ..v1::Transaction::default()
        }
    }
}

/// What stands for the slot: sends transactions in batches, from any of them on, cut in any way.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    next: u64,
    next_ordinal: u32,
}

/// A batch, as [`Writer::append`] takes it.
pub(crate) type Batch = (BatchMeta, Bytes, Vec<v1::Schema>);

impl Slot {
    /// The slot behind what was confirmed to it.
    pub(crate) fn behind(seed: u64, confirmed: Lsn, random: Random) -> Self {
        let next = (0..).find(|n| Transaction::of(seed, *n).end_lsn() > confirmed).unwrap();
        Self { seed, random, next, next_ordinal: 1 }
    }

    /// The next batch: some small transactions, or a part of a large one.
    pub(crate) fn batch(&mut self, known: &SchemaSet) -> Batch {
        let transaction = Transaction::of(self.seed, self.next);
        if transaction.changes >= 30 {
            let len = 1 + u32::try_from(self.random.below(25)).unwrap();
            let to = transaction.changes.min(self.next_ordinal + len - 1);
            let batch = batch_of(&[(transaction, self.next_ordinal, to)], known);
            (self.next, self.next_ordinal) = if to == transaction.changes { (self.next + 1, 1) } else { (self.next, to + 1) };
            return batch;
        }
        let mut parts = Vec::new();
        for _ in 0..=self.random.below(3) {
            let transaction = Transaction::of(self.seed, self.next);
            if transaction.changes >= 30 {
                break;
            }
            parts.push((transaction, 1, transaction.changes));
            self.next += 1;
        }
        batch_of(&parts, known)
    }
}

/// A batch of these parts of transactions, which defines what is not known.
pub(crate) fn batch_of(parts: &[(Transaction, u32, u32)], known: &SchemaSet) -> Batch {
    let mut schemas: Vec<v1::Schema> = Vec::new();
    for (transaction, ..) in parts {
        let definition = transaction.definition();
        if known.by_id(definition.id).is_none() && schemas.iter().all(|schema| schema.id != definition.id) {
            schemas.push(definition);
        }
    }
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    let meta = BatchMeta {
        first: first.0.at(first.1),
        last: last.0.at(last.2),
        end_lsn: last.0.end_lsn(),
        time_min: parts.iter().map(|part| part.0.time()).min().unwrap(),
        time_max: parts.iter().map(|part| part.0.time()).max().unwrap(),
        ends: last.2 == last.0.changes,
        schemas: !schemas.is_empty(),
    };
    let transactions = parts.iter().map(|(transaction, from, to)| transaction.part(*from, *to)).collect();
    let batch = v1::Batch { schemas: schemas.clone(), transactions, through: Some(meta.last.into()) };
    (meta, batch.encode_to_vec().into(), schemas)
}

/// Appends whole transactions, each as a batch, and syncs once.
pub(crate) fn fill<D: Disk>(writer: &mut Writer<D>, seed: u64, transactions: std::ops::Range<u64>) {
    for n in transactions {
        let transaction = Transaction::of(seed, n);
        let (meta, payload, schemas) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::clone(writer.schemas()));
        writer.append(meta, payload, &schemas).unwrap();
    }
    writer.sync().unwrap();
}

/// The position of the change behind another one.
fn successor(seed: u64, position: Position) -> Position {
    let Some(since) = position.commit_lsn.checked_sub(Lsn(FIRST_COMMIT)) else { return Transaction::of(seed, 0).at(1) };
    let transaction = Transaction::of(seed, since / STEP);
    if position.ordinal < transaction.changes {
        transaction.at(position.ordinal + 1)
    } else {
        Transaction::of(seed, since / STEP + 1).at(1)
    }
}

/// A consumer: each change must be the one behind the last.
#[derive(Debug)]
pub(crate) struct Follower<D: Disk> {
    seed: u64,
    /// The last change that it was given.
    pub(crate) position: Position,
    reader: Option<Reader<D>>,
    pub(crate) from_ring: u64,
    pub(crate) from_files: u64,
}

impl<D: Disk> Follower<D> {
    pub(crate) const fn at(seed: u64, position: Position) -> Self {
        Self { seed, position, reader: None, from_ring: 0, from_files: 0 }
    }

    /// Loses its connection.
    pub(crate) fn disconnect(&mut self) {
        self.reader = None;
    }

    /// Takes one batch, if there is one. Starts again at the earliest position where it is too far behind.
    pub(crate) fn step(&mut self, log: &EventLog<D>, files_only: bool) -> Result<bool, String> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => match log.reader(self.position) {
                Ok(reader) => reader,
                Err(error) => return self.too_far_behind(log, error),
            },
        };
        let recent = if files_only { Recent::Past } else { reader.try_next_recent() };
        let found = match recent {
            Recent::Entry(entry) => {
                self.from_ring += 1;
                Some(entry)
            }
            Recent::NotYet => None,
            Recent::Past => match reader.next_from_files() {
                Ok(found) => {
                    self.from_files += u64::from(found.is_some());
                    found
                }
                Err(error) => return self.too_far_behind(log, error),
            },
        };
        if let Some(entry) = &found {
            if entry.meta.last > log.head() {
                return Err(format!("given {} above the head {}", entry.meta.last, log.head()));
            }
            self.take(entry)?;
        }
        self.reader = Some(reader);
        Ok(found.is_some())
    }

    fn too_far_behind(&mut self, log: &EventLog<D>, error: ReadError) -> Result<bool, String> {
        let ReadError::TooFarBehind { earliest } = error else { return Err(format!("at {}: {error:?}", self.position)) };
        if self.position >= earliest || earliest > log.head() {
            return Err(format!("{} is not behind {earliest}", self.position));
        }
        self.position = earliest;
        Ok(true)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), String> {
        let batch = v1::Batch::decode(entry.payload.clone()).map_err(|error| error.to_string())?;
        for transaction in &batch.transactions {
            for change in &transaction.changes {
                let position = transaction.position_of(change);
                if position <= self.position {
                    continue;
                }
                let wanted = successor(self.seed, self.position);
                if position != wanted {
                    return Err(format!("given {position} behind {}, where {wanted} comes", self.position));
                }
                let of = Transaction::of(self.seed, position.commit_lsn.0.saturating_sub(FIRST_COMMIT) / STEP);
                let new = change.new.as_ref().and_then(|row| row.values[0].kind.clone());
                if new != Some(v1::value::Kind::Text(of.text(change.ordinal))) {
                    return Err(format!("the change at {position} is another one: {new:?}"));
                }
                let known = entry.schemas.by_id(change.schema).is_some();
                if !known && batch.schemas.iter().all(|schema| schema.id != change.schema) {
                    return Err(format!("schema {} of {position} was not defined before it", change.schema));
                }
                self.position = position;
            }
        }
        if self.position != entry.meta.last {
            return Err(format!("a batch up to {} ends at {}", entry.meta.last, self.position));
        }
        Ok(())
    }
}
