//! What a log does while nothing goes wrong.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walbus::disk::Disk;
use walbus::sim::{DiskFaults, PowerDisk, SimDisk};
use walbus::{Lsn, Position, SystemId};

use super::workload::{EPOCH, Follower, START, Transaction, batch_of, fill, identity};
use crate::log::{BatchMeta, Epoch, EventLog, Identity, OpenError, Policy, ReadError, Recent, Settings, Writer, start_epoch};

const SEED: u64 = 1;
pub(super) const SMALL: Settings = Settings { segment_bytes: 4096, ring_bytes: 1 << 20, index_every_bytes: 500, spares: 2 };

pub(super) fn new_disk() -> SimDisk {
    let disk = SimDisk::new(SEED);
    start_epoch(&disk, &identity(), EPOCH, START).unwrap();
    disk
}

pub(super) fn open(disk: &SimDisk) -> (EventLog<SimDisk>, Writer<SimDisk>) {
    EventLog::open(Arc::new(disk.clone()), SMALL, &identity()).unwrap()
}

fn start() -> Position {
    Position { commit_lsn: START, ordinal: 0 }
}

/// Everything from a position on, by the files.
pub(super) fn follow(log: &EventLog<SimDisk>, from: Position) -> Position {
    let mut follower = Follower::at(SEED, from);
    while follower.step(log, true).unwrap() {}
    follower.position
}

/// The numbers of the segments in the folder.
pub(super) fn segments(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn a_new_log_is_empty_and_begins_where_the_slot_does() {
    let (log, writer) = open(&new_disk());
    assert_eq!((log.head(), log.earliest(), log.durable_end_lsn()), (start(), start(), START));
    assert_eq!((log.epoch(), log.system_id(), writer.last()), (EPOCH, SystemId(42), start()));
    let mut reader = log.reader(start()).unwrap();
    assert_eq!(reader.try_next_recent(), Recent::NotYet);
    assert_eq!(reader.next_from_files().unwrap(), None);
}

#[test]
fn nothing_is_given_before_it_is_synced() {
    let (log, mut writer) = open(&new_disk());
    let heads = log.watch();
    let transaction = Transaction::of(SEED, 0);
    let (meta, payload, schemas) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::default());
    writer.append(meta, payload.clone(), &schemas).unwrap();
    let mut reader = log.reader(start()).unwrap();
    assert_eq!(reader.try_next_recent(), Recent::NotYet);
    assert_eq!(reader.next_from_files().unwrap(), None);
    assert_eq!((log.durable_end_lsn(), heads.has_changed().unwrap(), writer.needs_sync()), (START, false, true));
    assert!(matches!(log.reader(transaction.at(1)), Err(ReadError::Ahead { head }) if head == start()));

    assert_eq!(writer.sync().unwrap(), transaction.end());
    assert_eq!((log.head(), log.durable_end_lsn(), *heads.borrow()), (transaction.end(), transaction.end_lsn(), transaction.end()));
    let Recent::Entry(entry) = reader.try_next_recent() else { panic!("it is in the ring") };
    assert_eq!((entry.meta, &entry.payload, entry.schemas.len()), (meta, &payload, 0));
    assert_eq!(reader.after(), transaction.end());
    assert_eq!(reader.try_next_recent(), Recent::NotYet);
    let mut files = log.reader(start()).unwrap();
    assert_eq!(files.next_from_files().unwrap(), Some(entry));
    assert!(!writer.needs_sync());
}

#[test]
fn a_row_of_any_size_is_written_and_read_back() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    let transaction = Transaction::of(SEED, 0);
    let (meta, _, _) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::default());
    // More than a segment, the ring and whatever is read at once.
    let payload = Bytes::from(vec![7; 40 << 20]);
    writer.append(BatchMeta { schemas: false, ..meta }, payload.clone(), &[]).unwrap();
    writer.sync().unwrap();
    let entry = log.reader(start()).unwrap().next_from_files().unwrap().unwrap();
    assert!(entry.payload == payload);
    // Whoever reads it meanwhile has the same bytes.
    let other = log.reader(start()).unwrap().next_from_files().unwrap().unwrap();
    assert_eq!(other.payload.as_ptr(), entry.payload.as_ptr());
    let held = || log.shared.large.find(1, 128).is_some();
    assert!(held());
    drop((entry, other));
    assert!(!held(), "nobody has it");
    drop((log, writer));
    let (log, _writer) = open(&disk);
    assert_eq!(log.head(), transaction.end());
}

