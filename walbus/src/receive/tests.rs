use super::*;
use crate::disk::write_whole;
use crate::ident::PgTime;
use crate::ledger::Report;
use crate::proto::wal::WalBuilder;
use crate::sim::SimDisk;

const SIZE: u64 = 1 << 20;
const SYSTEM: SystemId = SystemId(7);
const FIRST: Timeline = Timeline::FIRST;

fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

fn second() -> Timeline {
    Timeline::new(2).unwrap()
}

/// A primary with some commits, at the start of segment 1.
fn primary() -> WalBuilder {
    let mut wal = WalBuilder::new(size(), Lsn(SIZE), SYSTEM);
    for xid in 0..50 {
        wal.filler(xid, 300);
        wal.commit(xid, PgTime(1000 + i64::from(xid)));
    }
    wal
}

fn server(wal: &WalBuilder) -> Server {
    let reserved = Some((wal.start(), FIRST));
    Server { system_id: SYSTEM, segment_size: size(), timeline: wal.timeline(), flushed: wal.end(), reserved }
}

/// A new process on the folder.
fn open(disk: &SimDisk) -> Receiver<SimDisk> {
    let identity = Identity { system_id: SYSTEM, segment_size: size() };
    Receiver::open(Arc::new(disk.clone()), identity, Scan::of(disk).unwrap()).unwrap()
}

fn take(receiver: &mut Receiver<SimDisk>, mut at: Lsn, mut data: &[u8]) -> Result<(), ReceiveError> {
    while let Taken::UpTo(taken, Blocked::NoSpare) = receiver.handle_wal(at, data)? {
        (at, data) = (Lsn(at.0 + taken as u64), &data[taken..]);
        let spare = receiver.log_mut().spare_job().run().unwrap();
        receiver.log_mut().add_spare(spare);
    }
    Ok(())
}

fn flush(receiver: &mut Receiver<SimDisk>) {
    let done = receiver.begin_flush().run().unwrap();
    receiver.finish_flush(&done);
}

/// A session that takes all from the start that is planned up to `end`, in messages of 10,000 bytes, and flushes.
fn receive(receiver: &mut Receiver<SimDisk>, wal: &WalBuilder, end: Lsn) -> Result<Start, ReceiveError> {
    let start = receiver.plan(&server(wal), None).unwrap();
    receive_from(receiver, wal, start, end)?;
    Ok(start)
}

fn receive_from(receiver: &mut Receiver<SimDisk>, wal: &WalBuilder, start: Start, end: Lsn) -> Result<(), ReceiveError> {
    receiver.begin(start, ApplyAs::Nothing);
    let mut at = start.at;
    for piece in wal.between(start.at, end).chunks(10_000) {
        take(receiver, at, piece)?;
        at = Lsn(at.0 + piece.len() as u64);
    }
    flush(receiver);
    Ok(())
}

fn report(receiver: &Receiver<SimDisk>) -> Report {
    receiver.ledger().unwrap().report()
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("spare")).collect()
}

/// What the file of a segment has, under either name.
fn content(disk: &SimDisk, timeline: Timeline, number: u64) -> Vec<u8> {
    let name = Segment { number, timeline }.name(size()).to_string();
    let file = disk.open(&name).or_else(|_| disk.open(&format!("{name}.partial"))).unwrap();
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// That the folder has the primary's bytes from segment 1 on up to `end`.
fn assert_holds(disk: &SimDisk, timeline: Timeline, wal: &WalBuilder, end: Lsn) {
    let mut at = wal.start();
    while at < end {
        let until = end.min(Lsn(size().floor(at).0 + SIZE));
        let held = content(disk, timeline, size().number(at));
        let len = usize::try_from(until.0 - at.0).unwrap();
        assert!(held[..len] == *wal.between(at, until), "{at} to {until}");
        at = until;
    }
}

fn zero(disk: &SimDisk, name: &str, offset: u64, len: usize) {
    disk.open(name).unwrap().write_at(&vec![0; len], offset).unwrap();
}

fn keep_history(disk: &SimDisk, switchpoint: Lsn) {
    write_whole(disk, "00000002.history", format!("1\t{switchpoint}\tno recovery target specified\n").as_bytes()).unwrap();
}

#[test]
fn nothing_is_reported_before_a_record_is_whole() {
    let disk = SimDisk::new(1);
    let mut wal = WalBuilder::new(size(), Lsn(SIZE), SYSTEM);
    let first = wal.filler(1, 3_000_000);
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, Lsn(first.end.0 - 8)).unwrap();
    assert_eq!(report(&receiver), Report::default(), "all but 8 bytes of a record of three segments");
    take(&mut receiver, Lsn(first.end.0 - 8), wal.between(Lsn(first.end.0 - 8), first.end)).unwrap();
    assert_eq!(report(&receiver).write, first.end);
    assert_eq!(report(&receiver).flush, Lsn(first.end.0 - 8));
    flush(&mut receiver);
    assert_eq!(report(&receiver).flush, first.end);
}

