//! WAL segments: their size, their numbers and the names of their files.

use std::fmt;
use std::str::FromStr;

use crate::ident::Timeline;
use crate::lsn::Lsn;

/// The size of a cluster's WAL segments, `wal_segment_size`: a power of two from 1 MB to 1 GB, fixed by `initdb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u32);

/// A number of bytes that Postgres takes for no segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is no WAL segment size: Postgres takes powers of two from 1 MB to 1 GB")]
pub struct SegmentSizeError(pub u64);

impl SegmentSize {
    /// The smallest size that Postgres takes.
    pub const MIN: Self = Self(1 << 20);
    /// What `initdb` chooses unless told otherwise.
    pub const DEFAULT: Self = Self(16 << 20);
    /// The largest size that Postgres takes.
    pub const MAX: Self = Self(1 << 30);

    /// The size of this many bytes.
    ///
    /// # Errors
    /// Where it is no power of two from 1 MB to 1 GB.
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&size) => Ok(Self(size)),
            _ => Err(SegmentSizeError(bytes)),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// The number of the segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn number(self, lsn: Lsn) -> u64 {
        lsn.0 / self.bytes()
    }

    /// How far into its segment `lsn` lies.
    #[must_use]
    pub const fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// The start of the segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn floor(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - self.offset(lsn))
    }

    /// The first segment start at or after `lsn`. Saturates.
    #[must_use]
    pub const fn ceil(self, lsn: Lsn) -> Lsn {
        match self.offset(lsn) {
            0 => lsn,
            offset => Lsn(lsn.0.saturating_add(self.bytes() - offset)),
        }
    }

    /// The first byte of segment `number`, `None` where no LSN reaches there.
    #[must_use]
    pub const fn start_of(self, number: u64) -> Option<Lsn> {
        match number.checked_mul(self.bytes()) {
            Some(raw) => Some(Lsn(raw)),
            None => None,
        }
    }

    /// How many segments share the middle eight digits of their names: those of 4 GB.
    const fn per_xlog_id(self) -> u64 {
        0x1_0000_0000 / self.bytes()
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB", self.0 >> 20)
    }
}

/// A segment of one timeline. Ordered by number, then by timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// How many segments of this size lie before it.
    pub number: u64,
    /// The timeline whose WAL it is.
    pub timeline: Timeline,
}

impl Segment {
    /// The segment of `timeline` that holds the byte at `lsn`.
    #[must_use]
    pub const fn containing(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self { number: size.number(lsn), timeline }
    }

    /// Its first byte. Saturates for a number that no LSN reaches.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Lsn {
        size.start_of(self.number).unwrap_or(Lsn::MAX)
    }

    /// The first byte behind it. Saturates.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Lsn {
        self.start(size).checked_add(size.bytes()).unwrap_or(Lsn::MAX)
    }

    /// The segment behind it, on the same timeline.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: self.number + 1, timeline: self.timeline }
    }

    /// The name of its file: 24 hexadecimal digits, as Postgres gives it (`XLogFileName`).
    #[must_use]
    pub fn name(self, size: SegmentSize) -> SegmentName {
        let per_id = size.per_xlog_id();
        SegmentName(format!("{:08X}{:08X}{:08X}", self.timeline.get(), self.number / per_id, self.number % per_id))
    }
}

/// The name of a segment's file: 24 upper-case hexadecimal digits. What segment it is depends on the segment size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName(String);

/// A text that is no segment's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no segment's name: expected 24 upper-case hexadecimal digits, as in 000000010000000000000001")]
pub struct SegmentNameError(pub String);

