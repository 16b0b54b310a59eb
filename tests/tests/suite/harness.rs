//! The harness itself, with `pg_receivewal` where the sink would be.

use anyhow::{Context, Result, ensure};
use harness::postgres::VERSIONS;
use harness::{Ledger, Postgres, StopMode};
use walbus::{Lsn, Segment};

#[tokio::test]
async fn every_version_starts_stops_and_starts_again() -> Result<()> {
    for version in VERSIONS {
        let mut cluster = Postgres::version(version).wal_segment_mb(1).start().await?;
        assert!(cluster.value("SHOW server_version").await?.starts_with(&version.to_string()));
        assert_eq!(cluster.value("SHOW wal_segment_size").await?, "1MB");
        cluster.execute("CREATE TABLE t AS SELECT 1 AS n").await?;
        cluster.restart().await?;
        cluster.kill()?;
        cluster.start().await?;
        assert_eq!(cluster.psql("SELECT n FROM t").await?.trim(), "1");
        cluster.stop(StopMode::Smart).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_older_data_folder_lost_what_came_after_it() -> Result<()> {
    let mut cluster = Postgres::version(18).start().await?;
    let mut ledger = Ledger::create(&cluster).await?;
    ledger.write(&cluster, 2);
    ledger.wait_more(50).await?;
    let snapshot = cluster.snapshot().await?;
    ledger.wait_more(50).await?;
    cluster.kill()?;
    ledger.stop().await;

    cluster.start().await?;
    assert_eq!(ledger.verify(&cluster).await?.lost, []);
    cluster.kill()?;

    cluster.restore(&snapshot).await?;
    cluster.start().await?;
    let found = ledger.verify(&cluster).await?;
    assert!(found.lost.len() >= 50, "a snapshot has what was there when it was taken, and no more: {found:?}");
    assert!(found.rows >= 50);
    Ok(())
}

#[tokio::test]
async fn a_cluster_goes_from_timeline_to_timeline() -> Result<()> {
    let mut cluster = Postgres::version(18).start().await?;
    for timeline in [2, 3] {
        cluster.restart_as_standby().await?;
        cluster.promote().await?;
        cluster.execute("CHECKPOINT").await?;
        assert_eq!(cluster.control_timeline().await?.get(), timeline);
    }
    let standby = Postgres::version(18).standby_of(&cluster).await?;
    assert_eq!(standby.value("SELECT pg_is_in_recovery()").await?, "t");
    Ok(())
}

#[tokio::test]
async fn a_record_that_a_primary_lost_is_overwritten() -> Result<()> {
    for version in VERSIONS {
        let mut cluster = Postgres::version(version).wal_segment_mb(1).setting("wal_keep_size", "64MB").start().await?;
        let boundary = Lsn(cluster.switch_wal().await?.0 + cluster.segment_size().bytes());
        cluster.value("SELECT pg_logical_emit_message(true, 'harness', repeat('x', 4000000))").await?;
        cluster.kill()?;
        cluster.remove_wal_from(boundary)?;
        cluster.start().await?;
        let segments = cluster.segments()?;
        let last = segments.last().context("there is WAL")?;
        let first = Segment::containing(last.timeline, Lsn(boundary.0 - 1), cluster.segment_size());
        let dump = cluster
            .waldump(&cluster.wal(), &first.name(cluster.segment_size()), &first.next().name(cluster.segment_size()))
            .await?;
        ensure!(dump.records.contains("OVERWRITE_CONTRECORD"), "version {version}: {dump:?}");
    }
    Ok(())
}
