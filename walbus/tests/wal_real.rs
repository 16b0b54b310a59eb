//! Real WAL of each version, decoded, compared line by line with what `pg_waldump` of that version prints.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers")]

#[path = "wal_real/cluster.rs"]
mod cluster;
#[path = "wal_real/waldump.rs"]
mod waldump;

use std::fs;
use std::path::Path;

use cluster::{Cluster, text};
use walbus::proto::control::Control;
use walbus::proto::history::History;
use walbus::proto::wal::{DecodeError, Decoder, Reason, Record, Scan, WalEvent};
use walbus::{Lsn, Segment, SegmentName, SegmentSize, Timeline, WalFile};

fn control(data: &Path) -> Control {
    Control::parse(&fs::read(data.join("global/pg_control")).unwrap()).unwrap()
}

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

/// The segments of that timeline in a folder, in order.
fn segments(folder: &Path, of: Timeline, size: SegmentSize) -> Vec<(Segment, SegmentName)> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let segments = names.filter_map(|name| match WalFile::parse(&name) {
        Some(WalFile::Segment(name)) => Some((name.segment(size).unwrap(), name)),
        _ => None,
    });
    let mut segments: Vec<_> = segments.filter(|(segment, _)| segment.timeline == of).collect();
    segments.sort();
    segments
}

/// All records of a timeline's segments, and where valid WAL ends.
fn decode(folder: &Path, of: Timeline, size: SegmentSize, chunk: usize) -> (Vec<Record>, Lsn, Option<DecodeError>) {
    let segments = segments(folder, of, size);
    let mut records = Vec::new();
    let mut scan = Scan::new(size, segments[0].0.start(size), of).unwrap();
    for (_, name) in segments {
        for part in fs::read(folder.join(name.as_str())).unwrap().chunks(chunk) {
            scan.feed(part, &mut |record: &Record| records.push(record.clone()));
        }
    }
    let end = scan.finish();
    (records, end.complete_end, end.reason)
}

/// Compares a timeline's records with `pg_waldump`'s, for several sizes of chunks; gives the records.
fn compare(cluster: &Cluster, of: Timeline) -> Vec<Record> {
    let size = control(&cluster.data_dir()).segment;
    let folder = cluster.wal_dir();
    let names: Vec<_> = segments(&folder, of, size).into_iter().map(|(_, name)| name).collect();
    let (first, last) = (names[0].as_str(), names[names.len() - 1].as_str());
    let dump = cluster.output("pg_waldump", &["-t", &of.to_string(), "-p", text(&folder), first, last]);
    let printed = String::from_utf8_lossy(&dump.stdout);
    let expected = waldump::lines(&printed);
    assert_eq!(expected.len(), printed.lines().count(), "every line is understood");
    assert!(expected.len() > 10, "{}", String::from_utf8_lossy(&dump.stderr));

    let (records, end, reason) = decode(&folder, of, size, 1 << 20);
    // At the end of WAL pg_waldump fails, and says where.
    let errors = String::from_utf8_lossy(&dump.stderr);
    let last = records.last().unwrap().lsn;
    assert!(reason.is_some(), "{errors}");
    let said_at = errors.split_once("error in WAL record at ").map(|(_, rest)| rest.split(':').next().unwrap());
    assert_eq!(said_at.map(|lsn| lsn.parse().unwrap()), Some(last), "{errors}");
    assert!(end > last);
    for (line, (record, expected)) in records.iter().zip(&expected).enumerate() {
        assert_eq!(&waldump::decoded(record), expected, "line {line}");
    }
    assert_eq!(records.len(), expected.len(), "ends at {end}: {reason:?}; pg_waldump: {errors}");
    for chunk in [8191, 100_003, 128 << 10] {
        assert_eq!(decode(&folder, of, size, chunk), (records.clone(), end, reason.clone()), "chunks of {chunk}");
    }
    println!("Postgres {}: {} records, {size}, up to {end}", cluster.major, records.len());
    records
}

