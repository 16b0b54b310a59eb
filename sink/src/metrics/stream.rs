//! What the stream's state says, read when it is asked for.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use walbus::{Lsn, SegmentSize};

use crate::api::State;
use crate::https::holdings;
use crate::state::StreamState;

/// Every state, by the word that it has in `/v1/status`.
const STATES: [(State, &str); 7] = [
    (State::Connecting, "connecting"),
    (State::DiskFull, "disk_full"),
    (State::Diverged, "diverged"),
    (State::Refused, "refused"),
    (State::Stopping, "stopping"),
    (State::Streaming, "streaming"),
    (State::UpstreamBehind, "upstream_behind"),
];

/// Gauges derived from a stream's state.
#[derive(Debug)]
pub(super) struct StreamCollector {
    pub(super) state: Arc<StreamState>,
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: f64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

/// Counters of Prometheus are floating-point: exact to 2^53, 8 PB of WAL.
#[expect(clippy::cast_precision_loss, reason = "a metric is a floating-point number")]
const fn float(value: u64) -> f64 {
    value as f64
}

impl Collector for StreamCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let encoder = &mut encoder;
        self.encode_positions(encoder)?;
        self.encode_holdings(encoder)?;
        self.encode_state(encoder)
    }
}

impl StreamCollector {
    fn encode_positions(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(now) = self.state.positions() else { return Ok(()) };
        let positions: [(&str, &str, Lsn); 5] = [
            ("received_position", "The end of the WAL that has arrived, as a number", now.received),
            ("written_position", "The end of the WAL that was written to files, as a number", now.written),
            ("flushed_position", "The end of the WAL that is durable, as a number", now.flushed),
            ("complete_position", "The end of the last complete record that is durable, as a number", now.complete),
            ("server_end_position", "The end of the primary's WAL as it last said, as a number", now.server_end),
        ];
        for (name, help, lsn) in positions {
            gauge(encoder, name, help, Some(&Unit::Bytes), float(lsn.0))?;
        }
        let lag = float(now.server_end.bytes_after(now.flushed));
        gauge(encoder, "lag", "How far what is durable is behind the end of the primary's WAL", Some(&Unit::Bytes), lag)?;
        gauge(encoder, "timeline", "The timeline being received", None, f64::from(now.timeline.get()))
    }

    fn encode_holdings(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let positions = self.state.positions();
        // The guard is let go before anything is encoded: the receiver waits for it.
        let (segments, size, gaps, commit) = {
            let catalog = self.state.catalog();
            let size = catalog.identity.map(|identity| identity.segment_size);
            let gaps = size.map_or(0, |size| holdings::gaps(&catalog, positions.as_ref(), size).len());
            let commit = catalog.segments.values().rev().find_map(|held| held.facts.commit_time_max);
            (catalog.segments.len() as u64, size.map_or(0, SegmentSize::bytes), gaps as u64, commit)
        };
        gauge(encoder, "segments", "How many segments are held", None, float(segments))?;
        gauge(encoder, "held", "How large the held segments are", Some(&Unit::Bytes), float(segments.saturating_mul(size)))?;
        gauge(encoder, "gaps", "Ranges of WAL missing between held ones", None, float(gaps))?;
        let Some(commit) = commit else { return Ok(()) };
        #[expect(clippy::cast_precision_loss, reason = "a metric is a floating-point number")]
        let seconds = commit.to_unix_micros() as f64 / 1e6;
        let help = "When the newest commit held was made, by the primary's clock, since 1970-01-01 UTC";
        gauge(encoder, "last_commit_timestamp", help, Some(&Unit::Seconds), seconds)
    }

    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.state.condition().state;
        let kind = ConstGauge::new(0_u64);
        let mut family = encoder.encode_descriptor(
            "state",
            "1 for the state that the stream is in, 0 for the others",
            None,
            kind.metric_type(),
        )?;
        for (state, word) in STATES {
            let labels = [("state", word)];
            ConstGauge::new(u64::from(state == now)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
