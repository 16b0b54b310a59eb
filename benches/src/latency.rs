//! Latencies, exactly: every one is kept.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// The latencies of many transactions, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    /// In order.
    sorted: Vec<u64>,
}

impl Latencies {
    /// Of the logs that `pgbench --log --log-prefix=PREFIX` left in `folder`, one a thread.
    ///
    /// # Errors
    /// Where there is none, or one can't be read.
    pub fn of_logs(folder: &Path, prefix: &str) -> Result<Self> {
        let mut latencies = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry?;
            let of_this_run =
                entry.file_name().to_str().is_some_and(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')));
            if of_this_run {
                let text = std::fs::read_to_string(entry.path())?;
                for line in text.lines() {
                    latencies.push(latency(line).with_context(|| format!("{}: {line:?}", entry.path().display()))?);
                }
            }
        }
        if latencies.is_empty() {
            bail!("pgbench logged no transaction");
        }
        Ok(latencies.into())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The least latency that at least `share` of all do not exceed (nearest rank), in milliseconds; 0 of none. A share of 1 is the worst.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.sorted.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.sorted.len().max(1)) - 1;
        self.sorted.get(at).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }

    /// These and those.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        self.sorted.extend_from_slice(&other.sorted);
        self.sorted.into()
    }
}

impl From<Vec<u64>> for Latencies {
    fn from(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        Self { sorted: micros }
    }
}

/// A line is `client_id transaction_no time script_no time_epoch time_us`, as the manual's page of pgbench has it; `time` is in microseconds.
fn latency(line: &str) -> Result<u64> {
    let time = line.split_ascii_whitespace().nth(2).context("a line of a pgbench log has a third field")?;
    time.parse().with_context(|| format!("{time} is no latency: did the transaction fail?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact() {
        let latencies = Latencies::from((1..=1000).rev().collect::<Vec<u64>>());
        assert_eq!(latencies.quantile_ms(0.5), 0.5);
        assert_eq!(latencies.quantile_ms(0.999), 0.999);
        assert_eq!(latencies.quantile_ms(1.0), 1.0);
        assert_eq!(Latencies::default().quantile_ms(0.5), 0.0);
        assert_eq!(Latencies::from(vec![7]).merge(&Latencies::from(vec![3, 9])).quantile_ms(0.5), 0.007);
    }

    #[test]
    fn a_line_of_a_log_is_read() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598").unwrap(), 2241);
        assert!(latency("0 199 failed 0 1175850568 995598").is_err());
        assert!(latency("0 199").is_err());
    }
}
