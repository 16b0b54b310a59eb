//! What befalls those of the archiver's programs that stay, over days: keys that are renewed, clocks that jump, disks that are full.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::archiver::Launched;
use harness::{
    Account, Archiver, DEADLINE, Fault, Faults, FullDisk, Postgres, Refuse, S3, Scratch, ShiftedClock, When, eventually,
};

/// A cluster that archives, its S3, and the link between, which can be broken.
struct Stage {
    cluster: Postgres,
    server: S3,
    faults: Faults,
    archiver: Archiver,
}

impl Stage {
    async fn set() -> Result<Self> {
        let setup = Postgres::version(18).wal_segment_mb(1).setting("archive_mode", "on").setting("wal_keep_size", "1GB");
        let cluster = setup.start().await?;
        let server = S3::start_new().await?;
        let faults = Faults::before(server.port())?;
        let archiver = Archiver::at(faults.port());
        Ok(Self { cluster, server, faults, archiver })
    }

    async fn serve(&self) -> Result<Launched> {
        let mut daemon = self.archiver.launch("serve", [PathBuf::from("--pgdata"), self.cluster.data().to_owned()])?;
        daemon.says("listening on").await?;
        daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
        Ok(daemon)
    }

    /// Waits until Postgres has ticked off all that was written until now, and the archive has it as it was written.
    async fn all_archived(&self) -> Result<()> {
        let last = self.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        self.cluster.switch_wal().await?;
        eventually(DEADLINE, &format!("{last} to be archived"), async || {
            let archived = self.cluster.value("SELECT last_archived_wal FROM pg_stat_archiver").await?;
            Ok((archived >= last).then_some(()))
        })
        .await
        .with_context(|| self.cluster.log())?;
        let (client, system) = (self.server.client()?, self.cluster.system().await?);
        let size = self.cluster.segment_size();
        for segment in self.cluster.segments()? {
            let name = segment.name(size).to_string();
            if name <= last {
                let held = self.archiver.content(&client, system, &name).await?.with_context(|| format!("{name} is not there"))?;
                ensure!(held == std::fs::read(self.cluster.segment_file(segment))?, "{name} is another");
            }
        }
        Ok(())
    }
}