#[test]
fn definitions_that_were_forgotten_are_left_out_of_the_segments_to_come() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..30);
    let before = segments(&disk).len();
    let gone: Vec<u32> = writer.schemas().iter().map(|schema| schema.id).take(2).collect();
    writer.forget(&gone);
    let mut next = 30;
    while segments(&disk).len() < before + 2 {
        fill(&mut writer, SEED, next..next + 1);
        next += 1;
    }
    assert_eq!(follow(&log, start()), Transaction::of(SEED, next - 1).end(), "what was written with them is read with them");
    let mut reader = log.reader(Transaction::of(SEED, next - 2).end()).unwrap();
    let entry = reader.next_from_files().unwrap().unwrap();
    assert!(entry.schemas.len() > 2 && gone.iter().all(|id| entry.schemas.by_id(*id).is_none()), "{:?}", entry.schemas);
    drop((log, writer, reader));
    let (_log, writer) = open(&disk);
    assert!(gone.iter().all(|id| writer.schemas().by_id(*id).is_none()));
}

#[test]
fn a_transaction_in_parts_is_visible_when_its_last_one_is_durable() {
    let (log, mut writer) = open(&new_disk());
    let n = (0..).find(|n| Transaction::of(SEED, *n).changes >= 60).unwrap();
    fill(&mut writer, SEED, 0..n);
    let (before, large) = (log.head(), Transaction::of(SEED, n));
    for from in (1..=large.changes).step_by(20) {
        assert_eq!((log.head(), log.durable_end_lsn()), (before, Transaction::of(SEED, n - 1).end_lsn()));
        let to = large.changes.min(from + 19);
        let (meta, payload, schemas) = batch_of(&[(large, from, to)], &Arc::clone(writer.schemas()));
        writer.append(meta, payload, &schemas).unwrap();
        writer.sync().unwrap();
    }
    assert_eq!((log.head(), log.durable_end_lsn()), (large.end(), large.end_lsn()));
    assert_eq!(follow(&log, start()), large.end());
    assert_eq!(follow(&log, large.at(25)), large.end(), "a place within it");
}

#[test]
fn a_reader_moves_from_files_to_the_ring_and_back() {
    let disk = new_disk();
    let settings = Settings { ring_bytes: 3000, ..SMALL };
    let (log, mut writer) = EventLog::open(Arc::new(disk), settings, &identity()).unwrap();
    let mut follower = Follower::at(SEED, start());
    for n in 0..60 {
        fill(&mut writer, SEED, n * 5..n * 5 + 5);
        // Now and then it sleeps for longer than the ring lasts.
        while n % 7 != 0 && follower.step(&log, false).unwrap() {}
    }
    while follower.step(&log, false).unwrap() {}
    assert_eq!(follower.position, log.head());
    assert!(follower.from_ring > 20 && follower.from_files > 20, "{} and {}", follower.from_ring, follower.from_files);
}

#[test]
fn what_was_written_is_there_after_a_restart_and_the_writer_goes_on() {
    let disk = new_disk();
    for round in 0..10 {
        let (log, mut writer) = open(&disk);
        assert_eq!(log.head(), if round == 0 { start() } else { Transaction::of(SEED, round * 8 - 1).end() });
        assert_eq!(follow(&log, start()), log.head());
        fill(&mut writer, SEED, round * 8..round * 8 + 8);
    }
    assert!(segments(&disk).len() > 3, "{:?}", segments(&disk));
}

#[test]
fn a_segment_that_is_ready_costs_an_append_no_zeroing() {
    let power = PowerDisk::new(&new_disk(), u64::MAX);
    let (_, mut writer) = EventLog::open(Arc::new(power.clone()), SMALL, &identity()).unwrap();
    let mut jobs = 0;
    for n in 0..200 {
        while let Some(job) = writer.job() {
            writer.finish(job.run().unwrap());
            jobs += 1;
        }
        let before = power.zeroed();
        fill(&mut writer, SEED, n..n + 1);
        assert_eq!(power.zeroed(), before, "transaction {n}");
    }
    assert!(jobs > 10, "{jobs}");
}

#[test]
fn a_full_disk_takes_nothing_and_it_can_be_tried_again() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    disk.set_faults(DiskFaults { room: Some(SMALL.segment_bytes + 500), ..DiskFaults::default() });
    let (mut n, error) = (
        0,
        loop {
            let transaction = Transaction::of(SEED, writer.last().commit_lsn.0.saturating_sub(1900) / 100);
            let (meta, payload, schemas) = batch_of(&[(transaction, 1, transaction.changes)], &Arc::clone(writer.schemas()));
            if let Err(error) = writer.append(meta, payload, &schemas) {
                break error;
            }
        },
    );
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    writer.sync().unwrap();
    let head = log.head();
    assert_eq!(follow(&log, start()), head);
    disk.set_faults(DiskFaults::default());
    n += (head.commit_lsn.0 - 1900) / 100;
    fill(&mut writer, SEED, n..n + 3);
    assert_eq!(follow(&log, start()), Transaction::of(SEED, n + 2).end());
}