/// Something of everything that goes into WAL.
fn work(cluster: &Cluster) {
    // 16 comes without lz4 and zstd.
    let compressions: &[&str] = if cluster.major == 16 { &["off", "pglz"] } else { &["off", "pglz", "lz4", "zstd"] };
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, filler text); CREATE INDEX ON t USING gin (string_to_array(filler, ' '))");
    for (round, compression) in compressions.iter().enumerate() {
        let from = round * 10_000;
        cluster.sql("CHECKPOINT");
        cluster.sql(&format!(
            "SET wal_compression = '{compression}';
             INSERT INTO t SELECT i, 'some words ' || md5(i::text) FROM generate_series({from}, {from} + 3000) i;
             UPDATE t SET filler = filler || ' more' WHERE id % 7 = 0;"
        ));
        cluster.sql(&format!("SELECT pg_create_restore_point('with {compression}')"));
    }
    cluster.run("pgbench", &["-U", "postgres", "-i", "-q", "-s", "1", "postgres"]);
    cluster.run("pgbench", &["-U", "postgres", "-n", "-c", "4", "-j", "2", "-t", "100", "postgres"]);
    cluster.sql("BEGIN; INSERT INTO t VALUES (-1, ''); PREPARE TRANSACTION 'kept'");
    cluster.sql("BEGIN; INSERT INTO t VALUES (-2, ''); PREPARE TRANSACTION 'dropped'");
    cluster.sql("COMMIT PREPARED 'kept'");
    cluster.sql("ROLLBACK PREPARED 'dropped'");
    cluster.sql("BEGIN; INSERT INTO t VALUES (-3, ''); ROLLBACK");
    // A record over several segments of 1 MB, and a commit over several pages.
    cluster.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 5000000))");
    cluster.sql("DO 'BEGIN FOR i IN 1..4000 LOOP BEGIN INSERT INTO t VALUES (-100 - i, NULL); EXCEPTION WHEN division_by_zero THEN END; END LOOP; END'");
    cluster.sql("SELECT pg_switch_wal()");
    cluster.sql("INSERT INTO t VALUES (-9, 'behind the switch')");
    cluster.sql("VACUUM t");
}

/// What `pg_controldata` says of each field.
fn compare_control(cluster: &Cluster) {
    let printed = cluster.run("pg_controldata", &["-D", text(&cluster.data_dir())]);
    let said = |label: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{label}")).trim().to_owned()
    };
    let lsn = |label| said(label).parse::<Lsn>().unwrap();
    let control = control(&cluster.data_dir());
    assert_eq!(control.version.major(), cluster.major);
    assert_eq!(control.system.to_string(), said("Database system identifier"));
    assert_eq!(control.control_version.to_string(), said("pg_control version number"));
    assert_eq!(control.catalog_version.to_string(), said("Catalog version number"));
    assert_eq!(control.state.to_string(), said("Database cluster state"));
    assert_eq!(control.checkpoint, lsn("Latest checkpoint location"));
    assert_eq!(control.redo, lsn("Latest checkpoint's REDO location"));
    assert_eq!(control.timeline.to_string(), said("Latest checkpoint's TimeLineID"));
    assert_eq!(control.previous_timeline.to_string(), said("Latest checkpoint's PrevTimeLineID"));
    assert_eq!(control.full_page_writes, said("Latest checkpoint's full_page_writes") == "on");
    // Printed in a form of the locale's. The file is written when the checkpoint has ended, at the latest when the server stops.
    let since_checkpoint_s = control.time_unix_s - control.checkpoint_time_unix_s;
    assert!((0..3600).contains(&since_checkpoint_s), "{control:?}");
    assert_eq!(control.min_recovery_point, lsn("Minimum recovery ending location"));
    let min_timeline = control.min_recovery_timeline.map_or(0, Timeline::get);
    assert_eq!(min_timeline.to_string(), said("Min recovery ending loc's timeline"));
    assert_eq!(control.backup_start, lsn("Backup start location"));
    assert_eq!(control.backup_end, lsn("Backup end location"));
    assert_eq!(control.backup_end_required, said("End-of-backup record required") == "yes");
    assert_eq!(["minimal", "replica", "logical"][usize::try_from(control.wal_level).unwrap()], said("wal_level setting"));
    for (label, number) in [
        ("max_connections", control.parameters.max_connections),
        ("max_locks_per_xact", control.parameters.max_locks_per_transaction),
        ("max_prepared_xacts", control.parameters.max_prepared_transactions),
        ("max_wal_senders", control.parameters.max_wal_senders),
        ("max_worker_processes", control.parameters.max_worker_processes),
    ] {
        assert_eq!(number.to_string(), said(&format!("{label} setting")));
    }
    assert_eq!(control.block_bytes.to_string(), said("Database block size"));
    assert_eq!(control.wal_page_bytes.to_string(), said("WAL block size"));
    assert_eq!(control.segment.bytes().to_string(), said("Bytes per WAL segment"));
    assert_eq!(control.checksum_version.to_string(), said("Data page checksum version"));
}

fn reads_what_pg_waldump_reads(major: u32, segment_mb: u32) {
    let cluster = Cluster::start(major, segment_mb);
    work(&cluster);
    compare_control(&cluster);
    cluster.down("fast");
    compare_control(&cluster);
    let records = compare(&cluster, Timeline::FIRST);

    let events: Vec<_> = records.iter().filter_map(|record| record.event.as_ref()).collect();
    let has = |test: fn(&WalEvent) -> bool| events.iter().any(|event| test(event));
    assert!(has(|event| matches!(event, WalEvent::Abort { .. })));
    assert!(has(|event| matches!(event, WalEvent::AbortPrepared { .. })));
    assert!(has(|event| matches!(event, WalEvent::CommitPrepared { .. })));
    assert!(has(|event| matches!(event, WalEvent::RestorePoint { name, .. } if name == "with pglz")));
    assert!(has(|event| matches!(event, WalEvent::Switch)));
    assert_eq!(has(|event| matches!(event, WalEvent::CheckpointRedo)), major >= 17);
    let shutdown = records.last().unwrap();
    assert_eq!(shutdown.lsn, control(&cluster.data_dir()).checkpoint);
    assert!(records.iter().any(|record| record.total_bytes > 5_000_000));
    let commit = |record: &&Record| matches!(record.event, Some(WalEvent::Commit { .. }));
    assert!(records.iter().filter(commit).any(|record| record.total_bytes > 16_000), "a commit over pages");
}

