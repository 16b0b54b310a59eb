//! Committed transactions to batches of the contract: once, for all consumers.
//!
//! ```text
//!   begin ─▶ change, change, … ─▶ commit        a transaction, as walbus::logical gives it
//!                 │                  │
//!                 ▼                  ▼
//!           the open part ─────▶ the batch ─────▶ take     whole transactions together, or one part of a large one alone
//! ```
//!
//! Pure: knows no log, no socket and no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use beyond_cdc_proto::v1;
use bytes::Bytes;
use prost::Message as _;
use walbus::logical::{Body, Change, Transaction};
use walbus::{Lsn, Position};

mod array;
mod kind;
mod registry;
mod row;
#[cfg(test)]
mod tests;
mod time;
mod value;
mod wire;

use crate::log::BatchMeta;
use registry::Registry;

/// Fields of `Batch` and `Transaction`.
const BATCH_SCHEMAS: u32 = 1;
const BATCH_TRANSACTIONS: u32 = 2;
const BATCH_THROUGH: u32 = 3;
const COMMIT_LSN: u32 = 1;
const END_LSN: u32 = 2;
const COMMIT_TIME: u32 = 3;
const XID: u32 = 4;
const PART: u32 = 5;
const ORIGIN: u32 = 6;
const CHANGES: u32 = 7;
const GID: u32 = 8;

/// How large a batch may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A batch with so many bytes of whole transactions is closed, and a transaction with so many bytes of changes goes on in another part.
    pub batch_bytes: usize,
}

impl Default for Limits {
    /// 256 KiB.
    fn default() -> Self {
        Self { batch_bytes: 256 << 10 }
    }
}

/// A batch for the log.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    /// What the log has to know of it.
    pub meta: BatchMeta,
    /// A `Batch` of the contract.
    pub payload: Bytes,
    /// The definitions that are new in it.
    pub schemas: Vec<v1::Schema>,
    /// The numbers of definitions that nothing the log holds, and nothing from here on, uses.
    pub forgotten: Vec<u32>,
}

/// What is known of a transaction when its first change comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionStart {
    /// The top transaction.
    pub xid: u32,
    /// The position of its commit record.
    pub commit_lsn: Lsn,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub commit_time: i64,
}

/// Encodes transactions in the order of their commits.
#[derive(Debug)]
pub struct Encoder {
    limits: Limits,
    registry: Registry,
    /// Of what the log holds, no transaction was committed before.
    floor: Lsn,
    /// Definitions that were forgotten, for the next batch.
    forgotten: Vec<u32>,
    truncated: Vec<u32>,
    open: Option<Open>,
    batch: Building,
    ready: VecDeque<EncodedBatch>,
    /// The end of the last transaction: what a part that does not end one says.
    end_lsn: Lsn,
    last_commit: Lsn,
}

/// A transaction was given in part, and another one comes before the rest of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the transaction committed at {given} is in the log in part, and the primary goes on with the one at {next}: start again, which cuts it off"
)]
pub struct Unfinished {
    /// The one that is not whole.
    pub given: Lsn,
    /// The one that came.
    pub next: Lsn,
}

/// The transaction that is being encoded.
#[derive(Debug)]
struct Open {
    start: TransactionStart,
    /// Whether a part of it is in a batch of its own already.
    parted: bool,
    /// Whether its session has ended.
    suspended: bool,
    /// Up to where it was encoded when its last session ended.
    resumed_at: Position,
    changes: Vec<u8>,
    schemas: Definitions,
    first: Option<Position>,
    last: Position,
}

/// Definitions that are new, and how large they are: those of a thousand partitions are larger than their rows.
#[derive(Debug, Default)]
struct Definitions {
    schemas: Vec<v1::Schema>,
    bytes: usize,
}

impl Definitions {
    fn extend(&mut self, new: impl IntoIterator<Item = v1::Schema>) {
        for schema in new {
            self.bytes += schema.encoded_len();
            self.schemas.push(schema);
        }
    }
}

/// Whole transactions that wait.
#[derive(Debug, Default)]
struct Building {
    transactions: Vec<u8>,
    schemas: Definitions,
    span: Option<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    first: Position,
    last: Position,
    time_min: i64,
    time_max: i64,
}

