//! Time that passes when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ident::PgTime;

/// A clock that stands still until [`SimClock::advance`].
#[derive(Debug, Default)]
pub struct SimClock {
    micros: AtomicU64,
}

impl SimClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Time since the clock was made.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// The moment it is: the clock was made at 2000-01-01.
    #[must_use]
    pub fn now(&self) -> PgTime {
        PgTime(i64::try_from(self.micros.load(Ordering::Relaxed)).unwrap_or(i64::MAX))
    }
}

#[cfg(feature = "disk")]
impl crate::clock::Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.monotonic()
    }

    fn now(&self) -> PgTime {
        self.now()
    }
}
