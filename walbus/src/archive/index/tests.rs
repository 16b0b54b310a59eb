use super::*;
use crate::proto::wal::{Parameters, RecordHeader, WalBuilder};
use crate::segment::SegmentName;
use proptest::prelude::*;

const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);
const SIZE: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(3 << 20);
/// Some time in 2026.
const TIME: PgTime = PgTime(848_000_000_000_000);

fn builder() -> WalBuilder {
    WalBuilder::new(SIZE, START, SYSTEM)
}

/// The indexes of all whole segments.
fn indexes(wal: &WalBuilder) -> Vec<SegmentIndex> {
    let (segments, _) = wal.bytes().as_chunks::<{ 1 << 20 }>();
    let number = |at: usize| SIZE.number(START) + at as u64;
    let index = |(at, bytes): (usize, &[u8; 1 << 20])| {
        SegmentIndex::of(SYSTEM, Segment { number: number(at), timeline: wal.timeline() }, SIZE, bytes)
    };
    segments.iter().enumerate().map(index).collect()
}

/// Fills up to `left` bytes before the end of the segment that is being written.
fn fill_up_to(wal: &mut WalBuilder, left: u64) {
    let goal = SIZE.ceil(wal.end().checked_add(1).unwrap()).0 - left;
    while wal.end().0 + 9000 < goal {
        wal.filler(5, 1000);
    }
    while wal.end().0 + 200 < goal {
        wal.filler(5, 24);
    }
    // What is left lies on one page.
    wal.filler(5, (goal - wal.end().0) as u32);
    assert_eq!(wal.end().0, goal);
}

/// All the records that lie over a boundary, as they are told by the indexes.
fn straddling(indexes: &[SegmentIndex]) -> Vec<Straddling> {
    let mut found = Vec::new();
    let mut open: Option<Tail> = None;
    for index in indexes {
        open = match open.take().map(|tail| join(&tail, index).unwrap()) {
            Some(Joined::Continues(tail)) => Some(tail),
            Some(Joined::Ends(record)) => {
                found.push(record);
                index.tail.clone()
            }
            Some(Joined::Lost) | None => index.tail.clone(),
        };
    }
    found
}

#[test]
fn what_is_in_a_segment_is_found() {
    let mut wal = builder();
    let first = wal.commit(100, PgTime(TIME.0 + 5));
    wal.abort(98, PgTime(TIME.0 - 5));
    wal.commit_prepared(97, TIME, 2);
    wal.commit_prepared(300, TIME, 100);
    let point = wal.restore_point("before the migration", TIME);
    wal.parameter_change(Parameters { max_connections: 300, ..Parameters::default() }, false);
    let promoted = wal.promote(Timeline::new(2).unwrap(), TIME);
    let last = wal.switch();
    let index = &indexes(&wal)[0];
    assert_eq!((index.start, index.end, index.timeline.get(), index.postgres), (START, Lsn(4 << 20), 2, Some(18)));
    assert_eq!((index.first_record, index.last_record), (Some(first.lsn), Some(last.lsn)));
    assert_eq!((index.commit_time_min, index.commit_time_max), (Some(PgTime(TIME.0 - 5)), Some(PgTime(TIME.0 + 5))));
    assert_eq!((index.xids, index.prepared_unnamed), (Some(XidRange { min: 97, max: 100 }), 1));
    assert_eq!(index.restore_points, [NamedPoint { name: "before the migration".into(), end: point.end, time: TIME }]);
    assert_eq!(index.timelines, [TimelineStart { end: promoted.end, timeline: Timeline::new(2).unwrap() }]);
    assert_eq!(index.parameter_changes, 1);
    assert!(index.switched && index.invalid.is_none() && index.head.is_none() && index.tail.is_none());
    assert_eq!(index.sha256, sha256(&wal.bytes()[..1 << 20]));
}

#[test]
fn a_commit_over_a_boundary_is_put_together() {
    // Each place at which a record of 34 bytes can be cut, a page's header included.
    for left in [8, 16, 24, 32] {
        let mut wal = builder();
        fill_up_to(&mut wal, left);
        let commit = wal.commit(77, TIME);
        wal.switch();
        let indexes = indexes(&wal);
        assert_eq!(indexes[0].tail.as_ref().map(|tail| (tail.record, u64::from(tail.present))), Some((commit.lsn, left)));
        assert_eq!(indexes[0].commit_time_max, None, "it does not end there");
        let [found] = &straddling(&indexes)[..] else { panic!("one record lies over the boundary") };
        assert_eq!((found.lsn, found.end, found.header.xid), (commit.lsn, commit.end, 77));
        assert_eq!(found.event, Some(WalEvent::Commit { time: TIME }));
    }
}