impl Encoder {
    /// An encoder behind what the log holds: `known` are its definitions, `end_lsn` the end of its last transaction.
    pub fn new<'a>(limits: Limits, known: impl Iterator<Item = &'a Arc<v1::Schema>>, end_lsn: Lsn) -> Self {
        Self {
            limits,
            registry: Registry::new(known, end_lsn),
            floor: Lsn::INVALID,
            forgotten: Vec::new(),
            truncated: Vec::new(),
            open: None,
            batch: Building::default(),
            ready: VecDeque::new(),
            end_lsn,
            last_commit: Lsn::INVALID,
        }
    }

    /// A transaction begins. Where one was suspended, it must be the same again: its changes that were given already are passed over.
    ///
    /// # Errors
    /// Where another one was suspended.
    ///
    /// # Panics
    /// Where one is open.
    pub fn begin(&mut self, start: TransactionStart) -> Result<(), Unfinished> {
        if let Some(open) = &mut self.open {
            assert!(open.suspended, "one transaction after the other");
            if open.start.commit_lsn != start.commit_lsn {
                return Err(Unfinished { given: open.start.commit_lsn, next: start.commit_lsn });
            }
            open.suspended = false;
            return Ok(());
        }
        let last = Position::before(start.commit_lsn);
        let (changes, schemas) = (Vec::new(), Definitions::default());
        self.open = Some(Open { start, parted: false, suspended: false, resumed_at: last, changes, schemas, first: None, last });
        Ok(())
    }

    /// A change of the transaction that has begun.
    ///
    /// # Panics
    /// Where none has, or positions do not rise.
    pub fn change(&mut self, change: &Change) {
        // Before the next one and not behind this one: so the last part has a change, and with it a position of its own.
        if self.open.as_ref().is_some_and(|open| open.changes.len() + open.schemas.bytes >= self.limits.batch_bytes) {
            self.part();
        }
        let Self { registry, truncated, open, .. } = self;
        let open = open.as_mut().expect("a change is of a transaction that has begun");
        let at = open.start.commit_lsn;
        if change.position <= open.resumed_at {
            return;
        }
        assert!(change.position > open.last, "positions rise: {} after {}", change.position, open.last);
        truncated.clear();
        let plan = match &change.body {
            Body::Insert { relation, .. } | Body::Update { relation, .. } | Body::Delete { relation, .. } => {
                let (plan, new) = registry.plan(relation, at);
                open.schemas.extend(new);
                Some(plan)
            }
            Body::Truncate { relations, .. } => {
                for relation in relations {
                    let (plan, new) = registry.plan(relation, at);
                    truncated.push(plan.schema);
                    open.schemas.extend(new);
                }
                None
            }
            Body::Message(_) => None,
        };
        wire::nested(&mut open.changes, CHANGES, |out| row::encode(change, plan, truncated, out));
        open.first.get_or_insert(change.position);
        open.last = change.position;
    }

    /// The transaction that has begun is committed.
    ///
    /// # Panics
    /// Where it is another one.
    pub fn commit(&mut self, transaction: &Transaction) {
        let open = self.open.take().expect("a commit is of a transaction that has begun");
        assert_eq!(open.start.commit_lsn, transaction.commit_lsn, "a commit is of the transaction that has begun");
        let part = if open.parted { v1::Part::End } else { v1::Part::Whole };
        self.end_lsn = self.end_lsn.max(transaction.end_lsn);
        self.last_commit = transaction.commit_lsn;
        let origin = transaction.origin.as_ref().map(|origin| origin.name.as_str());
        self.add(open, part, transaction.end_lsn, origin, transaction.gid.as_deref());
        if self.batch.transactions.len() + self.batch.schemas.bytes >= self.limits.batch_bytes {
            self.close();
        }
    }

    /// The log holds no transaction any more that was committed before `floor`: definitions that only those used are forgotten.
    pub fn prune(&mut self, floor: Lsn) {
        if floor > self.floor {
            self.floor = floor;
            self.forgotten.extend(self.registry.prune(floor));
        }
    }

    /// The session has ended. What is open is forgotten, unless a part of it was given: then it goes on where it is once it is sent again.
    pub fn suspend(&mut self) {
        match self.open.take() {
            Some(open) if open.parted => self.open = Some(Open { suspended: true, resumed_at: open.last, ..open }),
            Some(open) => self.registry.forget(&open.schemas.schemas),
            None => {}
        }
    }

    /// The end of the last whole transaction, be it durable or not.
    #[must_use]
    pub const fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Where the last whole transaction was committed; `0/0` where there was none yet.
    #[must_use]
    pub const fn last_commit(&self) -> Lsn {
        self.last_commit
    }

    /// Whether the transaction that is open was given in part: the log can't forget it.
    #[must_use]
    pub fn is_parted(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.parted)
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_batch(&self) -> bool {
        !self.ready.is_empty() || self.batch.span.is_some()
    }

    /// Whether so much waits that it should be taken before more is encoded.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next batch; whatever is whole is in one.
    pub fn take(&mut self) -> Option<EncodedBatch> {
        if self.ready.is_empty() {
            self.close();
        }
        self.ready.pop_front()
    }

    /// Gives what is there of the open transaction as a part.
    fn part(&mut self) {
        // A batch is of whole transactions or of one part.
        self.close();
        let Some(open) = self.open.take() else { return };
        let part = if open.parted { v1::Part::Middle } else { v1::Part::Begin };
        let next = Open {
            start: open.start.clone(),
            parted: true,
            suspended: false,
            resumed_at: open.resumed_at,
            // As much as the last one had, unless a row was far larger than others are.
            changes: Vec::with_capacity(open.changes.capacity().min(2 * self.limits.batch_bytes)),
            schemas: Definitions::default(),
            first: None,
            last: open.last,
        };
        let end_lsn = self.end_lsn.max(open.start.commit_lsn);
        self.add(open, part, Lsn::INVALID, None, None);
        self.seal(false, end_lsn);
        self.open = Some(next);
    }

    /// Puts a transaction, or a part, into the batch.
    fn add(&mut self, open: Open, part: v1::Part, end_lsn: Lsn, origin: Option<&str>, gid: Option<&str>) {
        let Open { start, mut changes, schemas, first, last, .. } = open;
        let mut head = Vec::with_capacity(64);
        wire::unsigned(&mut head, COMMIT_LSN, start.commit_lsn.0);
        wire::unsigned(&mut head, END_LSN, end_lsn.0);
        wire::signed(&mut head, COMMIT_TIME, start.commit_time);
        wire::unsigned(&mut head, XID, u64::from(start.xid));
        wire::signed(&mut head, PART, i64::from(i32::from(part)));
        if let Some(origin) = origin {
            wire::bytes(&mut head, ORIGIN, origin.as_bytes());
        }
        if let Some(gid) = gid {
            wire::bytes(&mut head, GID, gid.as_bytes());
        }
        let batch = &mut self.batch;
        let mut before = Vec::with_capacity(head.len() + 12);
        wire::length(&mut before, BATCH_TRANSACTIONS, head.len() + changes.len());
        before.extend_from_slice(&head);
        // Large ones are alone in their batch, and are not copied on their way.
        if batch.transactions.is_empty() {
            wire::prepend(&mut changes, &before);
            batch.transactions = changes;
        } else {
            batch.transactions.extend_from_slice(&before);
            batch.transactions.extend_from_slice(&changes);
        }
        batch.schemas.extend(schemas.schemas);
        let (first, time) = (first.unwrap_or(last), start.commit_time);
        let span = batch.span.get_or_insert(Span { first, last, time_min: time, time_max: time });
        (span.last, span.time_min, span.time_max) = (last, span.time_min.min(time), span.time_max.max(time));
    }

    fn close(&mut self) {
        let end_lsn = self.end_lsn;
        self.seal(true, end_lsn);
    }

    fn seal(&mut self, ends: bool, end_lsn: Lsn) {
        let Building { transactions: mut payload, schemas, span } = std::mem::take(&mut self.batch);
        let Some(Span { first, last, time_min, time_max }) = span else { return };
        let Definitions { schemas, .. } = schemas;
        if !schemas.is_empty() {
            let mut definitions = Vec::new();
            for schema in &schemas {
                wire::bytes(&mut definitions, BATCH_SCHEMAS, &schema.encode_to_vec());
            }
            wire::prepend(&mut payload, &definitions);
        }
        let through = v1::Position { commit_lsn: last.commit_lsn.0, ordinal: last.ordinal };
        wire::bytes(&mut payload, BATCH_THROUGH, &through.encode_to_vec());
        // The log's ring counts what is in it, and not the room that it had.
        payload.shrink_to_fit();
        let meta = BatchMeta { first, last, end_lsn, time_min, time_max, ends, schemas: !schemas.is_empty() };
        let forgotten = std::mem::take(&mut self.forgotten);
        self.ready.push_back(EncodedBatch { meta, payload: payload.into(), schemas, forgotten });
    }
}
