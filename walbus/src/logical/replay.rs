//! A transaction that was kept until its commit, read back.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::buffer::{Buffer, Cut, follows};
use super::change::{Body, Change, Transaction};
use super::error::LogicalError;
use super::relation::RelationCache;
use super::spool::SpoolFile;
use super::tail::ENTRY_BYTES;
use crate::position::Position;
use crate::proto::pgoutput::Message;

/// How much is read from the spool at once.
const READ_BYTES: u64 = 256 << 10;

/// The changes of a committed transaction, one after the other, in their order.
///
/// Holds in memory what the assembler held of it there, and one piece of the spool. Drop it to give back what is left.
#[derive(Debug)]
pub struct Replay<F> {
    transaction: Transaction,
    streamed: bool,
    file: Option<F>,
    /// How many bytes the spool holds.
    spooled: u64,
    /// How many of them were read.
    read: u64,
    /// What was in memory, in blocks.
    blocks: VecDeque<Bytes>,
    /// What is at hand.
    chunk: Bytes,
    /// Where the next entry lies among all bytes of the transaction.
    at: u64,
    cuts: VecDeque<Cut>,
    /// As the transaction knew them at this point.
    relations: RelationCache,
    /// As it knew them at its end.
    known: RelationCache,
    ordinal: u32,
}

impl<F: SpoolFile> Replay<F> {
    pub(super) fn new(transaction: Transaction, buffer: Buffer<F>) -> Self {
        Self {
            transaction,
            streamed: buffer.streamed,
            file: buffer.file,
            spooled: buffer.spooled,
            read: 0,
            blocks: buffer.tail.into_blocks().collect(),
            chunk: Bytes::new(),
            at: 0,
            cuts: buffer.cuts.into(),
            relations: RelationCache::default(),
            known: buffer.relations,
            ordinal: 0,
        }
    }

    /// The transaction.
    #[must_use]
    pub const fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// The next change, `None` after the last. Rows share the memory of the piece they were read with.
    ///
    /// # Errors
    /// Where the spool fails. It may be asked again then, though a spool that does not hold what was put there won't do better.
    pub fn poll_change(&mut self) -> Result<Option<Change>, LogicalError> {
        while let Some((at, xid, payload)) = self.entry()? {
            let (own, message) = Message::parse(&payload, self.streamed, false)?;
            match message {
                Message::Relation(relation) => {
                    let oid = relation.oid;
                    self.relations.handle_relation(0, relation);
                    self.relations.share(oid, &self.known);
                }
                Message::Type(named) => self.relations.handle_type(0, named),
                _ if self.is_cut(at, xid) => {}
                change => {
                    if let Some(body) = Body::of(change, &self.relations)? {
                        return self.number(own.unwrap_or(self.transaction.xid), body).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    fn number(&mut self, xid: u32, body: Body) -> Result<Change, LogicalError> {
        let top = self.transaction.xid;
        self.ordinal = self.ordinal.checked_add(1).ok_or(LogicalError::TooManyChanges { xid: top })?;
        let position = Position { commit_lsn: self.transaction.commit_lsn, ordinal: self.ordinal };
        Ok(Change { position, xid, body })
    }

    /// Whether the change at `at` was rolled back.
    fn is_cut(&mut self, at: u64, xid: u32) -> bool {
        // Of the cuts that reach so far, the first one has the earliest xid.
        while self.cuts.pop_front_if(|cut| cut.until <= at).is_some() {}
        self.cuts.front().is_some_and(|cut| follows(xid, cut.xid))
    }

    /// The next entry: where it lies, the xid it counts for, and the message.
    fn entry(&mut self) -> Result<Option<(u64, u32, Bytes)>, LogicalError> {
        if !self.fill(ENTRY_BYTES)? {
            return Ok(None);
        }
        let mut head = &self.chunk[..ENTRY_BYTES];
        let (length, xid) = (head.get_u32_le() as usize, head.get_u32_le());
        if !self.fill(ENTRY_BYTES + length)? {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut entry = self.chunk.split_to(ENTRY_BYTES + length);
        entry.advance(ENTRY_BYTES);
        let at = self.at;
        self.at += (ENTRY_BYTES + length) as u64;
        Ok(Some((at, xid, entry)))
    }

    /// Brings at least `bytes` to hand, `false` where no more follow at all. Entries straddle neither two blocks nor spool and memory.
    fn fill(&mut self, bytes: usize) -> Result<bool, LogicalError> {
        if self.chunk.len() >= bytes {
            return Ok(true);
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.read < self.spooled) {
            let missing = (bytes - self.chunk.len()) as u64;
            let piece = missing.max(READ_BYTES).min(self.spooled - self.read);
            let piece = usize::try_from(piece).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            let mut next = BytesMut::with_capacity(self.chunk.len() + piece);
            next.extend_from_slice(&self.chunk);
            let held = next.len();
            next.resize(held + piece, 0);
            if file.read_at(&mut next[held..], self.read)? < piece {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.read += piece as u64;
            self.chunk = next.freeze();
        } else if self.chunk.is_empty() {
            // All of the spool is done with: its room is needed no more.
            self.file = None;
            match self.blocks.pop_front() {
                Some(block) => self.chunk = block,
                None => return Ok(false),
            }
        }
        if self.chunk.len() < bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(true)
    }
}
