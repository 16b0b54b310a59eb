//! Whether commits wait for a sink that is preferred: decided here, done by [`super`].

use std::time::Duration;

use crate::supervise::Moment;

/// How the sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// No connection of it.
    Away,
    /// It is there, and lacks WAL.
    Behind,
    /// It streams, and has nearly all.
    CaughtUp,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Commits wait no longer.
    Release,
    /// Commits wait again.
    Restore,
}

/// What it was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct SinkWatch {
    delay: Duration,
    released: bool,
    away_since: Option<Moment>,
}

impl SinkWatch {
    /// Commits that wait for `delay` have waited long enough. `released` where they did not wait when the program was last ended.
    pub(super) const fn new(delay: Duration, released: bool) -> Self {
        Self { delay, released, away_since: None }
    }

    pub(super) const fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    pub(super) const fn is_released(&self) -> bool {
        self.released
    }

    /// A change could not be made: it is decided again at the next look.
    pub(super) const fn handle_failed(&mut self, change: Change) {
        self.released = matches!(change, Change::Restore);
    }

    /// What follows from how it is; where it is not `preferred`, commits always wait.
    pub(super) fn handle_seen(&mut self, seen: Seen, preferred: bool, now: Moment) -> Option<Change> {
        if seen == Seen::CaughtUp || !preferred {
            self.away_since = None;
            return std::mem::take(&mut self.released).then_some(Change::Restore);
        }
        let since = *self.away_since.get_or_insert(now);
        if self.released || now.saturating_sub(since) < self.delay {
            return None;
        }
        self.released = true;
        Some(Change::Release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Moment::from_secs(seconds)
    }

    #[test]
    fn commits_wait_for_the_delay_and_again_when_it_has_caught_up() {
        let mut watch = SinkWatch::new(Duration::from_secs(30), false);
        assert_eq!(watch.handle_seen(Seen::CaughtUp, true, at(0)), None);
        assert_eq!(watch.handle_seen(Seen::Away, true, at(10)), None);
        assert_eq!(watch.handle_seen(Seen::Away, true, at(39)), None);
        assert_eq!(watch.handle_seen(Seen::Away, true, at(40)), Some(Change::Release));
        assert_eq!(watch.handle_seen(Seen::Behind, true, at(90)), None);
        assert!(watch.is_released());
        assert_eq!(watch.handle_seen(Seen::CaughtUp, true, at(91)), Some(Change::Restore));
        assert_eq!(watch.handle_seen(Seen::Away, true, at(92)), None);
        assert_eq!(watch.handle_seen(Seen::CaughtUp, true, at(100)), None);
        assert_eq!(watch.handle_seen(Seen::Away, true, at(101)), None);
        assert_eq!(watch.handle_seen(Seen::Away, true, at(130)), None, "each absence has its own delay");
    }

    #[test]
    fn a_change_that_could_not_be_made_is_decided_again() {
        let mut watch = SinkWatch::new(Duration::from_secs(30), false);
        watch.handle_seen(Seen::Away, true, at(0));
        for second in [30, 31] {
            assert_eq!(watch.handle_seen(Seen::Away, true, at(second)), Some(Change::Release));
            watch.handle_failed(Change::Release);
            assert!(!watch.is_released());
        }
        watch.handle_seen(Seen::Away, true, at(32));
        for second in [40, 41] {
            assert_eq!(watch.handle_seen(Seen::CaughtUp, true, at(second)), Some(Change::Restore));
            watch.handle_failed(Change::Restore);
            assert!(watch.is_released());
        }
    }

    #[test]
    fn commits_always_wait_for_one_that_is_required() {
        let mut watch = SinkWatch::new(Duration::ZERO, true);
        assert_eq!(watch.handle_seen(Seen::Away, false, at(0)), Some(Change::Restore));
        assert_eq!(watch.handle_seen(Seen::Away, false, at(1000)), None);
    }
}
