//! Where recovery would stop, found by the indexes of an archive in a folder, against the rules applied to every record in turn.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use archiver::holdings::Holdings;
use archiver::plan::base::Found;
use archiver::plan::{Chain, Goal, Side, Target};
use archiver::search::{Commit, Search};
use proptest::prelude::*;
use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, Options};
use walbus::proto::history::History;
use walbus::proto::wal::{Built, WalBuilder};
use walbus::{Lsn, PgTime, Segment, SegmentSize, SystemId, Timeline};

const SYSTEM: SystemId = SystemId(7_100_000_000_000_000_001);
const SIZE: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(0x300_0000);

/// What is written: the transaction, and by how much its time is off.
#[derive(Debug, Clone)]
enum Step {
    Abort(i64),
    Commit(i64),
    CommitPrepared(i64, u32),
    Filler(u32),
    RestorePoint(u8),
    Switch,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (-40i64..40).prop_map(Step::Abort),
        8 => (-40i64..40).prop_map(Step::Commit),
        2 => (-40i64..40, 0u32..120).prop_map(|(off, subs)| Step::CommitPrepared(off, subs)),
        4 => (24u32..9_000).prop_map(Step::Filler),
        2 => (100_000u32..1_300_000).prop_map(Step::Filler),
        1 => (0u8..4).prop_map(Step::RestorePoint),
        1 => Just(Step::Switch),
    ];
    prop::collection::vec(step, 20..80)
}

/// One record, as the rules see it.
#[derive(Debug, Clone)]
struct Written {
    built: Built,
    /// The transaction that it ends, and when.
    ends: Option<(u32, PgTime)>,
    is_commit: bool,
    name: Option<String>,
}

fn write(steps: &[Step]) -> (WalBuilder, Vec<Written>) {
    let mut wal = WalBuilder::new(SIZE, START, SYSTEM);
    let mut written = Vec::new();
    for (number, step) in (1_u32..).zip(steps) {
        let at = |off: i64| PgTime(1_000_000 + i64::from(number) * 10 + off);
        let xid = 700 + number * 1000;
        let mut add = |built, ends, is_commit, name| written.push(Written { built, ends, is_commit, name });
        match step {
            Step::Abort(off) => add(wal.abort(xid, at(*off)), Some((xid, at(*off))), false, None),
            Step::Commit(off) => add(wal.commit(xid, at(*off)), Some((xid, at(*off))), true, None),
            Step::CommitPrepared(off, subs) => add(wal.commit_prepared(xid, at(*off), *subs), Some((xid, at(*off))), true, None),
            Step::Filler(bytes) => add(wal.filler(xid, *bytes), None, false, None),
            Step::RestorePoint(number) => {
                let name = format!("point {number}");
                add(wal.restore_point(&name, at(0)), None, false, Some(name));
            }
            Step::Switch => add(wal.switch(), None, false, None),
        }
    }
    (wal, written)
}

/// Postgres' rules, on every record in turn.
fn stops(goal: &Goal, record: &Written) -> Option<Side> {
    let both = if goal.inclusive { Side::After } else { Side::Before };
    match &goal.target {
        Target::Lsn(lsn) => (record.built.lsn >= *lsn).then_some(both),
        Target::Time(time) => {
            let ended = record.ends?.1;
            (ended > *time || ended == *time && !goal.inclusive).then_some(Side::Before)
        }
        Target::Xid(xid) => (record.ends?.0 == *xid).then_some(both),
        Target::Name(name) => (record.name.as_ref()? == name).then_some(Side::After),
        Target::Immediate | Target::Latest => None,
    }
}

async fn archive(folder: &std::path::Path, wal: &WalBuilder, unindexed: u8) -> Holdings {
    damaged_archive(folder, wal, unindexed, None).await
}

