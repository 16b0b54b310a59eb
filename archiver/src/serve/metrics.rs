//! What Prometheus is told, at `/metrics`. Names begin with `beyond_pg_archiver_` and end with their unit.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use walbus::archive::store::StoreError;
use walbus::clock::{Clock, SystemClock};

use super::http::Exported;
use super::prefetch::Fetched;
use super::uploads::Uploaded;

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: &'static str,
}

impl Kind {
    /// What the store's failure is counted by.
    pub(crate) const fn of(error: &StoreError) -> Self {
        let kind = match error {
            StoreError::Conflict { .. } => "conflict",
            StoreError::Credentials { .. } => "credentials",
            StoreError::Damaged { .. } => "damaged",
            StoreError::Retry { .. } => "retry",
            StoreError::Settings { .. } => "settings",
            StoreError::Unsupported { .. } => "unsupported",
        };
        Self { kind }
    }
}

/// Sets a gauge, which knows signed numbers alone.
pub(crate) fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// What the engine knows at a moment.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// How many files Postgres has marked as ready.
    pub ready: u64,
    /// How many of these are not in the archive.
    pub lagging: u64,
    /// How much WAL that is.
    pub lag_bytes: u64,
    /// How long the oldest that is ready has waited.
    pub lag: Duration,
    /// How many uploads run.
    pub running: u64,
    /// How many files can't be archived.
    pub refused: u64,
    /// How many segments are in the spool.
    pub spooled: u64,
    /// How many segments were there when they were asked for.
    pub hits: u64,
    /// How many were not.
    pub misses: u64,
    /// When the store last answered, by the monotonic clock.
    pub answered: Option<Duration>,
    /// Why the store can't be used; `None` while it can.
    pub problem: Option<String>,
}

/// All metrics.
pub struct Metrics {
    clock: SystemClock,
    figures: Mutex<Figures>,
    ready: Gauge,
    lagging: Gauge,
    lag_bytes: Gauge,
    lag_seconds: Gauge<f64, AtomicU64>,
    running: Gauge,
    refused: Gauge,
    spooled: Gauge,
    store_up: Gauge,
    store_silence: Gauge<f64, AtomicU64>,
    hits: Counter,
    misses: Counter,
    uploads: Counter,
    upload_bytes: Counter,
    fetches: Counter,
    fetch_bytes: Counter,
    failures: Family<Kind, Counter>,
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of which nothing has happened yet.
    #[must_use]
    pub fn new(clock: SystemClock) -> Self {
        let new = Self {
            clock,
            figures: Mutex::new(Figures { problem: Some("it has just been started".to_owned()), ..Figures::default() }),
            ready: Gauge::default(),
            lagging: Gauge::default(),
            lag_bytes: Gauge::default(),
            lag_seconds: Gauge::default(),
            running: Gauge::default(),
            refused: Gauge::default(),
            spooled: Gauge::default(),
            store_up: Gauge::default(),
            store_silence: Gauge::default(),
            hits: Counter::default(),
            misses: Counter::default(),
            uploads: Counter::default(),
            upload_bytes: Counter::default(),
            fetches: Counter::default(),
            fetch_bytes: Counter::default(),
            failures: Family::default(),
            registry: Registry::default(),
        };
        let mut registry = Registry::with_prefix("beyond_pg_archiver");
        let r = &mut registry;
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("ready_files", "Files that Postgres has marked as ready to be archived", new.ready.clone());
        r.register("lag_files", "Those of them that are not in the archive", new.lagging.clone());
        r.register_with_unit("lag", "WAL that is ready and not in the archive", Unit::Bytes, new.lag_bytes.clone());
        let help = "How long the oldest file that is ready has waited for archive_command";
        r.register_with_unit("lag", help, Unit::Seconds, new.lag_seconds.clone());
        r.register("uploads_running", "Uploads that run", new.running.clone());
        r.register("refused_files", "Files that can't be archived, and that Postgres keeps", new.refused.clone());
        r.register("spooled_segments", "Segments fetched ahead", new.spooled.clone());
        r.register("store_up", "Whether the store does what it is asked", new.store_up.clone());
        let help = "How long ago the store last did what it was asked";
        r.register_with_unit("store_silence", help, Unit::Seconds, new.store_silence.clone());
        r.register("prefetch_hits", "Segments that were there or on their way when they were asked for", new.hits.clone());
        r.register("prefetch_misses", "Segments that were not", new.misses.clone());
        r.register("uploads", "Files that the store has acknowledged", new.uploads.clone());
        r.register_with_unit("upload", "Bytes of these files", Unit::Bytes, new.upload_bytes.clone());
        r.register("fetches", "Segments fetched into the spool", new.fetches.clone());
        r.register_with_unit("fetch", "Bytes of these segments", Unit::Bytes, new.fetch_bytes.clone());
        r.register("failures", "What failed, by what there is to do about it", new.failures.clone());
        Self { registry, ..new }
    }

