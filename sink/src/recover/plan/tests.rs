use super::*;
use crate::api::State;

const SIZE: SegmentSize = SegmentSize::MIN;
const MB: u64 = 1 << 20;

fn tli(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment { number, timeline: tli(timeline) }
}

/// A folder with a checkpoint at 3.5 MB, redo at 3.25 MB, and segments 3 and 4.
fn folder() -> Local {
    Local {
        control: Control {
            system_id: SystemId(7),
            segment_size: SIZE,
            shut_down: false,
            checkpoint: Lsn(3 * MB + MB / 2),
            redo: Lsn(3 * MB + MB / 4),
            checkpoint_timeline: tli(1),
            min_recovery_timeline: None,
        },
        label: None,
        signal: None,
        segments: [(segment(1, 3), MB), (segment(1, 4), MB)].into(),
        ancestors: None,
    }
}

/// A sink with segments 2 to 5 and a tail of 6 up to 6.5 MB.
fn sink() -> Held {
    let whole = |number: u64| (segment(1, number), HeldSegment { end: Lsn((number + 1) * MB), complete: true });
    let mut segments: BTreeMap<_, _> = (2..=5).map(whole).collect();
    segments.insert(segment(1, 6), HeldSegment { end: Lsn(6 * MB + MB / 2), complete: false });
    Held {
        system_id: SystemId(7),
        segment_size: SIZE,
        state: State::UpstreamBehind,
        problem: None,
        timeline: tli(1),
        flushed: Lsn(6 * MB + MB / 2),
        complete: Lsn(6 * MB + MB / 2 - 64),
        segments,
        ancestors: Vec::new(),
    }
}

/// The sink that followed a promotion to timeline 2 at 4.5 MB.
fn promoted_sink() -> Held {
    let mut held = sink();
    held.timeline = tli(2);
    held.ancestors = vec![(tli(1), Lsn(4 * MB + MB / 2))];
    held.segments.retain(|segment, _| segment.number <= 4);
    held.segments.insert(segment(1, 4), HeldSegment { end: Lsn(4 * MB + MB / 2), complete: false });
    for number in 4..=5 {
        held.segments.insert(segment(2, number), HeldSegment { end: Lsn((number + 1) * MB), complete: true });
    }
    held.segments.insert(segment(2, 6), HeldSegment { end: held.flushed, complete: false });
    held
}

fn numbers(plan: &Plan) -> Vec<(u32, u64, Origin)> {
    plan.pieces.iter().map(|piece| (piece.segment.timeline.get(), piece.segment.number, piece.origin)).collect()
}

#[test]
fn every_segment_from_redo_to_the_tail() {
    let plan = plan(&folder(), &sink()).unwrap();
    assert_eq!(numbers(&plan), [3, 4, 5, 6].map(|number| (1, number, Origin::Sink)));
    assert_eq!(plan.pieces.iter().map(|piece| piece.local_len).collect::<Vec<_>>(), [Some(MB), Some(MB), None, None]);
    assert_eq!((plan.redo, plan.complete), (Lsn(3 * MB + MB / 4), Lsn(6 * MB + MB / 2 - 64)));
    assert_eq!(plan.download_bytes_max(), 4 * MB);
    assert!(plan.warnings.is_empty() && plan.beyond.is_empty() && !plan.write_history && !plan.shut_down);
}

#[test]
fn a_tail_that_ends_with_its_segment_is_the_last() {
    let mut held = sink();
    held.flushed = Lsn(6 * MB);
    held.complete = Lsn(6 * MB);
    held.segments.remove(&segment(1, 6));
    assert_eq!(plan(&folder(), &held).unwrap().pieces.last().unwrap().segment, segment(1, 5));
}

#[test]
fn a_record_that_runs_into_the_tail_s_segment_takes_both() {
    let mut held = sink();
    held.complete = Lsn(6 * MB - 800);
    assert_eq!(plan(&folder(), &held).unwrap().pieces.last().unwrap().segment, segment(1, 6));
}

#[test]
fn segments_behind_the_tail_are_told() {
    let mut local = folder();
    local.segments.extend([(segment(1, 6), MB), (segment(1, 7), MB), (segment(1, 9), 12), (segment(2, 8), MB)]);
    assert_eq!(plan(&local, &sink()).unwrap().beyond, [(segment(1, 7), MB), (segment(1, 9), 12)]);
}

