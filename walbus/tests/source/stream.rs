//! Commands and the stream.

use std::time::Duration;

use walbus::proto::backend::SqlState;
use walbus::proto::replication::StandbyStatus;
use walbus::source::{Class, Client, CopyStream, Event, NextTimeline, SourceError};
use walbus::{Lsn, SegmentSize, Timeline};

use crate::cluster::{Cluster, connect_to, major};

/// Reads the stream up to `end`, and gives its bytes; every piece must follow on the one before.
async fn read_to(stream: &mut CopyStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut event = stream.next().await.unwrap();
    loop {
        match event {
            Event::Wal(data) => {
                assert_eq!(data.start, start.checked_add(bytes.len() as u64).unwrap());
                bytes.extend_from_slice(&data.data);
            }
            Event::Keepalive(_) => {}
            Event::End => return bytes,
        }
        if start.0 + bytes.len() as u64 >= end.0 {
            return bytes;
        }
        event = match stream.try_next().unwrap() {
            Some(event) => event,
            None => stream.next().await.unwrap(),
        };
    }
}

fn lsn(cluster: &Cluster, sql: &str) -> Lsn {
    cluster.sql(&format!("SELECT {sql}")).parse().unwrap()
}

#[tokio::test]
async fn commands_say_what_sql_says() {
    let cluster = Cluster::start("", "");
    let mut client = cluster.connect().await;
    let identity = client.identify_system().await.unwrap();
    assert_eq!(identity.system_id.to_string(), cluster.sql("SELECT system_identifier FROM pg_control_system()"));
    assert_eq!((identity.timeline, identity.dbname), (Timeline::FIRST, None));
    assert!(identity.flushed <= lsn(&cluster, "pg_current_wal_flush_lsn()"));
    assert_eq!(client.server_version_major(), Some(major()));
    assert_eq!(client.parameter_status("integer_datetimes"), Some("on"));
    assert_eq!(client.show("wal_segment_size").await.unwrap(), "16MB");
    assert_eq!(client.show("application_name").await.unwrap(), "walbus-test");
    let error = client.show("no_such.setting").await.unwrap_err();
    assert!(matches!(error, SourceError::Refused { .. }), "the session goes on after an error: {error}");

    assert_eq!(client.read_slot("sink").await.unwrap(), None);
    client.create_physical_slot("lazy", false).await.unwrap();
    assert_eq!(client.read_slot("lazy").await.unwrap().unwrap().restart_lsn, None);
    client.create_physical_slot("sink", true).await.unwrap();
    let slot = client.read_slot("sink").await.unwrap().unwrap();
    let held: Lsn = cluster.sql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'sink'").parse().unwrap();
    assert_eq!((slot.restart_lsn, slot.restart_timeline), (Some(held), Some(Timeline::FIRST)));
    assert_eq!(client.create_physical_slot("sink", true).await.unwrap_err().sqlstate(), Some(SqlState::DUPLICATE_OBJECT));
    // Older servers don't read a quote in quotes back; no slot's name has one.
    let name = if major() >= 18 { "Up\"per; SELECT 1" } else { "Upper; SELECT 1" };
    let error = client.create_physical_slot(name, true).await.unwrap_err();
    assert!(error.to_string().contains(name), "the name came through as it is: {error}");
    client.drop_slot("sink").await.unwrap();
    assert_eq!(client.drop_slot("sink").await.unwrap_err().class(), Class::NoSuchSlot);
    let error = client.timeline_history(Timeline::new(9).unwrap()).await.unwrap_err();
    assert_eq!(error.class(), Class::WalRemoved, "{error}");
}