impl SegmentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The timeline in the name: its first eight digits.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        // A name with none is not parsed, and none is made of a segment.
        u32::from_str_radix(self.timeline_digits(), 16).ok().and_then(Timeline::new).unwrap_or(Timeline::FIRST)
    }

    /// The timeline in the name, as it stands there.
    #[must_use]
    pub fn timeline_digits(&self) -> &str {
        self.0.get(..8).unwrap_or_default()
    }

    /// The segment of that name among segments of this size; `None` where the last eight digits are too great for it, which
    /// says that the name was made for a smaller segment size.
    #[must_use]
    pub fn segment(&self, size: SegmentSize) -> Option<Segment> {
        let part = |range| self.0.get(range).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let timeline = Timeline::new(part(0..8)?)?;
        let (id, low) = (u64::from(part(8..16)?), u64::from(part(16..24)?));
        (low < size.per_xlog_id()).then(|| Segment { number: id * size.per_xlog_id() + low, timeline })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SegmentName {
    type Err = SegmentNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        match text.len() {
            24 if digits(text) && !text.starts_with("00000000") => Ok(Self(text.to_owned())),
            _ => Err(SegmentNameError(text.to_owned())),
        }
    }
}

/// What a file in a WAL folder is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalFile {
    /// `TTTTTTTT.history`: how that timeline came about.
    History(Timeline),
    /// `SEG.partial`: a segment still being received.
    Partial(SegmentName),
    /// `SEG`: a whole segment.
    Segment(SegmentName),
}

impl WalFile {
    /// What the file of that name is, `None` for one that is no WAL file.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(".partial") {
            return stem.parse().ok().map(Self::Partial);
        }
        if let Some(stem) = name.strip_suffix(".history") {
            let plain = stem.len() == 8 && stem.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
            let number = plain.then(|| u32::from_str_radix(stem, 16).ok()).flatten()?;
            return Timeline::new(number).map(Self::History);
        }
        name.parse().ok().map(Self::Segment)
    }

    /// The name of that file.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::History(timeline) => format!("{:08X}.history", timeline.get()),
            Self::Partial(name) => format!("{name}.partial"),
            Self::Segment(name) => name.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_size() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|bits| SegmentSize::new(1 << bits).unwrap())
    }

    #[test]
    fn sizes_that_postgres_refuses_are_refused() {
        for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, u64::MAX] {
            assert_eq!(SegmentSize::new(bytes), Err(SegmentSizeError(bytes)));
        }
    }

    #[test]
    fn names_are_postgres_own() {
        let tli = Timeline::new(0x1F).unwrap();
        let name = |lsn, mb: u64| {
            Segment::containing(tli, Lsn(lsn), SegmentSize::new(mb << 20).unwrap()).name(SegmentSize::new(mb << 20).unwrap())
        };
        assert_eq!(name(0x1_0200_0000, 16).as_str(), "0000001F0000000100000002");
        assert_eq!(name(0x1_0200_0000, 1).as_str(), "0000001F0000000100000020");
        assert_eq!(name(0xFFFF_FFFF, 64).as_str(), "0000001F000000000000003F");
    }

    #[test]
    fn a_name_of_a_smaller_segment_size_is_told() {
        let name: SegmentName = "000000010000000000000100".parse().unwrap();
        assert_eq!(name.segment(SegmentSize::DEFAULT), None);
        assert!(name.segment(SegmentSize::MIN).is_some());
    }

    #[test]
    fn other_files_are_none() {
        for name in [
            "",
            "00000001.histor",
            "00000000.history",
            "0000000g.history",
            "000000010000000000000001.tmp",
            "00000001000000000000000a",
            "../000000010000000000000001",
            "000000000000000000000001",
        ] {
            assert_eq!(WalFile::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_segment(lsn: u64, tli in 1u32.., size in any_size()) {
            let segment = Segment::containing(Timeline::new(tli).unwrap(), Lsn(lsn >> 1), size);
            let name = segment.name(size);
            prop_assert_eq!(name.segment(size), Some(segment));
            for file in [WalFile::Segment(name.clone()), WalFile::Partial(name)] {
                prop_assert_eq!(WalFile::parse(&file.name()), Some(file));
            }
        }

        #[test]
        fn a_position_lies_in_its_segment(lsn in 0u64..u64::MAX / 2, size in any_size()) {
            let segment = Segment::containing(Timeline::FIRST, Lsn(lsn), size);
            prop_assert!(segment.start(size).0 <= lsn && lsn < segment.end(size).0);
            prop_assert_eq!(size.floor(Lsn(lsn)), segment.start(size));
            prop_assert_eq!(segment.end(size), segment.next().start(size));
        }
    }
}