#[test]
fn indexes_lie_beside_sealed_segments_and_are_made_again_where_missing_or_wrong() {
    let disk = new_disk();
    let (_, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..60);
    while let Some(job) = writer.job() {
        writer.finish(job.run().unwrap());
    }
    let content = |name: &str| {
        let mut bytes = vec![0; 1 << 16];
        let read = walbus::disk::DiskFile::read_at(&disk.open(name).unwrap(), &mut bytes, 0).unwrap();
        bytes.truncate(read);
        bytes
    };
    let names: Vec<_> = disk.list().unwrap().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".idx")).collect();
    assert_eq!(names.len(), segments(&disk).len() - 1);
    let before: Vec<_> = names.iter().map(|name| content(name)).collect();
    disk.remove(&names[0]).unwrap();
    walbus::disk::DiskFile::write_at(&disk.open(&names[1]).unwrap(), b"x", 50).unwrap();
    let (log, _) = open(&disk);
    assert_eq!(names.iter().map(|name| content(name)).collect::<Vec<_>>(), before, "byte for byte as the writer made them");
    assert_eq!(follow(&log, Transaction::of(SEED, 3).end()), log.head());
}

#[test]
fn a_reader_anywhere_knows_the_definitions() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..100);
    let definitions = writer.schemas().len();
    assert!(definitions > 10);
    for n in 0..99 {
        let from = Transaction::of(SEED, n).end();
        let mut reader = log.reader(from).unwrap();
        let entry = reader.next_from_files().unwrap().unwrap();
        // Those of transactions 0 to n: one for each seven.
        assert_eq!(entry.schemas.len() as u64, n / 7 + 1, "behind {from}");
        assert_eq!(log.reader(from).unwrap().try_next_recent(), Recent::Entry(entry));
    }
    let (_, writer) = open(&disk);
    assert_eq!(writer.schemas().len(), definitions);
}

#[test]
fn a_position_by_commit_time() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..80);
    for time in -20..=790 {
        let first = (0..80).find(|n| Transaction::of(SEED, *n).time() >= time);
        let wanted = first.map_or_else(|| log.head(), |n| Transaction::of(SEED, n).at(0));
        assert_eq!(log.locate_time(time).unwrap(), wanted, "{time}");
    }
    assert_eq!(log.locate_time(i64::MAX).unwrap(), log.head());
    assert_eq!(log.locate_time(i64::MIN).unwrap(), Transaction::of(SEED, 0).at(0));
    let (log, _) = open(&disk);
    assert_eq!(log.locate_time(400).unwrap(), Transaction::of(SEED, 41).at(0), "number 40 is late");
}

#[test]
fn the_oldest_go_by_size_and_a_reader_is_told() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    let mut behind = log.reader(start()).unwrap();
    fill(&mut writer, SEED, 0..100);
    let (before, bytes) = (segments(&disk), log.size_bytes());
    let removed = log.retain(Policy { keep_bytes: Some(3 * 4096), keep_age: None }, 0).unwrap();
    assert_eq!(before.len() - removed.segments, segments(&disk).len());
    assert_eq!(bytes - removed.bytes, log.size_bytes());
    // No more than needed: the last one that has gone would have been too much.
    assert!(log.size_bytes() <= 3 * 4096 && log.size_bytes() > 2 * 4096 - 1000, "{}", log.size_bytes());
    let earliest = log.earliest();
    assert!(earliest > start() && earliest < log.head());
    assert!(matches!(behind.next_from_files(), Err(ReadError::TooFarBehind { earliest: told }) if told == earliest));
    assert!(matches!(log.reader(start()), Err(ReadError::TooFarBehind { .. })));
    assert!(matches!(log.locate_time(0), Err(ReadError::TooFarBehind { .. })));
    assert_eq!(follow(&log, earliest), log.head());
    let (again, _) = open(&disk);
    assert_eq!((again.earliest(), follow(&again, earliest)), (earliest, log.head()));
}

#[test]
fn the_oldest_go_by_age_and_the_last_one_stays() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    fill(&mut writer, SEED, 0..100);
    let age =
        |age: u64, now| log.retain(Policy { keep_bytes: None, keep_age: Some(Duration::from_micros(age)) }, now).unwrap().segments;
    assert_eq!(log.retain(Policy::default(), i64::MAX).unwrap().segments, 0, "no policy, nothing goes");
    assert_eq!(age(1000, 1000), 0);
    let some = age(500, 1000);
    assert!(some > 0 && segments(&disk).len() > 1);
    assert!(log.locate_time(500).is_ok(), "what is younger is there");
    assert!(age(0, i64::MAX) > 0);
    assert_eq!(segments(&disk).len(), 1);
    assert_eq!(follow(&log, log.earliest()), log.head());
}

