//! Any bytes as WAL: however they are cut into chunks, the same comes out.
#![no_main]

#[path = "decode.rs"]
mod decode;

use libfuzzer_sys::fuzz_target;
use walbus::proto::wal::Decoder;
use walbus::{Lsn, SegmentSize, Timeline};

fuzz_target!(|data: &[u8]| {
    let Some(([place, first, second], wal)) = data.split_first_chunk::<3>() else { return };
    // The seeds are the first pages of real clusters, of which the first segment is number 1.
    let size = SegmentSize::new(1 << (20 + u64::from(*place >> 4) % 11)).unwrap();
    let offset = [0, 8192, 40, 8192 + 24][usize::from(*place) % 4];
    let start = Lsn(size.bytes() + offset);
    let decoder = Decoder::new(size, start, Timeline::new(3).unwrap()).unwrap();
    decode::in_any_chunks(&decoder, wal, &[usize::from(*first) + 1, (usize::from(*second) + 1) * 37]);
});
