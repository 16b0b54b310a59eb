//! What a log is after a stop: what is not whole is cut off, and damage is told from that.

use std::sync::Arc;

use walbus::Position;
use walbus::disk::{Disk, DiskFile};
use walbus::sim::{DiskFaults, SimDisk};

use super::basics::{SMALL, follow, new_disk, open, segments};
use super::workload::{START, Transaction, batch_of, fill, identity};
use crate::log::{Damage, EventLog, OpenError, ReadError};

const SEED: u64 = 1;
const FIRST: &str = "0000000000000001.log";

fn start() -> Position {
    Position { commit_lsn: START, ordinal: 0 }
}

fn flip(disk: &SimDisk, name: &str, at: u64) {
    let file = disk.open(name).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ 1], at).unwrap();
}

fn damage(disk: &SimDisk) -> Damage {
    match EventLog::open(Arc::new(disk.clone()), SMALL, &identity()) {
        Err(OpenError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

/// Where the records of the first segment begin, and where they end.
fn offsets(disk: &SimDisk) -> Vec<u64> {
    let file = Arc::new(disk.open(FIRST).unwrap());
    let (_, header) = crate::log::scan::read_header(disk, 1).unwrap();
    let mut offsets = Vec::new();
    let scanned = crate::log::scan::scan(&file, &header, 1, u64::MAX, |offset, _, _, _| {
        offsets.push(offset);
        Ok(())
    });
    offsets.push(scanned.unwrap().end());
    offsets
}

#[test]
fn a_record_that_was_not_synced_is_cut_wherever_it_tore() {
    let disk = new_disk();
    let (_, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..2);
    let transaction = Transaction::of(SEED, 2);
    let (meta, payload, schemas) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::clone(writer.schemas()));
    writer.append(meta, payload, &schemas).unwrap();
    drop(writer);
    let ends = offsets(&disk);
    let (torn, end) = (ends[2], ends[3]);
    for at in torn..end {
        let disk = disk.fork();
        flip(&disk, FIRST, at);
        let (log, mut writer) = open(&disk);
        assert_eq!((log.head(), follow(&log, start())), (Transaction::of(SEED, 1).end(), log.head()), "byte {at}");
        // What replaces it is found, and nothing of the old one behind it.
        fill(&mut writer, SEED, 2..5);
        drop(writer);
        assert_eq!(follow(&open(&disk).0, start()), Transaction::of(SEED, 4).end(), "byte {at}");
    }
}

#[test]
fn a_record_that_was_durable_and_is_not_right_is_damage() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..1);
    fill(&mut writer, SEED, 1..2);
    fill(&mut writer, SEED, 2..3);
    let ends = offsets(&disk);
    for at in ends[0]..ends[2] {
        let disk = disk.fork();
        flip(&disk, FIRST, at);
        let offset = if at < ends[1] { ends[0] } else { ends[1] };
        let damage = damage(&disk);
        assert_eq!((damage.file.as_str(), damage.offset), (FIRST, offset), "byte {at}: {damage}");
    }
    // Zeros are no end either.
    let zeroed = disk.fork();
    zeroed.open(FIRST).unwrap().write_at(&vec![0; usize::try_from(ends[1] - ends[0]).unwrap()], ends[0]).unwrap();
    assert_eq!(damage(&zeroed).offset, ends[0]);
    // Who reads it meanwhile is told as well.
    flip(&disk, FIRST, ends[1] + 80);
    let mut reader = log.reader(Transaction::of(SEED, 0).end()).unwrap();
    assert!(matches!(reader.next_from_files(), Err(ReadError::Damaged(damage)) if damage.offset == ends[1]));
}

#[test]
fn the_header_and_the_definitions_at_the_start_are_never_cut() {
    let disk = new_disk();
    let (_, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..40);
    drop(writer);
    let last = segments(&disk).pop().unwrap();
    for at in 0..128 {
        let disk = disk.fork();
        flip(&disk, &last, at);
        assert_eq!((damage(&disk).file, damage(&disk).offset), (last.clone(), 0), "byte {at}");
    }
    flip(&disk, &last, 128 + 80);
    assert_eq!((damage(&disk).file, damage(&disk).offset), (last, 128));
}

