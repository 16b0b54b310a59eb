//! A record that comes in parts.

use crate::lsn::Lsn;
use crate::proto::wal::crc;
use crate::proto::wal::event::EVENT_BYTES;
use crate::proto::wal::field::{length, u32_at};
use crate::proto::wal::record::RecordHeader;

/// The length of a record's header.
const HEADER: usize = 24;

/// The part of a record that has come: its start, and the CRC's state. The rest is not kept.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    lsn: Option<Lsn>,
    /// How many bytes have come, padding included.
    have: usize,
    /// The CRC's state after the bytes behind the header that have come.
    crc: u32,
    start: [u8; EVENT_BYTES],
}

impl Pending {
    pub(super) const fn none() -> Self {
        Self { lsn: None, have: 0, crc: crc::START, start: [0; EVENT_BYTES] }
    }

    pub(super) fn clear(&mut self) {
        self.lsn = None;
        self.have = 0;
        self.crc = crc::START;
    }

    /// Begins a record at `lsn` unless one has begun. Gives where the record starts.
    pub(super) fn begin(&mut self, lsn: Lsn) -> Lsn {
        *self.lsn.get_or_insert(lsn)
    }

    /// Where it starts; `None` where none has begun.
    #[inline]
    pub(super) const fn lsn(&self) -> Option<Lsn> {
        self.lsn
    }

    /// Its length without padding, once its first four bytes have come.
    pub(super) fn total_bytes(&self) -> Option<u32> {
        u32_at(self.start.get(..self.have.min(EVENT_BYTES))?, 0)
    }

    /// Its header, once that has come whole.
    pub(super) fn header(&self) -> Option<RecordHeader> {
        if self.have < HEADER { None } else { self.start.first_chunk().map(RecordHeader::parse) }
    }

    /// Its first bytes, as far as they are kept.
    pub(super) fn start(&self) -> &[u8] {
        self.start.get(..self.total().min(EVENT_BYTES)).unwrap_or_default()
    }

    /// How many of its bytes are still to come, padding not counted.
    pub(super) fn missing(&self) -> u32 {
        let have = u32::try_from(self.have).unwrap_or(u32::MAX);
        self.total_bytes().unwrap_or(0).saturating_sub(have)
    }

    /// Whether all of it has come, padding included.
    pub(super) fn is_whole(&self) -> bool {
        self.have >= HEADER && self.have == self.padded()
    }

    /// The CRC of its bytes, once it is whole.
    pub(super) fn crc(&self) -> u32 {
        self.start.first_chunk().map_or(0, |header| crc::finish(self.crc, header))
    }

    /// Takes what is missing of the header, and says how much there was of that.
    pub(super) fn take_header(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(HEADER.saturating_sub(self.have));
        self.keep(bytes.get(..taken).unwrap_or_default());
        taken
    }

    /// Takes what is missing behind the header, and says how much there was of that.
    pub(super) fn take_body(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.get(..bytes.len().min(self.padded().saturating_sub(self.have))).unwrap_or_default();
        let checked = taken.get(..taken.len().min(self.total().saturating_sub(self.have))).unwrap_or_default();
        self.crc = crc::update(self.crc, checked);
        self.keep(taken);
        taken.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.start.get_mut(self.have.min(EVENT_BYTES)..).unwrap_or_default();
        let kept = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..kept), bytes.get(..kept)) {
            to.copy_from_slice(from);
        }
        self.have += bytes.len();
    }

    fn total(&self) -> usize {
        length(self.total_bytes().unwrap_or(0))
    }

    fn padded(&self) -> usize {
        super::padded(self.total_bytes().unwrap_or(0))
    }
}
