use std::fs;

use tempfile::TempDir;
use walbus::proto::history::History;
use walbus::proto::wal::WalBuilder;
use walbus::{Lsn, PgTime, Segment, SegmentSize, SystemId, Timeline};

use super::*;

const MB: SegmentSize = SegmentSize::MIN;
const START: Lsn = Lsn(0x100_0000);
const TIME: PgTime = PgTime(800_000_000_000_000);

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

/// WAL of a bit more than `segments` segments.
fn wal(segments: u64) -> WalBuilder {
    let mut wal = WalBuilder::new(MB, START, SystemId(42));
    for xid in 1.. {
        wal.filler(xid, 3000);
        wal.commit(xid, PgTime(TIME.0 + i64::from(xid)));
        if wal.end().0 > START.0 + segments * MB.bytes() + 5000 {
            break;
        }
    }
    wal
}

/// Writes what a receiver would have, and gives the names of the files.
fn write(dir: &Path, of: Timeline, wal: &WalBuilder, from: Lsn) -> Vec<String> {
    let mut names = Vec::new();
    let mut segment = Segment::containing(of, from, MB);
    while segment.start(MB) < wal.end() {
        let mut bytes = wal.between(segment.start(MB), segment.end(MB)).to_vec();
        let partial = if bytes.len() < 1 << 20 { ".partial" } else { "" };
        bytes.resize(1 << 20, 0);
        let name = format!("{}{partial}", segment.name(MB));
        fs::write(dir.join(&name), bytes).unwrap();
        names.push(name);
        segment = segment.next();
    }
    names
}

fn change(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(dir.join(name)).unwrap();
    change(&mut bytes);
    fs::write(dir.join(name), bytes).unwrap();
}

fn move_file(dir: &Path, from: &str, to: &str) {
    fs::copy(dir.join(from), dir.join(to)).unwrap();
    fs::remove_file(dir.join(from)).unwrap();
}

fn errors(dir: &Path) -> Vec<String> {
    let report = check(dir).unwrap();
    let errors: Vec<_> = report.findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert_eq!(report.sound, errors.is_empty());
    errors.into_iter().map(|finding| format!("{}: {}", finding.file.unwrap_or_default(), finding.problem)).collect()
}

/// A folder of three whole segments and a tail, with something done to it.
fn spoilt(spoil: impl FnOnce(&Path, &[String])) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let names = write(dir.path(), Timeline::FIRST, &wal(3), START);
    assert_eq!(names.len(), 4);
    spoil(dir.path(), &names);
    errors(dir.path())
}

fn one(errors: &[String], says: &str) {
    assert!(matches!(errors, [error] if error.contains(says)), "{says:?} in {errors:#?}");
}

#[test]
fn a_sound_folder_is_described() {
    let dir = TempDir::new().unwrap();
    let mut wal = wal(3);
    let point = wal.restore_point("before the upgrade", TIME);
    write(dir.path(), Timeline::FIRST, &wal, START);
    fs::write(dir.path().join("spare.1"), "").unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.sound && report.findings.is_empty(), "{report:#?}");
    assert_eq!((report.system_id.as_deref(), report.postgres, report.segment_bytes), (Some("42"), Some(18), Some(1 << 20)));
    let [held] = report.timelines.as_slice() else { panic!("{report:#?}") };
    assert_eq!((held.from, held.complete_end, held.pending_record, held.segments), (START, wal.end(), None, 4));
    assert_eq!(held.records, wal.records().len() as u64);
    assert_eq!(held.commits, held.records / 2);
    assert_eq!(held.time_min.as_deref(), Some("2025-05-08T06:13:20.000001Z"));
    assert_eq!(held.restore_points[0].end, point.end);

    let text = print::text(&report);
    assert!(text.contains("sound: every record is right"), "{text}");
    assert!(text.contains("cluster 42, PostgreSQL 18, segments of 1 MB"), "{text}");
    assert!(text.contains("restore point \"before the upgrade\""), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["timelines"][0]["complete_end"], wal.end().to_string());
    assert_eq!(json["timelines"][0]["pending_record"], serde_json::Value::Null);
}

#[test]
fn damage_is_found() {
    assert_eq!(spoilt(|_, _| ()), [""; 0]);
    one(&spoilt(|dir, names| change(dir, &names[1], |bytes| bytes[500_000] ^= 1)), "CRC");
    one(&spoilt(|dir, names| change(dir, &names[0], |bytes| bytes[8192..].fill(0))), "later segments");
    one(
        &spoilt(|dir, names| fs::remove_file(dir.join(&names[1])).unwrap()),
        "the segment before it, 000000010000000000000011, is missing",
    );
    one(
        &spoilt(|dir, names| names[1..3].iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap())),
        "the 2 segments before it, 000000010000000000000011 to 000000010000000000000012, are missing",
    );
    one(&spoilt(|dir, names| change(dir, &names[2], |bytes| bytes.truncate(1000))), "has 1000 bytes, expected 1048576");
    one(&spoilt(|dir, names| change(dir, &names[2], |bytes| bytes[24] ^= 1)), "system identifier 43, expected 42");
    one(&spoilt(|dir, names| change(dir, &names[2], |bytes| bytes[0] = 0x16)), "magic");
    let renamed = |dir: &Path, names: &[String]| move_file(dir, &names[3], &names[3][..24]);
    one(&spoilt(renamed), "under its final name must be valid to its end");
    one(&spoilt(|dir, _| drop(fs::write(dir.join("000000010000000000001000"), vec![0; 1 << 20]))), "smaller segments than 1 MB");
}

