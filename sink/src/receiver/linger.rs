//! Whether to go to sleep while the next WAL is on its way.
//!
//! A thread that sleeps for it lets its processor halt, and being woken costs tens of microseconds and more: as much as all else that is done
//! for a commit. While commits follow each other closely the link is polled instead.

use std::time::Duration;

/// Up to which score a wait that was short counts.
const SCORE_MAX: u32 = 8;
/// What a wait that was long takes from the score: a few of them in a row end the polling.
const LONG_COSTS: u32 = 3;

/// Decides by how long the last waits were. Knows no clock: is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linger {
    window: Duration,
    score: u32,
}

impl Linger {
    /// Polls for at most `window` at a time; never where that is zero.
    pub(super) const fn new(window: Duration) -> Self {
        Self { window, score: 0 }
    }

    /// For how long to poll before going to sleep.
    pub(super) const fn window(&self) -> Duration {
        if self.score == 0 { Duration::ZERO } else { self.window }
    }

    /// WAL has come after a wait of so long.
    pub(super) fn handle_wait(&mut self, waited: Duration) {
        self.score = match waited <= self.window {
            true if self.window.is_zero() => 0,
            true => (self.score + 1).min(SCORE_MAX),
            false => self.score.saturating_sub(LONG_COSTS),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_micros(300);
    const SHORT: Duration = Duration::from_micros(150);
    const LONG: Duration = Duration::from_millis(5);

    #[test]
    fn polls_only_while_what_comes_comes_soon() {
        let mut linger = Linger::new(WINDOW);
        assert_eq!(linger.window(), Duration::ZERO, "nothing is known yet");
        linger.handle_wait(SHORT);
        assert_eq!(linger.window(), WINDOW);
        (0..100).for_each(|_| linger.handle_wait(SHORT));
        let long_waits = (0..).take_while(|_| {
            linger.handle_wait(LONG);
            !linger.window().is_zero()
        });
        assert_eq!(long_waits.count(), 2, "the third long wait in a row ends it");
    }

    #[test]
    fn a_slow_primary_is_never_polled_for() {
        let mut linger = Linger::new(WINDOW);
        for _ in 0..1000 {
            linger.handle_wait(LONG);
            assert_eq!(linger.window(), Duration::ZERO);
        }
    }

    #[test]
    fn a_window_of_zero_never_polls() {
        let mut linger = Linger::new(Duration::ZERO);
        (0..10).for_each(|_| linger.handle_wait(Duration::ZERO));
        assert_eq!(linger.window(), Duration::ZERO);
    }
}
