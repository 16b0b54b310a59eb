//! A log that is written as the input says, then damaged, cut or torn, and opened again: it is refused, or it gives what was written, in order
//! and without a gap, up to some whole transaction.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use cdc::log::{BatchMeta, Epoch, EventLog, Identity, Settings, start_epoch};
use libfuzzer_sys::fuzz_target;
use walbus::disk::{Disk, DiskFile};
use walbus::sim::SimDisk;
use walbus::{Lsn, Position, SystemId};

const SETTINGS: Settings = Settings { segment_bytes: 1024, ring_bytes: 0, index_every_bytes: 100, spares: 0 };

fuzz_target!(|data: &[u8]| {
    let Some(([seed, file, at_high, at_low, with, len, drop_index], deeds)) = data.split_first_chunk::<7>() else { return };
    let disk = SimDisk::new(u64::from(*seed));
    let identity = Identity { system_id: SystemId(1), slot: "s".into() };
    start_epoch(&disk, &identity, Epoch::new([1; 16]), Lsn(1)).unwrap();
    let open = |disk: &SimDisk| EventLog::open(Arc::new(disk.clone()), SETTINGS, &identity);
    let (written, synced) = write(&disk, open(&disk).unwrap().1, deeds);
    if seed % 2 == 0 {
        disk.lose_power();
        let (log, _) = open(&disk).expect("a loss of power damages nothing");
        assert!(log.head() >= synced, "what was synced is there");
    }

    let names = disk.list().unwrap();
    let (name, bytes) = &names[usize::from(*file) % names.len()];
    if drop_index % 2 == 1 && name.ends_with(".idx") {
        disk.remove(name).unwrap();
    } else {
        let at = u64::from(u16::from_be_bytes([*at_high, *at_low])) % bytes.max(&1);
        disk.open(name).unwrap().write_at(&vec![*with; usize::from(len % 100)], at).unwrap();
    }

    let Ok((log, _)) = open(&disk) else { return };
    let mut reader = log.reader(log.earliest()).expect("what is earliest is held");
    let mut next = 0;
    while let Ok(Some(entry)) = reader.next_from_files() {
        let (meta, payload) = &written[next];
        assert_eq!((&entry.meta, &entry.payload), (meta, payload), "what was written, in order");
        next += 1;
        if entry.meta.last == log.head() {
            assert!(entry.meta.ends, "the head is the end of a transaction");
        }
    }
});

fn write(disk: &SimDisk, mut writer: cdc::log::Writer<SimDisk>, deeds: &[u8]) -> (Vec<(BatchMeta, Bytes)>, Position) {
    let mut written = Vec::new();
    let (mut lsn, mut ordinal, mut synced) = (10, 0, writer.last());
    for deed in deeds.iter().take(200) {
        match deed % 8 {
            0 => synced = writer.sync().unwrap(),
            1 => {
                if let Some(job) = writer.job() {
                    writer.finish(job.run().unwrap());
                }
            }
            kind => {
                let ends = kind != 2;
                let (first, last) = (ordinal + 1, ordinal + 1 + u32::from(kind));
                let at = |ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
                let time = lsn as i64;
                let meta = BatchMeta {
                    first: at(first),
                    last: at(last),
                    end_lsn: Lsn(lsn + 1),
                    time_min: time,
                    time_max: time,
                    ends,
                    schemas: false,
                };
                let payload = Bytes::from(vec![*deed; usize::from(deed / 8) * 9]);
                writer.append(meta, payload.clone(), &[]).unwrap();
                written.push((meta, payload));
                (lsn, ordinal) = if ends { (lsn + 10, 0) } else { (lsn, last) };
            }
        }
    }
    assert!(disk.list().unwrap().len() >= 2, "an epoch and a segment");
    (written, synced)
}
