//! Postgres itself runs `push` and `fetch`: what it wrote is there and comes back, and a store that is away never ends recovery early.

use anyhow::{Context, Result, ensure};
use harness::postgres::{Setup, VERSIONS};
use harness::s3::S3Kind;
use harness::{Archiver, Fault, Faults, Postgres, Refuse, S3, When, eventually};

fn archiving(version: u32) -> Setup {
    Postgres::version(version).wal_segment_mb(1).setting("archive_mode", "on").setting("wal_keep_size", "1GB")
}

/// Waits until the archive has this file.
async fn archived(cluster: &Postgres, file: &str) -> Result<()> {
    let sql = "SELECT last_archived_wal, failed_count, last_failed_wal FROM pg_stat_archiver";
    eventually(harness::DEADLINE, &format!("{file} to be archived"), async || {
        let rows = cluster.rows(sql).await?;
        ensure!(rows[0][0].as_str() >= file, "{rows:?}");
        Ok(Some(()))
    })
    .await
    .with_context(|| cluster.log())
}

/// Every file of WAL that the cluster has done with, and the archive has it, byte by byte.
async fn same(cluster: &Postgres, archiver: &Archiver, server: &S3) -> Result<Vec<String>> {
    let client = server.client()?;
    let system = cluster.system().await?;
    let files = archiver.files(&client, system).await?;
    for file in &files {
        let held = archiver.content(&client, system, file).await?.context("it was listed")?;
        ensure!(held == std::fs::read(cluster.wal().join(file))?, "{file} is another");
    }
    Ok(files)
}

