//! How long to wait before the next start.

use std::time::Duration;

use super::Moment;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Who was up for this long is no crash loop.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Doubles from one end to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After one that ran from `since` to `now`.
    pub(super) fn next(&mut self, since: Moment, now: Moment) -> Duration {
        if now.saturating_sub(since) >= FORGOTTEN {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_forgotten() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..12).map(|_| backoff.next(Moment::ZERO, FIRST).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.next(Moment::ZERO, FORGOTTEN), FIRST);
        assert_eq!(backoff.next(FORGOTTEN, FORGOTTEN + FIRST), 2 * FIRST);
    }
}
