//! The bytes of a segment: `docs/event-log.md` draws them.
//!
//! Pure. All numbers are little-endian; every checksum is CRC-32C.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use walbus::{Lsn, Position, SystemId};

use super::epoch::Epoch;

/// How long a segment's header is.
pub const SEGMENT_HEADER_BYTES: usize = 128;
/// How long a record's header is.
pub const RECORD_HEADER_BYTES: usize = 72;
/// What each record's start is a multiple of.
pub const ALIGNMENT: usize = 8;
/// The greatest payload of a record: what the largest row that Postgres sends may become, and all that libraries for protobuf take. Far above
/// what a batch has else. A damaged length makes a reader allocate no more than the file has.
pub const PAYLOAD_BYTES_MAX: usize = i32::MAX as usize;
/// No commit time at all: less than every time.
pub const NO_TIME: i64 = i64::MIN;

const SEGMENT_MAGIC: [u8; 8] = *b"BYDCDCLG";
const VERSION: u32 = 1;
const FLAG_ENDS: u8 = 1;
const FLAG_SCHEMAS: u8 = 2;

/// What is known of a batch without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    /// The position of its first change.
    pub first: Position,
    /// The position of its last change.
    pub last: Position,
    /// Behind the commit record of its last transaction: what may be confirmed once that is whole and durable.
    pub end_lsn: Lsn,
    /// The earliest commit time in it, in microseconds since 1970-01-01 00:00 UTC.
    pub time_min: i64,
    /// The latest commit time in it, in microseconds since 1970-01-01 00:00 UTC.
    pub time_max: i64,
    /// Whether its end is the end of a transaction: not so where it is a part that others follow.
    pub ends: bool,
    /// Whether it defines schemas.
    pub schemas: bool,
}

/// What a record holds. Both are an encoded `beyond_cdc.v1.Batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Changes, with the definitions that are new.
    Batch,
    /// Definitions only: those that were known when the segment began.
    Schemas,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it holds.
    pub kind: RecordKind,
    /// What is known of it. For [`RecordKind::Schemas`]: `first` and `last` are the last position before the segment.
    pub meta: BatchMeta,
    /// The length of the payload in bytes.
    pub payload_bytes: u32,
    /// The lower half of its segment's number: a record of another segment is none of this one.
    pub segment: u32,
    /// Up to which offset its segment was durable when it was written. An invalid record below it is damage, and no torn write.
    pub durable: u64,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The checksum does not fit the bytes.
    #[error("its checksum is wrong")]
    Crc,
    /// A flag that this version does not know.
    #[error("flags {0:#04x} are not known")]
    Flags(u8),
    /// A kind that this version does not know.
    #[error("its kind {0} is not known")]
    Kind(u8),
    /// More bytes than a record may have, or than the file has.
    #[error("a payload of {0} bytes can't be")]
    Length(u32),
    /// Its last position lies before its first one.
    #[error("its positions do not rise")]
    Positions,
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// It belongs to another segment.
    #[error("it is of a segment with the lower half of its number {0}")]
    Segment(u32),
}