#[test]
fn another_cluster_or_segment_size_is_refused() {
    let mut local = folder();
    local.control.system_id = SystemId(8);
    assert_eq!(plan(&local, &sink()), Err(Refusal::OtherCluster { folder: SystemId(8), sink: SystemId(7) }));
    let mut local = folder();
    local.control.segment_size = SegmentSize::DEFAULT;
    let refusal = Refusal::OtherSegmentSize { folder: SegmentSize::DEFAULT, sink: SIZE };
    assert_eq!(plan(&local, &sink()), Err(refusal));
}

#[test]
fn a_folder_that_recovers_otherwise_is_refused() {
    for file in ["standby.signal", "recovery.signal"] {
        let mut local = folder();
        local.signal = Some(file);
        let refusal = plan(&local, &sink()).unwrap_err();
        assert_eq!(refusal, Refusal::Signal { file });
        assert!(refusal.to_string().contains(&format!("remove {file}")), "{refusal}");
    }
}

#[test]
fn a_sink_that_saw_a_divergence_is_refused_with_its_reason() {
    let mut held = sink();
    held.state = State::Diverged;
    held.problem = Some("at 0/4 other WAL".to_owned());
    let refusal = plan(&folder(), &held).unwrap_err();
    assert!(refusal.to_string().contains("at 0/4 other WAL"), "{refusal}");
}

#[test]
fn a_sink_with_a_live_connection_is_warned_of() {
    let mut held = sink();
    held.state = State::Streaming;
    assert_eq!(plan(&folder(), &held).unwrap().warnings.len(), 1);
}

#[test]
fn what_the_sink_lacks_is_taken_from_the_folder_where_it_is_whole() {
    let mut held = sink();
    held.segments.retain(|segment, _| segment.number >= 4);
    let found = plan(&folder(), &held).unwrap();
    assert_eq!(numbers(&found)[..2], [(1, 3, Origin::Folder), (1, 4, Origin::Sink)]);

    let mut local = folder();
    local.segments.insert(segment(1, 3), MB - 1);
    let refusal = plan(&local, &held).unwrap_err();
    let name = |number| segment(1, number).name(SIZE);
    assert_eq!(refusal, Refusal::Gap { first: name(3), last: name(3), count: 1, oldest: Some(name(4)) });
}

#[test]
fn gaps_in_the_sink_are_told_from_first_to_last() {
    let mut held = sink();
    held.segments.remove(&segment(1, 5));
    held.segments.get_mut(&segment(1, 4)).unwrap().complete = false;
    let mut local = folder();
    local.segments.clear();
    let refusal = plan(&local, &held).unwrap_err();
    assert!(matches!(&refusal, Refusal::Gap { count: 2, .. }), "{refusal:?}");
    for number in [4, 5, 2] {
        assert!(refusal.to_string().contains(segment(1, number).name(SIZE).as_str()), "{refusal}");
    }
}

#[test]
fn a_tail_that_is_shorter_than_flushed_is_a_gap() {
    let mut held = sink();
    held.segments.get_mut(&segment(1, 6)).unwrap().end = Lsn(6 * MB + 8);
    assert!(matches!(plan(&folder(), &held), Err(Refusal::Gap { count: 1, .. })));
}

#[test]
fn a_folder_on_the_sink_s_second_timeline() {
    let mut local = folder();
    // Promoted, and no checkpoint since: replay starts on timeline 1 and follows to 2.
    local.control.min_recovery_timeline = Some(tli(2));
    let plan = plan(&local, &promoted_sink()).unwrap();
    let expected = [(1, 3), (2, 4), (2, 5), (2, 6)].map(|(timeline, number)| (timeline, number, Origin::Sink));
    assert_eq!(numbers(&plan), expected);
    assert!(plan.write_history);
    assert_eq!(plan.segment_at(Lsn(3 * MB + 5)), segment(1, 3));
    assert_eq!(plan.segment_at(Lsn(4 * MB)), segment(2, 4));
}

#[test]
fn a_history_that_is_there_is_not_written_and_must_be_the_same() {
    let mut local = folder();
    local.control.min_recovery_timeline = Some(tli(2));
    local.ancestors = Some(promoted_sink().ancestors);
    assert!(!plan(&local, &promoted_sink()).unwrap().write_history);
    local.ancestors = Some(vec![(tli(1), Lsn(4 * MB))]);
    assert_eq!(plan(&local, &promoted_sink()), Err(Refusal::OtherHistory { timeline: tli(2) }));
}

