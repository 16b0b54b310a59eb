use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::pgdata::{BackupHistory, BackupLabel};
use walbus::proto::history::History;
use walbus::{Lsn, PgTime, Segment, SegmentSize, SystemId, Timeline};

use super::base::{Found, Reach};
use super::prune::{is_recent, newest_base, prune};
use super::*;

const SYSTEM: SystemId = SystemId(7);
const SIZE: SegmentSize = SegmentSize::MIN;
const MB: u64 = 1 << 20;

fn tli(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment { number, timeline: tli(timeline) }
}

/// Timeline 1 from segment 3 on; timeline 2 leaves it in the middle of segment 6, timeline 3 leaves 1 in segment 5.
fn inventory() -> Inventory {
    let mut inventory = Inventory::new(SYSTEM, SIZE);
    inventory.whole.extend((3..=6).map(|number| segment(1, number)));
    inventory.partial.insert(segment(1, 7));
    inventory.whole.extend((6..=8).map(|number| segment(2, number)));
    inventory.tails.entry(segment(2, 9)).or_default().extend([Lsn(9 * MB + 8192), Lsn(9 * MB + 100)]);
    inventory.whole.extend((5..=6).map(|number| segment(3, number)));
    let root = History::root(tli(1));
    inventory.histories.insert(tli(2), root.child(tli(2), Lsn(6 * MB + 1000), "x").unwrap());
    inventory.histories.insert(tli(3), root.child(tli(3), Lsn(5 * MB + 1000), "x").unwrap());
    inventory
}

fn chain(timeline: u32) -> Chain {
    let inventory = inventory();
    let history = inventory.history(tli(timeline)).unwrap();
    Chain::of(&inventory, history)
}

fn names(run: &Run) -> Vec<(u32, u64)> {
    run.links.iter().map(|link| (link.segment.timeline.get(), link.segment.number)).collect()
}

#[test]
fn each_timeline_reads_the_files_of_its_own() {
    let of = |timeline| chain(timeline).runs();
    assert_eq!(of(1).iter().map(names).collect::<Vec<_>>(), [[(1, 3), (1, 4), (1, 5), (1, 6), (1, 7)]]);
    let second = of(2);
    assert_eq!(names(&second[0]), [(1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8), (2, 9)]);
    assert_eq!((second.len(), second[0].start, second[0].end), (1, Lsn(3 * MB), Lsn(9 * MB + 8192)));
    assert_eq!(names(&of(3)[0]), [(1, 3), (1, 4), (3, 5), (3, 6)]);
}

#[test]
fn a_timeline_that_begins_at_a_boundary_begins_with_that_segment() {
    let mut inventory = inventory();
    inventory.histories.insert(tli(2), History::root(tli(1)).child(tli(2), Lsn(6 * MB), "x").unwrap());
    let chain = Chain::of(&inventory, inventory.history(tli(2)).unwrap());
    assert_eq!(chain.at(Lsn(6 * MB)).unwrap().segment, segment(2, 6));
    assert_eq!(chain.at(Lsn(6 * MB - 1)).unwrap().segment, segment(1, 5));
}

#[test]
fn of_a_partial_and_a_tail_the_one_that_reaches_further_is_read() {
    let mut inventory = inventory();
    inventory.tails.entry(segment(1, 7)).or_default().insert(Lsn(7 * MB + 8192));
    let held = |inventory: &Inventory| {
        let chain = Chain::of(inventory, inventory.history(tli(1)).unwrap());
        chain.at(Lsn(7 * MB)).unwrap().held
    };
    assert_eq!(held(&inventory), Held::Partial);
    inventory.beyond_partial.insert(segment(1, 7));
    assert_eq!(held(&inventory), Held::Tail(Lsn(7 * MB + 8192)));
    inventory.whole.insert(segment(1, 7));
    assert_eq!(held(&inventory), Held::Whole);
}

#[test]
fn gaps_are_named() {
    let mut inventory = inventory();
    inventory.whole.remove(&segment(1, 4));
    inventory.whole.remove(&segment(1, 5));
    // One that is there in part, and something behind it.
    inventory.whole.remove(&segment(2, 8));
    inventory.tails.entry(segment(2, 8)).or_default().insert(Lsn(8 * MB + 8192));
    let chain = Chain::of(&inventory, inventory.history(tli(2)).unwrap());
    let gaps = chain.gaps();
    let said: Vec<_> = gaps.iter().map(|gap| (gap.start, gap.end, gap.first.as_str(), gap.last.as_str(), gap.count)).collect();
    assert_eq!(
        said,
        [
            (Lsn(4 * MB), Lsn(6 * MB), "000000010000000000000004", "000000010000000000000005", 2),
            (Lsn(8 * MB + 8192), Lsn(9 * MB), "000000020000000000000008", "000000020000000000000008", 1),
        ]
    );
    assert_eq!(chain.from(Lsn(6 * MB + 40)).unwrap().end, Lsn(8 * MB + 8192));
    assert_eq!(chain.from(Lsn(5 * MB)).unwrap_err().unwrap().count, 1);
    assert_eq!(chain.from(Lsn(20 * MB)).unwrap_err(), None);
}

