//! Programs beside Postgres, as boot runs them.

use anyhow::{Context, Result, ensure};
use harness::init::Init;
use harness::{Archiver, DEADLINE, S3, eventually, s3};
use rustix::process::Signal;

use super::deaths;

/// Writes a segment, waits until Postgres takes it for archived, and finds it in the archive as it was written.
async fn archive_one(init: &Init, server: &S3) -> Result<String> {
    let written = init
        .admin(&["select pg_walfile_name(pg_current_wal_lsn())", "select pg_logical_emit_message(true, 'one', 'more')"])
        .await?;
    let file = written.lines().next().context("a segment has a name")?.to_owned();
    init.admin(&["select pg_switch_wal()"]).await?;
    eventually(DEADLINE, &format!("{file} to be archived"), async || {
        let last = init.admin(&["select last_archived_wal from pg_stat_archiver"]).await?;
        ensure!(last >= file, "the last one is {last:?}");
        Ok(Some(()))
    })
    .await
    .with_context(|| init.log())?;
    let system = init.admin(&["select system_identifier from pg_control_system()"]).await?.parse()?;
    let held = Archiver::at(server.port()).content(&server.client()?, system, &file).await?;
    let held = held.with_context(|| format!("{file} is not in the archive"))?;
    ensure!(held == std::fs::read(init.volume().join("wal").join(&file))?, "{file} is another");
    Ok(file)
}

/// A metric of the daemon that runs now, at the port that it has logged last.
async fn metric(init: &Init, name: &str) -> Result<f64> {
    let log = init.log();
    let (_, address) = log.rsplit_once("metrics at ").context("the archiver does not listen for HTTP yet")?;
    let url = address.split_whitespace().next().unwrap_or_default();
    let text = reqwest::get(url).await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

#[tokio::test]
async fn the_archiver_runs_beside_postgres_and_comes_back_when_it_is_killed() -> Result<()> {
    let server = S3::start_new().await?;
    let mut init = Init::new().await?;
    init.env("BEYOND_PG_SIDECARS", "archiver").env("BEYOND_PG_ARCHIVE_STORE", &format!("s3://{}/wal", s3::BUCKET));
    init.env("BEYOND_PG_ARCHIVE_HTTP", "127.0.0.1:0");
    for (name, value) in s3::environment(server.port()) {
        init.env(&name, &value);
    }
    init.start().await?;
    let uploads = async |init: &Init| {
        eventually(DEADLINE, "an upload of the daemon", async || {
            let uploads = metric(init, "beyond_pg_archiver_uploads_total").await?;
            Ok((uploads >= 1.0).then_some(()))
        })
        .await
        .with_context(|| init.log())
    };
    let first = archive_one(&init, &server).await?;
    uploads(&init).await?;

    let before = init.child("archiver").await?;
    init.signal_child("archiver", Signal::KILL).await?;
    init.wait_for("another one", |status| deaths(status, "archiver") == 1).await?;
    let after = eventually(DEADLINE, "its process", async || Ok(init.child("archiver").await.ok())).await?;
    ensure!(after != before, "the same process");
    eventually(DEADLINE, "it listens again", async || Ok((init.log().matches("metrics at ").count() == 2).then_some(()))).await?;
    let second = archive_one(&init, &server).await?;
    ensure!(second > first, "{first} {second}");
    uploads(&init).await?;
    ensure!(init.status().await?["ready"] == true);
    ensure!(init.stop().await?.success(), "{}", init.log());
    ensure!(init.left_behind()?.is_empty(), "{:?}", init.left_behind()?);
    Ok(())
}
