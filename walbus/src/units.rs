//! Sizes and durations, as people write them in settings.

use std::time::Duration;

/// What a number of bytes is written in, the longest spelling first. Powers of 1024 throughout, as Postgres reads `GB`.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1 << 10),
    ("KB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("TB", 1 << 40),
    ("B", 1),
];

/// What a duration is written in, in microseconds.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// A text that is no size or no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No duration.
    #[error("{0:?} is no duration: write a whole number and one of us, ms, s, m, h, d, as in 30s, 12h or 7d")]
    Duration(String),
    /// No size.
    #[error("{0:?} is no size: write a whole number and one of B, kB, MB, GB, TB (powers of 1024), as in 512MB or 10GB")]
    Size(String),
}

/// The number of bytes that a text such as `10GB` says. Units are powers of 1024, as Postgres has them; a unit is required, but for 0.
///
/// # Errors
/// Where it is no whole number with a unit, or too large.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    scaled(text, &SIZE_UNITS).ok_or_else(|| UnitError::Size(text.to_owned()))
}

/// The duration that a text such as `7d` says. A unit is required, but for 0.
///
/// # Errors
/// Where it is no whole number with a unit, or too large.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    scaled(text, &DURATION_UNITS).map(Duration::from_micros).ok_or_else(|| UnitError::Duration(text.to_owned()))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (number, unit) = (number.parse::<u64>().ok()?, unit.trim_start());
    if unit.is_empty() {
        return (number == 0).then_some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgres_reads_them() {
        for (text, bytes) in [("0", 0), ("1B", 1), ("8kB", 8192), ("512MB", 512 << 20), ("10GB", 10 << 30), ("2 TiB", 2 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("0", 0), ("10s", 10), ("2min", 120), ("2m", 120), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("300us"), Ok(Duration::from_micros(300)));
    }

    #[test]
    fn what_is_neither_is_named() {
        for text in ["", "GB", "10", "-1GB", "1.5GB", "10gb", "10 GBs", "99999999999TB", "18446744073709551616B", "1é"] {
            assert_eq!(parse_size(text), Err(UnitError::Size(text.to_owned())));
        }
        for text in ["", "s", "10", "-1s", "1.5h", "7D", "99999999999999999d", "1h30m"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.to_owned())));
        }
    }
}
