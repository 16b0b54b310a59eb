//! `follow` on real servers: the archive is seconds behind, the slot never passes it, and no timeline is lost.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::archiver::Launched;
use harness::postgres::{Setup, VERSIONS};
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
        Self::of(Postgres::version(18).setting("wal_keep_size", "1GB")).await
    }

    async fn of(setup: Setup) -> Result<Self> {
        let cluster = setup.wal_segment_mb(1).start().await?;
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
    for version in VERSIONS {
        promotion(version).await.with_context(|| format!("on {version}"))?;
    }
    Ok(())
}

async fn promotion(version: u32) -> Result<()> {
    let mut stage = Stage::of(Postgres::version(version).setting("wal_keep_size", "1GB")).await?;
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
    standby.write_wal(16 << 20).await?;
    standby.execute("CHECKPOINT; SELECT pg_create_physical_replication_slot('beyond_pg_archiver', true)").await?;
    let slot = "SELECT restart_lsn FROM pg_replication_slots";
    let kept = standby.lsn(slot).await?;
    let mut daemon = stage.follow(&standby, "200ms").await?;
    standby.write_wal(1 << 20).await?;
    let last = standby.flush_lsn().await?;
    // Slow enough to be seen at every step.
    stage.faults.add(When::method("PUT").of(".zst"), Fault::Delay(std::time::Duration::from_millis(100)));
    let mut least = kept;
    eventually(DEADLINE, "the slot to come to the end", async || {
        let at = standby.lsn(slot).await?;
        least = least.min(at);
        Ok((at >= last).then_some(()))
    })
    .await
    .with_context(|| daemon.log())?;
    ensure!(least == kept, "the slot was taken back from {kept} to {least}: a checkpoint under way would invalidate it");
    daemon.says("the slot begins behind the end of what is archived").await?;
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

#[tokio::test]
async fn another_cluster_is_refused_and_nothing_of_it_archived() -> Result<()> {
    let stage = Stage::set().await?;
    let args = ["--from", &stage.cluster.conninfo(), "--create-slot", "--system-id", "7300000000000000001"];
    let mut daemon = stage.archiver.launch("follow", args)?;
    daemon.says("not of 7300000000000000001: nothing is archived of it").await?;
    ensure!(daemon.log().contains(&stage.system.to_string()) && daemon.log().contains("no WAL is archived"), "{}", daemon.log());
    ensure!(daemon.stop().await?.success());
    let keys = stage.server.client()?.keys("wal/").await?;
    ensure!(keys == ["wal/beyond-pg-archive"], "{keys:?}");
    let slots = stage.cluster.value("SELECT count(*) FROM pg_replication_slots").await?;
    ensure!(slots == "0", "a slot was made on another cluster");
    Ok(())
}

#[tokio::test]
async fn wal_that_the_server_has_removed_is_a_gap_by_name_and_no_end() -> Result<()> {
    let stage = Stage::of(Postgres::version(18).setting("max_wal_size", "4MB").setting("min_wal_size", "2MB")).await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.write_wal(2 << 20).await?;
    stage.stored(stage.cluster.flush_lsn().await?).await?;
    ensure!(daemon.stop().await?.success());
    // As when somebody drops the slot that fills the disk.
    stage.cluster.drop_slot("beyond_pg_archiver").await?;
    let (segments, _) = stage.archived().await?;
    let last = segments.iter().max().context("something is archived")?;
    stage.cluster.write_wal(3 << 20).await?;
    stage.cluster.execute("CHECKPOINT").await?;
    let current = stage.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    ensure!(!stage.cluster.wal().join(last).exists() && *last < current, "the server has kept {last}");
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    daemon.says("has already been removed").await?;
    daemon.says("the archive has a gap").await?;
    ensure!(daemon.log().contains("take a new base backup"), "{}", daemon.log());
    stage.cluster.write_wal(2 << 20).await?;
    stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
    // The other programs name it as well.
    let run = stage.archiver.run("verify", ["--system-id", &stage.system.to_string()]).await?;
    ensure!(run.code == Some(1) && run.stdout.contains("GAP"), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_slot_that_was_invalidated_is_named_with_the_way_out() -> Result<()> {
    let setup = Postgres::version(18).setting("max_slot_wal_keep_size", "1MB");
    let stage = Stage::of(setup.setting("max_wal_size", "4MB").setting("min_wal_size", "2MB")).await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.stored(stage.cluster.flush_lsn().await?).await?;
    ensure!(daemon.stop().await?.success());
    stage.cluster.write_wal(8 << 20).await?;
    eventually(DEADLINE, "the slot to be invalidated", async || {
        stage.cluster.execute("CHECKPOINT").await?;
        Ok((stage.cluster.value("SELECT wal_status FROM pg_replication_slots").await? == "lost").then_some(()))
    })
    .await?;
    let mut daemon = stage.archiver.launch("follow", ["--from", &stage.cluster.conninfo(), "--create-slot"])?;
    daemon.says("no WAL is archived").await?;
    let log = daemon.log();
    ensure!(log.contains("max_slot_wal_keep_size") && log.contains("pg_drop_replication_slot('beyond_pg_archiver')"), "{log}");
    // The way out is one: it goes on by itself then.
    stage.cluster.drop_slot("beyond_pg_archiver").await?;
    daemon.says("streaming").await?;
    stage.stored(stage.cluster.flush_lsn().await?).await.with_context(|| daemon.log())?;
    Ok(())
}

#[tokio::test]
async fn a_dead_primarys_wal_is_filled_in_before_its_successor_is_followed() -> Result<()> {
    let mut stage = Stage::set().await?;
    let setup = Postgres::version(18).wal_segment_mb(1).setting("max_wal_size", "4MB").setting("min_wal_size", "2MB");
    let standby = setup.setting("wal_keep_size", "0").standby_of(&stage.cluster).await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    stage.cluster.write_wal(1 << 20).await?;
    stage.stored(stage.cluster.flush_lsn().await?).await?;
    ensure!(daemon.stop().await?.success());
    // Written while nobody archives, and removed on the standby.
    stage.cluster.write_wal(6 << 20).await?;
    let last = stage.cluster.flush_lsn().await?;
    eventually(DEADLINE, "the standby to have it all", async || {
        Ok((standby.lsn("SELECT pg_last_wal_replay_lsn()").await? >= last).then_some(()))
    })
    .await?;
    stage.cluster.kill()?;
    standby.promote().await?;
    standby.write_wal(6 << 20).await?;
    standby.execute("CHECKPOINT").await?;
    let (before, _) = stage.archived().await?;
    let first = standby.segments()?.first().map(|segment| segment.name(standby.segment_size()).to_string());
    ensure!(first.is_some_and(|first| first.starts_with("00000002")), "the standby has what is to be filled in");
    let dead = stage.cluster.wal();
    let from = standby.conninfo();
    let args =
        ["--from", &from, "--create-slot", "--tail-interval", "200ms", "--pg-wal", &dead.to_string_lossy()].map(str::to_owned);
    let mut daemon = stage.archiver.launch("follow", args)?;
    daemon.says("streaming").await?;
    let (after, _) = stage.archived().await?;
    let filled: Vec<_> = after.iter().filter(|name| !before.contains(name) && name.starts_with("00000001")).collect();
    ensure!(filled.len() >= 5, "{filled:?}: {}", daemon.log());
    let client = stage.server.client()?;
    for name in filled {
        let held = stage.archiver.content(&client, stage.system, name).await?.context("it was listed")?;
        ensure!(held == std::fs::read(dead.join(name))?, "{name} is another");
    }
    Ok(())
}

#[tokio::test]
async fn a_standby_that_archives_by_itself_goes_on_after_its_promotion() -> Result<()> {
    let mut stage = Stage::set().await?;
    let mut daemon = stage.follow(&stage.cluster, "200ms").await?;
    let push = format!("{} %p", stage.archiver.command_line("push")?);
    let fetch = format!("{} %f %p", stage.archiver.command_line("fetch")?);
    let setup = Postgres::version(18).wal_segment_mb(1).setting("wal_keep_size", "1GB").setting("archive_mode", "always");
    let mut standby = setup.setting("archive_command", &push).setting("restore_command", &fetch).standby_of(&stage.cluster).await?;
    standby.kill()?;
    stage.cluster.write_wal(3 << 20).await?;
    stage.cluster.execute("CREATE TABLE t AS SELECT 1 AS n").await?;
    let last = stage.cluster.flush_lsn().await?;
    stage.stored(last).await?;
    stage.cluster.kill()?;
    ensure!(daemon.stop().await?.success());
    // All that it gets comes from the archive, the last of it a part of a segment.
    standby.append_settings(&[("primary_conninfo", "")])?;
    standby.start().await?;
    eventually(DEADLINE, "the standby to have it all", async || {
        Ok((standby.lsn("SELECT pg_last_wal_replay_lsn()").await? >= last).then_some(()))
    })
    .await
    .with_context(|| standby.log())?;
    standby.promote().await?;
    ensure!(standby.value("SELECT n FROM t").await? == "1");
    standby.write_wal(2 << 20).await?;
    eventually(DEADLINE, "the new timeline's first segment", async || {
        let client = stage.server.client()?;
        let files = stage.archiver.files(&client, stage.system).await?;
        Ok(files.iter().any(|name| name.len() == 24 && name.starts_with("00000002")).then_some(()))
    })
    .await
    .with_context(|| standby.log())?;
    ensure!(standby.log().contains("the archive has all of its records"), "{}", standby.log());
    // What is in the archive as a part is no whole segment by that.
    let (segments, tails) = stage.archived().await?;
    let end = stage.cluster.segment_size().floor(last);
    ensure!(!tails.is_empty(), "{segments:?}");
    ensure!(
        segments.iter().filter(|name| name.starts_with("00000001")).all(|name| {
            let segment = name.parse::<walbus::SegmentName>().ok().and_then(|name| name.segment(stage.cluster.segment_size()));
            segment.is_some_and(|segment| segment.end(stage.cluster.segment_size()) <= end)
        }),
        "{segments:?}"
    );
    Ok(())
}
