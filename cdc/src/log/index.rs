//! What is known of a segment without reading it: what it holds, and a sparse index of where.
//!
//! Pure. Made by the writer as it appends and by whoever reads a segment from its start; both come to the same.

use walbus::{Lsn, Position};

use super::epoch::Epoch;
use super::layout::{NO_TIME, RecordHeader, RecordKind, SegmentHeader, checksum, take, take_i64, take_u32, take_u64};

const MAGIC: [u8; 8] = *b"BYDCDCIX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 160;
const ENTRY_BYTES: usize = 32;

/// A place within a segment where a reader may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where a record starts.
    pub offset: u64,
    /// The first position in it.
    pub first: Position,
    /// The latest commit time from here on, up to the next entry.
    pub time_max: i64,
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Its header.
    pub header: SegmentHeader,
    /// The last position in it; that before it where it holds no batch.
    pub last: Position,
    /// Where the first transaction ends in it, if one does.
    pub first_end: Option<Position>,
    /// The end of the last whole transaction up to its end.
    pub complete: Position,
    /// That transaction's end LSN.
    pub complete_end_lsn: Lsn,
    /// The offset behind the record with that transaction's end; 0 where no transaction ends in this segment.
    pub complete_at: u64,
    /// The earliest commit time in it; the greatest number where it holds no batch.
    pub time_min: i64,
    /// The latest commit time in it, [`NO_TIME`] where it holds no batch.
    pub time_max: i64,
    /// How many batches it holds.
    pub batches: u64,
    /// The offset behind its last record.
    pub end: u64,
}

/// A segment's summary and its sparse index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// What it holds.
    pub summary: Summary,
    entries: Vec<IndexEntry>,
    /// Where the batches are that define schemas.
    schemas_at: Vec<u64>,
}

impl SegmentIndex {
    /// The index of a segment without batches.
    #[must_use]
    pub const fn new(header: SegmentHeader) -> Self {
        let summary = Summary {
            header,
            last: header.before,
            first_end: None,
            complete: header.complete,
            complete_end_lsn: header.complete_end_lsn,
            complete_at: 0,
            time_min: i64::MAX,
            time_max: NO_TIME,
            batches: 0,
            end: header.batches_at,
        };
        Self { summary, entries: Vec::new(), schemas_at: Vec::new() }
    }

    /// Takes in the next record, which begins at the end of the last one. An entry is made of it where `every` bytes or more lie between it
    /// and the last entry.
    ///
    /// # Panics
    /// Where the record is no batch, or its positions do not rise above those before it.
    pub fn add(&mut self, record: &RecordHeader, every: u64) {
        let Summary { end: offset, last, .. } = self.summary;
        let meta = &record.meta;
        assert_eq!(record.kind, RecordKind::Batch, "definitions stand before the first batch");
        assert!(last < meta.first && meta.first <= meta.last, "positions rise: {} is behind {last}", meta.first);
        match self.entries.last_mut() {
            Some(entry) if offset - entry.offset < every => entry.time_max = entry.time_max.max(meta.time_max),
            _ => self.entries.push(IndexEntry { offset, first: meta.first, time_max: meta.time_max }),
        }
        if meta.schemas {
            self.schemas_at.push(offset);
        }
        let summary = &mut self.summary;
        summary.end = offset + record.record_bytes();
        summary.last = meta.last;
        summary.batches += 1;
        summary.time_min = summary.time_min.min(meta.time_min);
        summary.time_max = summary.time_max.max(meta.time_max);
        if meta.ends {
            summary.first_end.get_or_insert(meta.last);
            (summary.complete, summary.complete_end_lsn, summary.complete_at) = (meta.last, meta.end_lsn, summary.end);
        }
    }

    /// A record's offset, such that what comes next behind `after` is at it or further on.
    #[must_use]
    pub fn offset_for(&self, after: Position) -> u64 {
        let next = self.entries.partition_point(|entry| entry.first <= after);
        let entry = next.checked_sub(1).and_then(|at| self.entries.get(at));
        entry.map_or(self.summary.header.batches_at, |entry| entry.offset)
    }

    /// A record's offset, such that the first batch with a commit time of `time` or later is at it or further on; `None` where the segment
    /// has none.
    #[must_use]
    pub fn offset_for_time(&self, time: i64) -> Option<u64> {
        self.entries.iter().find(|entry| entry.time_max >= time).map(|entry| entry.offset)
    }

    /// Where the batches are that define schemas, of those below an offset.
    pub fn schemas_below(&self, offset: u64) -> impl Iterator<Item = u64> {
        self.schemas_at.iter().copied().take_while(move |at| *at < offset)
    }

