//! CRC-32C as Postgres computes it over a record: what follows the header first, then the header up to the CRC.

use crc_fast::{CrcAlgorithm, Digest};

/// The state before the first byte.
pub(super) const START: u32 = !0;
/// The offset of the CRC in a record's header.
const CRC_AT: usize = 20;
/// The length of a record's header.
const HEADER: usize = 24;

/// The state after more bytes.
#[inline]
pub(super) fn update(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(state));
    digest.update(bytes);
    u32::try_from(digest.get_state() & 0xFFFF_FFFF).unwrap_or(0)
}

/// The CRC of a record, from the state after what follows its header.
#[inline]
pub(super) fn finish(state: u32, header: &[u8]) -> u32 {
    !update(state, header.get(..CRC_AT).unwrap_or_default())
}

/// The CRC of a whole record.
#[inline]
pub(super) fn of_record(record: &[u8]) -> u32 {
    finish(!crc_fast::crc32_iscsi(record.get(HEADER..).unwrap_or_default()), record)
}
