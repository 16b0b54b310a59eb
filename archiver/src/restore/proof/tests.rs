use walbus::proto::wal::WalBuilder;
use walbus::{Segment, SegmentSize, SystemId};

use super::*;
use crate::plan::Inventory;

const SIZE: SegmentSize = SegmentSize::MIN;
const SYSTEM: SystemId = SystemId(7);
const START: Lsn = Lsn(0x300_0000);

fn segment(number: u64) -> Segment {
    Segment { number, timeline: Timeline::FIRST }
}

fn base() -> Base {
    Base {
        kind: Kind::Backup,
        system: SYSTEM,
        timeline: Timeline::FIRST,
        checkpoint: Lsn(START.0 + 96),
        redo: Lsn(START.0 + 40),
        consistency: Consistency::At(Lsn(START.0 + 400)),
        recovered_to: None,
        own_timeline: Timeline::FIRST,
    }
}

#[test]
fn the_end_before_a_gap_is_not_the_latest() {
    let mut inventory = Inventory::new(SYSTEM, SIZE);
    let first = SIZE.number(START);
    let judge = |inventory: &Inventory| {
        let chain = Chain::of(inventory, History::root(Timeline::FIRST));
        let end = chain.from(START).unwrap().end;
        let reach = Reach { to: Some(end), ..Reach::default() };
        latest(&base(), &Goal::inclusive(Target::Latest), &chain, end, Lsn(START.0 + 400), &reach)
    };
    inventory.whole.extend([segment(first), segment(first + 1)]);
    assert!(judge(&inventory).is_ok());
    inventory.whole.insert(segment(first + 4));
    let refused = judge(&inventory).unwrap_err().to_string();
    assert!(refused.contains("lacks 2 segments") && refused.contains("the end of the WAL"), "{refused}");
    // A gap before where replay starts matters to nobody.
    inventory.whole.extend([segment(first + 2), segment(first + 3), segment(first - 2)]);
    assert!(judge(&inventory).is_ok());
}

#[test]
fn copies_of_a_segment_are_compared_to_the_lesser_end() {
    let mut wal = WalBuilder::new(SIZE, START, SYSTEM);
    for _ in 0..20 {
        wal.filler(7, 500);
    }
    let short = wal.end();
    let mut partial = wal.between(START, short).to_vec();
    partial.resize(usize::try_from(SIZE.bytes()).unwrap(), 0xA5);
    for _ in 0..20 {
        wal.filler(7, 500);
    }
    let ours = wal.between(START, wal.end()).to_vec();
    let lesser = |theirs: &[u8]| wal.end().min(complete_end(theirs, segment(SIZE.number(START)), SIZE));
    assert_eq!(lesser(&partial), short);
    assert_eq!(first_difference(&ours, &partial, START, lesser(&partial)), None);
    // The same place, other bytes: the last record's checksum is ours no longer, so one of another history stands there.
    let mut other = WalBuilder::new(SIZE, START, SYSTEM);
    other.filler(8, 500);
    let mut theirs = other.between(START, other.end()).to_vec();
    theirs.resize(partial.len(), 0);
    let at = first_difference(&ours, &theirs, START, lesser(&theirs));
    assert!(at.is_some_and(|at| at < other.end()), "{at:?}");
}
