//! What a workload has done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::error::SqlState;

/// How often what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that were committed, and answered so.
    pub committed: u64,
    /// Transactions that were rolled back.
    pub rolled_back: u64,
    /// Savepoints and other subtransactions that were rolled back.
    pub savepoints_rolled_back: u64,
    /// Transactions that were prepared.
    pub prepared: u64,
    /// Changes of definitions.
    pub ddl: u64,
    /// Statements that failed for a reason that concurrency explains.
    pub failed: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed {}, rolled back {}, savepoints rolled back {}, prepared {}, ddl {}, failed {}",
            self.committed, self.rolled_back, self.savepoints_rolled_back, self.prepared, self.ddl, self.failed
        )
    }
}

/// What all sessions of a workload share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    next: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// By SQLSTATE.
    failures: BTreeMap<String, u64>,
    /// The first failure that nothing explains.
    unexpected: Option<String>,
    asides: Asides,
}

/// Messages outside of transactions.
#[derive(Debug, Clone, Default)]
pub(super) struct Asides {
    /// All that may be seen: each once at most.
    pub(super) possible: BTreeSet<u64>,
    /// Those that must be.
    pub(super) certain: BTreeSet<u64>,
}

/// Why a statement did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The statement failed, and its transaction with it.
    Failed,
    /// The session is gone.
    Gone,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().counts);
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        self.state().failures.clone()
    }

    pub(super) fn unexpected(&self) -> Option<String> {
        self.state().unexpected.clone()
    }

    pub(super) fn asides(&self) -> Asides {
        self.state().asides.clone()
    }

    /// A number that nobody else has.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn aside_is_possible(&self, n: u64) {
        self.state().asides.possible.insert(n);
    }

    pub(super) fn asides_are_certain(&self, those: impl IntoIterator<Item = u64>) {
        self.state().asides.certain.extend(those);
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// What an error means; one that nothing explains is kept.
    pub(super) fn trouble(&self, sql: &str, error: &tokio_postgres::Error) -> Trouble {
        let Some(server) = error.as_db_error() else { return Trouble::Gone };
        if matches!(server.severity(), "FATAL" | "PANIC") {
            return Trouble::Gone;
        }
        let code = server.code();
        let mut state = self.state();
        state.counts.failed += 1;
        *state.failures.entry(code.code().to_owned()).or_default() += 1;
        if !explained(code, server.message()) && state.unexpected.is_none() {
            state.unexpected = Some(format!("{} {}: {}", code.code(), server.message(), sql.chars().take(600).collect::<String>()));
        }
        Trouble::Failed
    }
}

/// Whether other sessions may be the reason.
fn explained(code: &SqlState, message: &str) -> bool {
    [
        SqlState::T_R_DEADLOCK_DETECTED,
        // A row that went to another partition meanwhile.
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::FOREIGN_KEY_VIOLATION,
        // A prepared transaction that was lost with the session's memory of it.
        SqlState::UNDEFINED_OBJECT,
        SqlState::DUPLICATE_TABLE,
        SqlState::OBJECT_IN_USE,
        // A date that is no timestamp any more.
        SqlState::DATETIME_FIELD_OVERFLOW,
        // More columns than a table may have had in all its life.
        SqlState::TOO_MANY_COLUMNS,
    ]
    .contains(code)
        || message.contains("concurrently")
}
