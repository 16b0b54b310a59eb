//! `Range` of RFC 9110, chapter 14, as far as this server goes: bytes, one range.

use std::ops::Range;

/// What a `Range` header asks of a body of a known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: there is no header, or one that a server may ignore (another unit, several ranges).
    All,
    /// What is no range at all.
    Malformed,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// None that the body has.
    Unsatisfiable,
}

/// What the header's value asks of a body of `len` bytes.
pub(super) fn parse(header: &str, len: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else { return Wanted::Malformed };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Wanted::All;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Malformed };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if last < first => Wanted::Malformed,
        (Number::Is(first), _) if first >= len => Wanted::Unsatisfiable,
        (Number::Is(first), Number::Is(last)) => Wanted::Part(first..last.saturating_add(1).min(len)),
        (Number::Is(first), Number::Absent) => Wanted::Part(first..len),
        (Number::Absent, Number::Is(0)) => Wanted::Unsatisfiable,
        (Number::Absent, Number::Is(_)) if len == 0 => Wanted::Unsatisfiable,
        (Number::Absent, Number::Is(suffix)) => Wanted::Part(len.saturating_sub(suffix)..len),
        _ => Wanted::Malformed,
    }
}

enum Number {
    Absent,
    Bad,
    Is(u64),
}

fn number(digits: &str) -> Number {
    if digits.is_empty() {
        return Number::Absent;
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Number::Bad;
    }
    // More digits than fit are a position behind every body's end, not a fault.
    Number::Is(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_ten_bytes() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=2-5", Wanted::Part(2..6)),
            ("bytes=5-", Wanted::Part(5..10)),
            ("bytes=5-99", Wanted::Part(5..10)),
            ("bytes=9-99999999999999999999999", Wanted::Part(9..10)),
            ("Bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-12", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Malformed),
            ("bytes=", Wanted::Malformed),
            ("bytes=-", Wanted::Malformed),
            ("bytes=a-b", Wanted::Malformed),
            ("bytes=1-b", Wanted::Malformed),
            ("bytes=+1-2", Wanted::Malformed),
            ("bytes=1 - 2", Wanted::Malformed),
            ("bytes", Wanted::Malformed),
            ("bytes=0-1,3-4", Wanted::All),
            ("lines=0-1", Wanted::All),
        ] {
            assert_eq!(parse(header, 10), wanted, "{header}");
        }
    }

    proptest! {
        /// Against a model that looks at each byte by itself.
        #[test]
        fn a_range_has_the_bytes_that_its_numbers_say(len in 0u64..40, first in prop::option::of(0u64..50), last in prop::option::of(0u64..50)) {
            let text = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
            let header = format!("bytes={}-{}", text(first), text(last));
            let bytes: Vec<u64> = (0..len)
                .filter(|&at| match (first, last) {
                    (Some(first), Some(last)) => first <= at && at <= last,
                    (Some(first), None) => first <= at,
                    (None, Some(suffix)) => at + suffix >= len,
                    (None, None) => false,
                })
                .collect();
            let malformed = matches!((first, last), (None, None)) || matches!((first, last), (Some(f), Some(l)) if l < f);
            let expected = match (bytes.first(), bytes.last()) {
                _ if malformed => Wanted::Malformed,
                (Some(&first), Some(&last)) => Wanted::Part(first..last + 1),
                _ => Wanted::Unsatisfiable,
            };
            prop_assert_eq!(parse(&header, len), expected);
        }

        #[test]
        fn any_text_is_taken(header: String, len: u64) {
            if let Wanted::Part(range) = parse(&header, len) {
                prop_assert!(range.start < range.end && range.end <= len);
            }
        }
    }
}
