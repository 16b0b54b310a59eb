//! What `follow` tells of itself on a real server: how far behind the archive is, and who is to blame.

use anyhow::{Context, Result, ensure};
use harness::{Archiver, Fault, Faults, Postgres, Refuse, S3, StopMode, When};

const LAG_BYTES: &str = "beyond_pg_archiver_lag_bytes";
const LAG_SECONDS: &str = "beyond_pg_archiver_lag_seconds";
const STORE_UP: &str = "beyond_pg_archiver_store_up";
const SERVER_UP: &str = "beyond_pg_archiver_server_up";

async fn told(version: u32) -> Result<()> {
    let mut cluster = Postgres::version(version).wal_segment_mb(1).setting("wal_keep_size", "1GB").start().await?;
    let server = S3::start_new().await?;
    let faults = Faults::before(server.port())?;
    let archiver = Archiver::at(faults.port());
    let from = cluster.conninfo();
    let args = ["--from", &from, "--slot", "telling", "--create-slot", "--tail-interval", "200ms", "--http", "127.0.0.1:0"];
    let mut daemon = archiver.launch("follow", args)?;
    daemon.says("streaming").await?;
    cluster.write_wal(3 << 20).await?;

    // All is stored, the tail included.
    let end = cluster.flush_lsn().await?.0 as f64;
    daemon.wait_metric("beyond_pg_archiver_archived_lsn", |archived| archived >= end).await?;
    daemon.wait_metric(LAG_BYTES, |lag| lag == 0.0).await?;
    ensure!(daemon.metric(LAG_SECONDS).await? == 0.0);
    ensure!(daemon.metric(STORE_UP).await? == 1.0 && daemon.metric(SERVER_UP).await? == 1.0);
    ensure!(daemon.metric("beyond_pg_archiver_timeline").await? == 1.0);
    ensure!(daemon.metric("beyond_pg_archiver_slot_info{slot=\"telling\"}").await? == 1.0);
    let uploads = daemon.metric("beyond_pg_archiver_uploads_total").await?;
    ensure!(uploads >= 3.0 && daemon.metric("beyond_pg_archiver_upload_bytes_total").await? == uploads * f64::from(1 << 20));
    ensure!(daemon.metric("beyond_pg_archiver_tails_total").await? >= 1.0);
    ensure!(daemon.get("/readyz").await? == (200, "ready\n".to_owned()) && daemon.get("/healthz").await?.0 == 200);

    // The store is away: the lag is what the server wrote since, and its seconds go by.
    faults.add(When::any(), Fault::Refuse(Refuse::InternalError));
    let before = daemon.metric("beyond_pg_archiver_archived_lsn").await?;
    cluster.write_wal(2 << 20).await?;
    let end = cluster.flush_lsn().await?.0 as f64;
    daemon.wait_metric(STORE_UP, |up| up == 0.0).await?;
    daemon.wait_metric(LAG_BYTES, |lag| lag >= f64::from(2 << 20)).await?;
    ensure!(daemon.metric(LAG_BYTES).await? <= end - before + f64::from(1 << 20));
    daemon.wait_metric(LAG_SECONDS, |lag| lag >= 1.0).await?;
    ensure!(daemon.metric("beyond_pg_archiver_failures_total{kind=\"retry\"}").await? >= 1.0);
    let (status, text) = daemon.get("/readyz").await?;
    ensure!(status == 503 && text.starts_with("store: "), "{status} {text}");
    ensure!(daemon.get("/healthz").await?.0 == 200);
    faults.heal();
    daemon.wait_metric(LAG_BYTES, |lag| lag == 0.0).await?;
    daemon.wait_metric(STORE_UP, |up| up == 1.0).await?;

    // The server is away, and then on another timeline.
    cluster.stop(StopMode::Fast).await?;
    daemon.wait_metric(SERVER_UP, |up| up == 0.0).await?;
    let (status, text) = daemon.get("/readyz").await?;
    ensure!(status == 503 && text.starts_with("server: "), "{status} {text}");
    ensure!(daemon.metric(STORE_UP).await? == 1.0);
    cluster.start().await?;
    cluster.restart_as_standby().await?;
    cluster.promote().await?;
    cluster.write_wal(1 << 20).await?;
    daemon.wait_metric("beyond_pg_archiver_timeline", |timeline| timeline == 2.0).await?;
    daemon.wait_metric(LAG_BYTES, |lag| lag == 0.0).await?;
    ensure!(daemon.metric(SERVER_UP).await? == 1.0);
    ensure!(daemon.stop().await.with_context(|| daemon.log())?.success());
    Ok(())
}

#[tokio::test]
async fn follow_tells_how_far_behind_it_is_on_15() -> Result<()> {
    told(15).await
}

#[tokio::test]
async fn follow_tells_how_far_behind_it_is_on_18() -> Result<()> {
    told(18).await
}
