//! Tells the serving side what the receiver has.

use std::io;
use std::sync::Arc;

use walbus::clock::{Clock, SystemClock};
use walbus::disk::OsDisk;
use walbus::index::SegmentFacts;
use walbus::log::{FlushDone, FlushJob};
use walbus::receive::{Identity, Receiver};
use walbus::{Lsn, PgTime, Segment, Timeline};

use crate::api::State;
use crate::facts::Indexer;
use crate::metrics::Metrics;
use crate::state::{Held, Positions, StreamState};

/// Writes the shared state, counts, and has the index kept.
#[derive(Debug)]
pub struct Publisher {
    state: Arc<StreamState>,
    metrics: Arc<Metrics>,
    indexer: Indexer,
    clock: SystemClock,
    /// The segment that was listed last, so that the catalog is only locked when there is a new one.
    tail: Option<Segment>,
    server_end: Lsn,
}

impl Publisher {
    /// A publisher that writes to these.
    #[must_use]
    pub fn new(state: Arc<StreamState>, metrics: Arc<Metrics>, indexer: Indexer) -> Self {
        Self { state, metrics, indexer, clock: SystemClock::new(), tail: None, server_end: Lsn::INVALID }
    }

    pub(super) fn now(&self) -> PgTime {
        self.clock.now()
    }

    pub(super) fn condition(&self, state: State, problem: Option<String>) {
        self.state.set_condition(state, problem);
    }

    pub(super) fn identity(&self, identity: Identity) {
        self.state.catalog_mut().identity = Some(identity);
    }

    pub(super) fn history(&self, timeline: Timeline) {
        self.state.catalog_mut().histories.insert(timeline);
    }

    /// Runs a flush, and measures it.
    pub(super) fn timed_flush(&self, job: FlushJob<OsDisk>) -> io::Result<FlushDone> {
        let start = self.clock.monotonic();
        let done = job.run()?;
        self.metrics.fsync_seconds.observe(self.clock.monotonic().saturating_sub(start));
        Ok(done)
    }

    /// Publishes how far the receiver is. `server_end` is the primary's word, `0/0` for none.
    pub(super) fn publish(&mut self, receiver: &Receiver<OsDisk>, server_end: Lsn) {
        self.server_end = self.server_end.max(server_end);
        let Some(held) = receiver.held() else { return };
        let (received, written) = receiver.ledger().map_or((held.end, held.end), |ledger| (ledger.received(), ledger.written()));
        let size = receiver.identity().segment_size;
        let tail = Segment::containing(held.timeline, Lsn(held.end.0.saturating_sub(1)), size);
        // With nothing received yet, what lies before is not held, and there is no file.
        if held.end > held.oldest && self.tail != Some(tail) {
            self.tail = Some(tail);
            let partial_end = (tail.end(size) > held.end).then_some(held.end);
            self.state.catalog_mut().segments.entry(tail).or_insert_with(|| Held { partial_end, facts: SegmentFacts::default() });
        }
        self.state.set_positions(Positions {
            timeline: held.timeline,
            received: received.max(held.end),
            written: written.max(held.end),
            flushed: held.end,
            complete: held.complete,
            server_end: self.server_end,
        });
    }

    /// These segments have their final names.
    pub(super) fn sealed(&self, segments: &[Segment]) {
        if segments.is_empty() {
            return;
        }
        let mut catalog = self.state.catalog_mut();
        for segment in segments {
            catalog
                .segments
                .entry(*segment)
                .or_insert_with(|| Held { partial_end: None, facts: SegmentFacts::default() })
                .partial_end = None;
        }
    }

    /// A timeline is received to its end: its last segment stays partial.
    pub(super) fn timeline_ended(&self, timeline: Timeline, end: Lsn) {
        let mut catalog = self.state.catalog_mut();
        if let Some((_, held)) =
            catalog.segments.iter_mut().rev().find(|(segment, held)| segment.timeline == timeline && held.partial_end.is_some())
        {
            held.partial_end = Some(end);
        }
    }

    /// Adds what was found in segments.
    pub(super) fn facts(&self, found: Vec<(Segment, SegmentFacts)>) {
        if found.is_empty() {
            return;
        }
        let mut catalog = self.state.catalog_mut();
        for (segment, facts) in found {
            if let Some(held) = catalog.segments.get_mut(&segment) {
                held.facts.merge(facts);
            }
        }
    }

    /// Has the index of these whole segments kept. To be called when what was found in them is added.
    pub(super) fn keep_index(&self, sealed: &[Segment]) {
        for segment in sealed {
            self.indexer.sealed(*segment);
        }
    }

    pub(super) fn connected_again(&self) {
        self.metrics.reconnects.inc();
    }
}
