use super::*;
use crate::ident::PgTime;
use crate::proto::wal::{Parameters, WalBuilder, WalVersion, prepared_xid_of};
use proptest::prelude::*;

const MB: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(0x100_0000);
const SYSTEM: SystemId = SystemId(7_100_000_000_000_000_001);
const TIME: PgTime = PgTime(800_000_000_000_000);

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn builder() -> WalBuilder {
    WalBuilder::new(MB, START, SYSTEM)
}

fn decoder() -> Decoder {
    Decoder::new(MB, START, Timeline::FIRST).unwrap()
}

/// What comes out of a decoder: everything that a caller can see.
type Outcome = (Vec<Record>, Option<DecodeError>, Lsn, Lsn, Option<Lsn>, Option<Lsn>, Option<Lsn>, Option<Timeline>);

/// Feeds chunks of these lengths, over and over, up to the bytes' end or an error.
fn decode(mut decoder: Decoder, mut data: &[u8], chunks: &[usize]) -> Outcome {
    let mut records = Vec::new();
    let mut error = None;
    for chunk in chunks.iter().cycle() {
        if data.is_empty() || error.is_some() {
            break;
        }
        let (now, later) = data.split_at((*chunk).clamp(1, data.len()));
        error = decoder.push(now, &mut |record| records.push(record.clone())).err();
        data = later;
    }
    let (position, end) = (decoder.position(), decoder.complete_end());
    let (last, pending) = (decoder.last_record(), decoder.pending_record());
    (records, error, position, end, last, pending, decoder.unverified_end(), decoder.page_timeline())
}

fn whole(decoder: Decoder, data: &[u8]) -> Outcome {
    decode(decoder, data, &[usize::MAX])
}

fn events(data: &[u8]) -> Vec<WalEvent> {
    let (records, error, ..) = whole(decoder(), data);
    assert_eq!(error, None);
    records.into_iter().filter_map(|record| record.event).collect()
}

fn reason(data: &[u8]) -> (Lsn, Reason) {
    let error = whole(decoder(), data).1.expect("an error");
    (error.lsn, error.reason)
}

#[test]
fn a_prepared_transaction_is_named_where_it_can_be_seen() {
    let mut wal = builder();
    let near = wal.commit_prepared(742, TIME, 3);
    let far = wal.commit_prepared(750, TIME, 100);
    wal.backup_end(near.lsn);
    let said = |xid| WalEvent::CommitPrepared { time: TIME, xid };
    assert_eq!(events(wal.bytes()), [said(Some(742)), said(None), WalEvent::BackupEnd { start: near.lsn }]);
    // 450 bytes: it lies within a page.
    let whole = wal.between(far.lsn, far.end);
    assert_eq!(prepared_xid_of(whole, WalVersion::V18), Some(750));
    assert_eq!(prepared_xid_of(&whole[..300], WalVersion::V18), None);
}

#[test]
fn what_was_written_is_read() {
    let mut wal = builder();
    let sizes = [24, 27, 28, 100, 281, 285, 8000, 8192, 20_000, 100_000, 24, 300];
    for (xid, size) in (1..).zip(sizes) {
        wal.filler(xid, size);
    }
    wal.commit(9, TIME);
    let (records, error, position, end, last, pending, ..) = whole(decoder(), wal.bytes());
    assert_eq!((error, position, end, pending), (None, wal.end(), wal.end(), None));
    let read: Vec<_> = records.iter().map(|record| (record.lsn, record.end)).collect();
    let written: Vec<_> = wal.records().iter().map(|built| (built.lsn, built.end)).collect();
    assert_eq!(read, written);
    assert_eq!(last, wal.records().last().map(|built| built.lsn));
    assert!(records.iter().zip(sizes).all(|(record, size)| record.total_bytes == size), "{records:?}");
    assert!(records.windows(2).all(|pair| pair[1].prev == pair[0].lsn));
}