    /// The index' bytes, as they lie beside a segment.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let summary = &self.summary;
        let header = &summary.header;
        let mut to = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + self.schemas_at.len() * 8 + 4);
        to.extend(MAGIC);
        to.extend(VERSION.to_le_bytes());
        to.extend(count(self.entries.len()).to_le_bytes());
        to.extend(count(self.schemas_at.len()).to_le_bytes());
        to.extend(mark(header));
        to.extend(header.epoch.bytes());
        for position in [summary.last, summary.first_end.unwrap_or_default(), summary.complete] {
            to.extend(position.commit_lsn.0.to_le_bytes());
            to.extend(u64::from(position.ordinal).to_le_bytes());
        }
        to.extend(summary.complete_end_lsn.0.to_le_bytes());
        to.extend(summary.complete_at.to_le_bytes());
        to.extend(summary.time_min.to_le_bytes());
        to.extend(summary.time_max.to_le_bytes());
        to.extend(summary.batches.to_le_bytes());
        to.extend(summary.end.to_le_bytes());
        to.extend(u64::from(summary.first_end.is_some()).to_le_bytes());
        to.resize(HEADER_BYTES - 4, 0);
        to.extend(checksum(&to).to_le_bytes());
        for entry in &self.entries {
            to.extend(entry.offset.to_le_bytes());
            to.extend(entry.first.commit_lsn.0.to_le_bytes());
            to.extend(u64::from(entry.first.ordinal).to_le_bytes());
            to.extend(entry.time_max.to_le_bytes());
        }
        for offset in &self.schemas_at {
            to.extend(offset.to_le_bytes());
        }
        to.extend(checksum(&to[HEADER_BYTES..]).to_le_bytes());
        to
    }

    /// Reads an index of the segment with this header.
    ///
    /// `None` where it is that of another segment, of another version, or damaged: it can be made again then.
    #[must_use]
    pub fn parse(bytes: &[u8], of: &SegmentHeader) -> Option<Self> {
        let (header, tables) = bytes.split_at_checked(HEADER_BYTES)?;
        let (summary, entries, schemas) = parse_summary(header, of)?;
        let tables_bytes = entries.checked_mul(ENTRY_BYTES)?.checked_add(schemas.checked_mul(8)?)?;
        let (tables, crc) = tables.split_at_checked(tables_bytes)?;
        if crc != checksum(tables).to_le_bytes() {
            return None;
        }
        let (mut entries, schemas) = (tables.get(..entries * ENTRY_BYTES)?, tables.get(entries * ENTRY_BYTES..)?);
        let mut index = Self { summary, entries: Vec::new(), schemas_at: Vec::new() };
        while !entries.is_empty() {
            let offset = take_u64(&mut entries);
            let first = take_position(&mut entries)?;
            index.entries.push(IndexEntry { offset, first, time_max: take_i64(&mut entries) });
        }
        index.schemas_at.extend(schemas.as_chunks::<8>().0.iter().map(|offset| u64::from_le_bytes(*offset)));
        Some(index)
    }

    /// Reads the summary alone, from the first [`SegmentIndex::SUMMARY_BYTES`] of an index.
    #[must_use]
    pub fn parse_summary(bytes: &[u8], of: &SegmentHeader) -> Option<Summary> {
        parse_summary(bytes.get(..HEADER_BYTES)?, of).map(|(summary, ..)| summary)
    }

    /// How many bytes at an index' start hold its summary.
    pub const SUMMARY_BYTES: usize = HEADER_BYTES;
}

fn parse_summary(bytes: &[u8], of: &SegmentHeader) -> Option<(Summary, usize, usize)> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    let mut rest = bytes;
    if take(&mut rest) != MAGIC || take_u32(&mut rest) != VERSION || *crc != checksum(checked).to_le_bytes() {
        return None;
    }
    let [entries, schemas] = [take_u32(&mut rest), take_u32(&mut rest)];
    if take(&mut rest) != mark(of) || Epoch::new(take(&mut rest)) != of.epoch {
        return None;
    }
    let last = take_position(&mut rest)?;
    let first_end = take_position(&mut rest)?;
    let complete = take_position(&mut rest)?;
    let complete_end_lsn = Lsn(take_u64(&mut rest));
    let complete_at = take_u64(&mut rest);
    let [time_min, time_max] = [take_i64(&mut rest), take_i64(&mut rest)];
    let [batches, end] = [take_u64(&mut rest), take_u64(&mut rest)];
    let first_end = (take_u64(&mut rest) != 0).then_some(first_end);
    let header = *of;
    let summary = Summary { header, last, first_end, complete, complete_end_lsn, complete_at, time_min, time_max, batches, end };
    Some((summary, usize::try_from(entries).ok()?, usize::try_from(schemas).ok()?))
}

