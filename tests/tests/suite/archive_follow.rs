//! `follow` on real servers: the archive is seconds behind, the slot never passes it, and no timeline is lost.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::archiver::Launched;
use harness::{Archiver, DEADLINE, Fault, Faults, Postgres, Refuse, S3, StopMode, When, eventually};
use walbus::archive::layout::ObjectName;
use walbus::{Lsn, SystemId};

struct Stage {
    cluster: Postgres,
    system: SystemId,
    server: S3,
    faults: Faults,
    archiver: Archiver,
}

impl Stage {
    async fn set() -> Result<Self> {
        let cluster = Postgres::version(18).wal_segment_mb(1).setting("wal_keep_size", "1GB").start().await?;
        let system = cluster.system().await?;
        let server = S3::start_new().await?;
        let faults = Faults::before(server.port())?;
        let archiver = Archiver::at(faults.port());
        Ok(Self { cluster, system, server, faults, archiver })
    }

    async fn follow(&self, cluster: &Postgres, tails: &str) -> Result<Launched> {
        let from = cluster.conninfo();
        let mut daemon = self.archiver.launch("follow", ["--from", &from, "--create-slot", "--tail-interval", tails])?;
        daemon.says("streaming").await?;
        Ok(daemon)
    }

    /// The whole segments in the archive, and the ends of its tails.
    async fn archived(&self) -> Result<(Vec<String>, Vec<Lsn>)> {
        let keys = self.server.client()?.keys(&format!("wal/{}/", self.system)).await?;
        let (mut segments, mut tails) = (Vec::new(), Vec::new());
        for name in keys.iter().filter_map(|key| ObjectName::parse(key.strip_prefix("wal/")?)) {
            match name {
                ObjectName::Segment { segment, .. } => segments.push(segment.to_string()),
                ObjectName::Tail { end, .. } => tails.push(end),
                _ => {}
            }
        }
        Ok((segments, tails))
    }

    /// Waits until a tail reaches this position, or a whole segment is there that does.
    async fn stored(&self, lsn: Lsn) -> Result<()> {
        let size = self.cluster.segment_size();
        eventually(DEADLINE, &format!("{lsn} to be in the archive"), async || {
            let (segments, tails) = self.archived().await?;
            let whole = segments.iter().filter_map(|name| Some(name.parse::<walbus::SegmentName>().ok()?.segment(size)?.end(size)));
            let end = whole.chain(tails).max().unwrap_or_default();
            ensure!(end >= lsn, "it ends at {end}");
            Ok(Some(()))
        })
        .await
    }

    /// Every segment from the first to the last one that is there, each equal to the server's.
    async fn compare(&self, cluster: &Postgres) -> Result<Vec<String>> {
        let client = self.server.client()?;
        let (segments, _) = self.archived().await?;
        for name in &segments {
            let held = self.archiver.content(&client, self.system, name).await?.context("it was listed")?;
            ensure!(held == std::fs::read(cluster.wal().join(name))?, "{name} is another");
        }
        let size = cluster.segment_size();
        let numbers = segments.iter().filter_map(|name| Some(name.parse::<walbus::SegmentName>().ok()?.segment(size)?.number));
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        ensure!(numbers.windows(2).all(|pair| pair[1] <= pair[0] + 1), "there is a gap: {segments:?}");
        Ok(segments)
    }

    async fn restart_lsn(&self) -> Result<Lsn> {
        self.cluster.lsn("SELECT restart_lsn FROM pg_replication_slots").await
    }
}

