//! What a primary may do, written as valid WAL: it is read as it was written. Then damaged, cut, and read from elsewhere: however it
//! is cut into chunks, the same comes out, and no damaged record is taken for a right one.
#![no_main]

#[path = "decode.rs"]
mod decode;

use libfuzzer_sys::fuzz_target;
use walbus::proto::wal::{Decoder, WalBuilder};
use walbus::{Lsn, PgTime, SegmentSize, SystemId, Timeline};

const MB: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(0x100_0000);

fuzz_target!(|data: &[u8]| {
    let Some(([chunk, segment, cut, flips @ ..], deeds)) = data.split_first_chunk::<7>() else { return };
    let wal = build(deeds);
    let chunks = [usize::from(*chunk) * 61 + 17, usize::from(*chunk) + 29];
    let decoder = Decoder::new(MB, START, wal.timeline()).unwrap();
    let read = decode::in_any_chunks(&decoder, wal.bytes(), &chunks);
    assert_eq!((read.error, read.complete_end), (None, wal.end()));
    let written: Vec<_> = wal.records().iter().map(|built| built.lsn).collect();
    assert_eq!(read.records.iter().map(|record| record.lsn).collect::<Vec<_>>(), written);

    let start = Lsn(START.0 + u64::from(*segment % 4) * MB.bytes());
    let mut bytes = wal.between(start, wal.end()).to_vec();
    bytes.truncate(bytes.len().saturating_sub(usize::from(*cut) * 5));
    let [high, low, bit, _] = *flips;
    let at = (usize::from(high) << 8 | usize::from(low)) * bytes.len().div_ceil(1 << 16);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    let decoder = Decoder::new(MB, start, wal.timeline()).unwrap();
    let damaged = decode::in_any_chunks(&decoder, &bytes, &chunks);
    for record in &damaged.records {
        assert!(written.contains(&record.lsn), "a record at {} that was not written", record.lsn);
    }
});

fn build(deeds: &[u8]) -> WalBuilder {
    let mut wal = WalBuilder::new(MB, START, SystemId(1));
    for (xid, deed) in (1..).zip(deeds.chunks(2).take(64)) {
        if wal.bytes().len() > (5 << 20) / 2 {
            break; // Enough for the start of a third segment; more is only slow.
        }
        let [kind, size] = [deed[0], deed.get(1).copied().unwrap_or(0)];
        let size = u32::from(size);
        let time = PgTime(i64::from(xid));
        match kind % 16 {
            0..=3 => drop_it(wal.filler(xid, 24 + size)),
            4..=6 => drop_it(wal.filler(xid, 24 + size * 40)),
            7 => drop_it(wal.filler(xid, 24 + size * 1500)),
            8 | 9 => drop_it(wal.commit(xid, time)),
            10 => drop_it(wal.abort(xid, time)),
            11 => drop_it(wal.restore_point("here", time)),
            12 => drop_it(wal.lose_contrecord(8192 + size * 300, time)),
            13 => drop_it(wal.promote(Timeline::new(wal.timeline().get() + 1).unwrap(), time)),
            14 => drop_it(wal.shutdown()),
            _ => drop_it(wal.switch()),
        }
    }
    wal
}

/// Where a record was written makes no difference here.
fn drop_it<T>(_: T) {}
