//! Disks that fill and fail, links that break, signals: what was acknowledged stays, and what can go on goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::compare::compare;
use harness::postgres::Setup;
use harness::sink::APPLICATION_NAME;
use harness::{Cut, DEADLINE, Direction, FailingSync, FullDisk, Ledger, Postgres, Proxy, Sink, StopMode, eventually};
use rustix::process::Signal;

/// A cluster that keeps all its WAL, in small segments.
fn keeping() -> Setup {
    Postgres::version(18).wal_segment_mb(1).setting("wal_keep_size", "1GB").setting("max_wal_size", "1GB")
}

/// All is held, and is the same.
async fn same(sink: &mut Sink, cluster: &Postgres) -> Result<()> {
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    compare(sink, cluster).await.map(drop)
}

#[tokio::test]
async fn a_full_disk_stops_acknowledging_and_goes_on_when_there_is_room() -> Result<()> {
    let Some(disk) = FullDisk::new(24)? else { return Ok(()) };
    let mut cluster = keeping().start().await?;
    let mut sink = Sink::new(&cluster.conninfo())?;
    sink.set_data(&disk.path().join("wal")).start().await?;
    sink.wait_streaming().await?;
    cluster.synchronous(APPLICATION_NAME, "on").await?;
    let mut ledger = Ledger::create(&cluster).await?;
    ledger.write(&cluster, 4);
    ledger.wait_more(20).await?;
    disk.fill(0)?;

    let full = sink.wait_for("a full disk", |status| status.state == "disk_full").await?;
    ensure!(full.alarm && full.problem.contains("--data-dir"), "{full:?}");
    // Commits wait: none is answered that the sink does not hold.
    let acknowledged = ledger.count();
    let still = sink.wait_for("an answer", |_| true).await?;
    ensure!(still.state == "disk_full" && ledger.count() == acknowledged, "{still:?}");
    ensure!(sink.bytes("/v1/segments").await?.starts_with(b"{"), "what is held is served");

    disk.free()?;
    sink.wait_for("streaming again, by itself", |status| status.state == "streaming").await?;
    ledger.wait_more(20).await?;
    ledger.stop().await;
    ensure!(ledger.verify(&cluster).await?.lost.is_empty());
    same(&mut sink, &cluster).await
}