#[test]
fn the_newest_timeline_through_a_point_is_found() {
    let inventory = inventory();
    assert_eq!(inventory.all_through(tli(1), Lsn(4 * MB)), [tli(1), tli(2), tli(3)]);
    assert_eq!(inventory.all_through(tli(1), Lsn(5 * MB + 2000)), [tli(1), tli(2)]);
    assert_eq!(inventory.all_through(tli(1), Lsn(6 * MB + 2000)), [tli(1)]);
    assert!(inventory.history(tli(4)).unwrap_err().to_string().contains("00000004.history"));
}

fn label(start: u64, timeline: u32) -> BackupLabel {
    let (start, checkpoint) = (Lsn(start), Lsn(start + 56));
    BackupLabel { start, checkpoint, timeline: tli(timeline), needs_end_record: true, from_standby: false }
}

fn base(timeline: u32, checkpoint: u64) -> Base {
    Base {
        kind: Kind::Backup,
        system: SYSTEM,
        timeline: tli(timeline),
        checkpoint: Lsn(checkpoint),
        redo: Lsn(checkpoint - 56),
        consistency: Consistency::BackupEnd { start: Lsn(checkpoint - 56), not_before: Lsn::INVALID },
        recovered_to: None,
        own_timeline: tli(timeline),
    }
}

#[test]
fn only_a_timeline_that_comes_from_the_folder_s_is_followed() {
    let inventory = inventory();
    let history = |timeline| inventory.history(tli(timeline)).unwrap();
    let possible = [tli(1)];
    assert_eq!(base(1, 4 * MB).check_descent(&history(2), &possible), Ok(()));
    let late = base(1, 5 * MB + 5000);
    assert_eq!(late.check_descent(&history(2), &possible), Ok(()));
    let refused = late.check_descent(&history(3), &possible).unwrap_err().to_string();
    assert!(refused.contains("before the folder's checkpoint") && refused.ends_with("Timelines that do: 1"), "{refused}");
    assert!(base(2, 8 * MB).check_descent(&history(1), &possible).is_err());
    let recovered = Base { recovered_to: Some((Lsn(7 * MB), tli(1))), ..base(1, 4 * MB) };
    assert!(recovered.check_descent(&history(2), &possible).is_err());
    assert_eq!(recovered.check_descent(&history(1), &possible), Ok(()));
}

fn found(lsn: u64, side: Side) -> Found {
    Found { lsn: Lsn(lsn), end: Lsn(lsn + 40), prev: Lsn(lsn - 40), side, xid: 9, time: None, is_commit: true }
}

#[test]
fn a_stop_before_the_consistent_point_is_refused() {
    let goal = Goal::inclusive(Target::Xid(9));
    let judge =
        |kind, lsn, side| Base { kind, ..base(1, 4 * MB) }.judge(&goal, &found(lsn, side), Lsn(1000), &Reach::default()).is_ok();
    // Of a backup, the record that makes it consistent may be the last.
    assert!(judge(Kind::Backup, 960, Side::After) && !judge(Kind::Backup, 952, Side::After));
    assert!(judge(Kind::Backup, 1000, Side::Before) && !judge(Kind::Backup, 992, Side::Before));
    // Of a copy of one moment, all of its own WAL is replayed before anything is consistent.
    assert!(!judge(Kind::Crashed, 960, Side::After) && judge(Kind::Crashed, 1000, Side::After));
    assert!(judge(Kind::Crashed, 1000, Side::Before));
}

#[test]
fn a_moment_before_what_the_folder_holds_is_refused() {
    let base = base(1, 4 * MB);
    let last = Some((Lsn(100), PgTime(50)));
    let at = |time, inclusive| Goal { target: Target::Time(PgTime(time)), inclusive };
    assert!(base.check_held(&at(49, true), last, &Reach::default()).is_err());
    assert!(base.check_held(&at(50, true), last, &Reach::default()).is_ok());
    assert!(base.check_held(&at(50, false), last, &Reach::default()).is_err());
    assert!(base.check_held(&at(49, true), None, &Reach::default()).is_ok());
    assert!(base.check_held(&Goal::inclusive(Target::Xid(1)), last, &Reach::default()).is_ok());
}

fn backup(start: u64, stop: u64, timeline: u32) -> BackupHistory {
    BackupHistory {
        label: label(start, timeline),
        stop: Lsn(stop),
        stop_timeline: tli(timeline),
        name: String::new(),
        start_time: String::new(),
        stop_time: String::new(),
    }
}

