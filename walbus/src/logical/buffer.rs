//! A transaction of which it is not known yet whether it will be committed.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::error::LogicalError;
use super::relation::RelationCache;
use super::spool::{Spool, SpoolFile};
use super::tail::{ENTRY_BYTES, Tail};
use crate::proto::pgoutput::{Message, Origin};

/// The messages of one transaction in their order, as they came: first those in the spool, then those in memory.
#[derive(Debug)]
pub(super) struct Buffer<F> {
    /// The top transaction.
    pub(super) xid: u32,
    /// Whether the messages carry xids.
    pub(super) streamed: bool,
    pub(super) origin: Option<Origin>,
    /// What the transaction was told.
    pub(super) relations: RelationCache,
    pub(super) file: Option<F>,
    /// How many bytes the spool holds.
    pub(super) spooled: u64,
    pub(super) tail: Tail,
    /// How many bytes there are.
    pub(super) end: u64,
    /// What was rolled back and could not be cut off.
    pub(super) cuts: Vec<Cut>,
    told: HashMap<(u8, u32), Told>,
    subs: Subtransactions,
}

/// All changes before `until` whose xid is `xid` or a later one were rolled back.
///
/// In a list of them, both grow: a cut takes the place of all before it that have later xids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) xid: u32,
    pub(super) until: u64,
}

/// The last description of a relation or type.
#[derive(Debug)]
struct Told {
    at: u64,
    payload: Bytes,
}

/// Whether `xid` was given out at the same time as `other` or later: xids wrap around, and two that are both in use lie less than
/// half of all apart (`TransactionIdFollowsOrEquals`).
pub(super) const fn follows(xid: u32, other: u32) -> bool {
    xid.wrapping_sub(other) < 1 << 31
}

impl<F: SpoolFile> Buffer<F> {
    pub(super) fn new(xid: u32, streamed: bool, subtransactions: usize) -> Self {
        Self {
            xid,
            streamed,
            origin: None,
            relations: RelationCache::default(),
            file: None,
            spooled: 0,
            tail: Tail::default(),
            end: 0,
            cuts: Vec::new(),
            told: HashMap::new(),
            subs: Subtransactions { stack: VecDeque::new(), limit: subtransactions.max(1), forgotten: None },
        }
    }

    /// Takes a change that this transaction or one below it made.
    pub(super) fn push_change(&mut self, xid: u32, message: &Message, payload: &[u8]) {
        let xid = match message {
            // The xid it carries is the top transaction's, whoever wrote it.
            Message::LogicalMessage(_) => self.subs.innermost().unwrap_or(self.xid),
            _ => {
                self.subs.enter(xid, self.xid, self.end);
                xid
            }
        };
        self.push(xid, payload);
    }

    /// Takes what describes a relation or a type. It counts for the top transaction, so no rollback of a part drops it.
    pub(super) fn push_description(&mut self, kind: u8, oid: u32, payload: &[u8]) {
        if self.told.get(&(kind, oid)).is_some_and(|told| self.content(&told.payload) == self.content(payload)) {
            return;
        }
        self.told.insert((kind, oid), Told { at: self.end, payload: Bytes::copy_from_slice(payload) });
        self.push(self.xid, payload);
    }

    /// A message without its type and xid.
    fn content<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(if self.streamed { 5 } else { 1 }..).unwrap_or_default()
    }

    fn push(&mut self, xid: u32, payload: &[u8]) {
        self.tail.push(self.end, xid, payload);
        self.end += (ENTRY_BYTES + payload.len()) as u64;
    }

    /// Drops what the subtransaction `subxid` and all that are later than it have done so far.
    pub(super) fn abort(&mut self, subxid: u32) -> Result<(), LogicalError> {
        if let Some(first) = self.subs.leave(subxid) {
            self.truncate(first)?;
        }
        if self.subs.forgotten.is_some_and(|forgotten| follows(forgotten, subxid)) {
            self.cuts.truncate(self.cuts.partition_point(|cut| !follows(cut.xid, subxid)));
            if self.cuts.last().is_none_or(|cut| cut.until < self.end) {
                self.cuts.push(Cut { xid: subxid, until: self.end });
            }
            let left = subxid.wrapping_sub(1);
            self.subs.forgotten = (left != self.xid && follows(left, self.xid)).then_some(left);
        }
        Ok(())
    }

    fn truncate(&mut self, end: u64) -> Result<(), LogicalError> {
        if end < self.spooled
            && let Some(file) = &mut self.file
        {
            file.truncate(end)?;
            self.spooled = end;
        }
        self.tail.truncate(end);
        self.end = end;
        for cut in &mut self.cuts {
            cut.until = cut.until.min(end);
        }
        // A relation that was described in what is dropped is still known to whom it was described.
        let mut lost: Vec<_> = self.told.iter().filter(|(_, told)| told.at >= end).map(|(key, told)| (told.at, *key)).collect();
        lost.sort_unstable();
        for (_, key) in lost {
            if let Some(told) = self.told.get_mut(&key) {
                told.at = self.end;
                let payload = told.payload.clone();
                self.push(self.xid, &payload);
            }
        }
        Ok(())
    }

    /// Moves what is in memory to the spool.
    pub(super) fn spill<S: Spool<File = F>>(&mut self, spool: &mut S) -> Result<(), LogicalError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(spool.create()?),
        };
        for block in self.tail.blocks() {
            file.append(block)?;
        }
        self.tail = Tail::default();
        self.spooled = self.end;
        Ok(())
    }
}

/// The subtransactions that may still be rolled back by themselves, as far as can be told: those that may enclose the last change.
///
/// Both xids and starts grow from the first to the last, since whoever writes has ended all that were born after it.
#[derive(Debug)]
struct Subtransactions {
    stack: VecDeque<Subtransaction>,
    limit: usize,
    /// The latest of those that had to be forgotten for the limit.
    forgotten: Option<u32>,
}

#[derive(Debug)]
struct Subtransaction {
    xid: u32,
    /// Where the first change lies that it or one below it made.
    first: u64,
}

impl Subtransactions {
    /// `xid` makes a change, which will lie at `at`.
    fn enter(&mut self, xid: u32, top: u32, at: u64) {
        if self.stack.back().is_some_and(|last| last.xid == xid) {
            return;
        }
        if xid == top {
            self.stack.clear();
            self.forgotten = None;
            return;
        }
        let first = self.leave_later(xid).unwrap_or(at);
        if self.stack.back().is_none_or(|last| last.xid != xid) {
            self.stack.push_back(Subtransaction { xid, first });
        }
        if self.stack.len() > self.limit {
            self.forgotten = self.stack.pop_front().map(|sub| sub.xid);
        }
    }

    /// Forgets those that are later than `xid`, and gives where the first of them began.
    fn leave_later(&mut self, xid: u32) -> Option<u64> {
        let mut first = None;
        while let Some(last) = self.stack.pop_back_if(|last| last.xid != xid && follows(last.xid, xid)) {
            first = Some(last.first);
        }
        first
    }

    /// Forgets `xid` and those that are later, and gives where the first of them began.
    fn leave(&mut self, xid: u32) -> Option<u64> {
        let later = self.leave_later(xid);
        self.stack.pop_back_if(|last| last.xid == xid).map(|own| own.first).or(later)
    }

    /// The one that made the last change, where it was not the top transaction.
    fn innermost(&self) -> Option<u32> {
        self.stack.back().map(|last| last.xid).or(self.forgotten)
    }
}