    /// An upload has ended.
    pub fn uploaded(&self, outcome: &Uploaded, bytes: u64) {
        match outcome {
            Uploaded::Stored(_) => {
                self.uploads.inc();
                self.upload_bytes.inc_by(bytes);
            }
            Uploaded::Refused(_) => self.count("refused"),
            Uploaded::Away(_) | Uploaded::Gone => {}
        }
    }

    /// A fetch has ended.
    pub fn fetched(&self, outcome: &Fetched, bytes: u64) {
        match outcome {
            Fetched::Stored => {
                self.fetches.inc();
                self.fetch_bytes.inc_by(bytes);
            }
            Fetched::Damaged(_) => self.count("damaged"),
            Fetched::Full(_) => self.count("spool"),
            Fetched::Absent | Fetched::Away(_) => {}
        }
    }

    /// The store has failed.
    pub fn failed(&self, error: &StoreError) {
        self.count(Kind::of(error).kind);
    }

    fn count(&self, kind: &'static str) {
        self.failures.get_or_create(&Kind { kind }).inc();
    }

    /// How all stands now.
    pub fn set(&self, figures: &Figures) {
        figures.clone_into(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Exported for Metrics {
    fn problem(&self) -> Option<String> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    fn refreshed(&self) -> &Registry {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        set(&self.ready, figures.ready);
        set(&self.lagging, figures.lagging);
        set(&self.lag_bytes, figures.lag_bytes);
        set(&self.running, figures.running);
        set(&self.refused, figures.refused);
        set(&self.spooled, figures.spooled);
        set(&self.store_up, u64::from(figures.problem.is_none()));
        self.lag_seconds.set(figures.lag.as_secs_f64());
        let since = figures.answered.map_or(f64::NAN, |at| self.clock.monotonic().saturating_sub(at).as_secs_f64());
        self.store_silence.set(since);
        self.hits.inc_by(figures.hits.saturating_sub(self.hits.get()));
        self.misses.inc_by(figures.misses.saturating_sub(self.misses.get()));
        &self.registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::line::FileIdentity;

    #[test]
    fn figures_and_counts_are_told() {
        let metrics = Metrics::new(SystemClock::new());
        assert!(metrics.problem().is_some() && metrics.encode().contains("beyond_pg_archiver_store_up 0"));
        metrics.set(&Figures { lagging: 3, lag_bytes: 48, hits: 5, lag: Duration::from_millis(1500), ..Figures::default() });
        let identity = FileIdentity { device: 0, inode: 0, bytes: 0, modified_ns: 0, changed_ns: 0 };
        metrics.uploaded(&Uploaded::Stored(identity), 16);
        metrics.uploaded(&Uploaded::Refused("x".into()), 0);
        metrics.fetched(&Fetched::Stored, 8);
        metrics.failed(&StoreError::Settings { problem: String::new() });
        assert_eq!(metrics.encode(), metrics.encode(), "what is looked at stays as it is");
        let text = metrics.encode();
        for line in [
            "beyond_pg_archiver_lag_files 3",
            "beyond_pg_archiver_lag_bytes 48",
            "beyond_pg_archiver_lag_seconds 1.5",
            "beyond_pg_archiver_prefetch_hits_total 5",
            "beyond_pg_archiver_uploads_total 1",
            "beyond_pg_archiver_upload_bytes_total 16",
            "beyond_pg_archiver_fetch_bytes_total 8",
            "beyond_pg_archiver_failures_total{kind=\"refused\"} 1",
            "beyond_pg_archiver_failures_total{kind=\"settings\"} 1",
            "beyond_pg_archiver_store_up 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
