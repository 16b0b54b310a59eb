//! What may be confirmed to the primary.

use std::collections::{BTreeSet, VecDeque};

use crate::ledger::Report;
use crate::lsn::Lsn;

/// What of a logical slot is durable here, and so confirmed: the slot's `confirmed_flush_lsn`.
///
/// A server sends again what was *committed* (or prepared) at or behind the confirmed position, whole and from its first change on,
/// and nothing that was committed before it. So:
///
/// - A transaction that was received and is not durable holds the confirmed position at the end of the last one that is.
/// - A transaction that is streamed and still open does not. Its commit lies behind everything that was sent so far, so the server
///   will send all of it again, and keeps the WAL for that by itself: `restart_lsn` does not pass the start of the oldest transaction
///   that is running.
/// - A transaction that is prepared and was not made durable here does: past its prepare record the server would send its
///   `COMMIT PREPARED` alone. That costs no WAL, since it counts as running all the while.
/// - With nothing pending, a keepalive's position is confirmed: all that was committed before it has been received. So
///   the position keeps moving where other databases or unpublished tables write.
///
/// ```text
///   confirmed <= the end of the last durable transaction      while one is pending, or a prepared one is held
///   confirmed <= the end of WAL that the server has told of   else
/// ```
///
/// Call `handle_*` as things happen, in the order of the stream, then [`Feedback::poll_report`] until it gives `None`.
#[derive(Debug, Clone)]
pub struct Feedback {
    /// The end of what was received.
    received: Lsn,
    /// Up to where nothing is missing, but for what is prepared.
    durable: Lsn,
    /// Whether a transaction has begun and not ended.
    open: bool,
    /// The ends of those that are whole and not durable, in their order.
    pending: VecDeque<Pending>,
    /// Where those were prepared that are held.
    prepared: BTreeSet<Lsn>,
    confirmed: Lsn,
    reported: Report,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    end: Lsn,
    /// Where it was prepared: it is held for as long as its commit is not durable.
    prepared: Option<Lsn>,
}

impl Feedback {
    /// The feedback of a session that starts at `confirmed`, up to where all is durable.
    #[must_use]
    pub const fn new(confirmed: Lsn) -> Self {
        let nothing = Report { write: Lsn::INVALID, flush: Lsn::INVALID, apply: Lsn::INVALID };
        Self {
            received: confirmed,
            durable: confirmed,
            open: false,
            pending: VecDeque::new(),
            prepared: BTreeSet::new(),
            confirmed,
            reported: nothing,
        }
    }

    /// A transaction begins that comes whole.
    pub const fn handle_begin(&mut self) {
        self.open = true;
    }

    /// A transaction is whole and on its way to being durable; `end` is the position behind its commit record. A logical message
    /// outside of any is the same, with its own LSN.
    ///
    /// # Panics
    /// Where that goes back.
    pub fn handle_commit(&mut self, end: Lsn) {
        self.push(Pending { end, prepared: None });
    }

    /// The same for one that was prepared at `prepare_lsn`.
    ///
    /// # Panics
    /// Where that goes back.
    pub fn handle_commit_prepared(&mut self, prepare_lsn: Lsn, end: Lsn) {
        self.push(Pending { end, prepared: Some(prepare_lsn) });
    }

    fn push(&mut self, pending: Pending) {
        let last = self.pending.back().map_or(self.durable, |last| last.end);
        assert!(pending.end >= last, "a commit that ends at {} follows one that ends at {last}", pending.end);
        self.open = false;
        self.received = self.received.max(pending.end);
        self.pending.push_back(pending);
    }

    /// A transaction is over that was sent again, after the session before had given it on. It counts as any other: where it is on its way
    /// still, it is not confirmed; and where it was prepared, at `prepare_lsn`, it is held until it is durable. If it is, say so by
    /// [`Feedback::handle_durable`].
    ///
    /// # Panics
    /// Where that goes back.
    pub fn handle_skipped(&mut self, prepare_lsn: Option<Lsn>, end: Lsn) {
        self.push(Pending { end, prepared: prepare_lsn });
    }

    /// A transaction with nothing in it is over: there is nothing to make durable. Where it was prepared, at `prepare_lsn`, it holds nothing.
    pub fn handle_empty(&mut self, prepare_lsn: Option<Lsn>, end: Lsn) {
        self.open = false;
        if let Some(prepared) = prepare_lsn {
            self.prepared.remove(&prepared);
        }
        self.received = self.received.max(end);
        self.advance(if self.pending.is_empty() { end } else { self.durable });
    }

    /// A transaction was prepared at `prepare_lsn` (its record's first byte), and is not durable here.
    pub fn handle_prepared(&mut self, prepare_lsn: Lsn) {
        self.prepared.insert(prepare_lsn);
    }

    /// The one that was prepared there was rolled back, or is durable by other means.
    pub fn handle_released(&mut self, prepare_lsn: Lsn) {
        self.prepared.remove(&prepare_lsn);
        self.advance(self.durable);
    }

    /// All transactions that end at or before `end` are durable.
    ///
    /// # Panics
    /// Where more is said to be durable than was received.
    pub fn handle_durable(&mut self, end: Lsn) {
        assert!(end <= self.received, "durable {end} lies behind received {}", self.received);
        while let Some(done) = self.pending.pop_front_if(|pending| pending.end <= end) {
            if let Some(prepared) = done.prepared {
                self.prepared.remove(&prepared);
            }
            self.advance(done.end);
        }
        if self.pending.is_empty() && !self.open {
            // What the server said meanwhile.
            self.advance(self.received);
        }
    }

    /// The server has sent all that was committed up to `server_end`.
    pub fn handle_keepalive(&mut self, server_end: Lsn) {
        if self.open {
            // It may be ahead of the commit of which the rest has not come.
            return;
        }
        self.received = self.received.max(server_end);
        if self.pending.is_empty() {
            self.advance(server_end);
        }
    }

    fn advance(&mut self, durable: Lsn) {
        self.durable = self.durable.max(durable);
        let held = self.prepared.first().copied().unwrap_or(Lsn::MAX);
        // A session may start at a prepare record and be sent it, so up to its first byte all is done.
        self.confirmed = self.confirmed.max(self.durable.min(held));
        assert!(
            self.confirmed <= self.durable && self.durable <= self.received,
            "confirmed {} <= durable {} <= received {}",
            self.confirmed,
            self.durable,
            self.received
        );
    }

    /// What is confirmed.
    #[must_use]
    pub const fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// How many transactions were received and are not durable.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What is to be reported now, as often as asked: for keepalives and the status interval.
    #[must_use]
    pub const fn report(&self) -> Report {
        Report { write: self.confirmed, flush: self.confirmed, apply: self.confirmed }
    }

    /// What is to be reported since something moved after the last report that was given out here; `None` where nothing did.
    pub fn poll_report(&mut self) -> Option<Report> {
        let report = self.report();
        let moved = report != self.reported;
        self.reported = report;
        moved.then_some(report)
    }
}