#[test]
fn a_session_that_only_compares_reports_no_more_than_it_compared() {
    let disk = SimDisk::new(1);
    let wal = primary();
    receive(&mut open(&disk), &wal, wal.end()).unwrap();
    let mut receiver = open(&disk);
    let half = wal.records()[40].end;
    receive(&mut receiver, &wal, half).unwrap();
    assert_eq!((report(&receiver).write, report(&receiver).flush), (half, half));
    let held = receiver.held().unwrap();
    assert_eq!((held.complete, held.end), (wal.end(), wal.end()), "what is held does not shrink by being compared");
}

#[test]
fn a_byte_that_differs_from_a_complete_record_is_divergence_wherever_it_is() {
    let disk = SimDisk::new(1);
    let wal = primary();
    receive(&mut open(&disk), &wal, wal.end()).unwrap();
    let before = content(&disk, FIRST, 1);
    let last = *wal.records().last().unwrap();
    // In the long page header, a record's header, a body, a short page header, the last record's first and last byte.
    let offsets = [16, 40, 100, 8192 + 2, last.lsn.0 - SIZE, wal.end().0 - SIZE - 1];
    for offset in offsets.map(|offset| usize::try_from(offset).unwrap()) {
        let mut receiver = open(&disk);
        let start = receiver.plan(&server(&wal), None).unwrap();
        receiver.begin(start, ApplyAs::Nothing);
        let mut sent = wal.bytes().to_vec();
        sent[offset] ^= 1;
        let differs = Lsn(SIZE + offset as u64);
        match take(&mut receiver, start.at, &sent) {
            Err(ReceiveError::Diverged { lsn, timeline: FIRST, complete }) => assert_eq!((lsn, complete), (differs, wal.end())),
            other => panic!("offset {offset}: {other:?}"),
        }
        flush(&mut receiver);
        assert!(report(&receiver).flush <= differs, "offset {offset}");
        assert!(content(&disk, FIRST, 1) == before, "offset {offset}: held bytes were changed");
    }
}

#[test]
fn a_partial_record_is_replaced_by_what_a_recovered_primary_writes_there() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    let complete = wal.end();
    let lost = wal.filler(9, 60_000);
    receive(&mut open(&disk), &wal, Lsn(lost.end.0 - 1000)).unwrap();
    let mut in_process = open(&disk.fork());
    receive(&mut in_process, &wal, Lsn(lost.end.0 - 1000)).unwrap();
    in_process.end_session();
    assert_eq!(in_process.held().unwrap().complete, complete);
    wal.truncate(complete);
    wal.shutdown();
    // By the same process, and by one that was killed in between.
    for mut receiver in [in_process, open(&disk)] {
        receive(&mut receiver, &wal, wal.end()).unwrap();
        assert_eq!(report(&receiver).flush, wal.end());
        let held = receiver.held().unwrap();
        assert_eq!((held.complete, held.end), (wal.end(), wal.end()));
        assert_holds(receiver.log_mut().disk(), FIRST, &wal, wal.end());
        let again = Scan::of(&**receiver.log_mut().disk()).unwrap().unwrap();
        assert_eq!(again.held.complete, wal.end(), "no remnant is taken for a record");
    }
}