#[test]
fn events_are_read() {
    let mut wal = builder();
    let redo = wal.commit(3, TIME).lsn;
    wal.abort(4, PgTime(5));
    wal.restore_point("before the upgrade", TIME);
    wal.checkpoint(redo);
    let shutdown = wal.shutdown().lsn;
    let parameters = Parameters {
        max_connections: 1,
        max_locks_per_transaction: 2,
        max_prepared_transactions: 3,
        max_wal_senders: 4,
        max_worker_processes: 5,
    };
    wal.parameter_change(parameters, false);
    wal.parameter_change(Parameters::default(), true);
    assert_eq!(
        events(wal.bytes()),
        [
            WalEvent::Commit { time: TIME },
            WalEvent::Abort { time: PgTime(5) },
            WalEvent::RestorePoint { time: TIME, name: "before the upgrade".to_owned() },
            WalEvent::CheckpointOnline { redo, timeline: Timeline::FIRST },
            WalEvent::CheckpointShutdown { redo: shutdown, timeline: Timeline::FIRST, previous: Timeline::FIRST },
            WalEvent::ParameterChange { parameters, is_minimal: false },
            WalEvent::ParameterChange { parameters: Parameters::default(), is_minimal: true },
        ]
    );
}

#[test]
fn behind_a_switch_the_next_record_is_in_the_next_segment() {
    let mut wal = builder();
    wal.filler(1, 1000);
    let switch = wal.switch();
    assert_eq!(switch.end, Lsn(START.0 + MB.bytes()));
    let next = wal.commit(2, TIME);
    assert_eq!(events(wal.bytes()), [WalEvent::Switch, WalEvent::Commit { time: TIME }]);

    let mut decoder = decoder();
    let mut seen = Vec::new();
    let mut push = |decoder: &mut Decoder, from, to| {
        decoder.push(wal.between(from, to), &mut |record| seen.push(record.end)).unwrap();
    };
    let switch_end = Lsn(switch.lsn.0 + 24);
    push(&mut decoder, START, switch_end);
    assert_eq!(decoder.complete_end(), switch_end);
    push(&mut decoder, switch_end, Lsn(switch.end.0 - 1));
    assert_eq!((decoder.complete_end(), decoder.pending_record()), (switch_end, None));
    push(&mut decoder, Lsn(switch.end.0 - 1), switch.end);
    assert_eq!(decoder.complete_end(), switch.end);
    push(&mut decoder, switch.end, wal.end());
    assert_eq!((decoder.complete_end(), decoder.last_record()), (next.end, Some(next.lsn)));
    assert_eq!(seen.last(), Some(&next.end));
}

#[test]
fn a_record_whose_start_was_not_read_is_passed_over() {
    let mut wal = builder();
    let big = wal.filler(1, 3 << 20);
    let after = wal.commit(2, TIME);
    // The second segment lies wholly within the record, the fourth holds its end.
    for number in 1..=3 {
        let start = Lsn(START.0 + number * MB.bytes());
        let decoder = Decoder::new(MB, start, Timeline::FIRST).unwrap();
        let (records, error, position, end, _, pending, unverified, _) = whole(decoder, wal.between(start, wal.end()));
        assert_eq!((error, position, end, pending), (None, wal.end(), wal.end(), None));
        assert_eq!(unverified, Some(big.end));
        assert_eq!(records.iter().map(|record| record.lsn).collect::<Vec<_>>(), [after.lsn]);
    }
    let start = Lsn(START.0 + MB.bytes());
    let decoder = Decoder::new(MB, start, Timeline::FIRST).unwrap();
    let (records, _, _, end, _, pending, unverified, _) = whole(decoder, wal.between(start, big.lsn.align_up()));
    assert_eq!((records.len(), end, pending, unverified), (0, start, None, None));
}