#[tokio::test]
async fn wal_is_what_the_server_has_and_statuses_arrive() {
    let cluster = Cluster::start("", "wal_sender_timeout = 61s");
    let mut client = cluster.connect().await;
    client.create_physical_slot("sink", true).await.unwrap();
    let start = SegmentSize::DEFAULT.floor(client.read_slot("sink").await.unwrap().unwrap().restart_lsn.unwrap());
    let mut stream = client.start_physical(Some("sink"), start, Timeline::FIRST).await.unwrap();
    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 100000) i");
    let end = lsn(&cluster, "pg_current_wal_flush_lsn()");
    let bytes = read_to(&mut stream, start, end).await;
    assert!(bytes.len() > 60_000_000, "{} bytes", bytes.len());
    for (index, segment) in bytes.chunks_exact(16 << 20).enumerate() {
        let number = SegmentSize::DEFAULT.number(start) + index as u64;
        let name = format!("data/pg_wal/00000001{:08X}{:08X}", number / 256, number % 256);
        assert!(std::fs::read(cluster.path(&name)).unwrap() == segment, "{name} differs");
    }

    let end = start.checked_add(bytes.len() as u64).unwrap();
    let status = StandbyStatus { write: end, flush: Lsn(end.0 - 8), reply_requested: true, ..StandbyStatus::default() };
    assert!(stream.try_send_status(&status));
    // The reply says that the status has been taken in.
    while !matches!(stream.next().await.unwrap(), Event::Keepalive(_)) {}
    let row = cluster.sql("SELECT write_lsn, flush_lsn, replay_lsn, application_name, pid FROM pg_stat_replication");
    assert_eq!(row, format!("{end}|{}||walbus-test|{}", status.flush, stream.backend_pid().unwrap()));
    assert_eq!(stream.try_next().unwrap(), None);

    // A dropped `next` loses nothing.
    let waited = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
    assert!(!matches!(waited, Ok(Ok(Event::End))));
    cluster.sql("INSERT INTO t SELECT 1, 'y'");
    // The rest of the segment is sent too.
    let switched = SegmentSize::DEFAULT.ceil(lsn(&cluster, "pg_switch_wal()"));
    let later = read_to(&mut stream, end, switched).await;
    assert!(!later.is_empty());

    // The stream may be ended from here, and the session goes on.
    let (mut client, next) = stream.finish().await.unwrap();
    assert_eq!(next, None);
    assert_eq!(client.show("wal_sender_timeout").await.unwrap(), "61s");
}

#[tokio::test]
async fn timelines_end_and_go_on() {
    let cluster = Cluster::start("", "");
    let start = SegmentSize::DEFAULT.floor(lsn(&cluster, "pg_current_wal_flush_lsn()"));
    cluster.pg_ctl("stop");
    cluster.write("data/standby.signal", "", 0o600);
    cluster.pg_ctl("start");
    let client = cluster.connect().await;
    let mut stream = client.start_physical(None, start, Timeline::FIRST).await.unwrap();
    cluster.pg_ctl("promote");
    // A cascading walsender ends its stream at the promotion.
    let bytes = read_to(&mut stream, start, Lsn::MAX).await;
    assert_eq!(stream.next().await.unwrap(), Event::End, "an end stays one");
    let (mut client, next) = stream.finish().await.unwrap();
    let second = Timeline::new(2).unwrap();
    let switch = start.checked_add(bytes.len() as u64).unwrap();
    assert_eq!(next, Some(NextTimeline { timeline: second, start: switch }));
    let (name, content) = client.timeline_history(second).await.unwrap();
    assert_eq!(name, "00000002.history");
    assert_eq!(content, std::fs::read(cluster.path("data/pg_wal/00000002.history")).unwrap());
    // Where nothing is left of the old timeline, its stream ends before it starts.
    let mut stream = client.start_physical(None, switch, Timeline::FIRST).await.unwrap();
    assert_eq!(stream.try_next().unwrap(), Some(Event::End));
    let (client, next) = stream.finish().await.unwrap();
    assert_eq!(next, Some(NextTimeline { timeline: second, start: switch }));
    let mut stream = client.start_physical(None, start, second).await.unwrap();
    let end = lsn(&cluster, "pg_current_wal_flush_lsn()");
    assert!(read_to(&mut stream, start, end).await.len() as u64 >= end.0 - start.0);
}