#[test]
fn a_lost_contrecord_is_followed() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    let complete = wal.end();
    let torn = wal.filler(9, 60_000);
    receive(&mut open(&disk), &wal, Lsn(torn.end.0 - 1000)).unwrap();
    wal.truncate(complete);
    wal.lose_contrecord(60_000, PgTime(5)).unwrap();
    wal.commit(10, PgTime(6));
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(report(&receiver).flush, wal.end());
    assert_holds(&disk, FIRST, &wal, wal.end());
    assert_eq!(open(&disk).held().unwrap().complete, wal.end());
}

#[test]
fn a_whole_segment_is_written_again_from_its_partial_record_on() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    wal.filler(1, u32::try_from(2 * SIZE - wal.end().0 - 5000).unwrap());
    let complete = wal.end();
    assert_eq!(size().number(complete), 1);
    let lost = wal.filler(2, 50_000);
    receive(&mut open(&disk), &wal, Lsn(2 * SIZE + 10_000)).unwrap();
    assert!(lost.end.0 > 2 * SIZE + 10_000);
    assert_eq!(names(&disk), ["000000010000000000000001", "000000010000000000000002.partial"]);
    wal.truncate(complete);
    wal.shutdown();
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(report(&receiver).flush, wal.end());
    assert_eq!(names(&disk)[0], "000000010000000000000001.partial", "it is no whole segment any more");
    assert_holds(&disk, FIRST, &wal, wal.end());
    disk.lose_power();
    let mut receiver = open(&disk);
    assert_eq!(receiver.held().unwrap().complete, wal.end());
    wal.filler(3, 20_000);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(names(&disk), ["000000010000000000000001", "000000010000000000000002.partial"]);
    assert_holds(&disk, FIRST, &wal, wal.end());
}

#[test]
fn of_a_segment_that_is_there_twice_the_whole_one_counts() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    wal.switch();
    wal.commit(1, PgTime(1));
    receive(&mut open(&disk), &wal, wal.end()).unwrap();
    disk.create_zeroed("000000010000000000000001.partial", SIZE).unwrap();
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(report(&receiver).flush, wal.end());
}

#[test]
fn after_a_damaged_record_the_end_is_still_one_of_a_record() {
    let disk = SimDisk::new(1);
    let wal = primary();
    let mut receiver = open(&disk);
    receiver.begin(receiver.plan(&server(&wal), None).unwrap(), ApplyAs::Nothing);
    let [before, damaged] = [wal.records()[20], wal.records()[40]];
    let mut sent = wal.bytes().to_vec();
    sent[usize::try_from(damaged.lsn.0 - SIZE).unwrap() + 30] ^= 1;
    // The first message ends within a record, the second one brings whole records and the damaged one.
    let cut = Lsn(before.end.0 - 16);
    let at = usize::try_from(cut.0 - SIZE).unwrap();
    take(&mut receiver, Lsn(SIZE), &sent[..at]).unwrap();
    assert!(matches!(take(&mut receiver, cut, &sent[at..]), Err(ReceiveError::Record(_))));
    flush(&mut receiver);
    let held = receiver.held().unwrap();
    assert_eq!((held.complete, held.end), (before.lsn, cut));
    assert_eq!(report(&receiver).flush, cut, "nothing of the message with the damaged record is acknowledged");
    receiver.end_session();
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_holds(&disk, FIRST, &wal, wal.end());
}

#[test]
fn a_session_goes_on_behind_what_the_primary_has_removed() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    wal.filler(1, 3_000_000);
    let record = wal.filler(2, 1_000_000);
    let end = Lsn(record.end.0 - 1000);
    receive(&mut open(&disk), &wal, end).unwrap();
    wal.commit(3, PgTime(1));
    let mut in_process = open(&disk.fork());
    receive(&mut in_process, &wal, end).unwrap();
    in_process.end_session();
    for mut receiver in [in_process, open(&disk)] {
        let start = receiver.plan(&server(&wal), None).unwrap();
        let later = receiver.fallback(start).unwrap();
        assert_eq!(later.at, size().floor(receiver.held().unwrap().end));
        assert!(later.at > start.at, "{} is not behind {}", later.at, start.at);
        assert_eq!(receiver.fallback(later), None, "there is one such place");
        receive_from(&mut receiver, &wal, later, end).unwrap();
        assert_eq!(report(&receiver), Report::default(), "no record is whole yet");
        take(&mut receiver, end, wal.between(end, wal.end())).unwrap();
        flush(&mut receiver);
        assert_eq!(report(&receiver).flush, wal.end());
        assert_holds(receiver.log_mut().disk(), FIRST, &wal, wal.end());
    }
}

