use super::*;
use walbus::archive::store::Options;
use walbus::proto::control::DbState;
use walbus::proto::wal::{WalBuilder, WalVersion};
use walbus::{PgTime, SegmentSize, SystemId, Timeline};

const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);
const SIZE: SegmentSize = SegmentSize::MIN;
const FILE: &str = "000000010000000000000003";

fn control() -> Control {
    Control {
        system: SYSTEM,
        version: WalVersion::V18,
        control_version: 1800,
        catalog_version: 0,
        state: DbState::InProduction,
        time_unix_s: 0,
        checkpoint: Lsn(0),
        checkpoint_time_unix_s: 0,
        redo: Lsn(0),
        timeline: Timeline::FIRST,
        previous_timeline: Timeline::FIRST,
        full_page_writes: true,
        min_recovery_point: Lsn(0),
        min_recovery_timeline: None,
        backup_start: Lsn(0),
        backup_end: Lsn(0),
        backup_end_required: false,
        wal_level: 1,
        parameters: Default::default(),
        block_bytes: 8192,
        wal_page_bytes: 8192,
        segment: SIZE,
        checksum_version: 0,
    }
}

/// A segment of commits, the ends of which are given.
fn wal(commits: u32) -> (Vec<u8>, Vec<Lsn>) {
    let mut wal = WalBuilder::new(SIZE, Lsn(3 * SIZE.bytes()), SYSTEM);
    let ends = (1..=commits).map(|xid| wal.commit(xid, PgTime(i64::from(xid))).end).collect();
    let mut bytes = wal.bytes().to_vec();
    bytes.resize(1 << 20, 0);
    (bytes, ends)
}

fn upto(bytes: &[u8], end: Lsn) -> Bytes {
    Bytes::copy_from_slice(&bytes[..usize::try_from(SIZE.offset(end)).unwrap()])
}

fn name(suffix: &str) -> ObjectName {
    ObjectName::parse(&format!("{SYSTEM}/00000001/{FILE}{suffix}.zst")).unwrap()
}

fn tail(end: Lsn) -> ObjectName {
    name(&format!(".tail/{:016X}", end.0))
}

fn test(run: impl AsyncFnOnce(Archive)) {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::open(&format!("file://{}", folder.path().display()), Options::new([])).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        archive.probe().await.unwrap();
        run(archive).await;
    });
}

async fn found(archive: &Archive, tails: bool) -> Option<Bytes> {
    find(archive, &control(), FILE, tails).await.unwrap()
}

#[test]
fn what_is_not_there_whole_is_given_as_far_as_it_is() {
    test(async |archive| {
        let (bytes, ends) = wal(40);
        assert_eq!(found(&archive, true).await, None);
        for end in [ends[9], ends[19]] {
            archive.put(&tail(end), upto(&bytes, end)).await.unwrap();
        }
        let given = found(&archive, true).await.unwrap();
        assert_eq!((given.len(), &given[..upto(&bytes, ends[19]).len()]), (1 << 20, &upto(&bytes, ends[19])[..]));
        assert!(given[upto(&bytes, ends[19]).len()..].iter().all(|byte| *byte == 0));
        assert_eq!(found(&archive, false).await, None, "whole segments only");

        // A partial that ends before the tail, then one behind it.
        let mut partial = upto(&bytes, ends[4]).to_vec();
        partial.resize(1 << 20, 0);
        archive.put(&name(".partial"), partial.into()).await.unwrap();
        assert_eq!(found(&archive, true).await, Some(given));
        archive.delete(&name(".partial")).await.unwrap();
        archive.put(&name(".partial"), bytes.clone().into()).await.unwrap();
        assert_eq!(found(&archive, true).await, Some(bytes.into()));

        let whole = [wal(50).0, Vec::new()].concat();
        archive.put(&name(""), whole.clone().into()).await.unwrap();
        assert_eq!(found(&archive, true).await, Some(whole.into()));
    });
}