#[test]
fn a_switch_over_a_boundary_leaves_a_segment_of_zeros_that_is_whole() {
    for left in [8, 16] {
        let mut wal = builder();
        fill_up_to(&mut wal, left);
        let switch = wal.switch();
        wal.commit(77, TIME);
        wal.switch();
        assert_eq!(
            (SIZE.ceil(switch.lsn).0 - switch.lsn.0, SIZE.offset(switch.end)),
            (left, 0),
            "over the boundary, to the end of the next"
        );
        let found = indexes(&wal);
        assert!(found.iter().all(|index| index.invalid.is_none()), "{left}: {found:?}");
        assert_eq!(found.iter().map(|index| index.switched).collect::<Vec<_>>(), [false, true, true]);
        let records = straddling(&found);
        assert_eq!((records[0].lsn, records[0].end, records[0].event.clone()), (switch.lsn, switch.end, Some(WalEvent::Switch)));
    }
}

#[test]
fn zeros_behind_the_rest_of_another_record_are_none_that_was_written() {
    let mut wal = builder();
    fill_up_to(&mut wal, 16);
    wal.commit(77, TIME);
    let rest = SIZE.ceil(wal.end());
    wal.switch();
    let bytes = &mut wal.bytes()[1 << 20..].to_vec();
    // As a server that was lost would leave it, of a segment that it had zeroed before.
    bytes[64..].fill(0);
    let segment = Segment { number: SIZE.number(rest) - 1, timeline: wal.timeline() };
    let index = SegmentIndex::of(SYSTEM, segment, SIZE, bytes);
    assert!(index.invalid.is_some() && !index.switched, "{index:?}");
}

#[test]
fn a_record_over_many_segments_is_followed() {
    let mut wal = builder();
    fill_up_to(&mut wal, 4000);
    let long = wal.filler(9, 3 << 20);
    let after = wal.commit(10, TIME);
    wal.switch();
    let indexes = indexes(&wal);
    assert!(indexes.len() >= 4);
    let middle = &indexes[1];
    assert_eq!((middle.first_record, middle.head.as_ref().map(|head| head.end)), (None, Some(None)));
    let [found] = &straddling(&indexes)[..] else { panic!("one record lies over the boundaries") };
    assert_eq!((found.lsn, found.end, found.header.total_bytes, &found.event), (long.lsn, long.end, 3 << 20, &None));
    assert_eq!(indexes.iter().find_map(|index| index.commit_time_max), Some(TIME));
    assert_eq!(indexes.last().and_then(|index| index.first_record), Some(after.lsn));
}

#[test]
fn a_lost_record_is_told() {
    let mut wal = builder();
    fill_up_to(&mut wal, 64);
    wal.lose_contrecord(5000, TIME).unwrap();
    wal.commit(10, TIME);
    wal.switch();
    let indexes = indexes(&wal);
    assert!(indexes[1].head_lost && indexes[1].invalid.is_none());
    assert_eq!(join(indexes[0].tail.as_ref().unwrap(), &indexes[1]), Ok(Joined::Lost));
}

#[test]
fn segments_that_do_not_follow_each_other_are_told() {
    let mut wal = builder();
    fill_up_to(&mut wal, 64);
    wal.filler(9, 500);
    fill_up_to(&mut wal, 64);
    wal.filler(9, 700);
    wal.switch();
    let indexes = indexes(&wal);
    let tail = indexes[0].tail.as_ref().unwrap();
    assert!(matches!(join(tail, &indexes[1]), Ok(Joined::Ends(_))));
    let error = join(tail, &indexes[2]).unwrap_err();
    assert_eq!(error, JoinError::Mismatch { record: tail.record, next: indexes[2].start, expected: 436, found: 636 });
    assert!(matches!(join(tail, &indexes[0]), Err(JoinError::Mismatch { found: 0, .. })));
}