#[test]
fn a_session_that_goes_on_later_still_finds_another_history() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    wal.filler(1, 1_500_000);
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    receiver.end_session();
    let mut other = primary();
    other.commit(7, PgTime(7));
    other.filler(1, 1_500_000);
    other.commit(8, PgTime(8));
    let start = Start { timeline: FIRST, at: Lsn(SIZE), parent: None };
    let later = receiver.fallback(start).unwrap();
    let refused = receive_from(&mut receiver, &other, later, other.end());
    assert!(matches!(refused, Err(ReceiveError::Diverged { .. })), "{refused:?}");
    assert_eq!(report(&receiver), Report::default());
}

#[test]
fn a_primary_that_can_not_be_followed_is_refused() {
    let mut wal = primary();
    wal.promote(second(), PgTime(1));
    let identity = Identity { system_id: SYSTEM, segment_size: size() };
    let held = Held { timeline: second(), oldest: Lsn(SIZE), complete: Lsn(SIZE + 9000), end: Lsn(SIZE + 9500) };
    let third = Timeline::new(3).unwrap();
    let good = Server { system_id: SYSTEM, segment_size: size(), timeline: second(), flushed: held.complete, reserved: None };
    let history = |text: &str| History::parse(third, text.as_bytes()).unwrap();
    let descends = history("1\t0/100800\tx\n2\t0/102328\tx\n");
    let forked = history("1\t0/100800\tx\n2\t0/102320\tx\n");
    let unrelated = history("1\t0/100800\tx\n");
    let newer = Server { timeline: third, ..good };
    let refusal = |server: Server, history: Option<&History>| plan::plan(identity, Some(&held), &server, history);

    let start = Start { timeline: second(), at: Lsn(SIZE), parent: None };
    assert_eq!(refusal(good, None), Ok(start));
    assert_eq!(refusal(newer, Some(&descends)), Ok(start), "first the timeline held, to its end");
    let cases = [
        (Server { system_id: SystemId(8), ..good }, None, Refusal::OtherCluster { held: SYSTEM, server: SystemId(8) }, true),
        (
            Server { segment_size: SegmentSize::DEFAULT, ..good },
            None,
            Refusal::OtherSegmentSize { held: size(), server: SegmentSize::DEFAULT },
            false,
        ),
        (Server { timeline: FIRST, ..good }, None, Refusal::OlderTimeline { held: second(), server: FIRST }, true),
        (
            Server { flushed: Lsn(held.complete.0 - 8), ..good },
            None,
            Refusal::Behind { held: held.complete, server: Lsn(held.complete.0 - 8) },
            false,
        ),
        (newer, None, Refusal::NoDescendant { held: second(), server: third }, true),
        (newer, Some(&unrelated), Refusal::NoDescendant { held: second(), server: third }, true),
        (
            newer,
            Some(&forked),
            Refusal::ForkedBefore { held: second(), complete: held.complete, server: third, switchpoint: Lsn(0x10_2320) },
            true,
        ),
    ];
    for (server, history, expected, diverged) in cases {
        assert_eq!(expected.is_divergence(), diverged, "{expected}");
        assert_eq!(refusal(server, history), Err(expected));
    }
}

