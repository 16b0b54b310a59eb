//! Why bytes are no valid WAL.

use std::fmt;

use super::page::PAGE_BYTES;
use super::record::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;

/// Bytes that are no valid WAL, or none of this stream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no valid WAL at {lsn}: {reason}")]
pub struct DecodeError {
    /// Where the page or the record starts that is not right.
    pub lsn: Lsn,
    /// What was expected there and what was found.
    pub reason: Reason,
}

impl DecodeError {
    pub(super) const fn new(lsn: Lsn, reason: Reason) -> Self {
        Self { lsn, reason }
    }

    /// Whether nothing was ever written there: the ordinary end of a segment that is still being filled.
    #[must_use]
    pub const fn is_unwritten(&self) -> bool {
        matches!(self.reason, Reason::Unwritten)
    }

    /// Whether the WAL is of another cluster, build or version, rather than damaged.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.reason, Reason::PageSize { .. } | Reason::SegmentSize { .. } | Reason::System { .. } | Reason::Version { .. })
    }
}

/// What is not right about a page or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The content of a record with the right CRC is not what its type says.
    #[error("a record of type {rmid}/{info:#04X} has a right CRC, but {problem}")]
    Content {
        /// Its resource manager.
        rmid: u8,
        /// Its flags.
        info: u8,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The page goes on with a record, but not with as much of it as is missing.
    #[error("the page says that {found} bytes are left of the record that starts at {record}, expected {expected}")]
    ContrecordLength {
        /// Where the record starts.
        record: Before,
        /// The bytes missing by the record's own length.
        expected: u32,
        /// The bytes missing by the page's header.
        found: u32,
    },
    /// The page before ends within a record, and this page does not go on with it.
    #[error("the page does not go on with the record that starts at {record}, of which {missing} bytes are missing")]
    ContrecordMissing {
        /// Where the record starts.
        record: Before,
        /// How much of it is missing, in bytes.
        missing: u32,
    },
    /// The page goes on with a record, but none has begun.
    #[error("the page goes on with a record of which {found} bytes are left, but the record before it is complete")]
    ContrecordUnexpected {
        /// The bytes missing by the page's header.
        found: u32,
    },
    /// A record's content is damaged.
    #[error("the record's CRC is {found:#010X}, expected {expected:#010X}")]
    Crc {
        /// What its header says.
        expected: u32,
        /// What its bytes come to.
        found: u32,
    },
    /// The page has flags that Postgres 15 to 18 do not know.
    #[error("the page's header has unknown flags: {found:#06X}")]
    Flags {
        /// All its flags.
        found: u16,
    },
    /// A segment's first page lacks what identifies the segment.
    #[error("the segment's first page has a short header, expected a long one")]
    LongHeaderMissing,
    /// A page flagged as one that replaces a lost record does not start with the record that says so, or such a record is
    /// elsewhere.
    #[error("expected an OVERWRITE_CONTRECORD record at the start of a page flagged for it, and nowhere else")]
    OverwriteContrecord,
    /// The record that takes the place of a lost one names another.
    #[error("an OVERWRITE_CONTRECORD record takes the place of {found}, expected {expected}")]
    OverwrittenRecord {
        /// Where the record starts that is not complete.
        expected: Lsn,
        /// What the record names.
        found: Lsn,
    },
    /// The page lies elsewhere in the WAL: most often a recycled segment's old content.
    #[error("the page's header says that it lies at {found}")]
    PageAddress {
        /// Where the page says it lies.
        found: Lsn,
    },
    /// A Postgres that was built with another size of WAL pages.
    #[error(
        "WAL pages of {found} bytes, expected {PAGE_BYTES}: a Postgres built with another --with-wal-blocksize is not supported"
    )]
    PageSize {
        /// In bytes.
        found: u32,
    },
    /// The record before is another one: most often a recycled segment's old content.
    #[error("the record says that the one before starts at {found}, expected {expected}")]
    Prev {
        /// Where the record before starts.
        expected: Lsn,
        /// What the record says.
        found: Lsn,
    },
    /// The first record that is read says that the one before does not lie before it.
    #[error("the record says that the one before starts at {found}, which is not before it")]
    PrevAhead {
        /// What the record says.
        found: Lsn,
    },
    /// A length that no record has.
    #[error("a record of {found} bytes, expected {RECORD_HEADER_BYTES} to {MAX_RECORD_BYTES}")]
    RecordLength {
        /// In bytes.
        found: u32,
    },
    /// A resource manager that is neither Postgres' own nor an extension's.
    #[error("a record of resource manager {found}, which does not exist")]
    ResourceManager {
        /// Its number.
        found: u8,
    },
    /// Segments of another size than the stream's.
    #[error("WAL segments of {found} bytes, expected {expected}: the cluster's wal_segment_size is another")]
    SegmentSize {
        /// In bytes.
        expected: u64,
        /// In bytes.
        found: u32,
    },
    /// Decoding cannot start there.
    #[error("decoding starts at a page's first byte or at a record, which is a multiple of 8 bytes and behind a page's header")]
    Start,
    /// WAL of another cluster.
    #[error("WAL of the cluster with system identifier {found}, expected {expected}")]
    System {
        /// The stream's.
        expected: SystemId,
        /// The page's.
        found: SystemId,
    },
    /// A page of a later timeline than the one that is read.
    #[error("the page is of timeline {found}, but this is WAL of timeline {limit}")]
    TimelineAhead {
        /// The timeline that is read.
        limit: Timeline,
        /// The page's timeline.
        found: u32,
    },
    /// A page of an earlier timeline than a page before it, or of none.
    #[error("the page is of timeline {found}, which comes before timeline {after} that was reached")]
    TimelineBack {
        /// The timeline of a page before it, or the first one.
        after: Timeline,
        /// The page's timeline, 0 for none.
        found: u32,
    },
    /// Zeros where a page or a record should start: nothing was written here yet.
    #[error("zeros: nothing was written there")]
    Unwritten,
    /// WAL of a version of Postgres that is not known, or of another one than what came before.
    #[error("the page's magic number is {found:#06X}, expected {}", Expected(*.expected))]
    Version {
        /// The magic number of what came before, `None` where any of 15 to 18 will do.
        expected: Option<u16>,
        /// The page's.
        found: u16,
    },
}

/// Where a record starts, which may be before the place where decoding did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It starts there.
    At(Lsn),
    /// It starts before the decoder's start.
    Unseen,
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(lsn) => lsn.fmt(f),
            Self::Unseen => f.write_str("a place before what was read"),
        }
    }
}

/// Prints the magic numbers that would do.
struct Expected(Option<u16>);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(magic) => write!(f, "{magic:#06X}"),
            None => f.write_str("0xD110, 0xD113, 0xD116 or 0xD118 (Postgres 15 to 18)"),
        }
    }
}
