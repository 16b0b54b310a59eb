//! The record that lies on both sides of a segment's boundary, kept in two halves and put together again.

use serde::{Deserialize, Serialize};

use super::{SegmentIndex, text};
use crate::lsn::Lsn;
use crate::proto::wal::{
    PAGE_BYTES, PageHeader, RECORD_HEADER_BYTES, RM_XLOG, Reason, RecordHeader, WalEvent, XLOG_SWITCH, event_of,
};

/// How much of a record is kept on each side, in bytes: enough to read a commit's time and a restore point's name.
pub const FRAGMENT_BYTES_MAX: usize = 256;
/// The length of a page's header.
const SHORT_HEADER: u64 = 24;
/// The length of the header of a segment's first page.
const LONG_HEADER: u64 = 40;

/// The rest of a record that comes in over a segment's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many bytes of the record are left at the segment's start, those in later segments included.
    pub remaining: u32,
    /// The record's end; `None` where it goes on behind the segment's end.
    #[serde(with = "text::option")]
    pub end: Option<Lsn>,
    /// The first of these bytes, without page headers.
    #[serde(with = "text::bytes")]
    pub bytes: Vec<u8>,
}

/// The start of a record that goes out over a segment's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// Where it starts.
    #[serde(with = "text::display")]
    pub record: Lsn,
    /// Its whole length in bytes, without page headers and padding.
    pub total_bytes: u32,
    /// How many of them lie before the segment's end.
    pub present: u32,
    /// The first of these, without page headers.
    #[serde(with = "text::bytes")]
    pub bytes: Vec<u8>,
}

/// What became of a record that goes out over a segment's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// It goes on behind the next segment as well: to be joined with the one behind that.
    Continues(Tail),
    /// It ends in the next segment.
    Ends(Straddling),
    /// The rest of it was lost in a crash: it counts as never written.
    Lost,
}

/// A record that lies in more than one segment. It belongs to the one in which it ends. Its CRC was not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Straddling {
    /// Where it starts.
    pub lsn: Lsn,
    /// Its end, a multiple of 8.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// What it says, where it is one that the decoder reads.
    pub event: Option<WalEvent>,
}

/// Two segments that do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The bytes that were put together are no record's.
    #[error("the record at {record}, put together of both sides of the boundary, is none: {reason}")]
    Content {
        /// Where it starts.
        record: Lsn,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The next segment goes on with another record, or with none.
    #[error("the record at {record} has {expected} bytes left for the segment at {next}, which goes on with {found}")]
    Mismatch {
        /// Where the record starts.
        record: Lsn,
        /// The next segment's start.
        next: Lsn,
        /// How many bytes of it are left.
        expected: u32,
        /// How many the next segment says are left: 0 where it goes on with none.
        found: u32,
    },
}

impl Head {
    /// The rest of a record at the start of the segment from `start` to `end`, whose bytes and first page header these are.
    pub(super) fn of(bytes: &[u8], start: Lsn, end: Lsn, header: &PageHeader) -> Option<Self> {
        if !header.is_contrecord() {
            return None;
        }
        let kept = usize::try_from(header.remaining).unwrap_or(usize::MAX).min(FRAGMENT_BYTES_MAX);
        // The first page alone holds more than is kept.
        let bytes = bytes.iter().skip(40).take(kept).copied().collect();
        Some(Self { remaining: header.remaining, end: end_of(start, end, header.remaining), bytes })
    }

    /// Whether it can be the rest of a segment switch, which is a header and nothing else: as short as that, and with a switch's type before its
    /// checksum. The record's start is in the segment before.
    pub(super) fn is_switch(&self) -> bool {
        let len = self.bytes.len();
        let from_end = |back: usize| len.checked_sub(back).and_then(|at| self.bytes.get(at)).copied();
        let is_rest =
            self.remaining < RECORD_HEADER_BYTES && usize::try_from(self.remaining).is_ok_and(|remaining| remaining == len);
        is_rest && from_end(8).is_some_and(|info| info & 0xF0 == XLOG_SWITCH) && from_end(7) == Some(RM_XLOG)
    }
}

