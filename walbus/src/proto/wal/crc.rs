//! CRC-32C as Postgres computes it over a record: what follows the header first, then the header up to the CRC.
//!
//! Most records are short, and there the second part costs as much as the first. It is always of 20 bytes, and a CRC is linear:
//! that of the header alone is computed by tables while the processor is still busy with the body, and then joined to it.

use crc_fast::{CrcAlgorithm, Digest};

/// The state before the first byte.
pub(super) const START: u32 = !0;
/// How much of the header the CRC covers.
const HEADER_CHECKED: usize = 20;
/// The length of a record's header.
const HEADER: usize = 24;

/// The state after more bytes.
#[inline]
pub(super) fn update(state: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(state));
    digest.update(bytes);
    u32::try_from(digest.get_state() & 0xFFFF_FFFF).unwrap_or(0)
}

/// The CRC of a record that starts with `header`, from the state after what follows it.
#[inline]
pub(super) fn finish(state: u32, header: &[u8; HEADER]) -> u32 {
    let (words, _) = header.as_chunks::<4>();
    let alone = words.iter().take(HEADER_CHECKED / 4).fold(0, |state, word| look_up(&AFTER_4, state ^ u32::from_le_bytes(*word)));
    !(alone ^ look_up(&AFTER_20, state))
}

/// The CRC of a whole record.
#[inline]
pub(super) fn of_record(header: &[u8; HEADER], record: &[u8]) -> u32 {
    finish(!crc_fast::crc32_iscsi(record.get(HEADER..).unwrap_or_default()), header)
}

/// For each byte of a state, what it comes to after some more bytes of zeros.
type Table = [[u32; 256]; 4];

static AFTER_4: Table = after(4);
static AFTER_20: Table = after(20);

#[inline]
fn look_up(table: &Table, state: u32) -> u32 {
    let of = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    let [first, second, third, fourth] = table;
    let [a, b, c, d] = state.to_le_bytes();
    of(first, a) ^ of(second, b) ^ of(third, c) ^ of(fourth, d)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "computed by the compiler, which refuses what is out of range"
)]
const fn after(zeros: usize) -> Table {
    /// The polynomial of CRC-32C, lowest bit first.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut table = [[0; 256]; 4];
    let mut at = 0;
    while at < 4 * 256 {
        let (place, byte) = (at / 256, at % 256);
        let mut state = (byte as u32) << (8 * place);
        let mut bit = 0;
        while bit < 8 * zeros {
            state = (state >> 1) ^ (POLYNOMIAL * (state & 1));
            bit += 1;
        }
        table[place][byte] = state;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn in_parts_or_whole_it_is_the_same(record in prop::collection::vec(any::<u8>(), 24..3000), at: prop::sample::Index) {
            let ordered = [&record[24..], &record[..20]].concat();
            let expected = crc_fast::crc32_iscsi(&ordered);
            let header = record.first_chunk().unwrap();
            prop_assert_eq!(of_record(header, &record), expected);
            let (first, second) = record[24..].split_at(at.index(record.len() - 23));
            prop_assert_eq!(finish(update(update(START, first), second), header), expected);
        }
    }
}