#[test]
fn timelines_that_crash_recovery_can_t_reach_are_refused() {
    let at = Lsn(4 * MB + MB / 2);
    let newer = plan(&folder(), &promoted_sink()).unwrap_err();
    assert_eq!(newer, Refusal::SinkOnNewerTimeline { folder: tli(1), sink: tli(2), at });
    assert!(newer.to_string().contains("pg_rewind"), "{newer}");

    let mut other = promoted_sink();
    other.timeline = tli(3);
    let mut local = folder();
    local.control.checkpoint_timeline = tli(2);
    assert_eq!(plan(&local, &other), Err(Refusal::NoAncestor { folder: tli(2), sink: tli(3) }));

    local.control.checkpoint_timeline = tli(4);
    assert_eq!(plan(&local, &other), Err(Refusal::SinkOnOlderTimeline { folder: tli(4), sink: tli(3) }));
}

#[test]
fn a_checkpoint_behind_the_switch_of_its_timeline_is_refused() {
    let mut local = folder();
    local.control.min_recovery_timeline = Some(tli(2));
    let mut held = promoted_sink();
    held.ancestors = vec![(tli(1), Lsn(3 * MB + MB / 3))];
    assert!(matches!(plan(&local, &held), Err(Refusal::StartBehindSwitch { .. })));
}

#[test]
fn a_base_backup_starts_where_its_label_says() {
    let mut local = folder();
    local.label = Some(BackupLabel {
        start: Lsn(2 * MB + 40),
        checkpoint: Lsn(2 * MB + 96),
        timeline: tli(1),
        needs_end_record: true,
        from_standby: false,
    });
    let plan = plan(&local, &sink()).unwrap();
    assert_eq!((plan.redo, plan.checkpoint, plan.needs_backup_end), (Lsn(2 * MB + 40), Lsn(2 * MB + 96), true));
    assert_eq!(plan.pieces.first().unwrap().segment, segment(1, 2));
}

#[test]
fn a_folder_that_starts_above_the_sink_s_end_needs_nothing() {
    let mut local = folder();
    local.control.redo = sink().complete;
    local.control.checkpoint = sink().complete;
    assert!(plan(&local, &sink()).unwrap().pieces.is_empty());
}

fn status() -> api::Status {
    api::Status {
        version: "0".to_owned(),
        state: State::Streaming,
        problem: None,
        system_id: Some("7".to_owned()),
        segment_size: Some(MB),
        timeline: Some(1),
        slot: "s".to_owned(),
        received: Some("0/300000".to_owned()),
        written: Some("0/300000".to_owned()),
        flushed: Some("0/300000".to_owned()),
        complete: Some("0/2FFFF8".to_owned()),
        server_end: None,
        lag_bytes: 0,
        last_commit_time: None,
        oldest: None,
        held_bytes: 0,
        alarm: false,
    }
}

fn listing(name: &str) -> api::Segments {
    let entry = api::SegmentEntry {
        name: name.to_owned(),
        timeline: 1,
        start: "0/200000".to_owned(),
        end: "0/300000".to_owned(),
        complete: true,
        commit_time_min: None,
        commit_time_max: None,
        restore_points: Vec::new(),
    };
    api::Segments { system_id: "7".to_owned(), segment_size: MB, segments: vec![entry], gaps: Vec::new(), histories: Vec::new() }
}

#[test]
fn what_the_sink_says_is_read_or_refused() {
    let held = Held::parse(&status(), &listing("000000010000000000000002"), Vec::new()).unwrap();
    assert_eq!((held.flushed, held.complete), (Lsn(3 * MB), Lsn(3 * MB - 8)));
    assert!(held.has(segment(1, 2)) && !held.has(segment(1, 3)));

    let empty = api::Status { flushed: None, problem: Some("no primary".to_owned()), ..status() };
    let refusal = Held::parse(&empty, &listing("000000010000000000000002"), Vec::new()).unwrap_err();
    assert!(refusal.to_string().contains("no primary"), "{refusal}");

    // Too great a number for this segment size, and no name at all.
    for name in ["000000010000000000001000", "../etc/passwd"] {
        let refusal = Held::parse(&status(), &listing(name), Vec::new()).unwrap_err();
        assert!(matches!(refusal, Refusal::SinkUnreadable { .. }), "{refusal:?}");
    }
    let odd = api::Status { complete: Some("nowhere".to_owned()), ..status() };
    assert!(matches!(Held::parse(&odd, &listing("000000010000000000000002"), Vec::new()), Err(Refusal::SinkUnreadable { .. })));
}