async fn damaged_archive(folder: &std::path::Path, wal: &WalBuilder, unindexed: u8, damaged: Option<Lsn>) -> Holdings {
    let archive = Archive::open(&format!("file://{}", folder.display()), Options::new([])).unwrap();
    archive.probe().await.unwrap();
    let last = SIZE.number(Lsn(wal.end().0 - 1));
    for number in SIZE.number(START)..=last {
        let segment = Segment { number, timeline: Timeline::FIRST };
        let mut bytes = wal.between(segment.start(SIZE), segment.end(SIZE)).to_vec();
        if let Some(at) = damaged.filter(|at| SIZE.number(*at) == number) {
            bytes[usize::try_from(SIZE.offset(at)).unwrap()] ^= 0xFF;
        }
        let name = segment.name(SIZE);
        if bytes.len() as u64 == SIZE.bytes() {
            if number % 7 != u64::from(unindexed) {
                let index = SegmentIndex::of(SYSTEM, segment, SIZE, &bytes).encode().unwrap();
                archive.put(&ObjectName::Index { system: SYSTEM, segment: name.clone() }, index.into()).await.unwrap();
            }
            archive.put(&ObjectName::Segment { system: SYSTEM, segment: name }, bytes.into()).await.unwrap();
        } else {
            archive.put(&ObjectName::Tail { system: SYSTEM, segment: name, end: wal.end() }, bytes.into()).await.unwrap();
        }
    }
    Holdings::open(archive, SYSTEM, Some(SIZE)).await.unwrap()
}

fn goals(written: &[Written]) -> Vec<Goal> {
    let mut targets: Vec<Target> = Vec::new();
    for record in written {
        targets.push(Target::Lsn(record.built.lsn));
        targets.push(Target::Lsn(Lsn(record.built.lsn.0 + 1)));
        if let Some((xid, time)) = record.ends {
            targets.extend([Target::Xid(xid), Target::Time(time), Target::Time(PgTime(time.0 - 1))]);
        }
    }
    targets.extend((0..4).map(|number| Target::Name(format!("point {number}"))));
    targets.extend([Target::Xid(1), Target::Time(PgTime(0)), Target::Lsn(START)]);
    targets.into_iter().flat_map(|target| [true, false].map(|inclusive| Goal { target: target.clone(), inclusive })).collect()
}

fn check(found: Option<&Found>, expected: Option<(&Written, Side)>, goal: &Goal) {
    let said = found.map(|found| (found.lsn, found.end, found.side, found.is_commit));
    // Behind a switch the builder counts the rest of the segment to it.
    let switched = |record: &Written| {
        found.map_or(record.built.end, |found| if SIZE.offset(record.built.end) == 0 { found.end } else { record.built.end })
    };
    let known = expected.map(|(record, side)| (record.built.lsn, switched(record), side, record.is_commit));
    assert_eq!(said, known, "{goal:?}");
    if let (Some(found), Some((Written { ends: Some((xid, time)), .. }, _))) = (found, expected) {
        assert_eq!((found.xid, found.time), (*xid, Some(*time)), "{goal:?}");
    }
}

fn commits(written: &[Written]) -> impl DoubleEndedIterator<Item = &Written> {
    written.iter().filter(|record| record.is_commit)
}

fn same(commit: Option<Commit>, expected: Option<&Written>) -> bool {
    commit.map(|commit| (commit.lsn, commit.xid)) == expected.map(|record| (record.built.lsn, record.ends.map(|(xid, _)| xid)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn indexes_lead_where_reading_everything_leads(steps in steps(), unindexed in 0u8..14, from in 0usize..20) {
        let (wal, written) = write(&steps);
        let folder = tempfile::tempdir().unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let holdings = archive(folder.path(), &wal, unindexed).await;
            let chain = Chain::of(holdings.inventory(), History::root(Timeline::FIRST));
            let runs = chain.runs();
            assert_eq!((runs.len(), runs[0].start, runs[0].end), (1, START, wal.end()));
            let search = Search::new(&holdings, runs[0].clone(), Timeline::FIRST).await.unwrap();
            for (number, goal) in goals(&written).iter().enumerate() {
                // From a record on, as a base's replay starts, and from the beginning.
                let skipped = if number % 3 == 0 { from.min(written.len() - 1) } else { 0 };
                let start = (skipped > 0).then(|| written[skipped].built.lsn);
                let found = search.find(goal, start).await.unwrap();
                let expected = written[skipped..].iter().find_map(|record| Some((record, stops(goal, record)?)));
                check(found.as_ref(), expected, goal);
                if number % 5 == 0 && let Some(found) = found {
                    let at = found.replayed();
                    let before = commits(&written).rev().find(|record| record.built.end <= at);
                    let after = commits(&written).find(|record| record.built.lsn >= at);
                    assert!(same(search.commit_before(at).await.unwrap(), before), "{goal:?}");
                    assert!(same(search.commit_after(at).await.unwrap(), after), "{goal:?}");
                }
            }
            assert_eq!(search.end().await.unwrap().complete, wal.end());
            assert_eq!(search.invalid_before(START, wal.end()).await.unwrap(), None);
        });
    }
}