#[tokio::test]
async fn each_version_archives_segments_partials_histories_and_backups() -> Result<()> {
    for version in VERSIONS {
        let mut server = S3::new(S3Kind::Moto)?;
        server.start().await?;
        let archiver = Archiver::at(server.port());
        let mut cluster = archiving(version).start().await?;
        cluster.archive_by(&archiver).await?;
        let backup = cluster.scratch().path().join("backup");
        let mut command = cluster.program("pg_basebackup");
        command.args(["--checkpoint=fast", "--wal-method=none", "--no-sync", "-D"]).arg(&backup);
        harness::program::run(command).await?;
        cluster.write_wal(3 << 20).await?;
        cluster.restart_as_standby().await?;
        cluster.promote().await?;
        let first = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        cluster.switch_wal().await?;
        archived(&cluster, &first).await?;
        let files = same(&cluster, &archiver, &server).await?;
        let count = |end: &str| files.iter().filter(|file| file.ends_with(end)).count();
        ensure!(
            count(".history") == 1 && count(".backup") == 1 && count(".partial") == 1 && files.len() > 6,
            "{version}: {files:?}"
        );
        ensure!(files.contains(&first) && files.contains(&"00000002.history".to_owned()), "{version}: {files:?}");
        let failed = cluster.value("SELECT failed_count FROM pg_stat_archiver").await?;
        ensure!(failed == "0", "{version}: {failed} failed: {}", cluster.log());
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_comes_back_gets_all_that_was_written_meanwhile() -> Result<()> {
    let mut server = S3::start_new().await?;
    let archiver = Archiver::at(server.port());
    let mut cluster = archiving(18).start().await?;
    cluster.archive_by(&archiver.clone().timeout(1)).await?;
    server.kill()?;
    cluster.write_wal(3 << 20).await?;
    eventually(harness::DEADLINE, "a push that fails", async || {
        Ok((cluster.value("SELECT failed_count FROM pg_stat_archiver").await? != "0").then_some(()))
    })
    .await?;
    ensure!(cluster.value("SELECT archived_count FROM pg_stat_archiver").await? == "0");
    server.start().await?;
    cluster.archive_by(&archiver).await?;
    let last = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    cluster.switch_wal().await?;
    archived(&cluster, &last).await?;
    ensure!(same(&cluster, &archiver, &server).await?.len() >= 4);
    Ok(())
}

#[tokio::test]
async fn recovery_stops_where_the_store_is_away_and_goes_on_when_it_is_back() -> Result<()> {
    let server = S3::start_new().await?;
    let faults = Faults::before(server.port())?;
    let archiver = Archiver::at(faults.port());
    let mut cluster = archiving(18).start().await?;
    cluster.archive_by(&archiver).await?;
    cluster.execute("CREATE TABLE t (n int)").await?;
    let older = cluster.snapshot().await?;
    for row in 0..3 {
        cluster.execute(&format!("INSERT INTO t VALUES ({row})")).await?;
        cluster.write_wal(1 << 20).await?;
    }
    let last = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    cluster.switch_wal().await?;
    archived(&cluster, &last).await?;
    cluster.kill()?;

    // The host comes back with an older folder: what was written since is the archive's alone.
    cluster.restore(&older).await?;
    let second = cluster.segments()?.first().map(|segment| segment.next().name(cluster.segment_size()).to_string());
    let second = second.context("there is WAL")?;
    let restore = |archiver: &Archiver| Ok::<_, anyhow::Error>(format!("{} %f %p", archiver.command_line("fetch")?));
    let impatient = restore(&archiver.clone().timeout(2))?;
    cluster.append_settings(&[("restore_command", &impatient), ("archive_command", "false")])?;
    std::fs::write(cluster.data().join("recovery.signal"), "")?;
    harness::Account::current().give(&cluster.data().join("recovery.signal"))?;
    for fault in [Fault::Refuse(Refuse::SlowDown), Fault::Refuse(Refuse::AccessDenied), Fault::FlipResponse(200), Fault::Hang] {
        faults.add(When::any().of(&second), fault);
        let logged = cluster.log().len();
        cluster.launch()?;
        let status = cluster.process()?.wait(harness::DEADLINE).await?;
        ensure!(!status.success(), "{fault:?}: recovery ended early");
        let log = cluster.log().get(logged..).unwrap_or_default().to_owned();
        ensure!(log.contains(&format!("could not restore file \"{second}\" from archive")), "{fault:?}: {log}");
        ensure!(cluster.control("Latest checkpoint's TimeLineID").await? == "1", "{fault:?}: it was promoted");
        faults.heal();
    }
    cluster.append_settings(&[("restore_command", &restore(&archiver)?)])?;
    cluster.start().await?;
    eventually(harness::DEADLINE, "the end of recovery", async || {
        Ok((cluster.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
    })
    .await?;
    ensure!(cluster.value("SELECT count(*) FROM t").await? == "3", "{}", cluster.log());
    ensure!(cluster.value("SELECT timeline_id FROM pg_control_checkpoint()").await? == "2");
    Ok(())
}

#[tokio::test]
async fn the_last_segment_of_a_timeline_comes_from_its_partial() -> Result<()> {
    let server = S3::start_new().await?;
    let archiver = Archiver::at(server.port());
    let mut cluster = archiving(18).start().await?;
    cluster.archive_by(&archiver).await?;
    cluster.execute("CREATE TABLE t AS SELECT 1 AS n").await?;
    cluster.restart_as_standby().await?;
    cluster.promote().await?;
    let client = server.client()?;
    let system = cluster.system().await?;
    let partial = eventually(harness::DEADLINE, "a .partial", async || {
        let files = archiver.files(&client, system).await?;
        Ok(files.into_iter().find(|file| file.ends_with(".partial")))
    })
    .await?;
    let name = partial.strip_suffix(".partial").context("it ends so")?;
    let to = cluster.scratch().path().join("fetched");
    let run = archiver.fetch(cluster.data(), name, &to).await?;
    ensure!(run.ended(0, &[]) && std::fs::read(&to)? == std::fs::read(cluster.wal().join(&partial))?, "{run:?}");
    std::fs::remove_file(&to)?;
    let args = ["--no-tail", "--pgdata", &cluster.data().to_string_lossy(), name, &to.to_string_lossy()].map(str::to_owned);
    let run = archiver.run("fetch", &args).await?;
    ensure!(run.ended(1, &[]) && !to.exists(), "{run:?}");
    Ok(())
}
