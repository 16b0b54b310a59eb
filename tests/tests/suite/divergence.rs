//! A primary whose WAL contradicts what is held: nothing is received from it, both are kept, and it is loud.

use anyhow::{Result, ensure};
use harness::{Postgres, Proxy, Sink, SinkStatus};

/// All files in the sink's folder that hold WAL, with their content.
fn wal_files(sink: &Sink) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sink.data())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if walbus::WalFile::parse(&name).is_some() {
            found.push((name, std::fs::read(&path)?));
        }
    }
    found.sort();
    Ok(found)
}

/// What was held before is held still, each byte below `complete`.
fn ensure_kept(sink: &Sink, before: &[(String, Vec<u8>)]) -> Result<()> {
    let after = wal_files(sink)?;
    for (name, content) in before {
        let Some((_, now)) = after.iter().find(|(other, _)| other == name) else { anyhow::bail!("{name} is gone") };
        ensure!(now == content, "{name} has changed");
    }
    Ok(())
}

/// Waits until the stream is stopped for good, with a problem that says all of these words; status, log and metrics are loud.
async fn diverged(sink: &mut Sink, words: &[&str]) -> Result<SinkStatus> {
    let what = format!("a divergence that says {words:?}");
    let status =
        sink.wait_for(&what, |status| status.state == "diverged" && words.iter().all(|word| status.problem.contains(word))).await?;
    ensure!(status.alarm, "{status:?}");
    ensure!(sink.log().contains("ERROR"), "{}", sink.log());
    let metrics = String::from_utf8_lossy(&sink.bytes("/metrics").await?).into_owned();
    ensure!(metrics.lines().any(|line| line.contains("diverged") && line.ends_with(" 1")), "{metrics}");
    ensure!(sink.bytes("/v1/segments").await?.starts_with(b"{"), "what is held is served");
    Ok(status)
}

#[tokio::test]
async fn an_older_copy_that_wrote_other_wal() -> Result<()> {
    let mut cluster = Postgres::version(18).wal_segment_mb(1).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    cluster.write_wal(300_000).await?;
    let snapshot = cluster.snapshot().await?;
    cluster.write_wal(3_000_000).await?;
    let end = cluster.flush_lsn().await?;
    sink.wait_flushed(end).await?;
    cluster.kill()?;
    cluster.restore(&snapshot).await?;

    // At first it is merely behind, and may yet be recovered.
    cluster.start().await?;
    let behind = sink.wait_for("an upstream that is behind", |status| status.state == "upstream_behind").await?;
    ensure!(behind.alarm && behind.problem.contains("recover"), "{behind:?}");
    let before = wal_files(&sink)?;
    cluster.write_wal(6_000_000).await?;
    diverged(&mut sink, &["divergence", "kept"]).await?;
    ensure_kept(&sink, &before)?;
    Ok(())
}

#[tokio::test]
async fn an_older_copy_that_wrote_more_before_the_sink_saw_it() -> Result<()> {
    let mut cluster = Postgres::version(18).wal_segment_mb(1).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    cluster.write_wal(300_000).await?;
    let snapshot = cluster.snapshot().await?;
    cluster.write_wal(50_000).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    ensure!(sink.stop().await?.success());
    cluster.kill()?;
    cluster.restore(&snapshot).await?;
    cluster.start().await?;
    cluster.write_wal(400_000).await?;
    let before = wal_files(&sink)?;
    sink.start().await?;
    diverged(&mut sink, &["divergence", "kept"]).await?;
    ensure_kept(&sink, &before)
}

#[tokio::test]
async fn another_cluster_at_the_same_address() -> Result<()> {
    let cluster = Postgres::version(18).start().await?;
    let other = Postgres::version(18).own_system_id().start().await?;
    let proxy = Proxy::to(cluster.port())?;
    let mut sink = Sink::through(&proxy).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    let ours = cluster.control("Database system identifier").await?;
    let theirs = other.control("Database system identifier").await?;
    ensure!(sink.stop().await?.success());
    let before = wal_files(&sink)?;

    // Found at the start, and when the address changes hands while the sink runs.
    proxy.retarget(other.port());
    sink.start().await?;
    diverged(&mut sink, &[&ours, &theirs, "--data-dir"]).await?;
    ensure_kept(&sink, &before)?;
    ensure!(sink.stop().await?.success());
    proxy.retarget(cluster.port());
    sink.start().await?;
    sink.wait_streaming().await?;
    proxy.retarget(other.port());
    proxy.cut(harness::Cut::Reset);
    diverged(&mut sink, &[&ours, &theirs, "--data-dir"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_old_primary_after_a_promotion() -> Result<()> {
    let old = Postgres::version(18).wal_segment_mb(1).start().await?;
    let new = Postgres::version(18).wal_segment_mb(1).standby_of(&old).await?;
    let proxy = Proxy::to(old.port())?;
    let mut sink = Sink::through(&proxy).await?;
    old.write_wal(300_000).await?;
    let end = old.flush_lsn().await?;
    sink.wait_flushed(end).await?;
    harness::eventually(harness::DEADLINE, "the standby to have it all", async || {
        Ok((new.lsn("SELECT pg_last_wal_replay_lsn()").await? >= end).then_some(()))
    })
    .await?;
    new.promote().await?;
    new.write_wal(300_000).await?;
    proxy.retarget(new.port());
    proxy.cut(harness::Cut::Close);
    sink.wait_for("timeline 2", |status| status.timeline.is_some_and(|timeline| timeline.get() == 2)).await?;
    sink.wait_flushed(new.flush_lsn().await?).await?;
    let before = wal_files(&sink)?;

    // The old one lives on, and is asked again.
    old.write_wal(3_000_000).await?;
    proxy.retarget(old.port());
    proxy.cut(harness::Cut::Close);
    diverged(&mut sink, &["timeline 1", "timeline 2", "--upstream"]).await?;
    ensure_kept(&sink, &before)
}

#[tokio::test]
async fn a_standby_promoted_without_acknowledged_wal() -> Result<()> {
    let old = Postgres::version(18).wal_segment_mb(1).start().await?;
    let mut new = Postgres::version(18).wal_segment_mb(1).standby_of(&old).await?;
    let proxy = Proxy::to(old.port())?;
    let mut sink = Sink::through(&proxy).await?;
    // It gets no more WAL, but the sink does.
    new.append_settings(&[("primary_conninfo", "")])?;
    new.reload()?;
    harness::eventually(harness::DEADLINE, "the standby to be cut off", async || {
        Ok((new.value("SELECT count(*) FROM pg_stat_wal_receiver").await? == "0").then_some(()))
    })
    .await?;
    old.write_wal(300_000).await?;
    sink.wait_flushed(old.flush_lsn().await?).await?;
    let before = wal_files(&sink)?;
    new.promote().await?;
    new.write_wal(3_000_000).await?;
    proxy.retarget(new.port());
    proxy.cut(harness::Cut::Close);
    diverged(&mut sink, &["divergence", "timeline 2", "timeline 1", "acknowledged"]).await?;
    ensure_kept(&sink, &before)
}