#[test]
fn a_record_can_be_started_at() {
    let mut wal = builder();
    let first = wal.filler(1, 9000);
    let second = wal.commit(2, TIME);
    let decoder = Decoder::new(MB, second.lsn, Timeline::FIRST).unwrap().with_last_record(first.lsn);
    let (records, error, ..) = whole(decoder, wal.between(second.lsn, wal.end()));
    assert_eq!((error, records.len()), (None, 1));
    let decoder = Decoder::new(MB, second.lsn, Timeline::FIRST).unwrap().with_last_record(START);
    let (_, error, ..) = whole(decoder, wal.between(second.lsn, wal.end()));
    assert_eq!(error.unwrap().reason, Reason::Prev { expected: START, found: first.lsn });
    for lsn in [START.0 + 1, START.0 + 8, START.0 + 32, START.0 + 8192 + 16, u64::MAX, u64::MAX - 7] {
        assert_eq!(Decoder::new(MB, Lsn(lsn), Timeline::FIRST).unwrap_err().reason, Reason::Start, "{}", Lsn(lsn));
    }
}

#[test]
fn a_lost_record_is_replaced_by_the_one_that_says_so() {
    let mut wal = builder();
    wal.filler(1, 5000);
    let before = wal.records().len();
    let (lost, overwrite) = wal.lose_contrecord(30_000, TIME).unwrap();
    let after = wal.commit(2, TIME);
    let (records, error, _, end, ..) = whole(decoder(), wal.bytes());
    assert_eq!((error, end), (None, wal.end()));
    assert_eq!(records.len(), before + 2);
    assert_eq!(records[before].event, Some(WalEvent::OverwriteContrecord { overwritten: lost, time: TIME }));
    assert_eq!(records[before].lsn, overwrite.lsn);
    assert_eq!(records[before + 1].lsn, after.lsn);

    // Read from the flagged page on, there is nothing to compare with.
    let page = Lsn(overwrite.lsn.0 - 24);
    let decoder = Decoder::new(MB, page, Timeline::FIRST).unwrap();
    assert_eq!(whole(decoder, wal.between(page, wal.end())).1, None);
}

#[test]
fn a_lost_record_that_is_another_is_told() {
    let mut wal = builder();
    let (lost, overwrite) = wal.lose_contrecord(30_000, TIME).unwrap();
    let mut other = builder();
    other.filler(1, 64);
    let (found, same_place) = other.lose_contrecord(30_000, TIME).unwrap();
    assert_eq!(overwrite.lsn, same_place.lsn);
    // The pages before from one, the flagged page from the other.
    let page = Lsn(overwrite.lsn.0 - 24);
    let mixed = [wal.between(START, page), other.between(page, other.end())].concat();
    let (lsn, reason) = reason(&mixed);
    assert_eq!(lsn, overwrite.lsn);
    assert!(matches!(reason, Reason::Prev { .. }) || reason == Reason::OverwrittenRecord { expected: lost, found }, "{reason}");
}

#[test]
fn a_primary_that_was_recovered_may_write_another_tail() {
    let mut wal = builder();
    wal.filler(1, 500);
    let mut other = wal.clone();
    let torn = wal.filler(2, 9000);
    let mut decoder = decoder();
    decoder.push(wal.between(START, Lsn(torn.end.0 - 8)), &mut |_| ()).unwrap();
    assert_eq!(decoder.pending_record(), Some(torn.lsn));
    assert_eq!(decoder.complete_end(), torn.lsn);
    decoder.rewind();
    assert_eq!((decoder.position(), decoder.pending_record()), (torn.lsn, None));
    let another = other.commit(2, TIME);
    let mut seen = Vec::new();
    decoder.push(other.between(torn.lsn, other.end()), &mut |record| seen.push(record.lsn)).unwrap();
    assert_eq!(seen, [another.lsn]);
}

