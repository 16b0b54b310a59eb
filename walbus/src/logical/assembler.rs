//! Messages in, committed transactions out.

use std::collections::HashMap;

use bytes::Bytes;

use super::buffer::Buffer;
use super::change::{Body, Change, Transaction};
use super::error::LogicalError;
use super::relation::RelationCache;
use super::replay::Replay;
use super::spool::{Spool, SpoolFile};
use crate::ident::PgTime;
use crate::lsn::Lsn;
use crate::position::Position;
use crate::proto::pgoutput::{
    Begin, BeginPrepare, Commit, LogicalMessage, Message, Origin, Parsed, Prepare, Relation, RollbackPrepared, StreamAbort,
    StreamStart, Type,
};

/// How much an [`Assembler`] may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many bytes of messages of all open transactions together are in memory; what is more is spooled.
    pub memory_bytes: usize,
    /// How many nested or neighbouring subtransactions of one transaction are known by their place. Where there are more, what is rolled
    /// back of the earlier ones is left out when the transaction is read back, rather than cut off at once.
    pub subtransactions: usize,
}

impl Default for Limits {
    /// 16 MiB, and 4,096 subtransactions.
    fn default() -> Self {
        Self { memory_bytes: 16 << 20, subtransactions: 4096 }
    }
}

/// What has become of a message.
#[derive(Debug)]
pub enum Step<F> {
    /// A transaction begins that was committed. Its changes follow.
    Begin(Begin),
    /// A change of the transaction that has begun.
    Change(Change),
    /// The transaction that has begun is whole.
    Commit(Transaction),
    /// A transaction that was kept is committed. Its changes are to be polled, before anything of a later one.
    Committed(Box<Replay<F>>),
    /// A logical message outside of any transaction. It stands by itself, and is confirmed by its own LSN.
    Message(Change),
    /// A prepared transaction that is not held was committed or rolled back.
    NotHeld(NotHeld),
    /// Taken in.
    Nothing,
    /// A transaction was prepared, and is kept.
    Prepared(Prepare),
    /// A prepared transaction was rolled back, and is dropped.
    RolledBack {
        /// Where it was prepared: what [`Step::Prepared`] said.
        prepare_lsn: Lsn,
        /// Its end.
        rollback: RollbackPrepared,
    },
    /// A part of a transaction, or a message, that the caller has already, be it on its way to being durable. Where it was the last part, the
    /// transaction: nothing of it may be confirmed that is not durable yet. A message by itself is one with the xid 0.
    Skipped(Option<Transaction>),
}

/// What became of a prepared transaction that is not held.
///
/// A server sends a transaction at its `PREPARE`, and only its end to a session that starts behind that. So either something was
/// confirmed past the prepare record, for which the caller has to have kept the transaction durably, or it is lost: a
/// [`Feedback`](super::Feedback) that was told of each [`Step::Prepared`] confirms no such thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotHeld {
    /// It was committed: its changes are missing, where nobody else kept them.
    Committed(Transaction),
    /// It was rolled back: nothing is missing.
    RolledBack(RollbackPrepared),
}

/// Puts transactions together out of the messages of one session after the other.
///
/// Give every message of [`Parser`](crate::proto::pgoutput::Parser) to [`Assembler::handle`] and do what the [`Step`] says. When a
/// session ends, call [`Assembler::handle_reconnect`] before the first message of the next one. After an error, too, only that
/// is left to do.
///
/// What is committed comes in the order of the commits. What was sent whole is not kept here. What was streamed or prepared is, up to
/// its end, in memory and above [`Limits::memory_bytes`] in the [`Spool`].
#[derive(Debug)]
pub struct Assembler<S: Spool> {
    spool: S,
    limits: Limits,
    /// As told to all transactions.
    relations: RelationCache,
    arrivals: u64,
    /// The transaction that is being sent whole.
    whole: Option<Whole<S::File>>,
    /// The one that is being streamed.
    stream: Option<u32>,
    open: HashMap<u32, Buffer<S::File>>,
    prepared: HashMap<String, Held<S::File>>,
    /// Where the last one that was given was committed.
    last: Lsn,
    /// Up to where commits are known to the caller.
    skip: Lsn,
    /// The memory of all buffers.
    memory: usize,
}

#[derive(Debug)]
enum Whole<F> {
    Committed { begin: Begin, origin: Option<Origin>, ordinal: u32, skip: bool },
    Prepared { begin: BeginPrepare, buffer: Box<Buffer<F>> },
}

#[derive(Debug)]
struct Held<F> {
    prepare: Prepare,
    buffer: Buffer<F>,
}