/// Writes keys into a home's `.aws`, as who renews them does.
fn write_keys(home: &Scratch, key: &str) -> Result<()> {
    let folder = home.path().join(".aws");
    if !folder.exists() {
        home.folder(".aws")?;
    }
    let draft = home.file(".aws/draft", format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = of-{key}\n"))?;
    rustix::fs::rename(draft, folder.join("credentials"))?;
    Ok(())
}

#[tokio::test]
async fn renewed_keys_are_taken_up_without_a_restart() -> Result<()> {
    let mut stage = Stage::set().await?;
    let home = Scratch::new()?;
    write_keys(&home, "OLD")?;
    stage.archiver = stage.archiver.home(home.path());
    let mut daemon = stage.serve().await?;
    let mut follow =
        stage.archiver.launch("follow", ["--from", &stage.cluster.conninfo(), "--create-slot", "--tail-interval", "200ms"])?;
    follow.says("streaming").await?;
    stage.faults.add(When::any().signed_by("OLD"), Fault::Refuse(Refuse::ExpiredToken));
    stage.cluster.archive_by(&stage.archiver.clone().timeout(1)).await?;
    stage.cluster.write_wal(3 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_failures_total{kind=\"credentials\"}", |failures| failures >= 1.0).await?;
    follow.says("have expired: renew them").await?;
    eventually(DEADLINE, "a push that fails", async || {
        Ok((stage.cluster.value("SELECT failed_count FROM pg_stat_archiver").await? != "0").then_some(()))
    })
    .await?;
    let (_, reason) = daemon.get("/readyz").await?;
    ensure!(reason.contains("renew them"), "{reason}");
    write_keys(&home, "NEW")?;
    daemon.says("the store answers again").await?;
    follow.says("the store answers again").await?;
    daemon.wait_metric("beyond_pg_archiver_lag_files", |files| files == 0.0).await?;
    stage.all_archived().await?;
    ensure!(follow.stop().await?.success() && daemon.stop().await?.success(), "{}", follow.log());
    Ok(())
}

#[tokio::test]
async fn a_clock_that_jumps_holds_up_nothing() -> Result<()> {
    let mut stage = Stage::set().await?;
    let clock = ShiftedClock::new().await?;
    for (name, value) in clock.environment() {
        stage.archiver = stage.archiver.env(&name, &value);
    }
    let mut daemon = stage.serve().await?;
    stage.cluster.archive_by(&stage.archiver).await?;
    let hour = 3_600_000_000;
    for shift in [-hour, 9 * 365 * 24 * hour, 0, -9 * 365 * 24 * hour, hour] {
        let before = daemon.metric("beyond_pg_archiver_uploads_total").await?;
        clock.shift_us(shift)?;
        stage.cluster.write_wal(2 << 20).await?;
        stage.all_archived().await.with_context(|| format!("{shift} us off: {}", daemon.log()))?;
        daemon.wait_metric("beyond_pg_archiver_uploads_total", |uploads| uploads > before).await?;
        ensure!(daemon.metric("beyond_pg_archiver_lag_seconds").await? >= 0.0 && daemon.get("/readyz").await?.0 == 200);
    }
    // A store that goes by its own clock says so, and is believed: nothing is stored until the clock is right.
    stage.faults.add(When::any(), Fault::Refuse(Refuse::RequestTimeTooSkewed));
    stage.cluster.write_wal(2 << 20).await?;
    daemon.says("this machine's clock is wrong: set it").await?;
    clock.shift_us(0)?;
    stage.faults.heal();
    stage.all_archived().await.with_context(|| daemon.log())?;
    let failed = stage.cluster.value("SELECT failed_count FROM pg_stat_archiver").await?;
    ensure!(daemon.stop().await?.success(), "{failed} pushes have failed: {}", daemon.log());
    Ok(())
}

/// The server with an older folder, about to recover from the archive.
async fn set_back(stage: &mut Stage) -> Result<()> {
    stage.cluster.archive_by(&stage.archiver).await?;
    stage.cluster.execute("CREATE TABLE t (n int)").await?;
    let older = stage.cluster.snapshot().await?;
    for row in 0..8 {
        stage.cluster.execute(&format!("INSERT INTO t VALUES ({row})")).await?;
        stage.cluster.write_wal(1 << 20).await?;
    }
    stage.all_archived().await?;
    stage.cluster.kill()?;
    stage.cluster.restore(&older).await?;
    let restore = format!("{} %f %p", stage.archiver.command_line("fetch")?);
    stage.cluster.append_settings(&[("restore_command", &restore), ("archive_command", "true")])?;
    let signal = stage.cluster.data().join("recovery.signal");
    std::fs::write(&signal, "")?;
    Account::current().give(&signal)
}

#[tokio::test]
async fn a_spool_on_a_full_disk_holds_up_no_recovery() -> Result<()> {
    let Some(disk) = FullDisk::new(4)? else { return Ok(()) };
    let mut stage = Stage::set().await?;
    set_back(&mut stage).await?;
    let pgdata = stage.cluster.data().to_owned();
    let args = [Path::new("--pgdata"), &pgdata, Path::new("--spool"), disk.path()];
    let mut daemon = stage.archiver.launch("serve", args)?;
    daemon.says("listening on").await?;
    // Room for half of a segment, and for one and a half.
    disk.fill(1 << 19)?;
    stage.cluster.start().await?;
    eventually(DEADLINE, "the end of recovery", async || {
        Ok((stage.cluster.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
    })
    .await?;
    ensure!(stage.cluster.value("SELECT count(*) FROM t").await? == "8", "{}", stage.cluster.log());
    ensure!(daemon.metric("beyond_pg_archiver_prefetch_hits_total").await? == 0.0);
    ensure!(daemon.log().contains("No space left"), "{}", daemon.log());
    let names: std::io::Result<std::collections::BTreeSet<_>> =
        std::fs::read_dir(disk.path())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let names = names?;
    ensure!(names.iter().eq(["ballast", "lock"]), "the disk's ballast and the daemon's lock alone: {names:?}");
    // The store is well: only the spool is not.
    ensure!(daemon.get("/readyz").await?.0 == 200 && daemon.stop().await?.success());
    Ok(())
}
