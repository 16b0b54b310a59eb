//! What stands for the slot: sends transactions from what was confirmed on, to the real encoder and the log's writer.

use std::io;
use std::sync::Arc;

use walbus::sim::{PowerDisk, Random};
use walbus::{Lsn, Position};

use super::Met;
use super::history::History;
use crate::encode::{Encoder, Limits, TransactionStart};
use crate::log::Writer;

/// The source of one life of the server.
pub(super) struct Source {
    pub(super) writer: Writer<PowerDisk>,
    encoder: Encoder,
    /// The number of the transaction that comes next, once that is known.
    next: Option<usize>,
    /// The change of it that comes next, where it has begun.
    ordinal: Option<u32>,
}

impl Source {
    pub(super) fn new(writer: Writer<PowerDisk>, batch_bytes: usize, confirmed: Lsn) -> Self {
        let known = Arc::clone(writer.schemas());
        let encoder = Encoder::new(Limits { batch_bytes }, known.iter(), confirmed);
        Self { writer, encoder, next: None, ordinal: None }
    }

    /// Sends some changes, and gives the log what has become a batch.
    pub(super) fn advance(
        &mut self,
        history: &mut History,
        random: &mut Random,
        largest: &mut usize,
        seen: &mut Met,
    ) -> io::Result<()> {
        for _ in 0..1 + random.below(3) {
            let changes = u32::try_from(1 + random.below(30)).unwrap();
            self.send(history, changes);
        }
        let all = random.chance(1, 2);
        while self.encoder.is_full() || (all && self.encoder.has_batch()) {
            self.append(largest, seen)?;
        }
        Ok(())
    }

    /// What the log holds begins there: definitions that only older transactions use may be forgotten.
    pub(super) fn prune(&mut self, earliest: Position) {
        self.encoder.prune(earliest.commit_lsn);
    }

    /// Sends the transaction that has begun to its end.
    pub(super) fn complete(&mut self, history: &mut History, largest: &mut usize, seen: &mut Met) -> io::Result<()> {
        self.send(history, u32::MAX);
        while self.encoder.has_batch() {
            self.append(largest, seen)?;
        }
        Ok(())
    }

    /// The connection to the slot breaks: it sends again what the encoder has not seen to its end.
    pub(super) fn lose_session(&mut self, history: &mut History) {
        self.encoder.suspend();
        self.ordinal = None;
        self.next = Some(history.behind(self.encoder.end_lsn()));
    }

    /// Has done what is wanted beside the log.
    pub(super) fn job(&mut self) -> io::Result<()> {
        self.writer.job().map_or(Ok(()), |job| job.run().map(|done| self.writer.finish(done)))
    }

    fn send(&mut self, history: &mut History, changes: u32) {
        let next = *self.next.get_or_insert_with(|| history.behind(self.encoder.end_lsn()));
        let committed = history.get(next);
        let from = self.ordinal.unwrap_or_else(|| {
            let (xid, commit_lsn, commit_time) = (committed.xid, committed.lsn, committed.time);
            self.encoder.begin(TransactionStart { xid, commit_lsn, commit_time }).unwrap();
            1
        });
        let last = committed.end().ordinal;
        let to = last.min(from.saturating_add(changes - 1));
        for ordinal in from..=to {
            self.encoder.change(&committed.change(ordinal));
        }
        self.ordinal = (to < last).then_some(to + 1);
        if to == last {
            self.encoder.commit(&committed.commit());
            self.next = Some(next + 1);
        }
    }

    fn append(&mut self, largest: &mut usize, seen: &mut Met) -> io::Result<()> {
        let Some(batch) = self.encoder.take() else { return Ok(()) };
        *largest = batch.payload.len().max(*largest);
        seen.parts += u64::from(!batch.meta.ends);
        seen.forgotten += batch.forgotten.len() as u64;
        self.writer.forget(&batch.forgotten);
        self.writer.append(batch.meta, batch.payload, &batch.schemas)
    }
}
