//! A histogram of durations that costs its writer a few atomic additions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The upper ends of the buckets, in microseconds: from a write into the page cache to a disk in trouble.
const BUCKETS_US: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How long something took, each time. Clones share what they count; no writer ever waits for another, or for a reader.
#[derive(Debug, Clone, Default)]
pub struct Latency {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sum_us: AtomicU64,
    /// By bucket, not cumulated; what is above them all comes last.
    counts: [AtomicU64; BUCKETS_US.len() + 1],
}

impl Latency {
    /// Counts one that took this long.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|&end| end < us);
        self.inner.sum_us.fetch_add(us, Ordering::Relaxed);
        if let Some(count) = self.inner.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ends = BUCKETS_US.iter().map(|&us| Duration::from_micros(us).as_secs_f64()).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(self.inner.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn durations_fall_into_their_buckets() {
        let latency = Latency::default();
        for us in [5, 10, 11, 400_000, 60_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        assert_eq!(latency.count(), 5);
        let mut registry = Registry::default();
        registry.register("took_seconds", "x", latency);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "took_seconds_bucket{le=\"0.00001\"} 2",
            "took_seconds_bucket{le=\"0.000025\"} 3",
            "took_seconds_bucket{le=\"0.5\"} 4",
            "took_seconds_bucket{le=\"30.0\"} 4",
            "took_seconds_bucket{le=\"+Inf\"} 5",
            "took_seconds_count 5",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
