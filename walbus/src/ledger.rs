//! Who holds what: from here come the write, flush and apply that Postgres is told.
//!
//! A ledger belongs to one replication session. It starts at the session's first byte, whatever an earlier session reached: a primary
//! that crashed may have written other WAL at positions that were reported before, so only what *this* session has brought, or has
//! proved to be held already, may be acknowledged in it. Until it has proved anything, `0/0` is reported: the session's start would be
//! a claim on all that lies below.
//!
//! ```text
//!   0 ── start ──── flushed ──── written ──── received ──▶ LSN        always in this order
//! ```

use crate::lsn::Lsn;

/// What is reported to the primary as *apply*, which `synchronous_commit = remote_apply` waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ApplyAs {
    /// Flush, though nothing was applied anywhere: `remote_apply` then returns without what its name says.
    Flush,
    /// Nothing: a commit under `remote_apply` waits for a standby that applies.
    #[default]
    Nothing,
}

/// The positions of one standby status update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// The end of what was written to files: survives the death of the process.
    pub write: Lsn,
    /// The end of what is durable: survives the death of the host.
    pub flush: Lsn,
    /// The end of what was applied, `0/0` for none.
    pub apply: Lsn,
}

/// The positions of one replication session.
///
/// Call `handle_*` as things happen, then [`Ledger::poll_report`] for what is to be told, until it gives `None`.
#[derive(Debug, Clone)]
pub struct Ledger {
    apply: ApplyAs,
    received: Lsn,
    written: Lsn,
    flushed: Lsn,
    proved: bool,
    reported: Report,
}

impl Ledger {
    /// The ledger of a session whose first byte is at `start`.
    #[must_use]
    pub const fn new(start: Lsn, apply: ApplyAs) -> Self {
        let nothing = Report { write: Lsn::INVALID, flush: Lsn::INVALID, apply: Lsn::INVALID };
        Self { apply, received: start, written: start, flushed: start, proved: false, reported: nothing }
    }

    /// A record has come whole that continues what is held: the primary's WAL is the one held here, also below the session's start.
    pub const fn handle_proved(&mut self) {
        self.proved = true;
    }

    /// The end of what has arrived.
    #[must_use]
    pub const fn received(&self) -> Lsn {
        self.received
    }

    /// The end of what was written.
    #[must_use]
    pub const fn written(&self) -> Lsn {
        self.written
    }

    /// The end of what is durable.
    #[must_use]
    pub const fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// WAL has arrived, whole up to `end`.
    ///
    /// # Panics
    /// Where that goes back.
    pub fn handle_received(&mut self, end: Lsn) {
        assert!(end >= self.received, "received goes back from {} to {end}", self.received);
        self.received = end;
    }

    /// All up to `end` was written to files.
    ///
    /// # Panics
    /// Where that goes back, or ahead of what was received.
    pub fn handle_written(&mut self, end: Lsn) {
        assert!(
            end >= self.written && end <= self.received,
            "written {end} is not from {} to received {}",
            self.written,
            self.received
        );
        self.written = end;
    }

    /// All up to `end` is durable, names included.
    ///
    /// # Panics
    /// Where that goes back, or ahead of what was written.
    pub fn handle_flushed(&mut self, end: Lsn) {
        assert!(
            end >= self.flushed && end <= self.written,
            "flushed {end} is not from {} to written {}",
            self.flushed,
            self.written
        );
        self.flushed = end;
    }

    /// What is to be reported now, as often as asked: for keepalives and the status interval.
    #[must_use]
    pub fn report(&self) -> Report {
        if !self.proved {
            return Report::default();
        }
        Report {
            write: self.written,
            flush: self.flushed,
            apply: match self.apply {
                ApplyAs::Flush => self.flushed,
                ApplyAs::Nothing => Lsn::INVALID,
            },
        }
    }

    /// What is to be reported since something moved after the last report that was given out here; `None` where nothing did.
    pub fn poll_report(&mut self) -> Option<Report> {
        let report = self.report();
        let moved = report != self.reported;
        self.reported = report;
        moved.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reported_before_the_wal_has_proved_to_continue_what_is_held() {
        let mut ledger = Ledger::new(Lsn(100), ApplyAs::Flush);
        ledger.handle_received(Lsn(150));
        ledger.handle_written(Lsn(150));
        ledger.handle_flushed(Lsn(150));
        assert_eq!((ledger.report(), ledger.poll_report()), (Report::default(), None));
        ledger.handle_proved();
        assert_eq!(ledger.poll_report(), Some(Report { write: Lsn(150), flush: Lsn(150), apply: Lsn(150) }));
    }

    #[test]
    fn write_is_reported_before_flush_and_each_once() {
        let mut ledger = Ledger::new(Lsn(100), ApplyAs::Nothing);
        ledger.handle_proved();
        ledger.handle_received(Lsn(150));
        ledger.handle_written(Lsn(150));
        assert_eq!(ledger.poll_report(), Some(Report { write: Lsn(150), flush: Lsn(100), apply: Lsn::INVALID }));
        assert_eq!(ledger.poll_report(), None);
        ledger.handle_flushed(Lsn(150));
        assert_eq!(ledger.poll_report(), Some(Report { write: Lsn(150), flush: Lsn(150), apply: Lsn::INVALID }));
        assert_eq!(ledger.poll_report(), None);
    }

    #[test]
    fn apply_is_flush_only_when_asked_for() {
        let mut ledger = Ledger::new(Lsn(100), ApplyAs::Flush);
        ledger.handle_proved();
        ledger.handle_received(Lsn(150));
        ledger.handle_written(Lsn(150));
        assert_eq!(ledger.report().apply, Lsn(100));
        ledger.handle_flushed(Lsn(120));
        assert_eq!(ledger.report().apply, Lsn(120));
    }

    #[test]
    #[should_panic(expected = "flushed 0/97 is not from 0/64 to written 0/96")]
    fn flush_never_passes_write() {
        let mut ledger = Ledger::new(Lsn(100), ApplyAs::Nothing);
        ledger.handle_received(Lsn(200));
        ledger.handle_written(Lsn(150));
        ledger.handle_flushed(Lsn(151));
    }

    #[test]
    #[should_panic(expected = "written")]
    fn write_never_passes_receive() {
        let mut ledger = Ledger::new(Lsn(100), ApplyAs::Nothing);
        ledger.handle_written(Lsn(101));
    }
}