#[test]
fn what_a_base_needs_stays_on_every_timeline() {
    let mut inventory = inventory();
    inventory.indexes.extend([segment(1, 3), segment(1, 6), segment(3, 5)]);
    inventory.backups.extend([(segment(1, 3), 40), (segment(1, 5), 40)]);
    let backups = [backup(3 * MB + 40, 3 * MB + 400, 1), backup(5 * MB + 40, 5 * MB + 400, 1)];
    let plan = prune(&inventory, &backups, Lsn(5 * MB + 40));
    let deleted: Vec<String> = plan.delete.iter().map(ObjectName::to_string).collect();
    assert_eq!(
        deleted,
        [
            "7/00000001/000000010000000000000003.zst",
            "7/00000001/000000010000000000000003.00000028.backup.zst",
            "7/00000001/000000010000000000000003.idx.zst",
            "7/00000001/000000010000000000000004.zst",
        ]
    );
    assert_eq!((plan.segments, plan.lost.len()), (2, 1));
    let all = prune(&inventory, &backups, Lsn(100 * MB));
    assert!(all.delete.iter().all(|name| !matches!(name, ObjectName::History { .. })));
    assert_eq!(prune(&inventory, &backups, Lsn(3 * MB)).delete, []);
}

#[test]
fn the_end_of_a_timeline_that_none_goes_on_from_stays() {
    let mut inventory = inventory();
    // Timeline 2 goes on from the last segment of 1; timeline 4 is a history alone.
    inventory.partial.clear();
    let leaves = inventory.histories[&tli(2)].child(tli(4), Lsn(9 * MB + 8192), "x").unwrap();
    inventory.histories.insert(tli(4), leaves);
    let plan = prune(&inventory, &[], Lsn(100 * MB));
    let deleted = |segment: Segment| plan.delete.iter().any(|name| name.segment() == Some(&segment.name(SIZE)));
    assert!(deleted(segment(1, 6)) && deleted(segment(2, 8)) && deleted(segment(3, 5)));
    assert!(!deleted(segment(2, 9)) && !deleted(segment(3, 6)));
    assert_eq!(inventory.timelines_with_wal().last(), Some(&tli(3)));
}

#[test]
fn what_has_no_index_counts_as_recent() {
    let links: Vec<Link> = chain(2).links().copied().collect();
    let with = |timeline: u32, time: Option<i64>| -> Vec<Option<SegmentIndex>> {
        let of = |link: &Link| {
            let mut index = SegmentIndex::of(SYSTEM, link.segment, SIZE, &[]);
            index.commit_time_max = time.map(PgTime).filter(|_| link.segment.timeline == tli(timeline));
            Some(index)
        };
        links.iter().map(of).collect()
    };
    let recent = |indexes: &[Option<SegmentIndex>]| is_recent(&links, indexes, tli(2), PgTime(100));
    assert!(!recent(&with(2, None)) && !recent(&with(2, Some(99))) && recent(&with(2, Some(100))));
    assert!(!recent(&with(1, Some(100))));
    let mut unindexed = with(2, None);
    unindexed[0] = None;
    assert!(!recent(&unindexed));
    unindexed[4] = None;
    assert!(recent(&unindexed));
}

#[test]
fn the_newest_base_that_reaches_a_point() {
    let backups = [backup(3 * MB, 3 * MB + 400, 1), backup(5 * MB, 5 * MB + 400, 1), backup(6 * MB, 6 * MB + 400, 3)];
    let start = |at| newest_base(&backups, |backup| backup.label.timeline == tli(1), Lsn(at)).map(|backup| backup.label.start);
    assert_eq!(start(9 * MB), Some(Lsn(5 * MB)));
    assert_eq!(start(5 * MB + 399), Some(Lsn(3 * MB)));
    assert_eq!(start(MB), None);
}

#[test]
fn a_copy_of_a_server_that_was_just_promoted_is_one_of_a_moment() {
    use walbus::proto::control::{Control, DbState};
    use walbus::proto::wal::WalVersion;
    let control = |state, minimum: u64| Control {
        system: SYSTEM,
        version: WalVersion::V18,
        control_version: 1800,
        catalog_version: 202_506_291,
        state,
        time_unix_s: 0,
        checkpoint: Lsn(4 * MB + 96),
        redo: Lsn(4 * MB + 40),
        timeline: tli(1),
        previous_timeline: tli(1),
        checkpoint_time_unix_s: 0,
        full_page_writes: true,
        min_recovery_point: Lsn(minimum),
        min_recovery_timeline: Timeline::new(u32::from(minimum > 0)),
        backup_start: Lsn::INVALID,
        backup_end: Lsn::INVALID,
        backup_end_required: false,
        wal_level: 1,
        parameters: Default::default(),
        block_bytes: 8192,
        wal_page_bytes: 8192,
        segment: SIZE,
        checksum_version: 0,
    };
    let of = |state, minimum| {
        let base = Base::of(&control(state, minimum), None);
        (base.kind, base.consistency)
    };
    assert_eq!(of(DbState::InProduction, 0), (Kind::Crashed, Consistency::FolderEnd));
    assert_eq!(of(DbState::InProduction, 5 * MB), (Kind::Crashed, Consistency::FolderEnd));
    assert_eq!(of(DbState::ArchiveRecovery, 5 * MB), (Kind::Recovering, Consistency::At(Lsn(5 * MB))));
    assert_eq!(of(DbState::ShutDown, 0), (Kind::ShutDown, Consistency::At(Lsn(4 * MB + 96))));
    assert_eq!(Base::of(&control(DbState::InProduction, 0), Some(&label(3 * MB + 40, 1))).kind, Kind::Backup);
}
