//! Positions in the WAL.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL, counted from the start of the cluster's life: Postgres' `XLogRecPtr`.
///
/// Printed and read as `X/X`, two hexadecimal halves of 32 bits. Both spellings are read, `0/16B3740` (Postgres to 18) and
/// `0/016B3740` (19). `0/0` is Postgres' `InvalidXLogRecPtr`; it is a valid value here, and means "nowhere yet".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no LSN: expected two hexadecimal halves of up to 8 digits, as in 0/16B3740")]
pub struct ParseLsnError(pub String);

impl Lsn {
    /// `0/0`: nowhere.
    pub const INVALID: Self = Self(0);
    /// The greatest position.
    pub const MAX: Self = Self(u64::MAX);

    /// Whether this is a position at all, `0/0` being none.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` further on, `None` where that overflows.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// How many bytes `self` lies after `earlier`, `None` where it lies before.
    #[must_use]
    pub fn checked_sub(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// How many bytes `self` lies after `earlier`, 0 where it lies before: what a lag is.
    #[must_use]
    pub fn bytes_after(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next position at or after `self` at which a record may start: `MAXALIGN`, 8 bytes. Saturates.
    #[must_use]
    pub fn align_up(self) -> Self {
        Self(self.0.saturating_add(7) & !7)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_are_read() {
        assert_eq!("0/16B3740".parse(), Ok(Lsn(0x16B_3740)));
        assert_eq!("0/016B3740".parse(), Ok(Lsn(0x16B_3740)));
        assert_eq!("ffffffff/FFFFFFFF".parse(), Ok(Lsn::MAX));
    }

    #[test]
    fn what_is_no_lsn_is_named() {
        for text in ["", "/", "0", "0/", "/0", "0/0/0", "0/+1", "0x0/0", " 0/0", "000000000/0", "0/123456789", "g/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError(text.to_owned())), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printed_and_read_back(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse(), Ok(Lsn(raw)));
        }
    }
}
