//! What the sink holds is what the primary wrote, byte by byte, and Postgres' own tools read it.

use anyhow::{Context, Result, ensure};
use harness::compare::{compare, waldump};
use harness::postgres::{Setup, VERSIONS};
use harness::{Cut, DEADLINE, Postgres, Proxy, Sink, eventually};
use walbus::Lsn;

/// A cluster that keeps all its WAL.
fn keeping(version: u32, segment_mb: u32) -> Setup {
    Postgres::version(version).wal_segment_mb(segment_mb).setting("wal_keep_size", "4GB").setting("max_wal_size", "4GB")
}

/// Writes over segment boundaries, by size and by `pg_switch_wal`, and leaves a tail.
async fn write_segments(cluster: &Postgres) -> Result<()> {
    let size = cluster.segment_size().bytes();
    cluster.write_wal(size + size / 6).await?;
    cluster.switch_wal().await?;
    cluster.switch_wal().await?;
    cluster.write_wal(size / 5).await
}

/// All that the primary has flushed is held, is the same, and can be read.
async fn same(sink: &mut Sink, cluster: &Postgres, whole_min: usize) -> Result<()> {
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    let compared = compare(sink, cluster).await?;
    ensure!(compared.whole >= whole_min, "{whole_min} whole segments expected: {compared:?}");
    let records = waldump(sink, cluster).await?;
    ensure!(records.contains("SWITCH"), "pg_waldump shows the switches");
    Ok(())
}

async fn every_byte(version: u32, segment_mb: u32) -> Result<()> {
    let cluster = keeping(version, segment_mb).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    write_segments(&cluster).await?;
    same(&mut sink, &cluster, 3).await?;
    let check = sink.check().await?;
    ensure!(check.status.success(), "check: {check:?}");
    Ok(())
}

#[tokio::test]
async fn every_version_with_segments_of_1_mb() -> Result<()> {
    for version in VERSIONS {
        every_byte(version, 1).await.with_context(|| format!("version {version}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_version_with_segments_of_16_mb() -> Result<()> {
    for version in VERSIONS {
        every_byte(version, 16).await.with_context(|| format!("version {version}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn version_15_with_segments_of_64_mb() -> Result<()> {
    every_byte(15, 64).await
}

#[tokio::test]
async fn version_18_with_segments_of_64_mb() -> Result<()> {
    every_byte(18, 64).await
}

#[tokio::test]
async fn a_promotion_to_timeline_2_and_3_while_streaming() -> Result<()> {
    for version in [15, 18] {
        let mut cluster = keeping(version, 1).start().await?;
        let mut sink = Sink::of(&cluster).await?;
        for timeline in [2, 3] {
            write_segments(&cluster).await?;
            cluster.restart_as_standby().await?;
            // It streams from the standby when that is promoted, and is told that the timeline ends.
            sink.wait_for("a session with the standby", |status| status.state == "streaming").await?;
            eventually(DEADLINE, "the standby to stream to the sink", async || {
                Ok((cluster.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await? == "1")
                    .then_some(()))
            })
            .await?;
            cluster.promote().await?;
            write_segments(&cluster).await?;
            sink.wait_for("the new timeline", |status| status.timeline.is_some_and(|is| is.get() == timeline)).await?;
            same(&mut sink, &cluster, 3).await.with_context(|| format!("timeline {timeline} of {version}"))?;
        }
        ensure!(sink.check().await?.status.success(), "check: {:?}", sink.check().await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_promotion_while_the_sink_is_down() -> Result<()> {
    let mut cluster = keeping(18, 1).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    write_segments(&cluster).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    ensure!(sink.stop().await?.success());
    for _ in 0..2 {
        cluster.restart_as_standby().await?;
        cluster.promote().await?;
        write_segments(&cluster).await?;
    }
    sink.start().await?;
    sink.wait_for("the newest timeline", |status| status.timeline.is_some_and(|is| is.get() == 3)).await?;
    same(&mut sink, &cluster, 6).await
}

/// A record that the primary began and lost: it writes an overwrite-contrecord in its place when it comes back.
async fn overwrite_contrecord(version: u32, sink_has_part: bool) -> Result<()> {
    let mut cluster = keeping(version, 1).setting("autovacuum", "off").start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    cluster.write_wal(1 << 20).await?;
    let before = cluster.switch_wal().await?;
    cluster.write_wal(100_000).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;

    // One record of some four segments, of which the sink has a part in the second, or nothing.
    let boundary = Lsn(before.0 + cluster.segment_size().bytes());
    if sink_has_part {
        proxy.throttle(2 << 20);
    } else {
        proxy.refuse();
        proxy.cut(Cut::Reset);
    }
    cluster.value("SELECT pg_logical_emit_message(true, 'harness', repeat('x', 4000000))").await?;
    if sink_has_part {
        sink.wait_for("a part of the record", |status| status.flushed.0 > boundary.0).await?;
        proxy.refuse();
        proxy.cut(Cut::Reset);
        let status = sink.wait_for("the link to be down", |status| status.state != "streaming").await?;
        ensure!(status.complete < boundary && boundary < status.flushed, "the sink has a part of the record: {status:?}");
    }
    cluster.kill()?;
    cluster.remove_wal_from(boundary)?;
    cluster.start().await?;
    proxy.heal();
    write_segments(&cluster).await?;
    same(&mut sink, &cluster, 3).await?;
    ensure!(waldump(&sink, &cluster).await?.contains("OVERWRITE_CONTRECORD"), "the primary wrote none");
    ensure!(sink.check().await?.status.success(), "check: {:?}", sink.check().await?);
    Ok(())
}

#[tokio::test]
async fn a_lost_record_is_overwritten_that_the_sink_never_saw() -> Result<()> {
    for version in [15, 18] {
        overwrite_contrecord(version, false).await.with_context(|| format!("version {version}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_record_is_overwritten_that_the_sink_has_a_part_of() -> Result<()> {
    for version in [15, 18] {
        overwrite_contrecord(version, true).await.with_context(|| format!("version {version}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_start_and_kill_of_the_primary_leaves_the_same_bytes() -> Result<()> {
    let mut cluster = keeping(18, 1).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    for _ in 0..3 {
        write_segments(&cluster).await?;
        cluster.kill()?;
        cluster.start().await?;
        cluster.restart().await?;
    }
    write_segments(&cluster).await?;
    sink.wait_streaming().await?;
    same(&mut sink, &cluster, 10).await
}