impl RecordHeader {
    /// How many bytes the record has in all, up to the next one.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.payload_bytes)
    }

    /// The header at the start of `bytes`, `None` where that is zeros: the end of the records. Its checksum is not looked at.
    ///
    /// # Errors
    /// Where it is no header of the segment with this number.
    pub fn parse(bytes: &[u8; RECORD_HEADER_BYTES], number: u64) -> Result<Option<Self>, RecordError> {
        if *bytes == [0; RECORD_HEADER_BYTES] {
            return Ok(None);
        }
        let mut rest = &bytes[4..];
        let payload_bytes = take_u32(&mut rest);
        let [kind, flags, reserved @ ..] = take::<4>(&mut rest);
        let segment = take_u32(&mut rest);
        let [first, last] = [take_u64(&mut rest), take_u64(&mut rest)].map(Lsn);
        let [first, last] = [first, last].map(|commit_lsn| Position { commit_lsn, ordinal: take_u32(&mut rest) });
        let end_lsn = Lsn(take_u64(&mut rest));
        let [time_min, time_max] = [take_i64(&mut rest), take_i64(&mut rest)];
        let durable = take_u64(&mut rest);
        let kind = match kind {
            1 => RecordKind::Batch,
            2 => RecordKind::Schemas,
            other => return Err(RecordError::Kind(other)),
        };
        if flags & !(FLAG_ENDS | FLAG_SCHEMAS) != 0 {
            return Err(RecordError::Flags(flags));
        }
        if reserved != [0; 2] {
            return Err(RecordError::Reserved);
        }
        if segment != low_half(number) {
            return Err(RecordError::Segment(segment));
        }
        if usize::try_from(payload_bytes).is_ok_and(|len| len > PAYLOAD_BYTES_MAX) {
            return Err(RecordError::Length(payload_bytes));
        }
        if last < first {
            return Err(RecordError::Positions);
        }
        let (ends, schemas) = (flags & FLAG_ENDS != 0, flags & FLAG_SCHEMAS != 0);
        let meta = BatchMeta { first, last, end_lsn, time_min, time_max, ends, schemas };
        Ok(Some(Self { kind, meta, payload_bytes, segment, durable }))
    }

    /// Proves a record, header and payload, by its checksum.
    ///
    /// # Errors
    /// Where the checksum is another, or what fills the record up to the next one is not zeros.
    pub fn verify(&self, record: &[u8]) -> Result<(), RecordError> {
        let end = RECORD_HEADER_BYTES + usize::try_from(self.payload_bytes).unwrap_or(usize::MAX);
        let Some((checked, filling)) = record.split_at_checked(end) else { return Err(RecordError::Length(self.payload_bytes)) };
        let (crc, checked) = checked.split_at(4);
        if crc != checksum(checked).to_le_bytes() {
            return Err(RecordError::Crc);
        }
        if filling.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Reserved);
        }
        Ok(())
    }

    /// Appends the whole record to `to`.
    ///
    /// # Panics
    /// Where the payload is not as long as the header says.
    pub fn write(&self, payload: &[u8], to: &mut Vec<u8>) {
        let start = to.len();
        to.extend(self.encode(payload));
        to.extend(payload);
        to.resize(start + usize::try_from(self.record_bytes()).unwrap_or(usize::MAX), 0);
    }

    /// What comes before the payload.
    ///
    /// # Panics
    /// Where the payload is not as long as the header says.
    #[must_use]
    pub fn encode(&self, payload: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        assert_eq!(payload.len() as u64, u64::from(self.payload_bytes), "the header is that of another payload");
        let mut to = Vec::with_capacity(RECORD_HEADER_BYTES);
        to.extend([0; 4]);
        to.extend(self.payload_bytes.to_le_bytes());
        let kind = match self.kind {
            RecordKind::Batch => 1,
            RecordKind::Schemas => 2,
        };
        let flags = if self.meta.ends { FLAG_ENDS } else { 0 } | if self.meta.schemas { FLAG_SCHEMAS } else { 0 };
        to.extend([kind, flags, 0, 0]);
        to.extend(self.segment.to_le_bytes());
        to.extend(self.meta.first.commit_lsn.0.to_le_bytes());
        to.extend(self.meta.last.commit_lsn.0.to_le_bytes());
        to.extend(self.meta.first.ordinal.to_le_bytes());
        to.extend(self.meta.last.ordinal.to_le_bytes());
        to.extend(self.meta.end_lsn.0.to_le_bytes());
        to.extend(self.meta.time_min.to_le_bytes());
        to.extend(self.meta.time_max.to_le_bytes());
        to.extend(self.durable.to_le_bytes());
        let mut header: [u8; RECORD_HEADER_BYTES] = to.try_into().expect("the fields of a header are as long as it");
        let crc = checksum_of(&[&header[4..], payload]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        header
    }
}

/// How many bytes a record with such a payload has, up to the next record.
#[must_use]
pub fn record_bytes(payload_bytes: u32) -> u64 {
    (RECORD_HEADER_BYTES as u64 + u64::from(payload_bytes)).next_multiple_of(ALIGNMENT as u64)
}