impl<S: Spool> Assembler<S> {
    /// An assembler that has given nothing. Commits up to `durable` are those that the caller has kept, `0/0` for none: they are
    /// skipped, since a primary sends again what was not confirmed.
    pub fn new(spool: S, limits: Limits, durable: Lsn) -> Self {
        Self {
            spool,
            limits,
            relations: RelationCache::default(),
            arrivals: 0,
            whole: None,
            stream: None,
            open: HashMap::new(),
            prepared: HashMap::new(),
            last: durable,
            skip: durable,
            memory: 0,
        }
    }

    /// Another session begins. What was open or prepared is dropped, since it is sent again whole: see [`Feedback`](super::Feedback).
    /// Commits up to `durable`, the last that the caller has kept or is about to, are skipped.
    pub fn handle_reconnect(&mut self, durable: Lsn) {
        self.whole = None;
        self.stream = None;
        self.open.clear();
        self.prepared.clear();
        (self.last, self.skip, self.memory) = (durable, durable, 0);
    }

    /// How many bytes of memory hold what is not committed.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.memory
    }

    /// How many bytes of what is not committed are spooled.
    #[must_use]
    pub fn spooled_bytes(&self) -> u64 {
        let whole = match &self.whole {
            Some(Whole::Prepared { buffer, .. }) => buffer.spooled,
            _ => 0,
        };
        let prepared = self.prepared.values().map(|held| held.buffer.spooled);
        whole + self.open.values().map(|buffer| buffer.spooled).chain(prepared).sum::<u64>()
    }

    /// How many transactions are open, those prepared included.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len() + self.prepared.len() + usize::from(self.whole.is_some())
    }

    /// Takes the next message, and the payload that it was parsed from.
    ///
    /// # Errors
    /// Where it may not come here, names what was not told of, or the spool fails.
    #[inline]
    pub fn handle(&mut self, parsed: Parsed, payload: &Bytes) -> Result<Step<S::File>, LogicalError> {
        match parsed.message {
            Message::Begin(begin) => self.begin(begin),
            Message::BeginPrepare(begin) => self.begin_prepare(begin),
            Message::Commit(commit) => self.commit(commit),
            Message::CommitPrepared(commit) => {
                let (xid, gid) = (commit.xid, commit.gid);
                let commit = Commit { commit_lsn: commit.commit_lsn, end_lsn: commit.end_lsn, commit_time: commit.commit_time };
                self.commit_prepared(xid, gid, commit)
            }
            Message::Origin(origin) => self.origin(origin),
            Message::Prepare(prepare) => self.prepare(prepare),
            Message::Relation(relation) => self.relation(relation, payload),
            Message::RollbackPrepared(rollback) => self.rollback_prepared(rollback),
            Message::StreamAbort(abort) => self.stream_abort(abort),
            Message::StreamCommit(commit) => self.stream_commit(commit.xid, commit.commit),
            Message::StreamPrepare(prepare) => self.stream_prepare(prepare.0),
            Message::StreamStart(start) => self.stream_start(start),
            Message::StreamStop => self.stream_stop(),
            Message::Type(named) => self.type_name(named, payload),
            Message::LogicalMessage(message) if !message.transactional => self.message(message),
            change => self.change(parsed.xid, change, payload),
        }
    }

    fn change(&mut self, xid: Option<u32>, message: Message, payload: &Bytes) -> Result<Step<S::File>, LogicalError> {
        if let Some(Whole::Committed { begin, ordinal, skip, .. }) = &mut self.whole {
            let name = message.name();
            let Some(body) = Body::of(message, &self.relations)? else { return Err(out_of_place(name, "it is no change")) };
            if *skip {
                return Ok(Step::Skipped(None));
            }
            *ordinal = ordinal.checked_add(1).ok_or(LogicalError::TooManyChanges { xid: begin.xid })?;
            let position = Position { commit_lsn: begin.final_lsn, ordinal: *ordinal };
            return Ok(Step::Change(Change { position, xid: begin.xid, body }));
        }
        let (name, streamed) = (message.name(), self.stream.is_some());
        let held = buffer_capacity(self.current());
        if let Some(Whole::Prepared { buffer, .. }) = &mut self.whole {
            Self::lend(&self.relations, self.arrivals, &message, buffer)?;
        }
        let Some(buffer) = self.current() else { return Err(out_of_place(name, "no transaction has begun")) };
        let xid = match xid {
            Some(xid) => xid,
            None if streamed => return Err(out_of_place(name, "it has no xid in a streamed transaction")),
            None => buffer.xid,
        };
        // What the row does not fit is found now, while the session can still say so, and not at the commit.
        Body::of(message.clone(), &buffer.relations)?;
        buffer.push_change(xid, &message, payload);
        self.memory = self.memory - held + buffer_capacity(self.current());
        self.keep_limit()?;
        Ok(Step::Nothing)
    }

    /// The transaction that is being received and kept.
    fn current(&mut self) -> Option<&mut Buffer<S::File>> {
        match (&mut self.whole, self.stream) {
            (Some(Whole::Prepared { buffer, .. }), _) => Some(buffer),
            (None, Some(xid)) => self.open.get_mut(&xid),
            _ => None,
        }
    }

    /// Spools the largest transactions until the rest is within the limit.
    fn keep_limit(&mut self) -> Result<(), LogicalError> {
        while self.memory > self.limits.memory_bytes {
            let whole = match &mut self.whole {
                Some(Whole::Prepared { buffer, .. }) => Some(buffer.as_mut()),
                _ => None,
            };
            let prepared = self.prepared.values_mut().map(|held| &mut held.buffer);
            let all = self.open.values_mut().chain(prepared).chain(whole);
            let Some(largest) = all.max_by_key(|buffer| buffer.tail.capacity()) else { break };
            let held = largest.tail.capacity();
            if held == 0 {
                break;
            }
            largest.spill(&mut self.spool)?;
            self.memory -= held;
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin) -> Result<Step<S::File>, LogicalError> {
        self.no_transaction("Begin")?;
        let skip = self.is_skipped(begin.final_lsn)?;
        self.whole = Some(Whole::Committed { begin, origin: None, ordinal: 0, skip });
        Ok(if skip { Step::Skipped(None) } else { Step::Begin(begin) })
    }

    fn commit(&mut self, commit: Commit) -> Result<Step<S::File>, LogicalError> {
        let name = "Commit";
        match self.whole.take() {
            Some(Whole::Committed { begin, .. }) if begin.final_lsn != commit.commit_lsn => {
                Err(out_of_place(name, "its LSN is not the one that Begin announced"))
            }
            Some(Whole::Committed { begin, origin, skip: true, .. }) => {
                Ok(Step::Skipped(Some(transaction(begin.xid, commit, origin, None))))
            }
            Some(Whole::Committed { begin, origin, .. }) => {
                self.last = commit.commit_lsn;
                Ok(Step::Commit(transaction(begin.xid, commit, origin, None)))
            }
            Some(Whole::Prepared { .. }) => Err(out_of_place(name, "the transaction is one that is prepared")),
            None => Err(out_of_place(name, "no transaction has begun")),
        }
    }

    fn origin(&mut self, origin: Origin) -> Result<Step<S::File>, LogicalError> {
        if let Some(Whole::Committed { origin: known, .. }) = &mut self.whole {
            *known = Some(origin);
        } else if let Some(buffer) = self.current() {
            buffer.origin = Some(origin);
        } else {
            return Err(out_of_place("Origin", "no transaction has begun"));
        }
        Ok(Step::Nothing)
    }

    fn type_name(&mut self, named: Type, payload: &Bytes) -> Result<Step<S::File>, LogicalError> {
        self.describe(b'Y', named.oid, payload, "Type", |cache, arrival| cache.handle_type(arrival, named.clone()))
    }

    fn relation(&mut self, relation: Relation, payload: &Bytes) -> Result<Step<S::File>, LogicalError> {
        self.describe(b'R', relation.oid, payload, "Relation", |cache, arrival| {
            cache.handle_relation(arrival, relation.clone());
        })
    }

    /// Tells whom it concerns: all, where a transaction is sent whole, or only the one that is streamed.
    fn describe(
        &mut self,
        kind: u8,
        oid: u32,
        payload: &Bytes,
        name: &'static str,
        tell: impl Fn(&mut RelationCache, u64),
    ) -> Result<Step<S::File>, LogicalError> {
        self.arrivals += 1;
        let arrival = self.arrivals;
        if self.whole.is_some() {
            tell(&mut self.relations, arrival);
        }
        if let Some(buffer) = self.current() {
            let held = buffer.tail.capacity();
            tell(&mut buffer.relations, arrival);
            buffer.push_description(kind, oid, payload);
            self.memory = self.memory - held + buffer_capacity(self.current());
            self.keep_limit()?;
        } else if self.whole.is_none() {
            return Err(out_of_place(name, "no transaction has begun"));
        }
        Ok(Step::Nothing)
    }

    /// A transaction that is prepared uses what was told before it began. It is read back later, when that may look otherwise, so it
    /// is given what it uses as it is now.
    fn lend(relations: &RelationCache, arrival: u64, message: &Message, buffer: &mut Buffer<S::File>) -> Result<(), LogicalError> {
        let oids = match message {
            Message::Insert(insert) => std::slice::from_ref(&insert.relation),
            Message::Update(update) => std::slice::from_ref(&update.relation),
            Message::Delete(delete) => std::slice::from_ref(&delete.relation),
            Message::Truncate(truncate) => &truncate.relations,
            _ => &[],
        };
        for oid in oids.iter().copied().filter(|oid| buffer.relations.definition(*oid).is_none()).collect::<Vec<_>>() {
            let definition = relations.definition(oid).ok_or(LogicalError::UnknownRelation { oid })?;
            let mut put = |kind, oid, message: Message| {
                let mut payload = Vec::new();
                message.encode(None, &mut payload);
                buffer.push_description(kind, oid, &payload);
            };
            for named in definition.types.iter().flatten() {
                put(b'Y', named.oid, Message::Type(named.as_ref().clone()));
            }
            put(b'R', oid, Message::Relation(definition.relation.clone()));
            buffer.relations.insert(arrival, definition.clone());
        }
        Ok(())
    }

    fn message(&mut self, message: LogicalMessage) -> Result<Step<S::File>, LogicalError> {
        self.no_transaction("Message")?;
        let position = Position::of_message(message.lsn);
        if self.is_skipped(position.commit_lsn)? {
            let commit = Commit { commit_lsn: position.commit_lsn, end_lsn: message.lsn, commit_time: PgTime::default() };
            return Ok(Step::Skipped(Some(transaction(0, commit, None, None))));
        }
        self.last = position.commit_lsn;
        Ok(Step::Message(Change { position, xid: 0, body: Body::Message(message) }))
    }

    fn stream_start(&mut self, start: StreamStart) -> Result<Step<S::File>, LogicalError> {
        let name = "Stream Start";
        self.no_transaction(name)?;
        let StreamStart { xid, first_segment } = start;
        match (first_segment, self.open.contains_key(&xid)) {
            (true, true) => return Err(out_of_place(name, "a first part of a transaction of which one has come")),
            (false, false) => return Err(LogicalError::UnknownTransaction { message: name, xid }),
            (true, false) => drop(self.open.insert(xid, Buffer::new(xid, true, self.limits.subtransactions))),
            (false, true) => {}
        }
        self.stream = Some(xid);
        Ok(Step::Nothing)
    }

    fn stream_stop(&mut self) -> Result<Step<S::File>, LogicalError> {
        match self.stream.take() {
            Some(_) => Ok(Step::Nothing),
            None => Err(out_of_place("Stream Stop", "none was started")),
        }
    }

    fn stream_abort(&mut self, abort: StreamAbort) -> Result<Step<S::File>, LogicalError> {
        self.no_transaction("Stream Abort")?;
        if abort.xid == abort.subxid {
            if let Some(buffer) = self.open.remove(&abort.xid) {
                self.memory -= buffer.tail.capacity();
            }
        } else if let Some(buffer) = self.open.get_mut(&abort.xid) {
            let held = buffer.tail.capacity();
            buffer.abort(abort.subxid)?;
            self.memory = self.memory - held + buffer.tail.capacity();
            self.keep_limit()?;
        }
        // Of a transaction that is not known there is nothing to drop.
        Ok(Step::Nothing)
    }

    fn stream_commit(&mut self, xid: u32, commit: Commit) -> Result<Step<S::File>, LogicalError> {
        let message = "Stream Commit";
        self.no_transaction(message)?;
        let buffer = self.open.remove(&xid).ok_or(LogicalError::UnknownTransaction { message, xid })?;
        self.give(buffer, commit, None)
    }

    fn begin_prepare(&mut self, begin: BeginPrepare) -> Result<Step<S::File>, LogicalError> {
        self.no_transaction("Begin Prepare")?;
        let buffer = Box::new(Buffer::new(begin.xid, false, self.limits.subtransactions));
        self.whole = Some(Whole::Prepared { begin, buffer });
        Ok(Step::Nothing)
    }

    fn prepare(&mut self, prepare: Prepare) -> Result<Step<S::File>, LogicalError> {
        match self.whole.take() {
            Some(Whole::Prepared { begin, buffer })
                if begin.prepare_lsn == prepare.prepare_lsn && begin.xid == prepare.xid && begin.gid == prepare.gid =>
            {
                self.hold(prepare, *buffer)
            }
            Some(_) => Err(out_of_place("Prepare", "it is not of the transaction that has begun")),
            None => Err(out_of_place("Prepare", "no transaction has begun")),
        }
    }

    fn stream_prepare(&mut self, prepare: Prepare) -> Result<Step<S::File>, LogicalError> {
        let (message, xid) = ("Stream Prepare", prepare.xid);
        self.no_transaction(message)?;
        let buffer = self.open.remove(&xid).ok_or(LogicalError::UnknownTransaction { message, xid })?;
        self.hold(prepare, buffer)
    }

    fn hold(&mut self, prepare: Prepare, buffer: Buffer<S::File>) -> Result<Step<S::File>, LogicalError> {
        if self.prepared.contains_key(&prepare.gid) {
            return Err(out_of_place("Prepare", "a transaction of that gid is prepared already"));
        }
        self.prepared.insert(prepare.gid.clone(), Held { prepare: prepare.clone(), buffer });
        Ok(Step::Prepared(prepare))
    }

    fn commit_prepared(&mut self, xid: u32, gid: String, commit: Commit) -> Result<Step<S::File>, LogicalError> {
        self.no_transaction("Commit Prepared")?;
        // A gid is free again after its transaction's end: the xid says which one is meant.
        match self.prepared.remove(&gid) {
            Some(held) if held.prepare.xid == xid => self.give(held.buffer, commit, Some(held.prepare)),
            Some(_) => Err(out_of_place("Commit Prepared", "the transaction that is prepared under its gid is another one")),
            None => {
                let skipped = self.is_skipped(commit.commit_lsn)?;
                let transaction = Transaction { gid: Some(gid), ..transaction(xid, commit, None, None) };
                if skipped {
                    return Ok(Step::Skipped(Some(transaction)));
                }
                self.last = commit.commit_lsn;
                Ok(Step::NotHeld(NotHeld::Committed(transaction)))
            }
        }
    }

    fn rollback_prepared(&mut self, rollback: RollbackPrepared) -> Result<Step<S::File>, LogicalError> {
        let name = "Rollback Prepared";
        self.no_transaction(name)?;
        match self.prepared.remove(&rollback.gid) {
            Some(held) if held.prepare.xid == rollback.xid => {
                self.memory -= held.buffer.tail.capacity();
                Ok(Step::RolledBack { prepare_lsn: held.prepare.prepare_lsn, rollback })
            }
            Some(_) => Err(out_of_place(name, "the transaction that is prepared under its gid is another one")),
            None => Ok(Step::NotHeld(NotHeld::RolledBack(rollback))),
        }
    }

    /// Gives a transaction that was kept.
    fn give(
        &mut self,
        mut buffer: Buffer<S::File>,
        commit: Commit,
        prepare: Option<Prepare>,
    ) -> Result<Step<S::File>, LogicalError> {
        self.memory -= buffer.tail.capacity();
        self.relations.merge(&mut buffer.relations);
        let skipped = self.is_skipped(commit.commit_lsn)?;
        let transaction = transaction(buffer.xid, commit, buffer.origin.take(), prepare);
        if skipped {
            return Ok(Step::Skipped(Some(transaction)));
        }
        self.last = transaction.commit_lsn;
        Ok(Step::Committed(Box::new(Replay::new(transaction, buffer))))
    }

    /// Whether the caller has what is committed at `commit_lsn`.
    const fn is_skipped(&self, commit_lsn: Lsn) -> Result<bool, LogicalError> {
        match (commit_lsn.0 <= self.skip.0, commit_lsn.0 <= self.last.0) {
            (true, _) => Ok(true),
            (false, true) => Err(LogicalError::NotBehind { commit_lsn, last: self.last }),
            (false, false) => Ok(false),
        }
    }

    const fn no_transaction(&self, message: &'static str) -> Result<(), LogicalError> {
        match (&self.whole, self.stream) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(out_of_place(message, "a transaction has begun that has not ended")),
            (None, Some(_)) => Err(out_of_place(message, "a stream has started that has not stopped")),
        }
    }
}

fn buffer_capacity<F: SpoolFile>(buffer: Option<&mut Buffer<F>>) -> usize {
    buffer.map_or(0, |buffer| buffer.tail.capacity())
}

fn transaction(xid: u32, commit: Commit, origin: Option<Origin>, prepare: Option<Prepare>) -> Transaction {
    let Commit { commit_lsn, end_lsn, commit_time } = commit;
    let (prepare_lsn, gid) = prepare.map(|prepare| (prepare.prepare_lsn, prepare.gid)).unzip();
    Transaction { xid, commit_lsn, end_lsn, commit_time, origin, prepare_lsn, gid }
}

const fn out_of_place(message: &'static str, problem: &'static str) -> LogicalError {
    LogicalError::OutOfPlace { message, problem }
}
