use super::*;
use crate::sim::{DiskFaults, SimDisk};

const SIZE: u64 = 1 << 20;

fn log(disk: &SimDisk) -> Log<SimDisk> {
    let mut log = Log::open(Arc::new(disk.clone()), SegmentSize::new(SIZE).unwrap()).unwrap();
    while log.spares_missing() > 0 {
        let spare = log.spare_job().run().unwrap();
        log.add_spare(spare);
    }
    log
}

fn names(disk: &SimDisk) -> Vec<String> {
    let mut names: Vec<_> =
        disk.list().unwrap().into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("spare")).collect();
    names.sort();
    names
}

fn read(disk: &SimDisk, name: &str) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(SIZE).unwrap()];
    assert_eq!(disk.open(name).unwrap().read_at(&mut content, 0).unwrap(), content.len());
    content
}

fn write_all(log: &mut Log<SimDisk>, mut lsn: Lsn, mut data: &[u8]) {
    while !data.is_empty() {
        let len = log.write(Timeline::FIRST, lsn, data).unwrap();
        (lsn, data) = (Lsn(lsn.0 + len as u64), &data[len..]);
    }
}

#[test]
fn a_segment_is_partial_until_it_is_whole_and_flushed() {
    let disk = SimDisk::new(1);
    let mut log = log(&disk);
    write_all(&mut log, Lsn(SIZE), &vec![7; usize::try_from(SIZE).unwrap() + 10]);
    assert_eq!(names(&disk), ["000000010000000000000001.partial", "000000010000000000000002.partial"]);
    let done = log.begin_flush().run().unwrap();
    assert_eq!(done.sealed, [Segment { number: 1, timeline: Timeline::FIRST }]);
    assert_eq!(names(&disk), ["000000010000000000000001", "000000010000000000000002.partial"]);
    disk.lose_power();
    assert_eq!(names(&disk), ["000000010000000000000001", "000000010000000000000002.partial"]);
    assert!(read(&disk, "000000010000000000000001").iter().all(|byte| *byte == 7));
    assert_eq!(read(&disk, "000000010000000000000002.partial")[..12], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
}

#[test]
fn a_flush_makes_new_names_durable() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut log = log(&disk);
        write_all(&mut log, Lsn(SIZE), b"first");
        log.begin_flush().run().unwrap();
        assert!(!log.needs_flush());
        disk.lose_power();
        assert_eq!(read(&disk, "000000010000000000000001.partial")[..6], *b"first\0", "seed {seed}");
    }
}

#[test]
fn zeros_are_not_written_again_and_are_there_all_the_same() {
    let disk = SimDisk::new(1);
    let mut log = log(&disk);
    write_all(&mut log, Lsn(SIZE), b"record");
    log.begin_flush().run().unwrap();
    write_all(&mut log, Lsn(SIZE + 6), &vec![0; usize::try_from(SIZE).unwrap() - 6]);
    let job = log.begin_flush();
    assert_eq!(job.run().unwrap().sealed.len(), 1);
    assert_eq!(read(&disk, "000000010000000000000001")[..7], *b"record\0");
}

#[test]
fn zeros_replace_what_an_earlier_life_left() {
    let disk = SimDisk::new(1);
    write_all(&mut log(&disk), Lsn(SIZE), &[7; 100_000]);
    let mut again = log(&disk);
    write_all(&mut again, Lsn(SIZE), &[0; 100_000]);
    again.begin_flush().run().unwrap();
    assert!(read(&disk, "000000010000000000000001.partial").iter().all(|byte| *byte == 0));
}

#[test]
fn zeros_below_what_was_written_are_written() {
    let disk = SimDisk::new(1);
    let mut log = log(&disk);
    write_all(&mut log, Lsn(SIZE), &[7; 50_000]);
    write_all(&mut log, Lsn(SIZE), &[0; 50_000]);
    assert!(read(&disk, "000000010000000000000001.partial").iter().all(|byte| *byte == 0));
}

#[test]
fn a_whole_segment_that_is_written_again_is_partial_meanwhile() {
    let disk = SimDisk::new(1);
    let mut log = log(&disk);
    write_all(&mut log, Lsn(SIZE), &vec![7; usize::try_from(SIZE).unwrap()]);
    log.begin_flush().run().unwrap();
    write_all(&mut log, Lsn(2 * SIZE - 3), b"new");
    assert_eq!(names(&disk), ["000000010000000000000001.partial"]);
    log.begin_flush().run().unwrap();
    assert_eq!(names(&disk), ["000000010000000000000001"]);
    assert_eq!(read(&disk, "000000010000000000000001")[usize::try_from(SIZE).unwrap() - 4..], *b"\x07new");
}

#[test]
fn without_a_spare_nothing_is_taken_and_it_can_be_tried_again() {
    let disk = SimDisk::new(1);
    let mut log = Log::open(Arc::new(disk.clone()), SegmentSize::new(SIZE).unwrap()).unwrap();
    assert!(matches!(log.write(Timeline::FIRST, Lsn(SIZE), b"x"), Err(WriteError::NoSpare)));
    let spare = log.spare_job().run().unwrap();
    log.add_spare(spare);
    assert_eq!(log.write(Timeline::FIRST, Lsn(SIZE), b"x").unwrap(), 1);
}

#[test]
fn a_full_disk_makes_no_spare() {
    let disk = SimDisk::new(1);
    disk.set_faults(DiskFaults { room: Some(SIZE - 1), ..DiskFaults::default() });
    let mut log = Log::open(Arc::new(disk.clone()), SegmentSize::new(SIZE).unwrap()).unwrap();
    assert_eq!(log.spare_job().run().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_failed_sync_names_nothing() {
    let disk = SimDisk::new(1);
    let mut log = log(&disk);
    write_all(&mut log, Lsn(SIZE), &vec![7; usize::try_from(SIZE).unwrap()]);
    disk.set_faults(DiskFaults { sync_fails_per_million: 1_000_000, ..DiskFaults::default() });
    assert!(log.begin_flush().run().is_err());
    assert_eq!(names(&disk), ["000000010000000000000001.partial"]);
}

#[test]
fn spares_of_an_earlier_life_are_removed() {
    let disk = SimDisk::new(1);
    drop(log(&disk));
    assert_eq!(disk.list().unwrap().len(), SPARES_WANTED);
    Log::open(Arc::new(disk.clone()), SegmentSize::new(SIZE).unwrap()).unwrap();
    assert_eq!(disk.list().unwrap().len(), 0);
}