#[test]
fn a_timeline_may_begin_on_a_page_and_shows_on_the_next() {
    let mut wal = builder();
    wal.filler(1, 100);
    wal.promote(timeline(3), TIME);
    wal.filler(2, 9000);
    assert_eq!(
        reason(wal.bytes()),
        (Lsn(START.0 + 8192), Reason::TimelineAhead { limit: Timeline::FIRST, found: 3 }),
        "not on timeline 1"
    );
    let decoder = Decoder::new(MB, START, timeline(3)).unwrap();
    let (records, error, .., page_timeline) = whole(decoder, wal.bytes());
    assert_eq!((error, page_timeline), (None, Some(timeline(3))));
    assert_eq!(records[1].event, Some(WalEvent::EndOfRecovery { time: TIME, timeline: timeline(3), previous: Timeline::FIRST }));
    let timelines: Vec<_> = records.iter().map(|record| record.timeline.unwrap().get()).collect();
    assert_eq!(timelines, [1, 1, 3]);
}

#[test]
fn a_page_of_a_timeline_before_is_refused() {
    let mut wal = builder().with_timeline(timeline(2));
    wal.filler(1, 9000);
    let mut old = builder();
    old.filler(1, 9000);
    let page = Lsn(START.0 + 8192);
    let mixed = [wal.between(START, page), old.between(page, old.end())].concat();
    let decoder = Decoder::new(MB, START, timeline(2)).unwrap();
    let error = whole(decoder, &mixed).1.unwrap();
    assert_eq!(error, DecodeError::new(page, Reason::TimelineBack { after: timeline(2), found: 1 }));
}

/// Bytes of two records of 100 and 9,000 bytes, with something done to them.
fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> (Lsn, Reason) {
    let mut wal = builder();
    wal.filler(1, 100);
    wal.filler(2, 9000);
    let mut bytes = wal.bytes().to_vec();
    damage(&mut bytes);
    reason(&bytes)
}

#[test]
fn each_damage_has_its_name() {
    let (first, second, page) = (Lsn(START.0 + 40), Lsn(START.0 + 40 + 104), Lsn(START.0 + 8192));
    assert!(matches!(damaged(|wal| wal[60] ^= 1), (lsn, Reason::Crc { .. }) if lsn == first));
    assert!(matches!(damaged(|wal| wal[139] ^= 1), (lsn, Reason::Crc { .. }) if lsn == first));
    assert!(matches!(damaged(|wal| wal[8200 + 40] ^= 1), (lsn, Reason::Crc { .. }) if lsn == second));
    assert_eq!(damaged(|wal| wal[0] ^= 1), (START, Reason::Version { expected: None, found: 0xD119 }));
    assert_eq!(damaged(|wal| wal[8192] = 0x16), (page, Reason::Version { expected: Some(0xD118), found: 0xD116 }));
    assert_eq!(damaged(|wal| wal[3] = 1), (START, Reason::Flags { found: 0x102 }));
    assert_eq!(damaged(|wal| wal[8192 + 8] ^= 1), (page, Reason::PageAddress { found: Lsn(page.0 ^ 1) }));
    assert_eq!(damaged(|wal| wal[4] = 0), (START, Reason::TimelineBack { after: Timeline::FIRST, found: 0 }));
    assert_eq!(damaged(|wal| wal[2] = 0), (START, Reason::LongHeaderMissing));
    assert_eq!(damaged(|wal| wal[34] = 0x20), (START, Reason::SegmentSize { expected: 1 << 20, found: 2 << 20 }));
    assert_eq!(damaged(|wal| wal[37] = 0x40), (START, Reason::PageSize { found: 16384 }));
    assert_eq!(damaged(|wal| wal[40..44].fill(0)), (first, Reason::Unwritten));
    assert_eq!(damaged(|wal| wal[8192..8216].fill(0)), (page, Reason::Unwritten));
    assert_eq!(damaged(|wal| wal[40] = 23), (first, Reason::RecordLength { found: 23 }));
    assert_eq!(damaged(|wal| wal[43] = 0x40), (first, Reason::RecordLength { found: 0x4000_0064 }));
    assert_eq!(damaged(|wal| wal[48 + 4] = 9), (first, Reason::PrevAhead { found: Lsn(9 << 32) }));
    assert_eq!(damaged(|wal| wal[144 + 8] = 9), (second, Reason::Prev { expected: first, found: Lsn(first.0 - 40 + 9) }));
    assert_eq!(damaged(|wal| wal[57] = 22), (first, Reason::ResourceManager { found: 22 }));
    let missing = 9000 - (8192 - 144);
    assert_eq!(damaged(|wal| wal[8192 + 2] = 0), (page, Reason::ContrecordMissing { record: Before::At(second), missing }));
    assert_eq!(
        damaged(|wal| wal[8192 + 16] ^= 1),
        (page, Reason::ContrecordLength { record: Before::At(second), expected: missing, found: missing ^ 1 })
    );
    assert_eq!(damaged(|wal| wal[8192 + 2] = 9), (page, Reason::OverwriteContrecord));
}