/// What tells that it is the index of another segment: the checksum at the end of that one's header. (One over all of the header would tell
/// nothing: a CRC over something and its own CRC is the same for everything.)
fn mark(of: &SegmentHeader) -> [u8; 4] {
    let [.., a, b, c, d] = of.encode();
    [a, b, c, d]
}

fn take_position(rest: &mut &[u8]) -> Option<Position> {
    let commit_lsn = Lsn(take_u64(rest));
    Some(Position { commit_lsn, ordinal: u32::try_from(take_u64(rest)).ok()? })
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use walbus::SystemId;

    use super::*;
    use crate::log::BatchMeta;

    fn header(number: u64) -> SegmentHeader {
        SegmentHeader {
            epoch: Epoch::new([7; 16]),
            system_id: SystemId(42),
            number,
            before: Position::default(),
            complete: Position::default(),
            complete_end_lsn: Lsn(1),
            time_max: NO_TIME,
            batches_at: 128,
        }
    }

    fn at(lsn: u64, ordinal: u32) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal }
    }

    /// A batch of 928 bytes, so that a record has 1,000.
    fn batch(first: Position, last: Position, time: i64) -> RecordHeader {
        let end_lsn = Lsn(last.commit_lsn.0 + 8);
        let meta = BatchMeta { first, last, end_lsn, time_min: time, time_max: time, ends: true, schemas: time == 30 };
        RecordHeader { kind: RecordKind::Batch, meta, payload_bytes: 928, segment: 1, durable: 0 }
    }

    fn index() -> SegmentIndex {
        let mut index = SegmentIndex::new(header(1));
        for (lsn, time) in [(100, 10), (200, 30), (300, 20), (400, 40)] {
            index.add(&batch(at(lsn, 1), at(lsn, 5), time), 2000);
        }
        index
    }

    #[test]
    fn a_place_is_at_or_before_what_is_looked_for() {
        let index = index();
        assert_eq!(index.entries.iter().map(|entry| (entry.offset, entry.time_max)).collect::<Vec<_>>(), [(128, 30), (2128, 40)]);
        for (after, offset) in [(at(0, 0), 128), (at(100, 1), 128), (at(300, 0), 128), (at(300, 1), 2128), (at(999, 0), 2128)] {
            assert_eq!(index.offset_for(after), offset, "{after}");
        }
        assert_eq!(
            [10, 30, 31, 40, 41].map(|time| index.offset_for_time(time)),
            [Some(128), Some(128), Some(2128), Some(2128), None]
        );
        assert_eq!(index.schemas_below(1128).collect::<Vec<_>>(), Vec::<u64>::new());
        assert_eq!(index.schemas_below(1129).collect::<Vec<_>>(), [1128]);
    }

    #[test]
    fn a_transaction_s_part_is_not_its_end() {
        let mut index = SegmentIndex::new(header(1));
        let mut part = batch(at(100, 1), at(100, 5), 1);
        part.meta.ends = false;
        index.add(&part, 1);
        assert_eq!((index.summary.first_end, index.summary.complete, index.summary.complete_at), (None, at(0, 0), 0));
        assert_eq!((index.summary.last, index.summary.complete_end_lsn), (at(100, 5), Lsn(1)));
        index.add(&batch(at(100, 6), at(100, 6), 1), 1);
        index.add(&batch(at(101, 1), at(101, 1), 1), 1);
        assert_eq!((index.summary.first_end, index.summary.complete), (Some(at(100, 6)), at(101, 1)));
        assert_eq!((index.summary.complete_at, index.summary.complete_end_lsn), (128 + 3000, Lsn(109)));
    }

    #[test]
    #[should_panic(expected = "positions rise")]
    fn a_position_that_does_not_rise_is_refused() {
        index().add(&batch(at(400, 5), at(400, 6), 1), 1);
    }

    #[test]
    fn written_and_read_back_and_every_flip_is_noticed() {
        let index = index();
        let bytes = index.encode();
        assert_eq!(SegmentIndex::parse(&bytes, &header(1)), Some(index.clone()));
        assert_eq!(SegmentIndex::parse_summary(&bytes, &header(1)), Some(index.summary));
        assert_eq!(SegmentIndex::parse(&bytes, &header(2)), None, "of another segment");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentIndex::parse(&damaged, &header(1)), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(SegmentIndex::parse(&bytes[..len], &header(1)), None, "{len} bytes");
        }
    }
}
