//! What the receiving side tells the serving side, and the only thing that the two share.
//!
//! The receiver is the one writer: it moves [`Positions`], changes the [`Catalog`] and sets the [`Condition`]. Servers read, and wait
//! on the positions. Nothing here touches a file, and no reader can hold up the writer for longer than a copy of the catalog takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use walbus::index::SegmentFacts;
pub use walbus::receive::Identity;
use walbus::{Lsn, Segment, Timeline};

use crate::api::State;

/// Where the stream is. Always `complete <= flushed <= written <= received`, all of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// The timeline that all of them are of.
    pub timeline: Timeline,
    /// The end of what has arrived.
    pub received: Lsn,
    /// The end of what was written to files.
    pub written: Lsn,
    /// The end of what is durable. Nobody outside is given a byte above it.
    pub flushed: Lsn,
    /// The end of the last complete, CRC-valid record below `flushed`.
    pub complete: Lsn,
    /// The end of the primary's WAL, as it last said.
    pub server_end: Lsn,
}

/// What the stream is doing, and what a person should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The state.
    pub state: State,
    /// What is wrong and the way out, `None` where nothing is.
    pub problem: Option<String>,
}

/// One held segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `None` where the file is whole, under its final name. Else the file is `SEG.partial` and, of a timeline that ended, holds WAL
    /// up to here; of the timeline being received, up to [`Positions::flushed`].
    pub partial_end: Option<Lsn>,
    /// What is indexed of it.
    pub facts: SegmentFacts,
}

/// All that the folder holds.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Whose WAL, `None` before the first connection ever.
    pub identity: Option<Identity>,
    /// The segments.
    pub segments: BTreeMap<Segment, Held>,
    /// The timelines whose history file is held.
    pub histories: BTreeSet<Timeline>,
}

/// The shared state of one stream.
#[derive(Debug)]
pub struct StreamState {
    catalog: RwLock<Catalog>,
    positions: watch::Sender<Option<Positions>>,
    condition: watch::Sender<Condition>,
}

impl StreamState {
    /// A stream that holds what the catalog says and has received nothing yet.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog: RwLock::new(catalog),
            positions: watch::Sender::new(None),
            condition: watch::Sender::new(Condition { state: State::Connecting, problem: None }),
        }
    }

    /// What is held. Keep the guard for no longer than a copy takes: the receiver waits for it at segment boundaries.
    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        // A panic under the lock can't leave a catalog half changed that matters: the process ends with the receiver.
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The catalog, to change it. The receiver's alone.
    pub fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the stream is, `None` before anything is held.
    #[must_use]
    pub fn positions(&self) -> Option<Positions> {
        *self.positions.borrow()
    }

    /// A way to wait for the positions to move.
    #[must_use]
    pub fn watch_positions(&self) -> watch::Receiver<Option<Positions>> {
        self.positions.subscribe()
    }

    /// Moves the positions. The receiver's alone.
    ///
    /// # Panics
    /// Where their order is broken: a reader would be shown WAL that is not durable.
    pub fn set_positions(&self, to: Positions) {
        assert!(
            to.complete <= to.flushed && to.flushed <= to.written && to.written <= to.received,
            "positions out of order: {to:?}"
        );
        self.positions.send_replace(Some(to));
    }

    /// What the stream is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition.borrow().clone()
    }

    /// A way to wait for the condition to change.
    #[must_use]
    pub fn watch_condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Says what the stream is doing. The receiver's alone.
    pub fn set_condition(&self, state: State, problem: Option<String>) {
        let to = Condition { state, problem };
        self.condition.send_if_modified(|is| {
            let differs = *is != to;
            *is = to;
            differs
        });
    }
}
