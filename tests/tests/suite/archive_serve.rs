//! `serve` beside real servers: what it says is archived is, recovery gets what it asks for, and nothing is lost by its death.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::archiver::Launched;
use harness::{Archiver, DEADLINE, Fault, Faults, Postgres, Refuse, S3, When, eventually};

/// A cluster that archives, its S3, and the link between, which can be broken.
struct Stage {
    cluster: Postgres,
    server: S3,
    faults: Faults,
    archiver: Archiver,
}

impl Stage {
    async fn set() -> Result<Self> {
        Self::of(18).await
    }

    async fn of(version: u32) -> Result<Self> {
        let setup = Postgres::version(version).wal_segment_mb(1).setting("archive_mode", "on").setting("wal_keep_size", "1GB");
        let cluster = setup.start().await?;
        let server = S3::start_new().await?;
        let faults = Faults::before(server.port())?;
        let archiver = Archiver::at(faults.port());
        Ok(Self { cluster, server, faults, archiver })
    }

    fn launch(&self) -> Result<Launched> {
        self.archiver.launch("serve", [PathBuf::from("--pgdata"), self.cluster.data().to_owned()])
    }

    async fn serve(&self) -> Result<Launched> {
        let mut daemon = self.launch()?;
        daemon.says("listening on").await?;
        Ok(daemon)
    }

    /// Waits until Postgres has ticked off all that was written until now, and compares each file with what the store has.
    async fn all_archived(&self) -> Result<Vec<String>> {
        let last = self.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        self.cluster.switch_wal().await?;
        eventually(DEADLINE, &format!("{last} to be archived"), async || {
            let rows = self.cluster.rows("SELECT last_archived_wal, failed_count FROM pg_stat_archiver").await?;
            ensure!(rows[0][0] >= last, "{rows:?}");
            Ok(Some(()))
        })
        .await
        .with_context(|| self.cluster.log())?;
        let (client, system) = (self.server.client()?, self.cluster.system().await?);
        let files = self.archiver.files(&client, system).await?;
        ensure!(files.contains(&last), "{last} is not among {files:?}");
        for file in &files {
            let held = self.archiver.content(&client, system, file).await?.context("it was listed")?;
            ensure!(held == std::fs::read(self.cluster.wal().join(file))?, "{file} is another");
        }
        let done: Vec<_> =
            self.cluster.segments()?.iter().map(|found| found.name(self.cluster.segment_size()).to_string()).collect();
        let missing: Vec<_> = done.iter().filter(|name| **name <= last && !files.contains(*name)).collect();
        ensure!(missing.is_empty(), "not in the archive: {missing:?}");
        Ok(files)
    }

    /// The files that wait for `archive_command`.
    fn ready(&self) -> Result<Vec<PathBuf>> {
        let mut ready = Vec::new();
        for entry in std::fs::read_dir(self.cluster.wal().join("archive_status"))? {
            if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(".ready")) {
                ready.push(self.cluster.wal().join(name));
            }
        }
        ready.sort();
        Ok(ready)
    }
}

#[tokio::test]
async fn what_was_uploaded_ahead_is_pushed_while_the_store_is_away() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.append_settings(&[("archive_command", "false")])?;
    let mut daemon = stage.serve().await?;
    stage.cluster.write_wal(4 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_ready_files", |files| files >= 3.0).await?;
    daemon.wait_metric("beyond_pg_archiver_lag_files", |files| files == 0.0).await?;
    let ready = stage.ready()?;
    let hits = stage.faults.add(When::any(), Fault::Refuse(Refuse::InternalError));
    for path in &ready {
        let run = stage.archiver.push(path).await?;
        ensure!(run.ended(0, &[]), "{run:?}");
    }
    ensure!(hits.count() == 0, "the daemon knew it, and nobody asked the store");
    // The same content in another file is not the file that was uploaded: it takes the store to know.
    let other = ready[0].with_extension("other");
    std::fs::copy(&ready[0], &other)?;
    rustix::fs::rename(&other, &ready[0])?;
    harness::Account::current().give(&ready[0])?;
    let run = stage.archiver.clone().timeout(1).push(&ready[0]).await?;
    ensure!(run.code == Some(1), "{run:?}");
    stage.faults.heal();
    let run = stage.archiver.push(&ready[0]).await?;
    ensure!(run.ended(0, &[]), "{run:?}");
    ensure!(daemon.stop().await?.success(), "{}", daemon.log());
    ensure!(!stage.cluster.wal().join(".s.beyond-pg-archiver").exists(), "its socket stays");
    Ok(())
}

