//! Indexes of segments: as JSON of any bytes, and made of valid WAL. What the indexes of a chain tell of the records over its boundaries is
//! what was written; of damaged segments, something is told, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::archive::index::{Joined, SegmentIndex, Straddling, join};
use walbus::proto::wal::WalBuilder;
use walbus::{Lsn, PgTime, Segment, SegmentSize, SystemId, Timeline};

const MB: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(0x100_0000);
const SYSTEM: SystemId = SystemId(1);

fuzz_target!(|data: &[u8]| {
    let Some(([kind, high, low, bit], deeds)) = data.split_first_chunk::<4>() else { return };
    if kind % 2 == 0 {
        if let Ok(index) = SegmentIndex::parse(deeds) {
            assert_eq!(SegmentIndex::parse(&index.encode().unwrap()).unwrap(), index);
            drop(index.tail.as_ref().map(|tail| join(tail, &index)));
        }
        return;
    }
    let wal = build(deeds);
    let (whole, found) = follow(&wal, wal.bytes());
    assert!(whole.iter().all(|index| index.invalid.is_none()));
    for record in &found {
        let built = wal.records().iter().find(|built| built.lsn == record.lsn).expect("a record that was written");
        assert_eq!(record.end, built.end);
    }
    let over = wal.records().iter().filter(|built| MB.number(built.lsn) != MB.number(Lsn(built.end.0 - 1)));
    let over = over.filter(|built| whole.last().is_some_and(|last| built.end <= last.end)).count();
    assert_eq!(found.len(), over, "each record over a boundary is told");

    let mut bytes = wal.bytes().to_vec();
    let at = (usize::from(*high) << 8 | usize::from(*low)) * bytes.len().div_ceil(1 << 16);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    for index in follow(&wal, &bytes).0 {
        assert_eq!(SegmentIndex::parse(&index.encode().unwrap()).unwrap(), index);
    }
});

/// The indexes of all whole segments, and the records that they tell of over their boundaries.
fn follow(wal: &WalBuilder, bytes: &[u8]) -> (Vec<SegmentIndex>, Vec<Straddling>) {
    let mut found = Vec::new();
    let mut indexes: Vec<SegmentIndex> = Vec::new();
    let mut open = None;
    for (number, bytes) in (MB.number(START)..).zip(bytes.chunks_exact(1 << 20)) {
        let index = SegmentIndex::of(SYSTEM, Segment { number, timeline: wal.timeline() }, MB, bytes);
        open = match open.take().map(|tail| join(&tail, &index)) {
            Some(Ok(Joined::Continues(tail))) => Some(tail),
            Some(Ok(Joined::Ends(record))) => {
                found.push(record);
                index.tail.clone()
            }
            Some(Ok(Joined::Lost) | Err(_)) | None => index.tail.clone(),
        };
        indexes.push(index);
    }
    (indexes, found)
}

fn build(deeds: &[u8]) -> WalBuilder {
    let mut wal = WalBuilder::new(MB, START, SYSTEM);
    for (xid, deed) in (1..).zip(deeds.chunks(2).take(48)) {
        if wal.bytes().len() > 3 << 20 {
            break; // Enough for three boundaries; more is only slow.
        }
        let (kind, size) = (deed[0], u32::from(deed.get(1).copied().unwrap_or(0)));
        let time = PgTime(i64::from(xid));
        match kind % 10 {
            0 => {
                wal.filler(xid, 24 + size);
            }
            1 => {
                wal.filler(xid, 24 + size * 1500);
            }
            2 => {
                wal.filler(xid, 24 + size * 9000);
            }
            // Up to just before a boundary, where the next one lies over it.
            3 | 4 => {
                let left = MB.ceil(wal.end()).0 - wal.end().0;
                let pages = left / 8192 * 24;
                wal.filler(xid, u32::try_from(left.saturating_sub(pages + u64::from(size))).unwrap_or(24).max(32));
            }
            5 => {
                wal.commit(xid, time);
            }
            6 => {
                wal.restore_point("here", time);
            }
            7 => {
                wal.lose_contrecord(8192 + size * 300, time);
            }
            8 => {
                wal.promote(Timeline::new(wal.timeline().get() + 1).unwrap(), time);
            }
            _ => {
                wal.switch();
            }
        }
    }
    wal.switch();
    wal
}