#[test]
fn a_page_that_goes_on_with_nothing_is_refused() {
    let mut wal = builder();
    // Ends with the page.
    wal.filler(1, 8192 - 40);
    wal.filler(2, 64);
    let mut bytes = wal.bytes().to_vec();
    bytes[8192 + 2] = 1;
    bytes[8192 + 16] = 40;
    assert_eq!(reason(&bytes), (Lsn(START.0 + 8192), Reason::ContrecordUnexpected { found: 40 }));
    bytes[8192 + 2] = 8;
    assert_eq!(reason(&bytes), (Lsn(START.0 + 8192), Reason::OverwriteContrecord));
}

#[test]
fn another_cluster_is_refused() {
    let mut wal = builder();
    wal.commit(1, TIME);
    let expected = SystemId(5);
    let error = whole(decoder().with_system(expected), wal.bytes()).1.unwrap();
    assert_eq!(error, DecodeError::new(START, Reason::System { expected, found: SYSTEM }));
    assert!(error.is_foreign());

    let mut wal = builder();
    wal.switch();
    let mut other = WalBuilder::new(MB, wal.end(), expected);
    other.commit(1, TIME);
    let error = whole(decoder(), &[wal.bytes(), other.bytes()].concat()).1.unwrap();
    assert_eq!(error.reason, Reason::System { expected: SYSTEM, found: expected });
}

#[test]
fn content_that_contradicts_its_type_is_named() {
    let mut wal = builder();
    let short = wal.record(1, 0, 1, &[1, 2, 3]);
    let (lsn, found) = reason(wal.bytes());
    assert_eq!(lsn, short.lsn);
    assert!(matches!(found, Reason::Content { rmid: 1, info: 0, .. }), "{found}");
}

#[test]
fn a_header_may_be_split_by_a_page() {
    for room in [8, 16, 24, 32] {
        let mut wal = builder();
        wal.filler(1, 8192 - 40 - room);
        let split = wal.commit(2, TIME);
        let after = wal.commit(3, TIME);
        assert_eq!(split.lsn.0 % 8192, u64::from(8192 - room));
        let (records, error, ..) = whole(decoder(), wal.bytes());
        assert_eq!(error, None);
        assert_eq!(records.iter().map(|record| record.lsn).skip(1).collect::<Vec<_>>(), [split.lsn, after.lsn]);
    }
}

#[test]
fn every_version_is_read() {
    for version in [WalVersion::V15, WalVersion::V16, WalVersion::V17, WalVersion::V18] {
        let mut wal = builder().with_version(version);
        wal.filler(1, 20_000);
        let mut decoder = decoder();
        decoder.push(wal.bytes(), &mut |_| ()).unwrap();
        assert_eq!((decoder.version(), decoder.complete_end()), (Some(version), wal.end()));
        assert_eq!(WalVersion::from_magic(version.magic()), Some(version));
    }
}

