//! Dates and times as Postgres writes them with `DateStyle = ISO` and `TimeZone = UTC`.

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// Days since 1970-01-01 of a `date`. `None` for infinities, and for what is no date.
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let (text, before_christ) = era(text);
    let (days, rest) = days(text, before_christ)?;
    rest.is_empty().then_some(i32::try_from(days).ok()?)
}

/// Microseconds since midnight of a `time`; 24:00:00 is one.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (micros, rest) = clock(text)?;
    rest.is_empty().then_some(micros)
}

/// Microseconds since 1970-01-01 00:00 UTC of a `timestamp` or, in UTC, of a `timestamptz`. `None` for infinities, another zone, and what does
/// not fit 64 bits.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    let (text, before_christ) = era(text);
    let (days, rest) = days(text, before_christ)?;
    let (micros, rest) = clock(rest.strip_prefix(b" ")?)?;
    matches!(rest, b"" | b"+00").then_some(())?;
    days.checked_mul(DAY_MICROS)?.checked_add(micros)
}

fn era(text: &[u8]) -> (&[u8], bool) {
    text.strip_suffix(b" BC").map_or((text, false), |text| (text, true))
}

/// `YYYY-MM-DD` in front, as days since 1970-01-01.
fn days(text: &[u8], before_christ: bool) -> Option<(i64, &[u8])> {
    let (year, rest) = number(text, 4, 7)?;
    let (month, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
    let (day, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // There is no year 0: 1 BC is before 1.
    let year = if before_christ { 1 - year } else { year };
    Some((days_of(year, month, day), rest))
}

/// Days since 1970-01-01 in the Gregorian calendar, which Postgres takes to hold for ever. Years are counted from March on, so that the leap day
/// is the last of one; 400 of them always have 146,097 days.
const fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    cycle * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468
}

/// `HH:MM:SS[.ffffff]` in front, as microseconds.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (hours, rest) = number(text, 2, 2)?;
    let (minutes, rest) = number(rest.strip_prefix(b":")?, 2, 2)?;
    let (seconds, rest) = number(rest.strip_prefix(b":")?, 2, 2)?;
    let whole = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000;
    let Some(fraction) = rest.strip_prefix(b".") else { return Some((whole, rest)) };
    let (micros, after) = number(fraction, 1, 6)?;
    let digits = u32::try_from(fraction.len() - after.len()).ok()?;
    Some((whole + micros * 10_i64.pow(6 - digits), after))
}

/// A number of `min` to `max` digits in front.
#[inline]
fn number(text: &[u8], min: usize, max: usize) -> Option<(i64, &[u8])> {
    let digits = text.iter().take(max).take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    let value = number.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    (digits >= min).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_are_what_postgres_says_they_are() {
        // Each by: SELECT (extract(epoch FROM timestamptz t) * 1000000)::numeric(30), with TimeZone = UTC
        for (text, micros) in [
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01 00:00:00+00", 0),
            ("2000-02-29 12:34:56.789012+00", 951_827_696_789_012),
            ("1969-12-31 23:59:59.999999", -1),
            ("2026-11-21 12:23:14.5", 1_795_263_794_500_000),
            ("0001-01-01 00:00:00", -62_135_596_800_000_000),
            ("0001-12-31 00:00:00 BC", -62_135_683_200_000_000),
            ("4714-11-24 00:00:00+00 BC", -210_866_803_200_000_000),
            ("294246-12-31 23:59:59.999999", 9_223_371_244_799_999_999),
        ] {
            assert_eq!(timestamp(text.as_bytes()), Some(micros), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_text() {
        for text in [
            "infinity",
            "-infinity",
            "294276-12-31 23:59:59.999999",
            "2026-11-21 12:23:14+02",
            "2026-11-21",
            "2026-13-01 00:00:00",
            "",
        ] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
        for text in ["infinity", "-infinity", "2026-11-21 ", "2026-00-01"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        assert_eq!(time(b"12:00:00+01"), None);
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(date(b"1970-01-01"), Some(0));
        assert_eq!(date(b"4713-01-01 BC"), Some(-2_440_550));
        assert_eq!(date(b"5874897-12-31"), Some(2_145_042_905));
        assert_eq!(time(b"00:00:00"), Some(0));
        assert_eq!(time(b"24:00:00"), Some(DAY_MICROS));
        assert_eq!(time(b"23:59:59.000001"), Some(DAY_MICROS - 999_999));
    }

    proptest! {
        #[test]
        fn days_count_one_by_one(year in -4000_i64..9000, month in 1_i64..=12, day in 1_i64..=28) {
            let next = if month == 12 { days_of(year + 1, 1, day) } else { days_of(year, month + 1, day) };
            prop_assert!((28..=31).contains(&(next - days_of(year, month, day))));
            prop_assert_eq!(days_of(year, month, day) + 1, days_of(year, month, day + 1));
        }

        #[test]
        fn any_bytes_are_taken(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _: (Option<i32>, Option<i64>, Option<i64>) = (date(&text), time(&text), timestamp(&text));
        }
    }
}
