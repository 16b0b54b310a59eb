//! A disk that is full.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Cdc, DEADLINE, FullDisk, Postgres, StopMode, eventually};

use super::{decoding, numbers, publish};

/// How many rows of 8 kB are more than a segment of the log.
const ROWS: usize = 9000;

/// Writes them, in transactions that need no spool.
async fn write(cluster: &Postgres) -> Result<()> {
    for from in (1..=ROWS).step_by(500) {
        let sql = format!("INSERT INTO t SELECT n, repeat('x', 8000) FROM generate_series({from}, {}) n", from + 499);
        cluster.execute(&sql).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_does_not_hold_up_the_primarys_shutdown_and_passes() -> Result<()> {
    let Some(disk) = FullDisk::new(200)? else { return Ok(()) };
    let mut cluster = decoding(18).start().await?;
    publish(&cluster).await?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.set_data(&disk.path().join("cdc")).arg("--disk-full-timeout").arg("2s");
    // The log's first segment has room, and no second one.
    disk.fill(80 << 20)?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    write(&cluster).await?;
    let said = cdc.wait_says("/readyz", "the session is ended").await?;
    ensure!(said.contains("503") && said.contains("disk_full") && said.contains("--data-dir"), "{said}");
    ensure!(cdc.get("/metrics").await?.contains("beyond_pg_cdc_disk_full_sessions_total 1\n"));
    eventually(DEADLINE, "the primary to notice", async || {
        Ok((cluster.value("SELECT active FROM pg_replication_slots").await? == "f").then_some(()))
    })
    .await?;
    // Nobody is waited for.
    let stopped = tokio::time::timeout(Duration::from_secs(30), cluster.stop(StopMode::Fast)).await;
    ensure!(stopped.is_ok_and(|stopped| stopped.is_ok()), "the primary does not shut down: {}", cluster.log());
    cluster.start().await?;
    let lines = cdc.log().matches("the disk of --data-dir is full").count();
    ensure!((1..=3).contains(&lines), "a line every 30 s at most: {}", cdc.log());

    disk.free()?;
    cdc.wait_streaming(&cluster).await?;
    let seen = numbers(&cdc, ROWS).await?;
    ensure!(seen.iter().copied().eq(1..=ROWS as i64), "each row once, in order");
    Ok(())
}

#[tokio::test]
async fn sigterm_is_heeded_while_the_disk_is_full() -> Result<()> {
    let Some(disk) = FullDisk::new(200)? else { return Ok(()) };
    let cluster = decoding(18).start().await?;
    publish(&cluster).await?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.set_data(&disk.path().join("cdc"));
    disk.fill(80 << 20)?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    write(&cluster).await?;
    cdc.wait_says("/readyz", "disk_full").await?;
    cdc.signal(rustix::process::Signal::TERM)?;
    let status = cdc.process()?.wait(Duration::from_secs(10)).await?;
    ensure!(status.success(), "{status}: {}", cdc.log());
    // What was not written comes again.
    disk.free()?;
    cdc.start().await?;
    let seen = numbers(&cdc, ROWS).await?;
    ensure!(seen.iter().copied().eq(1..=ROWS as i64), "each row once, in order");
    Ok(())
}
