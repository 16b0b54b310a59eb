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
