//! What Prometheus is told, at `/metrics`. Names begin with `beyond_pg_sink_` and end with their unit.

mod latency;
mod stream;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use latency::Latency;

use crate::state::StreamState;

/// The media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What requests are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route, such as `/v1/segments/{name}`.
    pub route: String,
    /// The status code.
    pub code: u16,
}

/// All metrics. Those that are moved here are atomic: counting costs the receiver no lock and no wait.
pub struct Metrics {
    /// How long each fsync took.
    pub fsync_seconds: Latency,
    /// How often the connection to the primary was made again.
    pub reconnects: Counter,
    /// Open HTTPS connections.
    pub https_connections: Gauge,
    /// HTTPS connections that were turned away as one too many.
    pub https_connections_refused: Counter,
    /// Answers by route and status code.
    pub https_requests: Family<RequestLabels, Counter>,
    /// Requests that wait for WAL.
    pub https_waits: Gauge,
    /// Bytes of WAL sent over HTTPS, before TLS.
    pub https_sent_bytes: Counter,
    registry: Registry,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of one stream: what its state says is read from there at each scrape.
    #[must_use]
    pub fn new(state: Arc<StreamState>) -> Self {
        let mut registry = Registry::with_prefix("beyond_pg_sink");
        let new = Self {
            fsync_seconds: Latency::default(),
            reconnects: Counter::default(),
            https_connections: Gauge::default(),
            https_connections_refused: Counter::default(),
            https_requests: Family::default(),
            https_waits: Gauge::default(),
            https_sent_bytes: Counter::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register_with_unit("fsync", "How long each fsync took", Unit::Seconds, new.fsync_seconds.clone());
        r.register("reconnects", "How often the primary was connected to again", new.reconnects.clone());
        r.register("https_connections", "Open HTTPS connections", new.https_connections.clone());
        let help = "HTTPS connections turned away: more than --https-connections";
        r.register("https_connections_refused", help, new.https_connections_refused.clone());
        r.register("https_requests", "HTTPS requests answered", new.https_requests.clone());
        r.register("https_waits", "HTTPS requests that wait for WAL", new.https_waits.clone());
        r.register_with_unit("https_sent", "WAL sent over HTTPS", Unit::Bytes, new.https_sent_bytes.clone());
        r.register_collector(Box::new(stream::StreamCollector { state }));
        Self { registry, ..new }
    }

    /// All of it in the text format of `OpenMetrics`, which Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        if let Err(error) = text::encode(&mut text, &self.registry) {
            // Writing to a text can't fail; should a metric, the others are still of use.
            tracing::error!(%error, "a metric can't be encoded");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::State;
    use crate::state::{Catalog, Positions};
    use walbus::{Lsn, Timeline};

    #[test]
    fn positions_and_state_are_read_at_each_scrape() {
        let state = Arc::new(StreamState::new(Catalog::default()));
        let metrics = Metrics::new(Arc::clone(&state));
        assert!(metrics.encode().contains("beyond_pg_sink_state{state=\"connecting\"} 1"));
        let at = |lsn| Positions {
            timeline: Timeline::FIRST,
            received: Lsn(lsn),
            written: Lsn(lsn),
            flushed: Lsn(lsn),
            complete: Lsn(lsn),
            server_end: Lsn(lsn + 7),
        };
        state.set_positions(at(1000));
        state.set_condition(State::Streaming, None);
        metrics.reconnects.inc();
        let text = metrics.encode();
        for line in [
            "beyond_pg_sink_flushed_position_bytes 1000.0",
            "beyond_pg_sink_lag_bytes 7.0",
            "beyond_pg_sink_state{state=\"connecting\"} 0",
            "beyond_pg_sink_state{state=\"streaming\"} 1",
            "beyond_pg_sink_reconnects_total 1",
            "# TYPE beyond_pg_sink_fsync_seconds histogram",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