/// Where the rest of a record ends that begins at a segment's start; `None` where that lies behind the segment's end.
fn end_of(start: Lsn, end: Lsn, remaining: u32) -> Option<Lsn> {
    let first = u64::from(PAGE_BYTES) - LONG_HEADER;
    let page = u64::from(PAGE_BYTES) - SHORT_HEADER;
    // Counted so that a record that fills a page ends at the page's end, not behind the next page's header.
    let behind_first = u64::from(remaining).saturating_sub(first);
    let offset = LONG_HEADER + u64::from(remaining) + behind_first.div_ceil(page) * SHORT_HEADER;
    start.checked_add(offset).map(Lsn::align_up).filter(|at| *at <= end)
}

/// How many bytes of records a segment holds at most.
fn room(start: Lsn, end: Lsn) -> u64 {
    let bytes = end.bytes_after(start);
    (bytes - bytes / u64::from(PAGE_BYTES) * SHORT_HEADER).saturating_sub(LONG_HEADER - SHORT_HEADER)
}

impl Tail {
    /// The start of the record at `record` in the segment from `start` on, whose bytes these are.
    pub(super) fn of(bytes: &[u8], start: Lsn, record: Lsn) -> Option<Self> {
        let mut at = usize::try_from(record.checked_sub(start)?).ok()?;
        let mut kept = Vec::new();
        let mut present = 0_usize;
        while at < bytes.len() {
            let page_end = (at / PAGE_BYTES as usize + 1) * PAGE_BYTES as usize;
            let part = bytes.get(at..page_end.min(bytes.len()))?;
            kept.extend(part.iter().take(FRAGMENT_BYTES_MAX - kept.len()));
            present += part.len();
            at = page_end + SHORT_HEADER as usize;
        }
        let total_bytes = u32::from_le_bytes(*kept.first_chunk()?);
        Some(Self { record, total_bytes, present: u32::try_from(present).ok()?, bytes: kept })
    }

    const fn missing(&self) -> u32 {
        self.total_bytes.saturating_sub(self.present)
    }
}

/// Goes on with a record in the segment right behind the one that it goes out of.
///
/// # Errors
/// Where that segment goes on with something else: one of the two is not of this chain.
pub fn join(tail: &Tail, next: &SegmentIndex) -> Result<Joined, JoinError> {
    if next.head_lost {
        return Ok(Joined::Lost);
    }
    let (record, expected) = (tail.record, tail.missing());
    let Some(head) = next.head.as_ref().filter(|head| head.remaining == expected) else {
        let found = next.head.as_ref().map_or(0, |head| head.remaining);
        return Err(JoinError::Mismatch { record, next: next.start, expected, found });
    };
    let mut bytes = tail.bytes.clone();
    // What is kept of the first half is all there is of it, or already enough.
    bytes.extend(head.bytes.iter().take(FRAGMENT_BYTES_MAX.saturating_sub(bytes.len())));
    let Some(end) = head.end else {
        let here = u32::try_from(room(next.start, next.end)).unwrap_or(u32::MAX);
        return Ok(Joined::Continues(Tail {
            record,
            total_bytes: tail.total_bytes,
            present: tail.present.saturating_add(here),
            bytes,
        }));
    };
    let content = |reason| JoinError::Content { record, reason };
    let header =
        bytes.first_chunk().map(RecordHeader::parse).ok_or_else(|| content(Reason::RecordLength { found: tail.total_bytes }))?;
    let event = event_of(&bytes, next.version()).map_err(content)?;
    // A switch takes the rest of its segment.
    let end = if event == Some(WalEvent::Switch) { next.end } else { end };
    Ok(Joined::Ends(Straddling { lsn: record, end, header, event }))
}