#[test]
fn postgres_15() {
    reads_what_pg_waldump_reads(15, 1);
}

#[test]
fn postgres_16() {
    reads_what_pg_waldump_reads(16, 16);
}

#[test]
fn postgres_17() {
    reads_what_pg_waldump_reads(17, 64);
}

#[test]
fn postgres_18() {
    reads_what_pg_waldump_reads(18, 1);
}

/// A record lost in a crash: the segment in which it goes on is gone.
fn overwrite_contrecord(major: u32) {
    let cluster = Cluster::start(major, 1);
    cluster.sql("CREATE TABLE t AS SELECT 1 AS id");
    cluster.sql("CHECKPOINT");
    let before: Lsn = cluster.sql("SELECT pg_current_wal_insert_lsn()").trim().parse().unwrap();
    cluster.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 3000000))");
    cluster.sql("INSERT INTO t VALUES (2)");
    cluster.down("immediate");
    let size = SegmentSize::MIN;
    for (segment, name) in segments(&cluster.wal_dir(), Timeline::FIRST, size) {
        if segment.number > size.number(before) + 1 {
            fs::remove_file(cluster.wal_dir().join(name.as_str())).unwrap();
        }
    }
    cluster.up();
    cluster.sql("INSERT INTO t SELECT generate_series(1, 50000)");
    cluster.down("fast");
    let records = compare(&cluster, Timeline::FIRST);
    let overwrite = |record: &Record| match record.event {
        Some(WalEvent::OverwriteContrecord { overwritten, .. }) => Some((record.lsn, overwritten)),
        _ => None,
    };
    let (lsn, overwritten) = records.iter().find_map(overwrite).expect("an overwrite-contrecord");
    assert!(overwritten >= before && size.number(lsn) == size.number(before) + 2, "{overwritten} by {lsn}");
}

#[test]
fn overwrite_contrecord_15() {
    overwrite_contrecord(15);
}

#[test]
fn overwrite_contrecord_18() {
    overwrite_contrecord(18);
}

/// Two promotions: pages of three timelines in one segment.
fn promotions(major: u32) {
    let mut cluster = Cluster::start(major, 16);
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    for (next, copy) in [(2, "second"), (3, "third")] {
        cluster.down("fast");
        cluster.switch_to_copy(copy);
        fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
        cluster.up();
        compare_control(&cluster);
        cluster.promote();
        cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)");
        let history = fs::read(cluster.wal_dir().join(format!("{next:08X}.history"))).unwrap();
        let history = History::parse(timeline(next), &history).unwrap();
        assert_eq!(history.ancestors().len(), usize::try_from(next).unwrap() - 1);
        assert!(history.ancestors()[0].reason.contains("no recovery target"), "{history}");
    }
    cluster.sql("CHECKPOINT");
    cluster.down("fast");
    compare_control(&cluster);
    let control = control(&cluster.data_dir());
    assert_eq!(control.timeline, timeline(3));
    let records = compare(&cluster, timeline(3));
    let timelines: Vec<_> = records.iter().filter_map(|record| Some(record.timeline?.get())).collect();
    assert!(timelines.contains(&1) && timelines.contains(&2) && timelines.contains(&3), "all in one segment");
    assert!(timelines.is_sorted());
    let history = fs::read(cluster.wal_dir().join("00000003.history")).unwrap();
    let history = History::parse(timeline(3), &history).unwrap();
    for promotion in records.iter().filter(|record| matches!(record.event, Some(WalEvent::EndOfRecovery { .. }))) {
        let Some(WalEvent::EndOfRecovery { timeline, previous, .. }) = promotion.event else { continue };
        assert_eq!(history.switchpoint(previous), Some(promotion.lsn));
        assert_eq!(history.timeline_at(promotion.lsn), timeline);
    }

    // Read as timeline 2's, the pages of timeline 3 are refused.
    let size = control.segment;
    let (segment, name) = segments(&cluster.wal_dir(), timeline(3), size)[0].clone();
    let mut decoder = Decoder::new(size, segment.start(size), timeline(2)).unwrap();
    let error = decoder.push(&fs::read(cluster.wal_dir().join(name.as_str())).unwrap(), &mut |_| ()).unwrap_err();
    assert_eq!(error.reason, Reason::TimelineAhead { limit: timeline(2), found: 3 });
}

#[test]
fn promotions_15() {
    promotions(15);
}

#[test]
fn promotions_18() {
    promotions(18);
}
