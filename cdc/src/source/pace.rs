//! When to leave what comes in the socket for a moment.
//!
//! A walsender writes message by message, and each write wakes up whoever waits to read: that costs both sides more than the message itself.
//! While much comes, there is a batch to be filled anyway, so it is better to come back when there is a good part of one. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// So many bytes within [`WINDOW`] are much.
const MUCH_BYTES: usize = 64 << 10;
/// A read that gives less than this, after [`MUCH_BYTES`], has caught up.
const LITTLE_BYTES: usize = 16 << 10;
const WINDOW: Duration = Duration::from_millis(10);
/// How long a rest is: the longer, the less each change costs both sides, and the later the first one of it comes.
const REST: Duration = Duration::from_millis(5);

/// Follows how much comes.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: usize,
    until: Option<Instant>,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, until: None }
    }

    /// So much was taken, and then the socket was empty.
    pub(super) fn handle_drained(&mut self, bytes: usize, now: Instant) {
        if now >= self.since + WINDOW {
            (self.since, self.bytes) = (now, 0);
        }
        self.bytes += bytes;
        if self.bytes >= MUCH_BYTES {
            (self.since, self.bytes) = (now, 0);
            self.until = Some(now + REST);
        }
    }

    /// Whether a reader who has taken much, and at last so little at once, follows the walsender from message to message: what was there
    /// when it began to read is taken, and to ask the socket once more is to be woken for each. `None`: nobody can tell.
    pub(super) fn has_caught_up(taken_bytes: usize, last_read_bytes: Option<usize>) -> bool {
        taken_bytes >= MUCH_BYTES && last_read_bytes.is_some_and(|bytes| bytes < LITTLE_BYTES)
    }

    /// Until when nothing is to be read.
    pub(super) const fn rest(&self) -> Option<Instant> {
        self.until
    }

    /// It is that time.
    pub(super) const fn handle_rested(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_taken_where_much_comes() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.handle_drained(MUCH_BYTES - 1, start);
        assert_eq!(pace.rest(), None);
        pace.handle_drained(1, start + WINDOW / 2);
        assert_eq!(pace.rest(), Some(start + WINDOW / 2 + REST));
        pace.handle_rested();
        assert_eq!(pace.rest(), None);
    }

    #[test]
    fn who_takes_message_by_message_has_caught_up() {
        assert!(Pace::has_caught_up(MUCH_BYTES, Some(LITTLE_BYTES - 1)));
        assert!(!Pace::has_caught_up(MUCH_BYTES, Some(LITTLE_BYTES)), "there may be as much again");
        assert!(!Pace::has_caught_up(MUCH_BYTES - 1, Some(100)), "little has come: it is wanted at once");
        assert!(!Pace::has_caught_up(MUCH_BYTES, None), "a record of TLS is small, whatever waits behind it");
    }

    #[test]
    fn no_rest_is_taken_where_little_comes() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..1000 {
            // 5 MB/s, and never anything waits.
            pace.handle_drained(5000, now);
            assert_eq!(pace.rest(), None);
            now += Duration::from_millis(1);
        }
    }
}