/// What a stream is refused with: as it starts, or, where WAL is missing, at its first event.
async fn refusal(cluster: &Cluster, slot: Option<&str>, start: Lsn, timeline: u32) -> SourceError {
    let client: Client = cluster.connect().await;
    match client.start_physical(slot, start, Timeline::new(timeline).unwrap()).await {
        Ok(mut stream) => stream.next().await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let cluster = Cluster::start(
        "",
        "max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB\nmax_wal_senders = 10\nwal_level = logical",
    );
    let mut client = cluster.connect().await;
    client.create_physical_slot("sink", true).await.unwrap();
    let start = SegmentSize::DEFAULT.floor(client.identify_system().await.unwrap().flushed);
    let mut stream = client.start_physical(Some("sink"), start, Timeline::FIRST).await.unwrap();

    let error = refusal(&cluster, Some("sink"), start, 1).await;
    assert_eq!((error.sqlstate(), error.class()), (Some(SqlState::OBJECT_IN_USE), Class::Retry), "{error}");
    assert_eq!(refusal(&cluster, Some("nobody"), start, 1).await.class(), Class::NoSuchSlot);
    assert_eq!(refusal(&cluster, None, start, 7).await.class(), Class::Other);
    assert_eq!(refusal(&cluster, None, Lsn(start.0 + (1 << 40)), 1).await.class(), Class::Other);
    cluster.sql("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')");
    assert_eq!(refusal(&cluster, Some("logical"), start, 1).await.class(), Class::SlotUnusable);

    let mut held = Vec::new();
    let error = loop {
        match connect_to(&cluster.socket()).await {
            Ok(client) => held.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!((error.sqlstate(), error.is_retryable()), (Some(SqlState::TOO_MANY_CONNECTIONS), true), "{error}");
    drop(held);
    while cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'") != "1" {}

    // An administrator ends the walsender: its reason arrives before the end of the connection does.
    cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'sink'");
    let error = loop {
        match stream.next().await {
            Ok(_) => stream.send_status(&StandbyStatus::default()).await,
            Err(error) => break error,
        }
    };
    assert_eq!((error.sqlstate(), error.is_retryable()), (Some(SqlState::ADMIN_SHUTDOWN), true), "{error}");

    cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 200000) i");
    cluster.sql("SELECT pg_switch_wal()");
    cluster.sql("CHECKPOINT");
    assert_eq!(refusal(&cluster, None, start, 1).await.class(), Class::WalRemoved);
    // Before 18 a walsender takes an invalidated slot, and then lacks the WAL.
    let class = if major() >= 18 { Class::SlotUnusable } else { Class::WalRemoved };
    assert_eq!(refusal(&cluster, Some("sink"), start, 1).await.class(), class);
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so() {
    let cluster = Cluster::start("", "");
    let mut client = cluster.connect().await;
    let start = client.identify_system().await.unwrap().flushed;
    let start = SegmentSize::DEFAULT.floor(start);
    let mut stream = client.start_physical(None, start, Timeline::FIRST).await.unwrap();
    let reads = async {
        let mut end = start;
        loop {
            match stream.next().await {
                Ok(Event::Wal(data)) => end = data.start.checked_add(data.data.len() as u64).unwrap(),
                Ok(_) => {}
                Err(error) => break error,
            }
            // The server waits until all it has sent is flushed.
            stream.send_status(&StandbyStatus { write: end, flush: end, ..StandbyStatus::default() }).await;
        }
    };
    let stop = tokio::task::spawn_blocking(move || {
        cluster.pg_ctl("stop");
        cluster
    });
    let error = tokio::time::timeout(Duration::from_secs(60), reads).await.unwrap();
    assert!(matches!(error, SourceError::Closed { orderly: true, .. }), "{error}");
    drop(stop.await.unwrap());
}