#[test]
fn a_transaction_that_is_not_whole_is_kept_whatever_the_policy_says() {
    let disk = new_disk();
    let (log, mut writer) = open(&disk);
    let n = (0..).find(|n| Transaction::of(SEED, *n).changes >= 100).unwrap();
    fill(&mut writer, SEED, 0..n);
    let (head, large) = (log.head(), Transaction::of(SEED, n));
    for from in 1..=large.changes {
        let (meta, payload, schemas) = batch_of(&[(large, from, from)], &Arc::clone(writer.schemas()));
        writer.append(meta, payload, &schemas).unwrap();
        writer.sync().unwrap();
        log.retain(Policy { keep_bytes: Some(0), keep_age: None }, 0).unwrap();
        if from < large.changes {
            assert_eq!((log.head(), log.earliest() <= head), (head, true));
        }
    }
    // The one that the head was in has gone only now.
    assert_eq!(log.head(), large.end());
    assert_eq!(log.earliest(), large.end(), "its begin has gone with it: it is not offered");
}

#[test]
fn a_new_epoch_leaves_nothing_of_the_old_one() {
    let disk = new_disk();
    fill(&mut open(&disk).1, SEED, 0..50);
    let (second, start_lsn) = (Epoch::new([8; 16]), Lsn(5000));
    // Cut short after any number of changes, then done.
    for changes in 0..40 {
        let disk = disk.fork();
        let power = PowerDisk::new(&disk, changes);
        let whole = start_epoch(&power, &identity(), second, start_lsn).is_ok();
        disk.lose_power();
        let (log, _) = open(&disk);
        if log.epoch() == EPOCH {
            assert!(!whole, "{changes}");
            assert_eq!(follow(&log, start()), log.head());
            assert!(log.head() > start());
        } else {
            assert_eq!((log.epoch(), log.durable_end_lsn(), log.head().ordinal), (second, start_lsn, 0));
            assert_eq!(segments(&disk).len(), 1);
        }
    }
    start_epoch(&disk, &identity(), second, start_lsn).unwrap();
    start_epoch(&disk, &identity(), Epoch::new([9; 16]), start_lsn).unwrap();
    assert_eq!(open(&disk).0.epoch(), Epoch::new([9; 16]));
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let disk = new_disk();
    let refused = |identity: &Identity| EventLog::open(Arc::new(disk.clone()), SMALL, identity).unwrap_err();
    let cluster = Identity { system_id: SystemId(43), ..identity() };
    assert!(matches!(refused(&cluster), OpenError::OtherCluster { held: SystemId(42), wanted: SystemId(43) }));
    let slot = Identity { slot: "other".into(), ..identity() };
    assert!(matches!(refused(&slot), OpenError::OtherSlot { .. }));
    assert!(matches!(start_epoch(&disk, &cluster, Epoch::new([9; 16]), START), Err(OpenError::OtherCluster { .. })));
    let empty = EventLog::open(Arc::new(SimDisk::new(1)), SMALL, &identity());
    assert!(matches!(empty.unwrap_err(), OpenError::NoLog));
    // A segment of a third epoch was put there by hand.
    let other = SimDisk::new(1);
    start_epoch(&other, &identity(), Epoch::new([9; 16]), START).unwrap();
    drop(open(&other));
    fill(&mut open(&disk).1, SEED, 0..1);
    let mut header = vec![0; 4096];
    walbus::disk::DiskFile::read_at(&other.open("0000000000000001.log").unwrap(), &mut header, 0).unwrap();
    walbus::disk::DiskFile::write_at(&disk.open("0000000000000001.log").unwrap(), &header, 0).unwrap();
    assert!(matches!(refused(&identity()), OpenError::OtherEpoch { .. }));
}

#[test]
#[should_panic(expected = "positions rise")]
fn a_position_that_does_not_rise_is_never_written() {
    let (_, mut writer) = open(&new_disk());
    fill(&mut writer, SEED, 3..4);
    fill(&mut writer, SEED, 2..3);
}

#[test]
#[should_panic(expected = "a transaction goes on until it ends")]
fn no_transaction_begins_within_another_one() {
    let (_, mut writer) = open(&new_disk());
    let transaction = (0..).map(|n| Transaction::of(SEED, n)).find(|transaction| transaction.changes > 2).unwrap();
    let (meta, payload, schemas) = batch_of(&[(transaction, 1, 2)], &Arc::default());
    writer.append(meta, payload, &schemas).unwrap();
    fill(&mut writer, SEED, transaction.n + 1..transaction.n + 2);
}