#[test]
fn a_sealed_segment_that_is_damaged_is_told_with_its_place() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..60);
    while let Some(job) = writer.job() {
        writer.finish(job.run().unwrap());
    }
    let second = segments(&disk)[1].clone();
    flip(&disk, &second, 3000);
    let mut reader = log.reader(start()).unwrap();
    let told = loop {
        match reader.next_from_files() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the damage was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&told, ReadError::Damaged(damage) if damage.file == second && (128..=3000).contains(&damage.offset)),
        "{told:?}"
    );
    // With its index it is opened without being read; without it is read, and refused.
    assert!(EventLog::open(Arc::new(disk.fork()), SMALL, &identity()).is_ok());
    disk.remove(&second.replace(".log", ".idx")).unwrap();
    assert_eq!(damage(&disk).file, second);
}

#[test]
fn a_segment_that_is_missing_or_too_short_is_told() {
    let disk = new_disk();
    fill(&mut open(&disk).1, SEED, 0..60);
    let names = segments(&disk);
    let missing = disk.fork();
    missing.remove(&names[1]).unwrap();
    assert_eq!((damage(&missing).file, damage(&missing).reason.as_str()), (names[1].clone(), "the file is missing"));
    // One that ends where a record does, but not the last one.
    let ends = offsets(&disk);
    let cut = ends[ends.len() - 2];
    disk.open(FIRST).unwrap().write_at(&vec![0; usize::try_from(SMALL.segment_bytes - cut).unwrap()], cut).unwrap();
    assert_eq!((damage(&disk).file.as_str(), damage(&disk).offset), (FIRST, cut));
}

#[test]
fn a_transaction_without_its_end_is_cut_over_any_number_of_segments() {
    let n = (0..).find(|n| Transaction::of(SEED, *n).changes >= 100).unwrap();
    let large = Transaction::of(SEED, n);
    for parts in [1, 10, large.changes - 1] {
        let disk = new_disk();
        let (log, mut writer) = open(&disk);
        fill(&mut writer, SEED, 0..n);
        let before = (log.head(), log.durable_end_lsn(), segments(&disk).len());
        for ordinal in 1..=parts {
            let (meta, payload, schemas) = batch_of(&[(large, ordinal, ordinal)], &Arc::clone(writer.schemas()));
            writer.append(meta, payload, &schemas).unwrap();
            writer.sync().unwrap();
        }
        assert!(parts < 90 || segments(&disk).len() > before.2 + 2);
        drop(writer);
        let (log, mut writer) = open(&disk);
        assert_eq!((log.head(), log.durable_end_lsn()), (before.0, before.1), "{parts} parts");
        // One that begins with the transaction is empty now, and stays.
        assert!(segments(&disk).len() <= before.2 + 1, "{parts} parts");
        assert_eq!((writer.last(), follow(&log, start())), (before.0, before.0));
        fill(&mut writer, SEED, n..n + 3);
        drop(writer);
        assert_eq!(follow(&open(&disk).0, start()), Transaction::of(SEED, n + 2).end());
    }
}

#[test]
fn a_failed_sync_ends_the_writer_and_moves_nothing() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..2);
    let head = log.head();
    let transaction = Transaction::of(SEED, 2);
    let (meta, payload, schemas) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::clone(writer.schemas()));
    writer.append(meta, payload.clone(), &schemas).unwrap();
    disk.set_faults(DiskFaults { sync_fails_per_million: 1_000_000, ..DiskFaults::default() });
    assert!(writer.sync().is_err());
    disk.set_faults(DiskFaults::default());
    assert!(writer.sync().is_err(), "never tried again");
    assert!(writer.append(meta, payload, &schemas).is_err_and(|error| error.to_string().contains("failed before")));
    assert_eq!((log.head(), follow(&log, start())), (head, head));
    drop(writer);
    // The record can still be read. The next start writes it again before it believes it.
    let (log, _) = open(&disk);
    assert_eq!(log.head(), transaction.end());
    disk.lose_power();
    assert_eq!(open(&disk).0.head(), transaction.end());
}
