//! The durable event log: what the slot has given, encoded once, for as long as retention says.
//!
//! ```text
//!   spare.1, spare.2          zeros, synced, waiting
//!        │ a segment is full: sync it; header and definitions into the spare, sync, rename, sync the folder
//!        ▼
//!   0000000000000007.log      the segment being written: Writer::append, then Writer::sync
//!   0000000000000006.log      sealed, with 0000000000000006.idx beside it
//!   epoch                     whose log this is, and which life of the slot
//! ```
//!
//! One [`Writer`] appends; [`EventLog`] is what readers share. A record is *written* by [`Writer::append`], *durable* after the next
//! [`Writer::sync`], and *visible* once the transaction that it belongs to is durable as a whole: only then the head moves, and only what is
//! at or below the head is ever given to a [`Reader`]. A reader that keeps up is served from the ring, in memory; one that does not reads the
//! files.
//!
//! What is asserted: positions rise; the head never moves but by a sync; a segment has its name only after everything before it, its header
//! and its definitions are durable, so that nothing but the end of the last segment can ever be torn. `docs/event-log.md` draws the bytes.
//!
//! The log knows no source, no consumer and no socket. Files come through [`Disk`], and no time enters but by parameters.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use walbus::disk::Disk;
use walbus::{Lsn, Position, SystemId};

mod epoch;
mod index;
pub mod inspect;
mod job;
pub mod layout;
mod locate;
mod names;
mod reader;
mod recover;
mod retain;
mod ring;
mod scan;
mod schemas;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub use epoch::{Epoch, EpochFile, NoEpoch, remove_epoch, start_epoch};
pub use index::{IndexEntry, SegmentIndex, Summary};
pub use job::{Done, Job};
pub use layout::{BatchMeta, PAYLOAD_BYTES_MAX};
pub use names::LOG_FOLDER;
pub use reader::{ReadError, Reader};
pub use retain::{Policy, Removed};
pub use ring::{Entry, Recent};
pub use schemas::{Redefined, SchemaSet};
pub use writer::Writer;

use scan::LargeRecords;
use state::State;

/// How the log is laid out and what it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// When a segment is full, in bytes. What it begins with and one batch always fit, whatever this says.
    pub segment_bytes: u64,
    /// How many bytes of recent batches are held in memory for readers that keep up.
    pub ring_bytes: usize,
    /// How far apart, in bytes, the entries of the sparse index are.
    pub index_every_bytes: u64,
    /// How many zeroed files wait for their turn. See [`Writer::job`].
    pub spares: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, ring_bytes: 16 << 20, index_every_bytes: 64 << 10, spares: 2 }
    }
}

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system_id: SystemId,
    /// The slot.
    pub slot: String,
}

/// Bytes that are not as they were written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {offset}: {reason}")]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

impl Damage {
    fn new(file: &str, offset: u64, reason: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), offset, reason: reason.to_string() }
    }
}

/// Why a log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is held is not as it was written. Nothing was changed.
    #[error("the event log is damaged")]
    Damaged(#[from] Damage),
    /// The operating system refuses.
    #[error("{context}")]
    Io {
        /// What was tried.
        context: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// No epoch was begun in the folder: see [`start_epoch`].
    #[error("there is no event log in the folder")]
    NoLog,
    /// The log is that of another cluster.
    #[error("the event log is of the cluster with system identifier {held}, and not of {wanted}: use another folder for that one")]
    OtherCluster {
        /// Whose log it is.
        held: SystemId,
        /// Whose log was asked for.
        wanted: SystemId,
    },
    /// A segment is that of an epoch that the epoch's file does not name.
    #[error("{file} is of epoch {held}, and the log of epoch {wanted}: it belongs into another folder")]
    OtherEpoch {
        /// The file.
        file: String,
        /// Its epoch.
        held: Epoch,
        /// The log's.
        wanted: Epoch,
    },
    /// The log is that of another slot.
    #[error("the event log is of slot {held:?}, and not of {wanted:?}: use another folder for that one")]
    OtherSlot {
        /// Whose log it is.
        held: String,
        /// Whose log was asked for.
        wanted: String,
    },
    /// No slot has such a name.
    #[error("{0:?} is too long for the name of a slot")]
    SlotName(String),
}

impl OpenError {
    fn io(verb: &str, file: &str) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io { context: format!("{verb} {file}"), source }
    }
}

