//! What `follow` tells at `/metrics`: by the names of `serve` where the same is meant.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use walbus::archive::store::StoreError;
use walbus::clock::{Clock, SystemClock};
use walbus::{Lsn, Timeline};

use super::received::Upload;
use crate::serve::http::Exported;
use crate::serve::metrics::{Kind, set as gauge};

/// How all stands at a moment. Times are of the monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// How much of the server's WAL is not in the archive, in bytes.
    pub lag_bytes: u64,
    /// Since when the oldest of it waits.
    pub lag_since: Option<Duration>,
    /// The end of the server's WAL.
    pub server: Lsn,
    /// The end of what was received.
    pub received: Lsn,
    /// The end of what is in the archive without a gap.
    pub archived: Lsn,
    /// The timeline that is followed.
    pub timeline: Option<Timeline>,
    /// How many uploads run.
    pub running: usize,
    /// When the store last answered.
    pub answered: Option<Duration>,
    /// When the server was last heard.
    pub heard: Option<Duration>,
    /// Why the store can't be used; `None` while it can.
    pub store_problem: Option<String>,
    /// Why nothing is received; `None` while something is.
    pub server_problem: Option<String>,
}

/// All metrics.
pub struct Metrics {
    clock: SystemClock,
    figures: Mutex<Figures>,
    lag_bytes: Gauge,
    lag_seconds: Gauge<f64, AtomicU64>,
    server: Gauge,
    received: Gauge,
    archived: Gauge,
    timeline: Gauge,
    running: Gauge,
    store_up: Gauge,
    store_silence: Gauge<f64, AtomicU64>,
    server_up: Gauge,
    server_silence: Gauge<f64, AtomicU64>,
    uploads: Counter,
    upload_bytes: Counter,
    tails: Counter,
    tail_bytes: Counter,
    failures: Family<Kind, Counter>,
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of a slot's follower of which nothing has happened yet.
    #[must_use]
    pub fn new(clock: SystemClock, slot: &str) -> Self {
        let begun = || Some("it has just been started".to_owned());
        let new = Self {
            clock,
            figures: Mutex::new(Figures { store_problem: begun(), server_problem: begun(), ..Figures::default() }),
            lag_bytes: Gauge::default(),
            lag_seconds: Gauge::default(),
            server: Gauge::default(),
            received: Gauge::default(),
            archived: Gauge::default(),
            timeline: Gauge::default(),
            running: Gauge::default(),
            store_up: Gauge::default(),
            store_silence: Gauge::default(),
            server_up: Gauge::default(),
            server_silence: Gauge::default(),
            uploads: Counter::default(),
            upload_bytes: Counter::default(),
            tails: Counter::default(),
            tail_bytes: Counter::default(),
            failures: Family::default(),
            registry: Registry::default(),
        };
        let registry = new.registered(slot);
        Self { registry, ..new }
    }

    fn registered(&self, slot: &str) -> Registry {
        let mut registry = Registry::with_prefix("beyond_pg_archiver");
        let r = &mut registry;
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("slot", "The replication slot that is followed", Info::new([("slot", slot.to_owned())]));
        let help = "WAL of the server that is not in the archive";
        r.register_with_unit("lag", help, Unit::Bytes, self.lag_bytes.clone());
        let help = "How long the oldest WAL that is not in the archive has waited";
        r.register_with_unit("lag", help, Unit::Seconds, self.lag_seconds.clone());
        r.register("server_lsn", "The end of the server's WAL, as a number", self.server.clone());
        r.register("received_lsn", "The end of what was received", self.received.clone());
        r.register("archived_lsn", "The end of what is in the archive without a gap", self.archived.clone());
        r.register("timeline", "The timeline that is followed", self.timeline.clone());
        r.register("uploads_running", "Uploads that run", self.running.clone());
        r.register("store_up", "Whether the store does what it is asked", self.store_up.clone());
        let help = "How long ago the store last did what it was asked";
        r.register_with_unit("store_silence", help, Unit::Seconds, self.store_silence.clone());
        r.register("server_up", "Whether WAL is streamed from the server", self.server_up.clone());
        let help = "How long ago the server last sent anything";
        r.register_with_unit("server_silence", help, Unit::Seconds, self.server_silence.clone());
        r.register("uploads", "Files that the store has acknowledged, tails excepted", self.uploads.clone());
        r.register_with_unit("upload", "Bytes of these files", Unit::Bytes, self.upload_bytes.clone());
        r.register("tails", "Tails of segments that the store has acknowledged", self.tails.clone());
        r.register_with_unit("tail", "Bytes of these tails", Unit::Bytes, self.tail_bytes.clone());
        r.register("failures", "What failed, by what there is to do about it", self.failures.clone());
        registry
    }