#[tokio::test]
async fn the_archive_is_behind_by_the_tails_interval_and_the_slot_not_before_it() -> Result<()> {
    let stage = Stage::set().await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.execute("CREATE TABLE t (n int)").await?;
    for row in 0..4 {
        stage.cluster.execute(&format!("INSERT INTO t VALUES ({row})")).await?;
        stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
        stage.cluster.write_wal(1 << 20).await?;
    }
    let last = stage.cluster.flush_lsn().await?;
    stage.stored(last).await?;
    // The slot follows, and with it what the server may remove.
    eventually(DEADLINE, "the slot to follow", async || Ok((stage.restart_lsn().await? >= last).then_some(()))).await?;
    ensure!(stage.compare(&stage.cluster).await?.len() >= 4);
    // Killed and started again: from where the archive ends, comparing the tail.
    daemon.process().kill_all()?;
    stage.cluster.write_wal(2 << 20).await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
    stage.compare(&stage.cluster).await?;
    eventually(DEADLINE, "superseded tails to be deleted", async || {
        let (_, tails) = stage.archived().await?;
        ensure!(tails.len() == 1, "{tails:?}");
        Ok(Some(()))
    })
    .await
    .with_context(|| daemon.log())?;
    ensure!(daemon.stop().await?.success(), "{}", daemon.log());
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_holds_the_slot_back() -> Result<()> {
    let stage = Stage::set().await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.stored(stage.cluster.flush_lsn().await?).await?;
    stage.faults.add(When::any(), Fault::Refuse(Refuse::InternalError));
    let before = stage.restart_lsn().await?;
    // More than is kept in memory.
    stage.cluster.write_wal(24 << 20).await?;
    daemon.says("the store does not answer as it should").await?;
    let (segments, tails) = stage.archived().await?;
    let now = stage.restart_lsn().await?;
    let stored = tails.iter().max().copied().unwrap_or_default();
    ensure!(now >= before && now <= stored.max(before), "{now} was reported, {stored} is stored: {segments:?}");
    stage.faults.heal();
    stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
    ensure!(daemon.log().contains("the store answers again"));
    ensure!(stage.compare(&stage.cluster).await?.len() >= 20);
    Ok(())
}

#[tokio::test]
async fn a_server_can_shut_down_with_tails_off_and_its_last_bytes_are_stored() -> Result<()> {
    let mut stage = Stage::set().await?;
    let mut daemon = stage.follow(&stage.cluster, "off").await?;
    stage.cluster.write_wal(1 << 20).await?;
    stage.cluster.execute("CREATE TABLE t AS SELECT 1 AS n").await?;
    stage.cluster.stop(StopMode::Fast).await.with_context(|| daemon.log())?;
    let end: Lsn = stage.cluster.control("Latest checkpoint location").await?.parse()?;
    stage.stored(end).await.with_context(|| daemon.log())?;
    daemon.says("no WAL is received").await?;
    stage.cluster.start().await?;
    stage.cluster.write_wal(1 << 20).await?;
    let size = stage.cluster.segment_size();
    let whole = size.floor(stage.cluster.flush_lsn().await?);
    stage.stored(whole).await.with_context(|| daemon.log())?;
    stage.compare(&stage.cluster).await?;
    Ok(())
}

#[tokio::test]
async fn a_promotion_is_followed_history_first() -> Result<()> {
    let mut stage = Stage::set().await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.write_wal(2 << 20).await?;
    stage.cluster.restart_as_standby().await?;
    daemon.says("no WAL is received").await?;
    stage.cluster.promote().await?;
    stage.cluster.write_wal(2 << 20).await?;
    stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
    let client = stage.server.client()?;
    let history = stage.archiver.content(&client, stage.system, "00000002.history").await?.context("the history is there")?;
    ensure!(history == std::fs::read(stage.cluster.wal().join("00000002.history"))?);
    let (segments, _) = stage.archived().await?;
    ensure!(segments.iter().any(|name| name.starts_with("00000001")) && segments.iter().any(|name| name.starts_with("00000002")));
    stage.compare(&stage.cluster).await?;
    ensure!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn after_a_failover_it_goes_on_where_the_archive_ends() -> Result<()> {
    let mut stage = Stage::set().await?;
    let standby = Postgres::version(18).wal_segment_mb(1).setting("wal_keep_size", "1GB").standby_of(&stage.cluster).await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.write_wal(2 << 20).await?;
    let last = stage.cluster.flush_lsn().await?;
    stage.stored(last).await?;
    eventually(DEADLINE, "the standby to have it all", async || {
        Ok((standby.lsn("SELECT pg_last_wal_replay_lsn()").await? >= last).then_some(()))
    })
    .await?;
    ensure!(daemon.stop().await?.success());
    stage.cluster.kill()?;
    standby.promote().await?;
    // What is written before anybody follows, and before the place from which a slot that is made now keeps WAL.
    standby.write_wal(2 << 20).await?;
    standby.execute("CHECKPOINT").await?;
    let mut daemon = stage.follow(&standby, "200ms").await?;
    daemon.says("the slot begins behind the end of what is archived").await?;
    standby.write_wal(1 << 20).await?;
    stage.stored(standby.flush_lsn().await?).await.with_context(|| daemon.log())?;
    // Without a gap, over both timelines.
    let segments = stage.compare(&standby).await?;
    ensure!(segments.iter().any(|name| name.starts_with("00000002")), "{segments:?}");
    Ok(())
}

#[tokio::test]
async fn another_servers_wal_under_the_same_name_stops_it() -> Result<()> {
    let mut stage = Stage::set().await?;
    let older = stage.cluster.snapshot().await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.write_wal(2 << 20).await?;
    stage.stored(stage.cluster.flush_lsn().await?).await?;
    ensure!(daemon.stop().await?.success());
    // An older copy of the server goes on, on the same timeline, with other WAL.
    stage.cluster.kill()?;
    stage.cluster.restore(&older).await?;
    stage.cluster.start().await?;
    stage.cluster.execute("CREATE TABLE other AS SELECT g FROM generate_series(1, 1000) g").await?;
    stage.cluster.write_wal(3 << 20).await?;
    let mut daemon = stage.archiver.launch("follow", ["--from", &stage.cluster.conninfo(), "--create-slot"])?;
    let status = daemon.process().wait(DEADLINE).await.with_context(|| daemon.log())?;
    ensure!(status.code() == Some(1) && daemon.log().contains("differs"), "{status}: {}", daemon.log());
    Ok(())
}

#[tokio::test]
async fn what_a_dead_server_left_is_filled_in_and_restored() -> Result<()> {
    let mut stage = Stage::set().await?;
    stage.cluster.execute("CREATE TABLE t (n int)").await?;
    let older = stage.cluster.snapshot().await?;
    for row in 0..3 {
        stage.cluster.execute(&format!("INSERT INTO t VALUES ({row})")).await?;
        stage.cluster.write_wal(1 << 20).await?;
    }
    stage.cluster.execute("INSERT INTO t VALUES (3)").await?;
    stage.cluster.kill()?;
    let args = [PathBuf::from("--pgdata"), stage.cluster.data().to_owned()];
    let run = stage.archiver.run("fill", &args).await?;
    ensure!(run.ended(0, &[]) && run.stdout.contains("put into the archive"), "{run:?}");
    let (segments, tails) = stage.archived().await?;
    ensure!(segments.len() >= 3 && tails.len() == 1, "{segments:?} {tails:?}");
    // The host comes back with an older copy: the last row is in the tail.
    stage.cluster.restore(&older).await?;
    let restore = format!("{} %f %p", stage.archiver.command_line("fetch")?);
    stage.cluster.append_settings(&[("restore_command", &restore)])?;
    std::fs::write(stage.cluster.data().join("recovery.signal"), "")?;
    harness::Account::current().give(&stage.cluster.data().join("recovery.signal"))?;
    stage.cluster.start().await?;
    eventually(DEADLINE, "the end of recovery", async || {
        Ok((stage.cluster.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
    })
    .await?;
    ensure!(stage.cluster.value("SELECT count(*) FROM t").await? == "4", "{}", stage.cluster.log());
    Ok(())
}