#[tokio::test]
async fn killed_again_and_again_it_loses_nothing() -> Result<()> {
    let mut stage = Stage::set().await?;
    stage.cluster.archive_by(&stage.archiver).await?;
    for round in 0..4 {
        let mut daemon = stage.serve().await?;
        stage.cluster.write_wal(2 << 20).await?;
        if round % 2 == 0 {
            // In the middle of an upload, as far as the store's pace allows.
            daemon.wait_metric("beyond_pg_archiver_uploads_total", |uploads| uploads >= 1.0).await?;
        }
        daemon.process().kill_all()?;
        stage.cluster.write_wal(1 << 20).await?;
    }
    // Without a daemon, its socket being there still.
    ensure!(stage.cluster.wal().join(".s.beyond-pg-archiver").exists());
    ensure!(stage.all_archived().await?.len() >= 12);
    let failed = stage.cluster.value("SELECT failed_count FROM pg_stat_archiver").await?;
    ensure!(failed == "0", "{failed} failed: {}", stage.cluster.log());
    Ok(())
}

#[tokio::test]
async fn one_that_hangs_or_archives_elsewhere_is_done_without() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.append_settings(&[("archive_command", "false")])?;
    let mut daemon = stage.serve().await?;
    stage.cluster.write_wal(2 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_lag_files", |files| files == 0.0).await?;
    let ready = stage.ready()?;
    let (client, system) = (stage.server.client()?, stage.cluster.system().await?);
    let name = ready[0].file_name().and_then(|name| name.to_str()).context("it has a name")?;
    // The daemon has stored it, but in another archive than this push is told of.
    let elsewhere = stage.archiver.clone().url(&format!("s3://{}/elsewhere", harness::s3::BUCKET));
    let run = elsewhere.push(&ready[0]).await?;
    ensure!(run.ended(0, &["another archive", "without it"]), "{run:?}");
    let object = stage.archiver.key(system, name)?.replacen("wal/", "elsewhere/", 1);
    ensure!(client.get(&object).await?.is_some(), "{object} is not there");
    // A daemon that hangs does not hold up what can be done without it.
    daemon.process().signal(rustix::process::Signal::STOP)?;
    client.delete(&stage.archiver.key(system, name)?).await?;
    let run = stage.archiver.push(&ready[0]).await?;
    ensure!(run.ended(0, &["does not answer", "without it"]), "{run:?}");
    ensure!(stage.archiver.content(&client, system, name).await?.is_some(), "it was said to be stored");
    daemon.process().signal(rustix::process::Signal::CONT)?;
    Ok(())
}

#[tokio::test]
async fn a_second_daemon_is_refused() -> Result<()> {
    let stage = Stage::set().await?;
    let mut first = stage.serve().await?;
    let mut second = stage.launch()?;
    let status = second.process().wait(DEADLINE).await?;
    let pid = first.process().pid().as_raw_nonzero();
    ensure!(status.code() == Some(1), "{status}");
    let named = format!("process {pid}");
    ensure!(second.log().contains("another `beyond-pg-archiver serve`") && second.log().contains(&named), "{}", second.log());
    first.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_is_told_and_waited_for() -> Result<()> {
    let mut stage = Stage::set().await?;
    let mut daemon = stage.serve().await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
    ensure!(daemon.get("/readyz").await?.0 == 200 && daemon.get("/healthz").await?.0 == 200);
    stage.faults.add(When::any(), Fault::Refuse(Refuse::SlowDown));
    stage.cluster.archive_by(&stage.archiver.clone().timeout(1)).await?;
    stage.cluster.write_wal(3 << 20).await?;
    daemon.says("the store does not answer as it should").await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 0.0).await?;
    let (status, reason) = daemon.get("/readyz").await?;
    ensure!(status == 503 && reason.contains("SlowDown") && daemon.get("/healthz").await?.0 == 200, "{status}: {reason}");
    ensure!(daemon.metric("beyond_pg_archiver_lag_files").await? >= 1.0);
    ensure!(daemon.metric("beyond_pg_archiver_failures_total{kind=\"retry\"}").await? >= 1.0);
    // Postgres is told the truth meanwhile.
    eventually(DEADLINE, "a push that fails", async || {
        Ok((stage.cluster.value("SELECT failed_count FROM pg_stat_archiver").await? != "0").then_some(()))
    })
    .await?;
    ensure!(stage.cluster.value("SELECT archived_count FROM pg_stat_archiver").await? == "0");
    stage.faults.heal();
    daemon.says("the store answers again").await?;
    daemon.wait_metric("beyond_pg_archiver_lag_files", |files| files == 0.0).await?;
    stage.cluster.archive_by(&stage.archiver).await?;
    stage.all_archived().await?;
    Ok(())
}