    /// The store has acknowledged this.
    pub fn uploaded(&self, upload: &Uploaded) {
        let Uploaded { is_tail, bytes } = *upload;
        let (count, sum) = if is_tail { (&self.tails, &self.tail_bytes) } else { (&self.uploads, &self.upload_bytes) };
        count.inc();
        sum.inc_by(bytes);
    }

    /// The store has failed.
    pub fn failed(&self, error: &StoreError) {
        self.failures.get_or_create(&Kind::of(error)).inc();
    }

    /// Changes how all stands.
    pub fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What is counted of an upload.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded {
    is_tail: bool,
    bytes: u64,
}

impl Uploaded {
    /// Of an upload that was begun.
    #[must_use]
    pub const fn of(upload: &Upload) -> Self {
        match upload {
            Upload::History(_, content) | Upload::Segment(_, content) => Self { is_tail: false, bytes: content.len() as u64 },
            Upload::Tail(_, _, content, _) => Self { is_tail: true, bytes: content.len() as u64 },
        }
    }
}

impl Exported for Metrics {
    fn problem(&self) -> Option<String> {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let store = figures.store_problem.as_ref().map(|problem| format!("store: {problem}"));
        store.or_else(|| figures.server_problem.as_ref().map(|problem| format!("server: {problem}")))
    }

    fn refreshed(&self) -> &Registry {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = self.clock.monotonic();
        let since = |at: Option<Duration>| at.map(|at| now.saturating_sub(at).as_secs_f64());
        gauge(&self.lag_bytes, figures.lag_bytes);
        self.lag_seconds.set(since(figures.lag_since).unwrap_or(0.0));
        gauge(&self.server, figures.server.0);
        gauge(&self.received, figures.received.0);
        gauge(&self.archived, figures.archived.0);
        gauge(&self.timeline, figures.timeline.map_or(0, |timeline| timeline.get().into()));
        gauge(&self.running, figures.running as u64);
        gauge(&self.store_up, u64::from(figures.store_problem.is_none()));
        self.store_silence.set(since(figures.answered).unwrap_or(f64::NAN));
        gauge(&self.server_up, u64::from(figures.server_problem.is_none()));
        self.server_silence.set(since(figures.heard).unwrap_or(f64::NAN));
        &self.registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use walbus::Segment;

    #[test]
    fn figures_and_counts_are_told() {
        let metrics = Metrics::new(SystemClock::new(), "archiver");
        assert!(metrics.problem().is_some_and(|problem| problem.starts_with("store: ")));
        metrics.update(|figures| {
            figures.store_problem = None;
            figures.lag_bytes = 48;
            figures.archived = Lsn(100);
            figures.timeline = Timeline::new(3);
        });
        assert!(metrics.problem().is_some_and(|problem| problem.starts_with("server: ")));
        let segment = Segment { number: 1, timeline: Timeline::FIRST };
        let supersedes = super::super::received::Supersedes::Nothing;
        metrics.uploaded(&Uploaded::of(&Upload::Segment(segment, Bytes::from_static(&[0; 16]))));
        metrics.uploaded(&Uploaded::of(&Upload::Tail(segment, Lsn(8), Bytes::from_static(&[0; 8]), supersedes)));
        metrics.failed(&StoreError::Settings { problem: String::new() });
        let text = metrics.encode();
        for line in [
            "beyond_pg_archiver_slot_info{slot=\"archiver\"} 1",
            "beyond_pg_archiver_lag_bytes 48",
            "beyond_pg_archiver_lag_seconds 0",
            "beyond_pg_archiver_archived_lsn 100",
            "beyond_pg_archiver_timeline 3",
            "beyond_pg_archiver_uploads_total 1",
            "beyond_pg_archiver_upload_bytes_total 16",
            "beyond_pg_archiver_tails_total 1",
            "beyond_pg_archiver_tail_bytes_total 8",
            "beyond_pg_archiver_failures_total{kind=\"settings\"} 1",
            "beyond_pg_archiver_store_up 1",
            "beyond_pg_archiver_server_up 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
