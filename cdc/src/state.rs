//! What the receiving side tells: its condition, and where it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use walbus::Lsn;

/// What the source is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Condition {
    /// No connection; it is tried again by itself.
    #[default]
    Connecting,
    /// No room on the disk.
    DiskFull,
    /// A person has to mend something; it is tried again all the same.
    Refused,
    /// The primary has moved on without us: a new epoch is needed.
    SlotLost,
    /// The process is ending.
    Stopping,
    /// All is well.
    Streaming,
}

impl Condition {
    /// As it stands in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::DiskFull => "disk_full",
            Self::Refused => "refused",
            Self::SlotLost => "slot_lost",
            Self::Stopping => "stopping",
            Self::Streaming => "streaming",
        }
    }
}

/// A moment's view.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is being done.
    pub condition: Condition,
    /// What is wrong, and the way out.
    pub problem: Option<String>,
    /// The end of WAL on the primary, as it said last.
    pub server_end: Lsn,
    /// What was confirmed to the slot.
    pub confirmed: Lsn,
    /// How many transactions, and changes in them, were taken since the start.
    pub transactions: u64,
    /// See `transactions`.
    pub changes: u64,
    /// How many bytes of open transactions are in memory, and how many are spooled.
    pub open_memory_bytes: u64,
    /// See `open_memory_bytes`.
    pub spooled_bytes: u64,
    /// How many sessions were begun.
    pub sessions: u64,
}

/// The state of one server, shared by who tells and who asks.
#[derive(Debug)]
pub struct ServerState {
    view: Mutex<View>,
    condition: watch::Sender<Condition>,
    primary_lsn: PrimaryLsn,
}

impl Default for ServerState {
    fn default() -> Self {
        let primary_lsn = PrimaryLsn::default();
        Self { view: Mutex::default(), condition: watch::Sender::new(Condition::default()), primary_lsn }
    }
}

impl ServerState {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// The end of WAL on the primary.
    #[must_use]
    pub const fn primary_lsn(&self) -> &PrimaryLsn {
        &self.primary_lsn
    }

    /// The condition, and word of its changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Tells what is being done, and what is wrong.
    pub fn condition(&self, condition: Condition, problem: Option<String>) {
        {
            let mut view = self.lock();
            (view.condition, view.problem) = (condition, problem);
        }
        self.condition.send_replace(condition);
    }

    /// Changes the rest.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
    }
}

/// The end of WAL on the primary, as far as whoever talks to it knows. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct PrimaryLsn(Arc<AtomicU64>);

impl PrimaryLsn {
    /// Tells it.
    pub fn set(&self, lsn: Lsn) {
        self.0.store(lsn.0, Ordering::Relaxed);
    }

    /// What was told last.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Relaxed))
    }
}