/// As when `push` alone was served first after an outage, on a database that then writes nothing.
#[tokio::test]
async fn a_store_that_is_back_is_noticed_with_nothing_to_upload() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.append_settings(&[("archive_command", "false")])?;
    let mut daemon = stage.serve().await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
    stage.faults.add(When::any(), Fault::Refuse(Refuse::SlowDown));
    stage.cluster.write_wal(2 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 0.0).await?;
    for path in stage.ready()? {
        let name = path.file_name().context("it has a name")?.to_string_lossy();
        let status = stage.cluster.wal().join("archive_status");
        rustix::fs::rename(status.join(format!("{name}.ready")), status.join(format!("{name}.done")))?;
    }
    daemon.wait_metric("beyond_pg_archiver_ready_files", |files| files == 0.0).await?;
    ensure!(daemon.get("/readyz").await?.0 == 503);
    stage.faults.heal();
    daemon.says("the store answers again").await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
    ensure!(daemon.metric("beyond_pg_archiver_uploads_total").await? == 0.0);
    Ok(())
}

#[tokio::test]
async fn expired_credentials_are_waited_out_and_a_stop_abandons_what_hangs() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.append_settings(&[("archive_command", "false")])?;
    let mut daemon = stage.serve().await?;
    daemon.wait_metric("beyond_pg_archiver_store_up", |up| up == 1.0).await?;
    stage.faults.add(When::any(), Fault::Refuse(Refuse::ExpiredToken));
    stage.cluster.write_wal(2 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_failures_total{kind=\"credentials\"}", |failures| failures >= 1.0).await?;
    ensure!(daemon.metric("beyond_pg_archiver_uploads_total").await? == 0.0);
    stage.faults.heal();
    daemon.wait_metric("beyond_pg_archiver_lag_files", |files| files == 0.0).await?;
    let hung = stage.faults.add(When::method("PUT"), Fault::Hang);
    stage.cluster.write_wal(1 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_uploads_running", |running| running >= 1.0).await?;
    ensure!(daemon.stop().await?.success() && hung.count() >= 1, "{}", daemon.log());
    ensure!(daemon.log().contains("abandoned"), "{}", daemon.log());
    Ok(())
}

#[tokio::test]
async fn recovery_finds_what_it_asks_for_already_there() -> Result<()> {
    recovered_ahead(18).await
}

#[tokio::test]
async fn so_it_does_on_older_versions() -> Result<()> {
    for version in [15, 16, 17] {
        recovered_ahead(version).await.with_context(|| format!("on {version}"))?;
    }
    Ok(())
}

async fn recovered_ahead(version: u32) -> Result<()> {
    let mut stage = Stage::of(version).await?;
    stage.cluster.archive_by(&stage.archiver).await?;
    stage.cluster.execute("CREATE TABLE t (n int)").await?;
    let older = stage.cluster.snapshot().await?;
    let mut daemon = stage.serve().await?;
    for row in 0..12 {
        stage.cluster.execute(&format!("INSERT INTO t VALUES ({row})")).await?;
        stage.cluster.write_wal(1 << 20).await?;
    }
    stage.all_archived().await?;
    ensure!(daemon.metric("beyond_pg_archiver_uploads_total").await? >= 10.0, "{}", daemon.log());
    ensure!(daemon.stop().await?.success());
    stage.cluster.kill()?;
    stage.cluster.restore(&older).await?;
    let mut daemon = stage.serve().await?;
    let restore = format!("{} %f %p", stage.archiver.command_line("fetch")?);
    stage.cluster.append_settings(&[("restore_command", &restore), ("archive_command", "true")])?;
    std::fs::write(stage.cluster.data().join("recovery.signal"), "")?;
    harness::Account::current().give(&stage.cluster.data().join("recovery.signal"))?;
    stage.cluster.start().await?;
    eventually(DEADLINE, "the end of recovery", async || {
        Ok((stage.cluster.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
    })
    .await?;
    ensure!(stage.cluster.value("SELECT count(*) FROM t").await? == "12", "{}", stage.cluster.log());
    let hits = daemon.metric("beyond_pg_archiver_prefetch_hits_total").await?;
    ensure!(hits >= 8.0, "{hits} hits: {}", daemon.log());
    ensure!(daemon.stop().await?.success());
    let spool = stage.cluster.wal().join(".beyond-pg-archiver.spool");
    let taken = std::fs::read_dir(spool)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let taken: Vec<_> = taken.filter(|name| name != "lock" && !name.ends_with(".spooled")).collect();
    ensure!(taken.is_empty(), "left behind: {taken:?}");
    Ok(())
}