/// The record at the start of `bytes`, `None` where there is none: zeros, or too few bytes for a header.
///
/// # Errors
/// Where it is no valid record of the segment with this number.
pub fn parse_record(bytes: &[u8], number: u64) -> Result<Option<(RecordHeader, Bytes)>, RecordError> {
    let Some(header) = bytes.first_chunk() else { return Ok(None) };
    let Some(header) = RecordHeader::parse(header, number)? else { return Ok(None) };
    let len = usize::try_from(header.record_bytes()).map_err(|_| RecordError::Length(header.payload_bytes))?;
    let record = bytes.get(..len).ok_or(RecordError::Length(header.payload_bytes))?;
    header.verify(record)?;
    let end = len.min(RECORD_HEADER_BYTES + usize::try_from(header.payload_bytes).unwrap_or(usize::MAX));
    Ok(Some((header, Bytes::copy_from_slice(&record[RECORD_HEADER_BYTES..end]))))
}

/// The header of a segment. Written, with the definitions behind it, before the segment has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The epoch that its positions are of.
    pub epoch: Epoch,
    /// The cluster.
    pub system_id: SystemId,
    /// Its number: 1 for the first of an epoch, and one more for each behind it.
    pub number: u64,
    /// The last position before it.
    pub before: Position,
    /// The end of the last whole transaction before it; the same as `before` unless the segment begins within a transaction.
    pub complete: Position,
    /// That transaction's end LSN, or where the slot began.
    pub complete_end_lsn: Lsn,
    /// The latest commit time before it in the epoch, [`NO_TIME`] where there is none.
    pub time_max: i64,
    /// Where the first batch begins: behind the definitions.
    pub batches_at: u64,
}

/// What is wrong with a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// It is not the start of a segment of an event log.
    #[error("it is no segment of an event log")]
    Magic,
    /// A version that this program does not know.
    #[error("its version {0} is not known: a newer beyond-pg-cdc has written it")]
    Version(u32),
    /// The checksum does not fit the bytes.
    #[error("the checksum of its header is wrong")]
    Crc,
}

impl SegmentHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// Where it is none, or damaged.
    pub fn parse(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, SegmentError> {
        let mut rest = bytes.as_slice();
        if take::<8>(&mut rest) != SEGMENT_MAGIC {
            return Err(SegmentError::Magic);
        }
        let version = take_u32(&mut rest);
        if version != VERSION {
            return Err(SegmentError::Version(version));
        }
        let (checked, crc) = bytes.split_at(SEGMENT_HEADER_BYTES - 4);
        if crc != checksum(checked).to_le_bytes() || take_u32(&mut rest) as usize != SEGMENT_HEADER_BYTES {
            return Err(SegmentError::Crc);
        }
        let epoch = Epoch::new(take(&mut rest));
        let system_id = SystemId(take_u64(&mut rest));
        let number = take_u64(&mut rest);
        let [before, complete] = [take_u64(&mut rest), take_u64(&mut rest)].map(Lsn);
        let [before, complete] = [before, complete].map(|commit_lsn| Position { commit_lsn, ordinal: take_u32(&mut rest) });
        let complete_end_lsn = Lsn(take_u64(&mut rest));
        let time_max = take_i64(&mut rest);
        let batches_at = take_u64(&mut rest);
        Ok(Self { epoch, system_id, number, before, complete, complete_end_lsn, time_max, batches_at })
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut to = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        to.extend(SEGMENT_MAGIC);
        to.extend(VERSION.to_le_bytes());
        to.extend((SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        to.extend(self.epoch.bytes());
        to.extend(self.system_id.0.to_le_bytes());
        to.extend(self.number.to_le_bytes());
        to.extend(self.before.commit_lsn.0.to_le_bytes());
        to.extend(self.complete.commit_lsn.0.to_le_bytes());
        to.extend(self.before.ordinal.to_le_bytes());
        to.extend(self.complete.ordinal.to_le_bytes());
        to.extend(self.complete_end_lsn.0.to_le_bytes());
        to.extend(self.time_max.to_le_bytes());
        to.extend(self.batches_at.to_le_bytes());
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..to.len()].copy_from_slice(&to);
        let crc = checksum(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// The lower half of a segment's number.
#[must_use]
pub const fn low_half(number: u64) -> u32 {
    (number & 0xFFFF_FFFF) as u32
}

/// CRC-32C.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    // A checksum of 32 bits in 64.
    (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) & 0xFFFF_FFFF) as u32
}

/// CRC-32C of pieces that follow each other.
pub(super) fn checksum_of(pieces: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece));
    (digest.finalize() & 0xFFFF_FFFF) as u32
}