#[test]
fn what_stands_before_damage_counts() {
    let mut wal = builder();
    wal.commit(10, TIME);
    let damaged = wal.commit(11, PgTime(TIME.0 + 9));
    wal.switch();
    let mut bytes = wal.bytes().to_vec();
    bytes[(damaged.lsn.0 - START.0) as usize + 25] ^= 1;
    let index = SegmentIndex::of(SYSTEM, Segment { number: 3, timeline: Timeline::FIRST }, SIZE, &bytes);
    assert_eq!(index.invalid.as_ref().map(|invalid| invalid.at), Some(damaged.lsn));
    assert_eq!((index.commit_time_max, index.xids), (Some(TIME), Some(XidRange { min: 10, max: 10 })));
    assert!(index.tail.is_none() && !index.switched);
}

#[test]
fn an_index_is_readable_json() {
    let mut wal = builder();
    fill_up_to(&mut wal, 16);
    wal.commit(77, TIME);
    wal.restore_point("p", TIME);
    wal.switch();
    for index in indexes(&wal) {
        let json = index.encode().unwrap();
        assert_eq!(SegmentIndex::parse(&json).unwrap(), index);
    }
    let json = String::from_utf8(indexes(&wal)[1].encode().unwrap()).unwrap();
    for said in
        ["\"start\": \"0/400000\"", "\"commit_time_max_unix_us\": null", "\"system\": \"7300000000000000001\"", "\"name\": \"p\""]
    {
        assert!(json.contains(said), "{said} in {json}");
    }
    let parse = |from: &str, to: &str| SegmentIndex::parse(json.replace(from, to).as_bytes());
    assert!(matches!(parse("\"version\": 1", "\"version\": 2"), Err(IndexError::Version(2))));
    assert!(matches!(parse("\"end\": \"0/500000\"", "\"end\": \"0/400000\""), Err(IndexError::Range(..))));
    assert!(matches!(parse("\"switched\"", "\"swapped\""), Err(IndexError::Json(_))));
}

#[test]
fn transactions_go_around_a_circle() {
    let range = XidRange { min: u32::MAX - 1, max: u32::MAX - 1 }.with(5).with(3).with(u32::MAX - 7);
    assert_eq!(range, XidRange { min: u32::MAX - 7, max: 5 });
    assert!(range.wraps() && range.contains(u32::MAX) && range.contains(0) && !range.contains(6) && !range.contains(u32::MAX - 8));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_record_is_found_in_one_segment_or_over_a_boundary(lens in proptest::collection::vec(prop_oneof![24u32..300, 300u32..30_000], 100..200)) {
        let mut wal = builder();
        for (xid, len) in (1u32..).zip(&lens) {
            wal.filler(xid, *len);
            wal.commit(xid, PgTime(TIME.0 + i64::from(xid)));
        }
        wal.switch();
        let indexes = indexes(&wal);
        let over: Vec<_> = wal.records().iter().filter(|built| SIZE.number(built.lsn) != SIZE.number(Lsn(built.end.0 - 1))).collect();
        let found = straddling(&indexes);
        prop_assert_eq!(found.len(), over.len());
        for (found, built) in found.iter().zip(over) {
            prop_assert_eq!((found.lsn, found.end), (built.lsn, built.end));
            let whole = wal.between(built.lsn, built.end);
            prop_assert_eq!(found.header, RecordHeader::parse(whole.first_chunk().unwrap()));
        }
    }

    #[test]
    fn any_range_contains_what_was_put_into_it(first: u32, steps in proptest::collection::vec(-1000i32..1000, 0..50)) {
        let mut range = XidRange { min: first, max: first };
        let xids: Vec<u32> = steps.iter().map(|step| first.wrapping_add_signed(*step)).collect();
        for xid in &xids {
            range = range.with(*xid);
        }
        prop_assert!(xids.iter().all(|xid| range.contains(*xid)) && range.contains(first));
        prop_assert!(range.max.wrapping_sub(range.min) <= 2000);
    }

    #[test]
    fn any_bytes_have_an_index(bytes in proptest::collection::vec(any::<u8>(), 0..9000), number: u64) {
        let segment = Segment { number, timeline: Timeline::FIRST };
        let index = SegmentIndex::of(SYSTEM, segment, SIZE, &bytes);
        prop_assert!(index.tail.is_none() || index.invalid.is_none());
        drop(SegmentIndex::parse(&bytes));
    }
}

#[test]
fn a_name_has_its_timeline() {
    let name: SegmentName = "0000000A0000000100000002".parse().unwrap();
    assert_eq!((name.timeline().get(), name.timeline_digits()), (10, "0000000A"));
}
