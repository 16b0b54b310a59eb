//! Digits: numbers, moments, bytes.

use std::fmt::Write;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

pub(super) fn integer(out: &mut String, value: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// A float as the shortest number that is read back as the same; what JSON has no number for as a string.
pub(super) fn float(out: &mut String, value: f64) {
    let written = if value.is_finite() {
        write!(out, "{value:?}")
    } else if value.is_nan() {
        out.write_str("\"NaN\"")
    } else if value > 0.0 {
        out.write_str("\"Infinity\"")
    } else {
        out.write_str("\"-Infinity\"")
    };
    debug_assert!(written.is_ok(), "a String takes everything");
}

/// Microseconds since 1970-01-01 00:00 as RFC 3339 has it, without a zone; always with six digits of a fraction.
pub(super) fn timestamp(out: &mut String, micros: i64) {
    date(out, micros.div_euclid(MICROS_PER_DAY));
    out.push('T');
    time(out, micros.rem_euclid(MICROS_PER_DAY));
}

/// Microseconds since midnight, `24:00:00` among them. What is no time of day is written on, as an hour above 24 or a negative one.
pub(super) fn time(out: &mut String, micros: i64) {
    let seconds = micros.div_euclid(MICROS_PER_SECOND);
    padded(out, seconds.div_euclid(3600), 2);
    out.push(':');
    padded(out, seconds.rem_euclid(3600) / 60, 2);
    out.push(':');
    padded(out, seconds.rem_euclid(60), 2);
    out.push('.');
    padded(out, micros.rem_euclid(MICROS_PER_SECOND), 6);
}

/// Days since 1970-01-01 as a date of ISO 8601. Years of more than four digits have a sign, and 0 is 1 BC, as that standard has it.
pub(super) fn date(out: &mut String, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        padded(out, year, 4);
    } else {
        out.push(if year < 0 { '-' } else { '+' });
        padded(out, year.abs(), 4);
    }
    out.push('-');
    padded(out, month, 2);
    out.push('-');
    padded(out, day, 2);
}

/// The date of a day of the Gregorian calendar, in eras of 400 years that begin on 1 March: Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let since = days + 719_468;
    let era = since.div_euclid(146_097);
    let of_era = since.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn padded(out: &mut String, value: i64, digits: usize) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value);
    for _ in text.len()..digits {
        out.push('0');
    }
    out.push_str(text);
}

/// Bytes in hexadecimal.
pub(super) fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// A UUID's 16 bytes in the usual groups.
pub(super) fn uuid(out: &mut String, bytes: &[u8; 16]) {
    for (group, of) in [(0, 4), (4, 6), (6, 8), (8, 10), (10, 16)] {
        if group > 0 {
            out.push('-');
        }
        hex(out, &bytes[group..of]);
    }
}