#[test]
fn a_timeline_that_lacks_what_is_held_does_not_follow() {
    let disk = SimDisk::new(1);
    let wal = primary();
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    let before = Lsn(wal.end().0 - 8);
    assert_eq!(receiver.end_timeline(FIRST, wal.end()), Err(Refusal::OlderTimeline { held: FIRST, server: FIRST }));
    let forked = Refusal::ForkedBefore { held: FIRST, complete: wal.end(), server: second(), switchpoint: before };
    assert_eq!(receiver.end_timeline(second(), before), Err(forked));
    let start = Start { timeline: second(), at: Lsn(SIZE), parent: Some((FIRST, wal.end())) };
    assert_eq!(receiver.end_timeline(second(), wal.end()), Ok(start));
}

/// A folder with timeline 1 up to its end, and a session of timeline 2 begun; the promoted primary's WAL.
fn promoted(disk: &SimDisk, mut wal: WalBuilder) -> (Receiver<SimDisk>, WalBuilder, Start) {
    let mut receiver = open(disk);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    let start = receiver.end_timeline(second(), wal.end()).unwrap();
    keep_history(disk, wal.end());
    wal.promote(second(), PgTime(77));
    wal.commit(80, PgTime(78));
    (receiver, wal, start)
}

#[test]
fn a_promotion_half_received_leaves_the_parent_held() {
    let disk = SimDisk::new(1);
    let switchpoint = primary().end();
    let (mut receiver, wal, start) = promoted(&disk, primary());
    receive_from(&mut receiver, &wal, start, Lsn(switchpoint.0 - 100)).unwrap();
    assert_eq!(receiver.held().unwrap().timeline, FIRST);
    let mut receiver = open(&disk);
    let held = receiver.held().unwrap();
    assert_eq!((held.timeline, held.complete), (FIRST, switchpoint));
    // From the end of the parent once more.
    let parent = primary();
    receive(&mut receiver, &parent, switchpoint).unwrap();
    let start = receiver.end_timeline(second(), switchpoint).unwrap();
    receive_from(&mut receiver, &wal, start, wal.end()).unwrap();
    let held = open(&disk).held().unwrap();
    assert_eq!((held.timeline, held.oldest, held.complete), (second(), Lsn(SIZE), wal.end()));
    assert_holds(&disk, second(), &wal, wal.end());
    assert_holds(&disk, FIRST, &parent, switchpoint);
}

#[test]
fn a_new_timeline_that_begins_unlike_its_parent_is_divergence() {
    let disk = SimDisk::new(1);
    let (mut receiver, wal, start) = promoted(&disk, primary());
    receiver.begin(start, ApplyAs::Nothing);
    let mut sent = wal.bytes().to_vec();
    sent[9000] ^= 1;
    match take(&mut receiver, start.at, &sent) {
        Err(ReceiveError::Diverged { lsn, timeline, .. }) => assert_eq!((lsn, timeline), (Lsn(SIZE + 9000), FIRST)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_timelines_segment_that_is_torn_is_not_believed() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    // A record runs on for a page into the segment in which the timeline ends.
    wal.filler(1, u32::try_from(2 * SIZE - wal.end().0 + 8000).unwrap());
    wal.commit(2, PgTime(2));
    let switchpoint = wal.end();
    assert_eq!(size().number(switchpoint), 2);
    let (mut receiver, wal, start) = promoted(&disk, wal);
    receive_from(&mut receiver, &wal, start, wal.end()).unwrap();
    assert_eq!(receiver.held().unwrap().timeline, second());
    // As if the power had gone before the flush: of the rest of that record, which no CRC of this timeline covers, a page was not written.
    zero(&disk, "000000020000000000000002.partial", 4096, 1024);
    let held = open(&disk).held().unwrap();
    assert_eq!((held.timeline, held.complete), (FIRST, switchpoint));
}

#[test]
fn a_long_record_that_may_be_torn_is_checked_from_its_start() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    let before = wal.end();
    // From segment 1 over all of 2 into 3.
    let long = wal.filler(1, u32::try_from(3 * SIZE - wal.end().0 + 50_000).unwrap());
    wal.commit(2, PgTime(2));
    assert_eq!(size().number(wal.end()), 3);
    receive(&mut open(&disk), &wal, wal.end()).unwrap();
    assert_eq!(open(&disk).held().unwrap().complete, wal.end());
    // Zeros within the rest, and whole records behind it.
    zero(&disk, "000000010000000000000003.partial", 20_480, 512);
    let mut receiver = open(&disk);
    assert_eq!(receiver.held().unwrap().complete, before);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert!(report(&receiver).flush > long.end);
    assert_holds(&disk, FIRST, &wal, wal.end());
}

#[test]
fn several_full_partial_segments_are_found_and_named() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut wal = primary();
        for xid in 0..70 {
            wal.filler(xid, 50_000);
        }
        let mut receiver = open(&disk);
        receiver.begin(receiver.plan(&server(&wal), None).unwrap(), ApplyAs::Nothing);
        take(&mut receiver, Lsn(SIZE), wal.bytes()).unwrap();
        // Killed before the flush.
        drop(receiver);
        assert!(names(&disk).iter().all(|name| name.ends_with(".partial")));
        let receiver = open(&disk);
        assert_eq!(receiver.held().unwrap().complete, wal.end());
        assert_eq!(names(&disk)[2..], ["000000010000000000000003", "000000010000000000000004.partial"]);
        disk.lose_power();
        assert_eq!(open(&disk).held().unwrap().complete, wal.end(), "what is held at the start is durable");
        assert_holds(&disk, FIRST, &wal, wal.end());
    }
}