#[test]
fn the_end_of_a_tail_is_no_damage() {
    for cut in [1, 7, 8, 23, 24, 100, 2999, 3000, 3047, 4000, 5000] {
        let kept = spoilt(|dir, names| {
            change(dir, &names[3], |bytes| {
                let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                bytes[end - cut..].fill(0);
            });
        });
        assert_eq!(kept, [""; 0], "{cut} bytes have not arrived");
    }
}

#[test]
fn a_hole_in_a_tail_is_damage() {
    let hole = |from: usize, to: usize| spoilt(|dir, names| change(dir, &names[3], |bytes| bytes[from..to].fill(0)));
    for (from, to) in [(2000, 2010), (512, 1024), (0, 512)] {
        assert_eq!(hole(from, to).len(), 1, "{from} to {to}");
    }
    one(&spoilt(|dir, names| change(dir, &names[3], |bytes| bytes[1 << 19] = 1)), "there is something up to");
}

#[test]
fn a_tail_beside_the_whole_segment_is_left_over() {
    let dir = TempDir::new().unwrap();
    let names = write(dir.path(), Timeline::FIRST, &wal(3), START);
    fs::write(dir.path().join(format!("{}.partial", names[1])), "x").unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.sound);
    assert!(report.findings[0].problem.contains("left over"), "{report:#?}");
    assert!(print::text(&report).contains("sound, with 1 warning"));
}

#[test]
fn a_folder_without_wal_is_an_error() {
    let dir = TempDir::new().unwrap();
    assert!(check(dir.path()).unwrap_err().to_string().contains("holds no WAL"));
    assert!(check(&dir.path().join("none")).is_err());
    fs::write(dir.path().join("000000010000000000000010"), vec![0; 1 << 20]).unwrap();
    one(&errors(dir.path()), "nothing can be checked");
}

/// Timeline 2 begins in the second segment; the old primary has written on.
fn promoted(dir: &Path) -> (WalBuilder, WalBuilder, Lsn) {
    let mut old = wal(1);
    let switchpoint = old.end();
    let mut new = old.clone();
    new.promote(timeline(2), TIME);
    for xid in 1..500 {
        new.filler(xid, 3000);
    }
    old.filler(1, 100);
    write(dir, Timeline::FIRST, &old, START);
    write(dir, timeline(2), &new, switchpoint);
    let history = History::root(Timeline::FIRST).child(timeline(2), switchpoint, "no recovery target specified").unwrap();
    fs::write(dir.join("00000002.history"), history.encode()).unwrap();
    (old, new, switchpoint)
}

#[test]
fn timelines_that_fit_are_sound() {
    let dir = TempDir::new().unwrap();
    let (_, new, switchpoint) = promoted(dir.path());
    let report = check(dir.path()).unwrap();
    assert!(report.sound && report.findings.is_empty(), "{report:#?}");
    assert_eq!(report.timelines[1].parent, Some(Parent { timeline: 1, end: switchpoint }));
    assert_eq!(report.timelines[1].complete_end, new.end());

    fs::remove_file(dir.path().join("00000002.history")).unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.sound && report.findings[0].problem.contains("is missing"), "{report:#?}");
}

#[test]
fn timelines_that_contradict_each_other_are_found() {
    let spoilt = |spoil: &dyn Fn(&Path, Lsn)| {
        let dir = TempDir::new().unwrap();
        let (.., switchpoint) = promoted(dir.path());
        spoil(dir.path(), switchpoint);
        errors(dir.path())
    };
    let second = |number: u32| Segment { number: MB.number(START) + 1, timeline: timeline(number) }.name(MB).to_string();
    // The same records, with another padding: each segment is valid, but they are not the same.
    one(
        &spoilt(&|dir, _| {
            let mut other = wal(1);
            other.truncate(Lsn(START.0 + MB.bytes()));
            while other.end() < Lsn(START.0 + MB.bytes() + 9000) {
                other.filler(99, 1000);
            }
            write(dir, Timeline::FIRST, &other, START);
        }),
        "differs from",
    );
    one(&spoilt(&|dir, _| fs::remove_file(dir.join(second(2))).unwrap()), "timeline 2 begins in it");
    one(&spoilt(&|dir, _| fs::write(dir.join("00000002.history"), "what").unwrap()), "expected a timeline");
    one(
        &spoilt(&|dir, _| fs::write(dir.join("00000003.history"), "1\t0/10\tx\n2\t0/20\ty").unwrap()),
        "contradicts 00000002.history",
    );
    let lost = spoilt(&|dir, _| {
        // Timeline 1 is held to the first segment's end alone, timeline 2 from its second segment on.
        fs::remove_file(dir.join(format!("{}.partial", second(1)))).unwrap();
        fs::remove_file(dir.join(second(2))).unwrap();
    });
    one(&lost, "timeline 2 begins in it");
}

#[test]
fn segments_kept_for_later_use_are_no_damage_in_a_pg_wal() {
    let dir = TempDir::new().unwrap();
    let names = write(dir.path(), Timeline::FIRST, &wal(3), START);
    fs::create_dir(dir.path().join("archive_status")).unwrap();
    // The tail has its final name there, behind it is a recycled segment, in the rest of it the content of one.
    let old = fs::read(dir.path().join(&names[0])).unwrap();
    move_file(dir.path(), &names[3], &names[3][..24]);
    change(dir.path(), &names[3][..24], |bytes| bytes[1 << 19..].copy_from_slice(&old[1 << 19..]));
    let recycled = Segment { number: MB.number(START) + 4, timeline: Timeline::FIRST };
    fs::write(dir.path().join(recycled.name(MB).as_str()), &old).unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.timelines[0].segments, report.timelines[0].complete_end), (4, wal(3).end()));
}
