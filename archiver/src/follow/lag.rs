//! How far the archive is behind the server: since when, and by how much. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use walbus::Lsn;

/// How many ends are kept. Of more, every second one goes, and those to come are twice as far apart.
const ENDS_MAX: usize = 1024;

/// What the server has, and what of it is in the archive. Times are of one monotonic clock.
#[derive(Debug, Default)]
pub struct Lag {
    /// Ends of the server's WAL that are not in the archive yet, rising, and when each was first heard of at the latest.
    ends: VecDeque<(Lsn, Duration)>,
    /// How long after one end the next is kept; what comes before belongs to that one.
    spacing: Duration,
    server: Lsn,
    archived: Lsn,
}

impl Lag {
    /// A session begins at `start`, with a server whose WAL goes up to `end`. It may be another one than before, whose timeline has left the
    /// older one's behind these: what was ahead of it then is nobody's any more, and what is archived of it says nothing here.
    pub fn handle_session(&mut self, start: Lsn, end: Lsn, now: Duration) {
        self.archived = self.archived.min(start);
        if end < self.server {
            self.ends.retain(|(of, _)| *of <= end);
            self.server = self.ends.back().map_or(self.archived, |(of, _)| *of);
        }
        self.handle_server(end, now);
    }

    /// The server said that its WAL goes up to there.
    pub fn handle_server(&mut self, end: Lsn, now: Duration) {
        if end <= self.server {
            return;
        }
        self.server = end;
        if end <= self.archived {
            return;
        }
        // Of two that become one, the later end and the earlier time stay: it never seems less than it is.
        if let Some(last) = self.ends.back_mut().filter(|last| now.saturating_sub(last.1) < self.spacing) {
            last.0 = end;
            return;
        }
        if self.ends.len() == ENDS_MAX {
            self.ends = self.ends.make_contiguous().chunks(2).filter_map(|two| Some((two.last()?.0, two.first()?.1))).collect();
            let all = now.saturating_sub(self.since().unwrap_or(now));
            self.spacing = all / u32::try_from(self.ends.len()).unwrap_or(1);
        }
        self.ends.push_back((end, now));
    }

    /// All up to there is in the archive.
    pub fn handle_archived(&mut self, end: Lsn) {
        self.archived = self.archived.max(end);
        while self.ends.pop_front_if(|(end, _)| *end <= self.archived).is_some() {}
        if self.ends.is_empty() {
            self.spacing = Duration::ZERO;
        }
    }

    /// How many bytes of the server's WAL are not in the archive.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        if self.ends.is_empty() { 0 } else { self.server.bytes_after(self.archived) }
    }

    /// Since when the oldest of these waits.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.ends.front().map(|(_, since)| *since)
    }

    /// The end of what the server has, as far as it said.
    #[must_use]
    pub const fn server(&self) -> Lsn {
        self.server
    }

    /// The end of what is in the archive.
    #[must_use]
    pub const fn archived(&self) -> Lsn {
        self.archived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_oldest_that_is_not_archived_counts() {
        let mut lag = Lag::default();
        lag.handle_archived(Lsn(100));
        assert_eq!((lag.bytes(), lag.since()), (0, None), "nothing is known of the server");
        lag.handle_server(Lsn(90), s(1));
        assert_eq!((lag.bytes(), lag.since()), (0, None));
        lag.handle_server(Lsn(150), s(2));
        lag.handle_server(Lsn(150), s(3));
        lag.handle_server(Lsn(200), s(4));
        assert_eq!((lag.bytes(), lag.since()), (100, Some(s(2))));
        lag.handle_archived(Lsn(149));
        assert_eq!((lag.bytes(), lag.since()), (51, Some(s(2))));
        lag.handle_archived(Lsn(150));
        assert_eq!((lag.bytes(), lag.since()), (50, Some(s(4))));
        lag.handle_archived(Lsn(300));
        assert_eq!((lag.bytes(), lag.since(), lag.archived(), lag.server()), (0, None, Lsn(300), Lsn(200)));
    }

    #[test]
    fn a_successor_that_left_before_is_not_taken_for_archived() {
        let mut lag = Lag::default();
        lag.handle_session(Lsn(0), Lsn(900), s(1));
        lag.handle_archived(Lsn(800));
        // It left at 500, and has written up to 600.
        lag.handle_session(Lsn(500), Lsn(600), s(10));
        assert_eq!((lag.bytes(), lag.since(), lag.server(), lag.archived()), (100, Some(s(10)), Lsn(600), Lsn(500)));
        lag.handle_server(Lsn(700), s(11));
        lag.handle_archived(Lsn(600));
        assert_eq!((lag.bytes(), lag.since()), (100, Some(s(11))));
        lag.handle_archived(Lsn(700));
        assert_eq!((lag.bytes(), lag.since()), (0, None), "nothing of the older server is waited for");
        // The same server again, which has written nothing.
        lag.handle_session(Lsn(700), Lsn(700), s(20));
        assert_eq!((lag.bytes(), lag.since()), (0, None));
    }

    #[test]
    fn what_is_kept_is_bounded_and_never_too_little_is_told() {
        let mut lag = Lag::default();
        for at in 1..=100_000 {
            lag.handle_server(Lsn(at), s(at));
            assert!(lag.ends.len() <= ENDS_MAX);
        }
        assert_eq!((lag.bytes(), lag.since()), (100_000, Some(s(1))));
        let mut before = s(0);
        for at in (0..100_000).step_by(997) {
            lag.handle_archived(Lsn(at));
            let since = lag.since().unwrap();
            assert!(since <= s(at + 1) && since >= before && s(at + 1) - since <= s(512), "{at}: {since:?}");
            before = since;
        }
    }
}