/// Something that can happen to a primary.
#[derive(Debug, Clone)]
enum Deed {
    Commit,
    Filler(u32),
    Lose(u32),
    Promote,
    RestorePoint,
    Switch,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let size = prop_oneof![8 => 24u32..400, 2 => 400u32..20_000, 1 => 20_000u32..300_000];
    let deed = prop_oneof![
        10 => size.prop_map(Deed::Filler),
        4 => Just(Deed::Commit),
        1 => (8192u32..50_000).prop_map(Deed::Lose),
        1 => Just(Deed::Promote),
        1 => Just(Deed::RestorePoint),
        1 => Just(Deed::Switch),
    ];
    prop::collection::vec(deed, 1..60)
}

fn history(deeds: &[Deed]) -> WalBuilder {
    let mut wal = builder();
    for (xid, deed) in (1..).zip(deeds) {
        match deed {
            Deed::Commit => drop(wal.commit(xid, TIME)),
            Deed::Filler(size) => drop(wal.filler(xid, *size)),
            Deed::Lose(size) => drop(wal.lose_contrecord(*size, TIME)),
            Deed::Promote => drop(wal.promote(timeline(wal.timeline().get() + 1), TIME)),
            Deed::RestorePoint => drop(wal.restore_point("here", TIME)),
            Deed::Switch => drop(wal.switch()),
        }
    }
    wal
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => 1usize..64, 2 => 64usize..8192, 2 => 8192usize..200_000], 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_read_as_it_was_written(deeds in deeds(), chunks in chunks()) {
        let wal = history(&deeds);
        let decoder = Decoder::new(MB, START, wal.timeline()).unwrap();
        let (records, error, position, end, ..) = decode(decoder, wal.bytes(), &chunks);
        prop_assert_eq!((error, position, end), (None, wal.end(), wal.end()));
        let read: Vec<_> = records.iter().map(|record| record.lsn).collect();
        let written: Vec<_> = wal.records().iter().map(|built| built.lsn).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn chunks_make_no_difference(
        deeds in deeds(),
        chunks in chunks(),
        start in 0u64..3,
        cut: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..3),
    ) {
        let wal = history(&deeds);
        let start = Lsn(START.0 + start * MB.bytes());
        prop_assume!(start < wal.end());
        let mut bytes = wal.between(start, wal.end()).to_vec();
        bytes.truncate(cut.index(bytes.len()) + 1);
        for (at, bit) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let decoder = Decoder::new(MB, start, wal.timeline()).unwrap();
        let at_once = whole(decoder.clone(), &bytes);
        prop_assert_eq!(&at_once, &decode(decoder.clone(), &bytes, &chunks));
        prop_assert_eq!(&at_once, &decode(decoder, &bytes, &[1]));
    }

    #[test]
    fn after_a_rewind_the_same_bytes_are_read_alike(deeds in deeds(), cut: prop::sample::Index) {
        let wal = history(&deeds);
        let cut = Lsn(START.0 + cut.index(wal.bytes().len()) as u64);
        let mut decoder = Decoder::new(MB, START, wal.timeline()).unwrap();
        let mut seen = Vec::new();
        decoder.push(wal.between(START, cut), &mut |record| seen.push(record.clone())).unwrap();
        decoder.rewind();
        prop_assert_eq!(decoder.position(), decoder.complete_end());
        decoder.push(wal.between(decoder.position(), wal.end()), &mut |record| seen.push(record.clone())).unwrap();
        prop_assert_eq!(seen, whole(Decoder::new(MB, START, wal.timeline()).unwrap(), wal.bytes()).0);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), start in 0u64..4, chunk in 1usize..100) {
        let start = Lsn(START.0 + [0, 8192, 40, 8192 + 24][usize::try_from(start).unwrap()]);
        let decoder = Decoder::new(MB, start, Timeline::FIRST).unwrap();
        prop_assert_eq!(whole(decoder.clone(), &bytes), decode(decoder, &bytes, &[chunk]));
    }
}
