use super::*;
use crate::state::Identity;
use walbus::SystemId;

const SIZE: SegmentSize = SegmentSize::MIN;
const MB: u64 = 1 << 20;

fn tli(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment { number, timeline: tli(timeline) }
}

/// Timeline 2, which left timeline 1 at 2M+100.
fn second() -> Lineage {
    Lineage::new(&History::root(tli(1)).child(tli(2), Lsn(2 * MB + 100), "no reason").unwrap())
}

/// Whole segments, then partial ones with their ends.
fn catalog(whole: &[(u32, u64)], partial: &[(u32, u64, u64)]) -> Catalog {
    let mut catalog = Catalog { identity: Some(Identity { system_id: SystemId(7), segment_size: SIZE }), ..Catalog::default() };
    for &(timeline, number) in whole {
        catalog.segments.insert(segment(timeline, number), Held { partial_end: None, facts: Default::default() });
    }
    for &(timeline, number, end) in partial {
        catalog.segments.insert(segment(timeline, number), Held { partial_end: Some(Lsn(end)), facts: Default::default() });
    }
    catalog
}

fn flushed(timeline: u32, lsn: u64) -> Positions {
    let lsn = Lsn(lsn);
    Positions { timeline: tli(timeline), received: lsn, written: lsn, flushed: lsn, complete: lsn, server_end: lsn }
}

fn end(catalog: &Catalog, positions: &Positions, timeline: u32, number: u64) -> u64 {
    let segment = segment(timeline, number);
    end_of(segment, &catalog.segments[&segment], Some(positions), SIZE).0
}

#[test]
fn the_tail_ends_where_flushed_is() {
    let held = catalog(&[(1, 1)], &[(1, 2, 0), (1, 3, 0)]);
    let now = flushed(1, 2 * MB + 100);
    assert_eq!(end(&held, &now, 1, 1), 2 * MB);
    assert_eq!(end(&held, &now, 1, 2), 2 * MB + 100);
    assert_eq!(end(&held, &now, 1, 3), 3 * MB, "a file made ahead holds nothing");
}

#[test]
fn a_partial_file_that_a_gap_left_behind_is_not_taken_for_whole() {
    let held = catalog(&[(1, 5)], &[(1, 1, MB + 10)]);
    assert_eq!(end(&held, &flushed(1, 6 * MB), 1, 1), MB + 10);
}

#[test]
fn a_whole_file_above_flushed_is_not_shown() {
    assert_eq!(end(&catalog(&[(1, 1)], &[]), &flushed(1, MB + 5), 1, 1), MB + 5);
    assert_eq!(end(&catalog(&[(1, 3)], &[]), &flushed(1, MB + 5), 1, 3), 3 * MB);
}

#[test]
fn a_range_crosses_segments() {
    let held = catalog(&[(1, 1), (1, 2)], &[(1, 3, 0)]);
    let line = Lineage::new(&History::root(tli(1)));
    let now = flushed(1, 3 * MB + 50);
    let found = pieces(&held, Some(&now), SIZE, &line, Lsn(MB + 10)..Lsn(3 * MB + 50)).unwrap();
    let expected = [(1, 10..MB), (2, 0..MB), (3, 0..50)].map(|(number, bytes)| Piece { segment: segment(1, number), bytes });
    assert_eq!(found, expected);
    assert_eq!(pieces(&held, Some(&now), SIZE, &line, Lsn(MB)..Lsn(3 * MB + 51)), Err(NotHeld(Lsn(3 * MB))));
    assert_eq!(pieces(&held, Some(&now), SIZE, &line, Lsn(5)..Lsn(3 * MB)), Err(NotHeld(Lsn(5))));
    assert_eq!(pieces(&held, Some(&now), SIZE, &line, Lsn(MB)..Lsn(MB)), Ok(vec![]));
}

#[test]
fn a_range_follows_the_lineage_and_takes_nothing_behind_the_switch() {
    // Timeline 1 went on to 2M+500 after timeline 2 had left it at 2M+100.
    let held = catalog(&[(1, 1), (2, 2)], &[(1, 2, 2 * MB + 500), (2, 3, 0)]);
    let line = second();
    let now = flushed(2, 3 * MB + 50);
    let found = pieces(&held, Some(&now), SIZE, &line, Lsn(MB)..Lsn(3 * MB + 50)).unwrap();
    let expected = [(1, 1, 0..MB), (2, 2, 0..MB), (2, 3, 0..50)]
        .map(|(timeline, number, bytes)| Piece { segment: segment(timeline, number), bytes });
    assert_eq!(found, expected);

    // Without timeline 2's own first segment, timeline 1 has the part before the switch, and nothing more.
    let held = catalog(&[(1, 1)], &[(1, 2, 2 * MB + 500)]);
    let found = pieces(&held, Some(&now), SIZE, &line, Lsn(2 * MB)..Lsn(2 * MB + 100)).unwrap();
    assert_eq!(found, [Piece { segment: segment(1, 2), bytes: 0..100 }]);
    assert_eq!(pieces(&held, Some(&now), SIZE, &line, Lsn(2 * MB)..Lsn(2 * MB + 101)), Err(NotHeld(Lsn(2 * MB))));
}

#[test]
fn oldest_is_behind_the_last_gap() {
    let line = Lineage::new(&History::root(tli(1)));
    let held = catalog(&[(1, 1), (1, 3), (1, 4)], &[(1, 5, 0)]);
    let now = flushed(1, 5 * MB + 7);
    assert_eq!(oldest(&held, Some(&now), SIZE, &line, now.flushed), Some(Lsn(3 * MB)));
    assert_eq!(oldest(&held, Some(&now), SIZE, &line, Lsn(5 * MB)), Some(Lsn(3 * MB)), "at a boundary");
    assert_eq!(oldest(&held, Some(&now), SIZE, &line, Lsn(2 * MB)), Some(Lsn(MB)));
    assert_eq!(oldest(&held, Some(&now), SIZE, &line, Lsn(3 * MB)), None);
    assert_eq!(oldest(&Catalog::default(), None, SIZE, &line, Lsn(0)), None);
}

#[test]
fn oldest_follows_the_lineage() {
    let held = catalog(&[(1, 1), (2, 3)], &[(1, 2, 2 * MB + 500), (2, 2, 3 * MB)]);
    let line = second();
    assert_eq!(oldest(&held, Some(&flushed(2, 4 * MB)), SIZE, &line, Lsn(4 * MB)), Some(Lsn(MB)));
}

#[test]
fn gaps_are_between_what_is_held() {
    let held = catalog(&[(1, 1), (1, 4), (2, 6)], &[(1, 5, 5 * MB + 9), (2, 7, 0)]);
    let now = flushed(2, 7 * MB);
    let expected = [Gap { timeline: 1, from: Lsn(2 * MB).to_string(), to: Lsn(4 * MB).to_string() }];
    assert_eq!(gaps(&held, Some(&now), SIZE), expected);
    assert_eq!(timeline_end(&held, Some(&now), SIZE, tli(1)), Some(Lsn(5 * MB + 9)));
    assert_eq!(timeline_end(&held, Some(&now), SIZE, tli(2)), Some(Lsn(7 * MB)));
    assert_eq!(timeline_end(&held, Some(&now), SIZE, tli(3)), None);
}