#[tokio::test]
async fn a_segment_in_the_middle_that_is_no_valid_wal_is_found() {
    let (mut wal, mut ends) = (WalBuilder::new(SIZE, START, SYSTEM), Vec::new());
    while wal.end() < Lsn(START.0 + 5 * SIZE.bytes()) {
        ends.push(wal.filler(7, 5_000));
    }
    let damaged = ends.iter().find(|record| record.lsn > Lsn(START.0 + 2 * SIZE.bytes() + 40_000)).unwrap();
    let number = SIZE.number(damaged.lsn);
    // With an index, and without.
    for unindexed in [13, u8::try_from(number % 7).unwrap()] {
        let folder = tempfile::tempdir().unwrap();
        let holdings = damaged_archive(folder.path(), &wal, unindexed, Some(Lsn(damaged.lsn.0 + 100))).await;
        let run = Chain::of(holdings.inventory(), History::root(Timeline::FIRST)).runs().remove(0);
        let search = Search::new(&holdings, run, Timeline::FIRST).await.unwrap();
        let (segment, invalid) = search.invalid_before(START, wal.end()).await.unwrap().unwrap();
        assert_eq!((segment.number, invalid.at), (number, damaged.lsn), "{unindexed}");
        assert_eq!(search.invalid_before(START, damaged.lsn).await.unwrap(), None);
        assert_eq!(search.invalid_before(Lsn(START.0 + 3 * SIZE.bytes()), wal.end()).await.unwrap(), None);
        // The end alone does not show it.
        assert_eq!(search.end().await.unwrap().complete, wal.end());
    }
}

#[tokio::test]
async fn an_index_of_other_bytes_is_not_believed() {
    let mut wal = WalBuilder::new(SIZE, START, SYSTEM);
    let commit = wal.commit(700, PgTime(1_000_000));
    while wal.end() < Lsn(START.0 + 2 * SIZE.bytes()) {
        wal.filler(7, 5_000);
    }
    let folder = tempfile::tempdir().unwrap();
    let holdings = archive(folder.path(), &wal, 13).await;
    // The index of a segment without that commit.
    let mut other = WalBuilder::new(SIZE, START, SYSTEM);
    while other.end() < Lsn(START.0 + 2 * SIZE.bytes()) {
        other.filler(7, 5_000);
    }
    let segment = Segment { number: SIZE.number(START), timeline: Timeline::FIRST };
    let index = SegmentIndex::of(SYSTEM, segment, SIZE, other.between(START, segment.end(SIZE)));
    let name = ObjectName::Index { system: SYSTEM, segment: segment.name(SIZE) };
    holdings.archive().delete(&name).await.unwrap();
    holdings.archive().put(&name, index.encode().unwrap().into()).await.unwrap();
    let run = Chain::of(holdings.inventory(), History::root(Timeline::FIRST)).runs().remove(0);
    let search = Search::new(&holdings, run, Timeline::FIRST).await.unwrap();
    let found = search.find(&Goal::inclusive(Target::Xid(700)), None).await.unwrap();
    assert_eq!(found.map(|found| found.lsn), Some(commit.lsn));
}

#[tokio::test]
async fn a_tail_that_reaches_further_than_the_partial_is_read() {
    let mut wal = WalBuilder::new(SIZE, START, SYSTEM);
    wal.filler(7, 5_000);
    let short = wal.end();
    wal.filler(7, 5_000);
    let segment = Segment { number: SIZE.number(START), timeline: Timeline::FIRST };
    for (partial_end, tail_end, further) in [(short, wal.end(), true), (wal.end(), short, false)] {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&format!("file://{}", folder.path().display()), Options::new([])).unwrap();
        archive.probe().await.unwrap();
        let mut partial = wal.between(START, partial_end).to_vec();
        partial.resize(usize::try_from(SIZE.bytes()).unwrap(), 0);
        let name = segment.name(SIZE);
        archive.put(&ObjectName::Partial { system: SYSTEM, segment: name.clone() }, partial.into()).await.unwrap();
        let tail = wal.between(START, tail_end).to_vec();
        archive.put(&ObjectName::Tail { system: SYSTEM, segment: name, end: tail_end }, tail.into()).await.unwrap();
        let holdings = Holdings::open(archive, SYSTEM, Some(SIZE)).await.unwrap();
        assert_eq!(holdings.inventory().beyond_partial.contains(&segment), further);
    }
}
