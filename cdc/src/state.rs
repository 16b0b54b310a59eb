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
    /// How many of them were ended because the disk was full for too long.
    pub disk_full_sessions: u64,
}

/// What those who know have said of the condition.
#[derive(Debug, Default)]
struct Told {
    source: (Condition, Option<String>),
    /// Where the log has no room: what that means.
    disk_full: Option<String>,
}

impl Told {
    /// What there is to be seen of it: a full disk hides everything but the end.
    fn seen(&self) -> (Condition, Option<String>) {
        match (&self.source, &self.disk_full) {
            ((Condition::DiskFull | Condition::Stopping, _), _) | (_, None) => self.source.clone(),
            (_, problem) => (Condition::DiskFull, problem.clone()),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    view: View,
    told: Told,
}

/// The state of one server, shared by who tells and who asks.
#[derive(Debug)]
pub struct ServerState {
    inner: Mutex<Inner>,
    condition: watch::Sender<Condition>,
    primary_lsn: PrimaryLsn,
}

impl Default for ServerState {
    fn default() -> Self {
        let primary_lsn = PrimaryLsn::default();
        Self { inner: Mutex::default(), condition: watch::Sender::new(Condition::default()), primary_lsn }
    }
}

impl ServerState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> View {
        self.lock().view.clone()
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

    /// Tells what the source is doing, and what is wrong.
    pub fn condition(&self, condition: Condition, problem: Option<String>) {
        self.tell(|told| told.source = (condition, problem));
    }

    /// Tells that the log has no room, and what that means; `None`: that it has.
    pub fn disk_full(&self, problem: Option<String>) {
        self.tell(|told| told.disk_full = problem);
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        let mut inner = self.lock();
        let Inner { view, told } = &mut *inner;
        change(told);
        (view.condition, view.problem) = told.seen();
        // Under the lock: several threads tell, and who watches is told in their order.
        self.condition.send_replace(view.condition);
    }

    /// Changes the rest.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock().view);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_seen_whatever_the_source_does_meanwhile() {
        let state = ServerState::default();
        let seen = || (state.view().condition, state.view().problem.unwrap_or_default());
        state.condition(Condition::Streaming, None);
        state.disk_full(Some("full".into()));
        assert_eq!(seen(), (Condition::DiskFull, "full".into()));
        state.condition(Condition::Connecting, Some("lost".into()));
        assert_eq!(seen(), (Condition::DiskFull, "full".into()));
        state.condition(Condition::DiskFull, Some("given up".into()));
        assert_eq!(seen(), (Condition::DiskFull, "given up".into()), "the source knows more");
        state.condition(Condition::Connecting, Some("lost".into()));
        state.disk_full(None);
        assert_eq!(seen(), (Condition::Connecting, "lost".into()));
        state.disk_full(Some("full".into()));
        state.condition(Condition::Stopping, None);
        assert_eq!((seen().0, *state.watch().borrow()), (Condition::Stopping, Condition::Stopping));
    }
}