/// The log, as readers share it. Clones are the same log.
pub struct EventLog<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for EventLog<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk> fmt::Debug for EventLog<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { epoch, .. } = &*self.shared;
        f.debug_struct("EventLog").field("epoch", epoch).field("head", &self.head()).finish_non_exhaustive()
    }
}

/// What the writer and all readers share.
#[derive(Debug)]
struct Shared<D: Disk> {
    disk: Arc<D>,
    settings: Settings,
    epoch: Epoch,
    system_id: SystemId,
    state: RwLock<State>,
    head: watch::Sender<Position>,
    /// What readers of files hold.
    large: Arc<LargeRecords>,
    /// Held by who removes segments: one at a time, so that they go in their order.
    retaining: Mutex<()>,
}

impl<D: Disk> Shared<D> {
    /// A panic of another thread leaves nothing half-done behind: each change of the state is made at once.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<D: Disk> EventLog<D> {
    /// Opens the log of a folder: proves the last segment, cuts off its end what is not whole, be it a record or a transaction, and makes the
    /// rest durable again. What was cut the slot sends once more, from [`EventLog::durable_end_lsn`] on.
    ///
    /// One process at a time: the caller keeps others out.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(disk: Arc<D>, settings: Settings, identity: &Identity) -> Result<(Self, Writer<D>), OpenError> {
        let (shared, writer) = recover::open(disk, settings, identity)?;
        Ok((Self { shared }, writer))
    }

    /// The epoch that the log's positions are of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The cluster.
    #[must_use]
    pub fn system_id(&self) -> SystemId {
        self.shared.system_id
    }

    /// The end of the last transaction that is whole and durable.
    #[must_use]
    pub fn head(&self) -> Position {
        self.shared.state().head
    }

    /// Whole transactions are held behind this position.
    #[must_use]
    pub fn earliest(&self) -> Position {
        self.shared.state().earliest()
    }

    /// The end LSN of the last transaction that is whole and durable, or where the slot began: what may be confirmed to it.
    #[must_use]
    pub fn durable_end_lsn(&self) -> Lsn {
        self.shared.state().end_lsn
    }

    /// How many bytes the files of the segments have.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.state().size_bytes()
    }

    /// The head, and word of its every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.shared.head.subscribe()
    }

    /// A reader of what is behind `after`.
    ///
    /// # Errors
    /// Where that is not held any more, or not yet.
    pub fn reader(&self, after: Position) -> Result<Reader<D>, ReadError> {
        Reader::new(Arc::clone(&self.shared), after)
    }

    /// Where to start to get every transaction that was committed at `time` (microseconds since 1970-01-01 00:00 UTC) or later: before the first
    /// such one. Some that were committed a little earlier may stand behind it, since the order is that of the WAL. Blocks on files.
    ///
    /// # Errors
    /// [`ReadError::TooFarBehind`] where such a transaction may have been removed; where the files can't be read.
    pub fn locate_time(&self, time: i64) -> Result<Position, ReadError> {
        locate::locate_time(&self.shared, time)
    }

    /// Removes the oldest segments as far as the policy says; `now` in microseconds since 1970-01-01 00:00 UTC. Never removes the segment being
    /// written, nor one with a part of a transaction that is not whole yet. Blocks on files.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn retain(&self, policy: Policy, now: i64) -> io::Result<Removed> {
        retain::retain(&self.shared, policy, now)
    }
}
