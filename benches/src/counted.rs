//! What a process that counts changes tells: the word that it is ready, then one line of JSON.

use serde::{Deserialize, Serialize};
use walbus::clock::{Clock, SystemClock};

use crate::latency::Latencies;

/// Printed on a line of its own once everything that is to be counted will be.
pub const READY: &str = "ready";

/// What was counted. Times are microseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// All changes, of all who counted.
    pub changes: u64,
    /// When the first change came, to whoever was the first.
    pub first_micros: i64,
    /// When the last one came, to whoever was the last.
    pub last_micros: i64,
    /// When the latest of the transactions was committed.
    pub commit_micros: i64,
    /// From the commit record to its arrival, of all transactions and all who counted: the median, in milliseconds.
    pub p50_ms: f64,
    /// The same, the 99th percentile.
    pub p99_ms: f64,
    /// The same, the worst.
    pub worst_ms: f64,
}

impl Counted {
    /// The last line of what a process has printed, where it is one.
    #[must_use]
    pub fn of_output(output: &str) -> Option<Self> {
        serde_json::from_str(output.lines().next_back()?).ok()
    }
}

/// Counts for one.
#[derive(Debug)]
pub struct Counter {
    clock: SystemClock,
    changes: u64,
    first_micros: i64,
    last_micros: i64,
    commit_micros: i64,
    latencies: Vec<u64>,
}

impl Default for Counter {
    fn default() -> Self {
        let clock = SystemClock::new();
        Self { clock, changes: 0, first_micros: 0, last_micros: 0, commit_micros: 0, latencies: Vec::new() }
    }
}

impl Counter {
    fn now_micros(&self) -> i64 {
        self.clock.now().to_unix_micros()
    }

    /// A change has come.
    #[inline]
    pub fn change(&mut self) {
        if self.changes == 0 {
            self.first_micros = self.now_micros();
        }
        self.changes += 1;
    }

    /// How many changes there were so far.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The end of a transaction has come. Gives how many changes there were so far.
    pub fn commit(&mut self, commit_micros: i64) -> u64 {
        self.last_micros = self.now_micros();
        self.commit_micros = commit_micros;
        self.latencies.push(u64::try_from(self.last_micros - commit_micros).unwrap_or(0));
        self.changes
    }

    /// What all of them have counted.
    #[must_use]
    pub fn sum(counters: Vec<Self>) -> Counted {
        let mut all = Counted { first_micros: i64::MAX, ..Counted::default() };
        let mut latencies = Vec::new();
        for counter in counters {
            all.changes += counter.changes;
            all.first_micros = all.first_micros.min(counter.first_micros);
            all.last_micros = all.last_micros.max(counter.last_micros);
            all.commit_micros = all.commit_micros.max(counter.commit_micros);
            latencies.extend(counter.latencies);
        }
        let latencies = Latencies::from(latencies);
        let [p50_ms, p99_ms, worst_ms] = [0.5, 0.99, 1.0].map(|share| latencies.quantile_ms(share));
        Counted { p50_ms, p99_ms, worst_ms, ..all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_back() {
        let mut counters = [Counter::default(), Counter::default()];
        for counter in &mut counters {
            counter.change();
            counter.change();
            assert_eq!(counter.commit(1_000_000), 2);
        }
        let counted = Counter::sum(counters.into());
        assert_eq!((counted.changes, counted.commit_micros), (4, 1_000_000));
        assert!(counted.last_micros >= counted.first_micros && counted.worst_ms >= counted.p50_ms && counted.p50_ms > 0.0);
        let line = serde_json::to_string(&counted).unwrap();
        assert_eq!(Counted::of_output(&format!("{READY}\n{line}\n")), Some(counted));
        assert_eq!(Counted::of_output("ready\n"), None);
    }
}