#[tokio::test]
async fn a_failed_fsync_ends_the_process() -> Result<()> {
    let shim = FailingSync::new().await?;
    let mut cluster = keeping().start().await?;
    let mut sink = Sink::new(&cluster.conninfo())?;
    for (name, value) in shim.environment(sink.data()) {
        sink.env(&name, &value);
    }
    sink.start().await?;
    sink.wait_streaming().await?;
    cluster.synchronous(APPLICATION_NAME, "on").await?;
    let mut ledger = Ledger::create(&cluster).await?;
    ledger.write(&cluster, 2);
    ledger.wait_more(20).await?;
    shim.fail()?;
    let status = sink.process()?.wait(DEADLINE).await?;
    let acknowledged = ledger.count();
    ensure!(!status.success(), "{status}");
    ensure!(sink.log().contains("fsync") && sink.log().contains("--data-dir"), "{}", sink.log());
    ledger.stop().await;
    ensure!(ledger.count() == acknowledged, "nothing is acknowledged by a process that has ended");

    // Started again, it reads back what it holds and goes on.
    shim.mend()?;
    sink.start().await?;
    same(&mut sink, &cluster).await?;
    ensure!(ledger.verify(&cluster).await?.lost.is_empty());
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_within_a_second_with_all_flushed_and_reported() -> Result<()> {
    let cluster = keeping().start().await?;
    let mut sink = Sink::of(&cluster).await?;
    for signal in [Signal::TERM, Signal::INT] {
        cluster.write_wal(5 << 20).await?;
        sink.process()?.signal(signal)?;
        let status = sink.process()?.wait(Duration::from_secs(1)).await?;
        ensure!(status.success(), "{signal:?}: {status}: {}", sink.log());
        let check = sink.check().await?;
        ensure!(check.status.success(), "{check:?}");
        sink.start().await?;
        same(&mut sink, &cluster).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_slot_has_what_was_flushed_when_it_ended() -> Result<()> {
    let cluster = keeping().start().await?;
    let mut sink = Sink::of(&cluster).await?;
    cluster.write_wal(300_000).await?;
    let end = cluster.flush_lsn().await?;
    let flushed = sink.wait_flushed(end).await?.flushed;
    ensure!(sink.stop().await?.success());
    let slot = eventually(DEADLINE, "the report of the flush", async || {
        let at = cluster.lsn("SELECT restart_lsn FROM pg_replication_slots").await?;
        Ok((at >= end).then_some(at))
    });
    // It may keep more than it was told to, never less.
    let at = slot.await?;
    ensure!(at <= cluster.flush_lsn().await? && at >= end, "{at} of {flushed}");
    Ok(())
}

#[tokio::test]
async fn a_primary_shuts_down_with_the_sink_attached() -> Result<()> {
    let mut cluster = keeping().start().await?;
    let mut sink = Sink::of(&cluster).await?;
    for mode in [StopMode::Fast, StopMode::Smart] {
        cluster.write_wal(300_000).await?;
        // It waits until the sink has flushed its last record: a sink that reports less than the last byte hangs it.
        cluster.stop(mode).await?;
        sink.wait_for("the end of the session", |status| status.state == "connecting").await?;
        cluster.start().await?;
        sink.wait_streaming().await?;
    }
    same(&mut sink, &cluster).await
}

#[tokio::test]
async fn sigkill_at_any_moment_leaves_no_gap() -> Result<()> {
    let mut cluster = keeping().start().await?;
    let mut sink = Sink::of(&cluster).await?;
    cluster.synchronous(APPLICATION_NAME, "on").await?;
    let mut ledger = Ledger::create(&cluster).await?;
    ledger.write(&cluster, 4);
    for round in 0..8_u64 {
        ledger.wait_more(1 + round * 7).await?;
        sink.kill()?;
        let check = sink.check().await?;
        ensure!(check.status.success(), "round {round}: {check:?}");
        sink.start().await?;
        sink.wait_streaming().await?;
    }
    ledger.wait_more(10).await?;
    ledger.stop().await;
    same(&mut sink, &cluster).await
}

#[tokio::test]
async fn a_link_that_is_cut_at_any_byte() -> Result<()> {
    let cluster = keeping().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    for (how, bytes) in [(Cut::Reset, 700_001), (Cut::Close, 1_234_567), (Cut::Reset, 5_003), (Cut::Close, 1)] {
        let before = proxy.connections();
        proxy.cut_after(Direction::ToClient, bytes, how);
        proxy.cut(Cut::Reset);
        cluster.write_wal(2 << 20).await?;
        eventually(DEADLINE, "some more connections", async || Ok((proxy.connections() > before + 1).then_some(()))).await?;
        proxy.heal();
        same(&mut sink, &cluster).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_corrupted_byte_is_never_acknowledged() -> Result<()> {
    let cluster = keeping().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    for byte in [1_300_000, 1_500_003, 1_900_001] {
        let before = proxy.connections();
        // Counted from the start of a connection: behind the WAL that is held already, of which it is sent up to 1.1 MB again.
        proxy.corrupt(Direction::ToClient, byte);
        proxy.cut(Cut::Reset);
        cluster.write_wal(2 << 20).await?;
        eventually(DEADLINE, "another connection", async || Ok((proxy.connections() > before).then_some(()))).await?;
        sink.wait_for("the damage to be seen, or passed by", |status| {
            status.state != "streaming" || proxy.passed(Direction::ToClient) > byte
        })
        .await?;
        proxy.heal();
        proxy.cut(Cut::Reset);
        same(&mut sink, &cluster).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_byte_that_was_corrupted_where_wal_is_compared_is_no_divergence() -> Result<()> {
    let cluster = keeping().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    cluster.write_wal(2 << 20).await?;
    same(&mut sink, &cluster).await?;
    // Within what is held already and sent again.
    proxy.corrupt_once(Direction::ToClient, 30_000);
    proxy.cut(Cut::Reset);
    eventually(DEADLINE, "the damage to be seen", async || Ok(sink.log().contains("asked for once more").then_some(()))).await?;
    cluster.write_wal(1 << 20).await?;
    same(&mut sink, &cluster).await
}

#[tokio::test]
async fn a_slow_and_distant_link_loses_nothing() -> Result<()> {
    let mut cluster = keeping().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    cluster.synchronous(APPLICATION_NAME, "on").await?;
    let mut ledger = Ledger::create(&cluster).await?;
    proxy.delay(Duration::from_millis(20));
    ledger.write(&cluster, 4);
    ledger.wait_more(20).await?;
    proxy.blackhole();
    let acknowledged = ledger.count();
    cluster.execute("SET synchronous_commit = local; CREATE TABLE meanwhile ()").await?;
    proxy.heal();
    ledger.wait_more(20).await?;
    ensure!(ledger.count() > acknowledged);
    ledger.stop().await;
    same(&mut sink, &cluster).await
}

#[tokio::test]
async fn a_sink_behind_its_slot_never_takes_it_back() -> Result<()> {
    let cluster = keeping().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    ensure!(sink.stop().await?.success());
    cluster.drop_slot("sink").await?;
    cluster.write_wal(16 << 20).await?;
    cluster.execute("CHECKPOINT; SELECT pg_create_physical_replication_slot('sink', true)").await?;
    let slot = "SELECT restart_lsn FROM pg_replication_slots";
    let kept = cluster.lsn(slot).await?;
    // Each read is late, so that it comes in many steps.
    proxy.delay(Duration::from_millis(20));
    sink.start().await?;
    cluster.write_wal(1 << 20).await?;
    let last = cluster.flush_lsn().await?;
    let mut least = kept;
    eventually(DEADLINE, "the slot to come to the end", async || {
        let at = cluster.lsn(slot).await?;
        least = least.min(at);
        Ok((at >= last).then_some(()))
    })
    .await?;
    ensure!(least == kept, "the slot was taken back from {kept} to {least}: a checkpoint under way would invalidate it");
    proxy.heal();
    same(&mut sink, &cluster).await
}
