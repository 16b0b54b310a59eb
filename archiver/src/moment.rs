//! Moments as people write them, always with their zone.

use jiff::Timestamp;
use jiff::tz::Offset;
use walbus::PgTime;

/// A text that is no moment with its zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no moment with its zone: expected as in '2026-11-20 14:30:00+00', '2026-11-20T14:30:00.5+02:00' or '2026-11-20 14:30:00Z'"
)]
pub struct MomentError(String);

/// Reads a date, a time and the zone's offset from UTC: as RFC 3339 has it, a space for the T and an offset of hours alone allowed, as
/// Postgres prints it. Without an offset it is refused: whose midnight it is would be guessed.
///
/// # Errors
/// Where it is none.
pub fn parse(text: &str) -> Result<PgTime, MomentError> {
    let error = || MomentError(text.to_owned());
    let text = text.trim();
    let timestamp: Timestamp = text.parse().or_else(|_| with_offset_minutes(text).parse()).map_err(|_| error())?;
    Ok(PgTime::from_unix_micros(timestamp.as_microsecond()))
}

/// An offset of hours alone, `+02`, with its minutes.
fn with_offset_minutes(text: &str) -> String {
    let short = text.len() > 3
        && text
            .get(text.len() - 3..)
            .is_some_and(|end| end.starts_with(['+', '-']) && end.bytes().skip(1).all(|byte| byte.is_ascii_digit()));
    // The last part of a date looks the same: an offset comes behind a time.
    if short && text.contains(':') { format!("{text}:00") } else { text.to_owned() }
}

/// A moment in UTC, as Postgres prints and reads it: `2026-11-20 14:30:00.123456+00`.
#[must_use]
pub fn text(time: PgTime) -> String {
    match Timestamp::from_microsecond(time.to_unix_micros()) {
        Ok(timestamp) => {
            let civil = Offset::UTC.to_datetime(timestamp);
            let (date, micros) = (civil.date(), civil.subsec_nanosecond() / 1000);
            let clock = format!("{:02}:{:02}:{:02}", civil.hour(), civil.minute(), civil.second());
            if micros == 0 { format!("{date} {clock}+00") } else { format!("{date} {clock}.{micros:06}+00") }
        }
        // Beyond the year 9999, or Postgres' infinities.
        Err(_) => format!("{} microseconds from 2000-01-01 00:00:00+00", time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_and_postgres_write() {
        let half_past = PgTime::from_unix_micros(1_795_184_999_500_000);
        for text in [
            "2026-11-20 14:29:59.5+00",
            "2026-11-20T14:29:59.5Z",
            "2026-11-20 15:29:59.500000+01",
            "2026-11-20 09:29:59.5-05",
            "2026-11-20T19:59:59.5+05:30",
            " 2026-11-20 14:29:59.5Z ",
        ] {
            assert_eq!(parse(text), Ok(half_past), "{text}");
        }
        assert_eq!(text(half_past), "2026-11-20 14:29:59.500000+00");
        assert_eq!(parse(&text(half_past)), Ok(half_past));
        assert_eq!(text(PgTime(0)), "2000-01-01 00:00:00+00");
    }

    #[test]
    fn without_a_zone_nothing_is_guessed() {
        for text in ["2026-11-20 14:30:00", "2026-11-20", "14:30", "now", "", "yesterday", "2026-11-20 14:30:00 CET"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