#[test]
fn a_part_never_takes_the_place_of_an_own_segment_that_reaches_further() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = DataFolder { path: scratch.path().to_owned(), control: control() };
    let pg_wal = scratch.path().join("pg_wal");
    std::fs::create_dir(&pg_wal).unwrap();
    let (own, path, segment) = (pg_wal.join(FILE), Path::new("pg_wal/RECOVERYXLOG"), FILE.parse().unwrap());
    let left = |part: &[u8]| own_that_reaches(&folder, path, &segment, part).unwrap();
    let (bytes, ends) = wal(40);
    let filled = |end: Lsn| [&upto(&bytes, end)[..], &vec![0; 1 << 20]].concat()[..1 << 20].to_vec();
    assert_eq!(left(&filled(ends[9])), None, "there is no file of its own");
    std::fs::write(&own, &bytes).unwrap();
    for (end, why) in
        [(ends[9], "it is longer"), (ends[39], "it is the same"), (Lsn(ends[20].0 + 9), "the part ends within a record")]
    {
        assert_eq!(left(&filled(end)), Some(own.clone()), "{why}");
    }
    std::fs::write(&own, filled(ends[9])).unwrap();
    assert_eq!(left(&filled(ends[19])), None, "the part has more");
    // Beside PATH, where the data folder is named and PATH is elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = DataFolder { path: elsewhere.path().to_owned(), control: control() };
    let beside = own_that_reaches(&other, &pg_wal.join("RECOVERYXLOG"), &segment, &filled(ends[4])).unwrap();
    assert_eq!(beside, Some(own.clone()));
    // What is under its name may be a recycled one, another cluster's, or cut off.
    let mut recycled = WalBuilder::new(SIZE, Lsn(9 * SIZE.bytes()), SYSTEM);
    let mut foreign = WalBuilder::new(SIZE, Lsn(3 * SIZE.bytes()), SystemId(1));
    for wal in [&mut recycled, &mut foreign] {
        wal.filler(1, 100);
        wal.switch();
        std::fs::write(&own, wal.bytes()).unwrap();
        assert_eq!(left(&filled(ends[9])), None);
    }
    std::fs::write(&own, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(left(&filled(ends[9])), None);
}

#[test]
fn the_rest_of_a_record_from_before_counts_by_its_bytes() {
    let mut wal = WalBuilder::new(SIZE, Lsn(2 * SIZE.bytes()), SYSTEM);
    wal.filler(1, u32::try_from(SIZE.bytes()).unwrap() + 300_000);
    let end = wal.end();
    let mut bytes = wal.bytes()[1 << 20..].to_vec();
    bytes.resize(1 << 20, 0);
    let reaches = |own: &[u8], part: &[u8]| reaches(own, part, Segment { number: 3, timeline: Timeline::FIRST }, SIZE);
    let half = [&bytes[..100_000], &vec![0; (1 << 20) - 100_000]].concat();
    assert!(end > Lsn(3 * SIZE.bytes() + 200_000) && reaches(&bytes, &bytes) && reaches(&bytes, &half));
    assert!(!reaches(&half, &bytes), "half of the rest is not all of it");
}

#[test]
fn what_is_not_what_its_name_says_is_never_given() {
    test(async |archive| {
        let other = ObjectName::of_file(SYSTEM, "000000010000000000000004").unwrap();
        archive.put(&other, wal(5).0.into()).await.unwrap();
        let error = find(&archive, &control(), "000000010000000000000004", true).await.unwrap_err();
        assert!(format!("{error:#}").contains("another segment"), "{error:#}");
        let (bytes, ends) = wal(5);
        let short = name(".tail/0000000000300010");
        archive.put(&short, bytes[..16].to_vec().into()).await.unwrap();
        assert!(find(&archive, &control(), FILE, true).await.is_err(), "a tail without a page's header");
        archive.put(&tail(ends[1]), upto(&bytes, ends[1])).await.unwrap();
        assert!(found(&archive, true).await.is_some(), "the longest one counts");
        assert!(find(&archive, &control(), "RECOVERYXLOG", true).await.is_err());
    });
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("RECOVERYXLOG");
    std::fs::write(&path, "what was there before").unwrap();
    write(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    // A folder of that name can't be replaced by a file.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    assert!(write(&taken, b"new").is_err());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing temporary is left: {left:?}");
}

#[test]
fn a_part_is_done_with_where_the_archive_has_all_of_it() {
    test(async |archive| {
        let (bytes, ends) = wal(40);
        let part = |end: Lsn| [&upto(&bytes, end)[..], &vec![0; 1 << 20]].concat()[..1 << 20].to_vec();
        let has = async |part: &[u8]| has_all_of(&archive, &control(), &name(""), part).await.unwrap();
        assert!(!has(&part(ends[9])).await, "nothing is there");
        archive.put(&tail(ends[9]), upto(&bytes, ends[9])).await.unwrap();
        assert!(has(&part(ends[9])).await && has(&part(ends[4])).await && !has(&part(ends[10])).await);
        // A record that is torn at its end is none, and one byte of another record is another segment.
        let mut torn = part(ends[9]);
        let end = upto(&bytes, ends[9]).len();
        torn[end..end + 8].copy_from_slice(&bytes[end..end + 8]);
        assert!(has(&torn).await);
        let mut wal = WalBuilder::new(SIZE, Lsn(3 * SIZE.bytes()), SYSTEM);
        for xid in 1..=10 {
            wal.commit(xid, PgTime(7));
        }
        let mut other = wal.bytes().to_vec();
        other.resize(1 << 20, 0);
        assert!(!has(&other).await);
        archive.put(&name(""), bytes.clone().into()).await.unwrap();
        assert!(has(&part(ends[20])).await && !has(&other).await);
    });
}
