//! Proof that what the slot sends is the history that the log holds.
//!
//! A primary sends again what was committed behind the slot's position, and what the log has of that is passed over by its position alone. In
//! a cluster that was restored from an older copy, or whose standby was promoted without the last of the WAL, other transactions stand at these
//! positions: they would be passed over too, and be missing. So where the slot stands before the log's last transaction, that very one has to
//! come before anything new does.
//!
//! Pure but for [`Last::of`].

use std::io;

use beyond_cdc_proto::prost::Message as _;
use beyond_cdc_proto::v1::Batch;
use walbus::disk::Disk;
use walbus::logical::Transaction;
use walbus::{Lsn, Position};

use crate::log::{EventLog, ReadError};

/// The last transaction that the log was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) commit_lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) xid: u32,
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub(super) commit_time: i64,
}

/// Another history than the log's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log holds the transaction {} that was committed at {}, and the upstream sends {sent} instead of it: the upstream was restored from an \
     older copy, or a standby was promoted that had not received it, and changes may be missing (if --publication or --messages was changed before that \
     transaction was confirmed, start once more as before)",
    .held.xid,
    .held.commit_lsn
)]
pub(super) struct OtherHistory {
    held: Last,
    sent: String,
}

/// What has to come before anything new does.
#[derive(Debug)]
pub(super) struct Continuity {
    awaited: Option<Last>,
}

impl Last {
    pub(super) fn new(transaction: &Transaction) -> Self {
        let Transaction { xid, commit_lsn, end_lsn, commit_time, .. } = *transaction;
        Self { commit_lsn, end_lsn, xid, commit_time: commit_time.to_unix_micros() }
    }

    /// The last transaction of a log, `None` where it holds none. Blocks on files.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub(super) fn of<D: Disk>(log: &EventLog<D>) -> io::Result<Option<Self>> {
        let head = log.head();
        if head <= log.earliest() {
            return Ok(None);
        }
        let failed = |error: ReadError| io::Error::other(error);
        let before = Position { ordinal: head.ordinal.saturating_sub(1), ..head };
        let mut reader = log.reader(before).map_err(failed)?;
        let Some(entry) = reader.next_from_files().map_err(failed)? else { return Ok(None) };
        let batch = Batch::decode(entry.payload.clone()).map_err(io::Error::other)?;
        Ok(batch.transactions.last().map(|last| Self {
            commit_lsn: Lsn(last.commit_lsn),
            end_lsn: Lsn(last.end_lsn),
            xid: last.xid,
            commit_time: last.commit_time,
        }))
    }

    /// Whether it is that transaction. A message by itself has neither an xid nor a time of its own.
    fn is(&self, other: &Self) -> bool {
        let same = (self.commit_lsn, self.end_lsn, self.xid) == (other.commit_lsn, other.end_lsn, other.xid);
        same && (self.xid == 0 || self.commit_time == other.commit_time)
    }
}

impl Continuity {
    /// For a session that starts where the slot stands, at `confirmed`.
    pub(super) fn new(last: Option<Last>, confirmed: Lsn) -> Self {
        // What is committed before that is not sent again.
        Self { awaited: last.filter(|last| confirmed <= last.commit_lsn) }
    }

    /// A transaction was passed over.
    pub(super) fn handle_skipped(&mut self, transaction: &Transaction) -> Result<(), OtherHistory> {
        let Some(held) = self.awaited else { return Ok(()) };
        let sent = Last::new(transaction);
        if held.is(&sent) {
            self.awaited = None;
        } else if sent.end_lsn > held.commit_lsn {
            return Err(OtherHistory { held, sent: format!("the transaction {} at {}", sent.xid, sent.commit_lsn) });
        }
        Ok(())
    }

    /// A transaction comes that is committed at `commit_lsn` and new.
    pub(super) fn handle_new(&self, commit_lsn: Lsn) -> Result<(), OtherHistory> {
        match self.awaited {
            Some(held) => Err(OtherHistory { held, sent: format!("one at {commit_lsn}") }),
            None => Ok(()),
        }
    }

    /// All that was committed up to `server_end` has been sent.
    pub(super) fn handle_keepalive(&self, server_end: Lsn) -> Result<(), OtherHistory> {
        match self.awaited {
            Some(held) if server_end > held.end_lsn => Err(OtherHistory { held, sent: format!("nothing up to {server_end}") }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walbus::PgTime;
    use walbus::sim::SimDisk;

    use super::*;
    use crate::log::tests::workload::{self, EPOCH, START, fill, identity};
    use crate::log::{Settings, start_epoch};

    fn transaction(xid: u32, lsn: u64) -> Transaction {
        let (commit_lsn, end_lsn) = (Lsn(lsn), Lsn(lsn + 8));
        Transaction { xid, commit_lsn, end_lsn, commit_time: PgTime(7), origin: None, prepare_lsn: None, gid: None }
    }

    fn awaiting(xid: u32, lsn: u64) -> Continuity {
        Continuity::new(Some(Last::new(&transaction(xid, lsn))), Lsn(50))
    }

    #[test]
    fn the_last_transaction_is_read_from_the_log() {
        let disk = Arc::new(SimDisk::new(1));
        start_epoch(&*disk, &identity(), EPOCH, START).unwrap();
        let (log, mut writer) = EventLog::open(Arc::clone(&disk), Settings::default(), &identity()).unwrap();
        assert_eq!(Last::of(&log).unwrap(), None);
        for n in 0..40 {
            fill(&mut writer, 1, n..n + 1);
            let sent = workload::Transaction::of(1, n);
            let (commit_lsn, end_lsn) = (sent.end().commit_lsn, sent.end_lsn());
            let last = Last { commit_lsn, end_lsn, xid: 700, commit_time: sent.time() };
            assert_eq!(Last::of(&log).unwrap(), Some(last), "with {} changes", sent.changes);
        }
    }

    #[test]
    fn the_last_transaction_comes_again_before_anything_new() {
        let mut continuity = awaiting(9, 100);
        continuity.handle_skipped(&transaction(8, 60)).unwrap();
        continuity.handle_keepalive(Lsn(90)).unwrap();
        continuity.handle_skipped(&transaction(9, 100)).unwrap();
        continuity.handle_keepalive(Lsn(900)).unwrap();
        continuity.handle_new(Lsn(200)).unwrap();
    }

    #[test]
    fn another_history_is_noticed_by_whatever_comes_first() {
        let mut other = transaction(9, 100);
        other.commit_time = PgTime(8);
        for sent in [other, transaction(10, 100), transaction(9, 96), Transaction { end_lsn: Lsn(120), ..transaction(9, 100) }] {
            awaiting(9, 100).handle_skipped(&sent).unwrap_err();
        }
        let error = awaiting(9, 100).handle_new(Lsn(200)).unwrap_err();
        assert!(error.to_string().contains("the transaction 9 that was committed at 0/64"), "{error}");
        awaiting(9, 100).handle_keepalive(Lsn(109)).unwrap_err();
    }

    #[test]
    fn what_was_confirmed_does_not_come_again() {
        for continuity in [Continuity::new(None, Lsn(50)), Continuity::new(Some(Last::new(&transaction(9, 100))), Lsn(108))] {
            continuity.handle_keepalive(Lsn(900)).unwrap();
            continuity.handle_new(Lsn(200)).unwrap();
        }
    }

    #[test]
    fn a_message_by_itself_is_known_by_its_place() {
        let mut continuity = awaiting(0, 100);
        continuity.handle_skipped(&Transaction { commit_time: PgTime(0), ..transaction(0, 100) }).unwrap();
        continuity.handle_new(Lsn(200)).unwrap();
    }
}
