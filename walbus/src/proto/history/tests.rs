use super::*;
use proptest::prelude::*;

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn parse(of: u32, text: &str) -> Result<History, HistoryError> {
    History::parse(timeline(of), text.as_bytes())
}

#[test]
fn what_postgres_writes_is_read() {
    // Postgres puts an empty line between what it copied from the parent's file and its own line.
    let history = parse(3, "1\t0/3000060\tno recovery target specified\n\n2\t0/05000110\tat restore point \"x\"\n").unwrap();
    let read: Vec<_> = history.ancestors().iter().map(|a| (a.timeline.get(), a.end, a.reason.as_str())).collect();
    assert_eq!(read, [(1, Lsn(0x300_0060), "no recovery target specified"), (2, Lsn(0x500_0110), "at restore point \"x\"")]);
    assert_eq!(history.encode(), "1\t0/3000060\tno recovery target specified\n2\t0/5000110\tat restore point \"x\"\n");
}

#[test]
fn comments_spaces_and_line_ends_are_as_postgres_takes_them() {
    let history = parse(9, "# made by hand\n\n  \t\n  # too\n 4   1/0   \r\n5\tA/B").unwrap();
    assert_eq!(history.ancestors().len(), 2);
    assert_eq!(history.switchpoint(timeline(4)), Some(Lsn(0xA_0000_000B).min(Lsn(1 << 32))));
    assert_eq!(parse(2, "").unwrap(), History::root(timeline(2)));
    assert_eq!(History::parse(timeline(2), b"1\t0/10\t\xFF\xFE").unwrap().ancestors()[0].reason, "\u{FFFD}\u{FFFD}");
}

#[test]
fn what_is_no_history_is_named() {
    let of = timeline(3);
    for (text, found) in [("x\t0/1", "x"), ("0\t0/1", "0"), ("-1\t0/1", "-1"), ("4294967296\t0/1", "4294967296")] {
        let found = found.to_owned();
        assert_eq!(parse(3, &format!("\n{text}")), Err(HistoryError::Timeline { of, line: 2, found }));
    }
    for (text, found) in [("1", ""), ("1\t", ""), ("1\t0", "0"), ("1\tno/where", "no/where")] {
        let cause = ParseLsnError(found.to_owned());
        assert_eq!(parse(3, text), Err(HistoryError::Switchpoint { of, line: 1, cause }));
    }
    let order = |line, after, found| Err(HistoryError::Order { of, line, after: timeline(after), found: timeline(found) });
    assert_eq!(parse(3, "2\t0/1\n1\t0/2"), order(2, 2, 1));
    assert_eq!(parse(3, "1\t0/1\n1\t0/2"), order(2, 1, 1));
    assert_eq!(parse(3, "1\t0/1\n3\t0/2"), order(2, 3, 3));
    assert_eq!(parse(3, "7\t0/2"), order(1, 7, 3));
    let big = vec![b'\n'; MAX_HISTORY_BYTES + 1];
    assert_eq!(History::parse(of, &big), Err(HistoryError::Size { of, found: big.len() }));
}

#[test]
fn a_position_belongs_to_one_timeline() {
    let history = parse(5, "1\t0/100\tx\n3\t0/200\tx\n").unwrap();
    let at = |lsn| history.timeline_at(Lsn(lsn)).get();
    assert_eq!([at(0), at(0xFF), at(0x100), at(0x1FF), at(0x200), at(u64::MAX)], [1, 1, 3, 3, 5, 5]);
    assert_eq!(history.switchpoint(timeline(1)), Some(Lsn(0x100)));
    assert_eq!(history.switchpoint(timeline(3)), Some(Lsn(0x200)));
    assert_eq!((history.switchpoint(timeline(5)), history.switchpoint(timeline(2))), (None, None));
    assert!(history.contains(timeline(1)) && history.contains(timeline(5)) && !history.contains(timeline(2)));
}

#[test]
fn a_timeline_left_before_it_began_holds_nothing() {
    // Recovery with recovery_target_timeline = 2 to a position before 2 began.
    let history = parse(3, "1\t0/200\tx\n2\t0/100\tx\n").unwrap();
    let at = |lsn| history.timeline_at(Lsn(lsn)).get();
    assert_eq!([at(0xFF), at(0x100), at(0x1FF), at(0x200)], [1, 3, 3, 3]);
    assert_eq!(history.switchpoint(timeline(1)), Some(Lsn(0x100)));
}

#[test]
fn a_child_is_above_its_parent() {
    let parent = parse(3, "1\t0/100\tx\n").unwrap();
    assert_eq!(parent.child(timeline(3), Lsn(1), ""), None);
    let child = parent.child(timeline(4), Lsn(0x300), "two\nlines").unwrap();
    assert_eq!(child.encode(), "1\t0/100\tx\n3\t0/300\ttwo lines\n");
    assert_eq!(History::parse(timeline(4), child.encode().as_bytes()), Ok(child));
}

proptest! {
    #[test]
    fn written_and_read_back(ends in prop::collection::vec(any::<u64>(), 0..20), gap in 1u32..5) {
        let mut history = History::root(timeline(1));
        for end in ends {
            history = history.child(timeline(history.timeline().get() + gap), Lsn(end), "because").unwrap();
        }
        prop_assert_eq!(History::parse(history.timeline(), history.encode().as_bytes()), Ok(history));
    }

    #[test]
    fn no_text_makes_it_panic(text: Vec<u8>, of in 1u32..) {
        if let Ok(history) = History::parse(timeline(of), &text) {
            prop_assert!(history.ancestors().iter().all(|ancestor| ancestor.timeline.get() < of));
        }
    }
}