#[test]
fn what_is_behind_a_switch_is_held_only_when_it_has_come() {
    let disk = SimDisk::new(1);
    let mut wal = primary();
    let before = wal.end();
    let switch = wal.switch();
    assert_eq!(switch.end, Lsn(2 * SIZE));
    let record_end = Lsn(before.0 + 24);
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, Lsn(record_end.0 + 100)).unwrap();
    assert_eq!(report(&receiver).flush, Lsn(record_end.0 + 100), "to the byte, or the primary can't stop");
    let mut receiver = open(&disk);
    assert_eq!(receiver.held().unwrap().complete, record_end);
    assert_eq!(names(&disk), ["000000010000000000000001.partial"]);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(report(&receiver).flush, Lsn(2 * SIZE));
    assert_eq!(names(&disk), ["000000010000000000000001"]);
    let held = open(&disk).held().unwrap();
    assert_eq!((held.complete, held.end), (Lsn(2 * SIZE), Lsn(2 * SIZE)));
}

#[test]
fn a_switch_at_every_place_at_a_segments_end_is_followed() {
    for left in [24, 32, 48, 8192, 8192 + 24] {
        let disk = SimDisk::new(left);
        let mut wal = primary();
        // So that the switch's record starts `left` bytes before the segment's end, page headers counted.
        while wal.end().0 + left + 20_000 < 2 * SIZE {
            wal.filler(1, 8000);
        }
        while wal.end().0 + left + 32 <= 2 * SIZE {
            wal.filler(1, 24);
        }
        wal.switch();
        wal.commit(3, PgTime(3));
        receive(&mut open(&disk), &wal, wal.end()).unwrap();
        assert_eq!(open(&disk).held().unwrap().complete, wal.end(), "{left} bytes before the end");
        assert_holds(&disk, FIRST, &wal, wal.end());
    }
}

#[test]
fn a_folder_with_nothing_but_an_unwritten_segment_holds_nothing() {
    let disk = SimDisk::new(1);
    disk.create_zeroed("000000010000000000000001.partial", SIZE).unwrap();
    disk.create_zeroed("spare.1", SIZE).unwrap();
    let wal = primary();
    let mut receiver = open(&disk);
    assert_eq!(receiver.held(), None);
    receive(&mut receiver, &wal, wal.end()).unwrap();
    assert_eq!(open(&disk).held().unwrap().complete, wal.end());
}

#[test]
fn wal_with_a_hole_is_not_taken() {
    let disk = SimDisk::new(1);
    let wal = primary();
    let mut receiver = open(&disk);
    receive(&mut receiver, &wal, Lsn(SIZE + 8192)).unwrap();
    let refused = take(&mut receiver, Lsn(SIZE + 8200), &[0; 8]);
    assert!(matches!(refused, Err(ReceiveError::Discontinuous { expected, .. }) if expected == Lsn(SIZE + 8192)), "{refused:?}");
}