/// The first bytes of `rest`, which is moved on; zeros where it is too short, which the callers' lengths rule out.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((taken, left)) = rest.split_first_chunk() else {
        debug_assert!(false, "a fixed layout has all its bytes");
        return [0; N];
    };
    *rest = left;
    *taken
}

pub(super) fn take_u32(rest: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(rest))
}

pub(super) fn take_u64(rest: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(rest))
}

pub(super) fn take_i64(rest: &mut &[u8]) -> i64 {
    i64::from_le_bytes(take(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RecordHeader {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        let (first, last) = (at(0x10, 1), at(0x20, 4));
        let meta = BatchMeta { first, last, end_lsn: Lsn(0x30), time_min: -5, time_max: 7, ends: true, schemas: false };
        RecordHeader { kind: RecordKind::Batch, meta, payload_bytes: 5, segment: 3, durable: 0x80 }
    }

    fn record() -> Vec<u8> {
        let mut bytes = Vec::new();
        header().write(b"hello", &mut bytes);
        bytes
    }

    #[test]
    fn a_record_byte_for_byte() {
        let bytes = record();
        let mut wanted = vec![5, 0, 0, 0, 1, 1, 0, 0, 3, 0, 0, 0];
        wanted.extend([0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0]);
        wanted.extend([0xFB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 7, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        wanted.extend(b"hello\0\0\0");
        assert_eq!(bytes[4..], wanted);
        assert_eq!(parse_record(&bytes, 3), Ok(Some((header(), Bytes::from_static(b"hello")))));
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of CRC-32C, as in the catalogue of parametrised CRC algorithms.
        assert_eq!(checksum(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn any_bit_that_flips_is_noticed() {
        let bytes = record();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_record(&damaged, 3).is_err(), "bit {bit}");
        }
        let segment = segment().encode();
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut damaged = segment;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_that_is_cut_or_of_another_segment_is_none() {
        let bytes = record();
        for len in 0..RECORD_HEADER_BYTES {
            assert_eq!(parse_record(&bytes[..len], 3), Ok(None));
        }
        for len in RECORD_HEADER_BYTES..bytes.len() {
            assert_eq!(parse_record(&bytes[..len], 3), Err(RecordError::Length(5)));
        }
        assert_eq!(parse_record(&bytes, 4), Err(RecordError::Segment(3)));
        assert_eq!(parse_record(&bytes, 3 + (1 << 32)).map(|found| found.is_some()), Ok(true));
        assert_eq!(parse_record(&[0; 100], 3), Ok(None));
    }

    fn segment() -> SegmentHeader {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        SegmentHeader {
            epoch: Epoch::new([7; 16]),
            system_id: SystemId(42),
            number: 9,
            before: at(0x20, 4),
            complete: at(0x10, 3),
            complete_end_lsn: Lsn(0x18),
            time_max: NO_TIME,
            batches_at: 128,
        }
    }

    #[test]
    fn a_segment_header_is_read_as_it_was_written() {
        let bytes = segment().encode();
        assert_eq!(bytes[..16], *b"BYDCDCLG\x01\0\0\0\x80\0\0\0");
        assert_eq!(SegmentHeader::parse(&bytes), Ok(segment()));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(SegmentHeader::parse(&newer), Err(SegmentError::Version(2)));
        assert_eq!(SegmentHeader::parse(&[0; SEGMENT_HEADER_BYTES]), Err(SegmentError::Magic));
    }
}
