//! Time, as a parameter.

use std::fmt::Debug;
use std::time::Duration;

use crate::ident::PgTime;

/// Where time comes from: the operating system, or a simulator.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// The moment it is.
    fn now(&self) -> PgTime;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    #[expect(clippy::new_without_default, reason = "two clocks made at different moments are not equal")]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    fn now(&self) -> PgTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        PgTime::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}
