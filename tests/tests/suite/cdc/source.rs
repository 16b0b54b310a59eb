//! Sources that are standbys, are promoted, or shut down.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cdc::SLOT;
use harness::{Cdc, DEADLINE, Postgres, Proxy, StopMode, eventually};

use super::{decoding, numbers, publish};

/// A primary and a standby that has the slot, kept in step, and a server that follows the primary through a proxy.
async fn with_failover(synchronized: bool) -> Result<(Postgres, Postgres, Proxy, Cdc)> {
    let primary = decoding(17).start().await?;
    publish(&primary).await?;
    primary.execute("SELECT pg_create_physical_replication_slot('standby')").await?;
    if synchronized {
        primary.append_settings(&[("synchronized_standby_slots", "standby")])?;
    }
    let standby = decoding(17).setting("hot_standby_feedback", "on").setting("primary_slot_name", "standby");
    let standby = standby.standby_of(&primary).await?;
    let conninfo = format!("{} dbname=postgres", primary.socket_conninfo());
    // Promoted, it waits for no standby of its own.
    let own = [("primary_conninfo", conninfo.as_str()), ("synchronized_standby_slots", "")];
    standby.append_settings(&own)?;
    let proxy = Proxy::to(primary.port())?;
    let mut cdc = Cdc::new(&format!("{} dbname=postgres", harness::postgres::conninfo(proxy.port())))?;
    // The standby's slot is made once the primary's has moved on.
    cdc.arg("--create-slot").arg("--failover").arg("--status-interval").arg("200ms");
    Ok((primary, standby, proxy, cdc))
}

/// Brings the slot to the standby, which could go on with it from then on.
async fn keep_in_step(primary: &Postgres, standby: &Postgres) -> Result<()> {
    eventually(DEADLINE, "the slot on the standby", async || {
        // Its place on the primary moves on, behind which the standby's is made.
        primary.execute("SELECT pg_log_standby_snapshot(), pg_logical_emit_message(false, 'harness', 'x')").await?;
        standby.execute("SELECT pg_sync_replication_slots()").await?;
        let ready = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND synced AND NOT temporary");
        Ok((standby.value(&ready).await? == "1").then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_promoted_standby_with_the_slot_is_followed_without_a_gap() -> Result<()> {
    let (mut primary, mut standby, proxy, mut cdc) = with_failover(true).await?;
    primary.reload()?;
    standby.reload()?;
    cdc.start().await?;
    cdc.wait_streaming(&primary).await?;
    primary.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    keep_in_step(&primary, &standby).await?;
    primary.execute("INSERT INTO t VALUES (2)").await?;
    ensure!(numbers(&cdc, 2).await? == [1, 2]);
    primary.stop(StopMode::Fast).await?;
    standby.promote().await?;
    proxy.retarget(standby.port());
    standby.execute("INSERT INTO t VALUES (3)").await?;
    ensure!(numbers(&cdc, 3).await? == [1, 2, 3], "{}", cdc.log());
    // The old one is not gone back to.
    ensure!(cdc.stop().await?.success());
    primary.start().await?;
    proxy.retarget(primary.port());
    cdc.start().await?;
    let said = cdc.wait_says("/readyz", "it is an old primary").await?;
    ensure!(said.contains("timeline 1") && said.contains("timeline 2"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_promoted_standby_that_lacks_what_the_log_holds_is_refused() -> Result<()> {
    let (mut primary, mut standby, proxy, mut cdc) = with_failover(false).await?;
    primary.reload()?;
    standby.reload()?;
    cdc.start().await?;
    cdc.wait_streaming(&primary).await?;
    primary.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    keep_in_step(&primary, &standby).await?;
    // The standby hears nothing more.
    standby.append_settings(&[("primary_conninfo", "")])?;
    standby.reload()?;
    eventually(DEADLINE, "the standby to be cut off", async || {
        Ok((primary.value("SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'beyond-pg-cdc'").await? == "0")
            .then_some(()))
    })
    .await?;
    primary.execute("INSERT INTO t VALUES (2)").await?;
    ensure!(numbers(&cdc, 2).await? == [1, 2]);
    primary.kill()?;
    standby.promote().await?;
    proxy.retarget(standby.port());
    standby.execute("INSERT INTO t VALUES (3)").await?;
    let said = cdc.wait_says("/readyz", "slot_lost").await?;
    ensure!(said.contains("was promoted to timeline 2") && said.contains("--new-epoch"), "{said}");
    ensure!(numbers(&cdc, 2).await? == [1, 2]);
    Ok(())
}

#[tokio::test]
async fn a_standby_is_decoded() -> Result<()> {
    for version in [16, 18] {
        let primary = decoding(version).start().await?;
        publish(&primary).await?;
        let standby = decoding(version).setting("hot_standby_feedback", "on").standby_of(&primary).await?;
        let mut cdc = Cdc::of(&standby)?;
        // A slot begins there with what the primary says of running transactions, which an idle one seldom does.
        let tell = eventually(DEADLINE, "the server to start", async || {
            primary.execute("SELECT pg_log_standby_snapshot()").await?;
            Ok(None::<()>)
        });
        tokio::select! {
            started = cdc.start() => started?,
            told = tell => told?,
        }
        cdc.wait_streaming(&standby).await?;
        primary.execute("INSERT INTO t SELECT generate_series(1, 1000)").await?;
        ensure!(numbers(&cdc, 1000).await?.into_iter().eq(1..=1000), "version {version}");
        // It goes on from where it was.
        ensure!(cdc.stop().await?.success());
        primary.execute("INSERT INTO t VALUES (1001)").await?;
        cdc.start().await?;
        ensure!(numbers(&cdc, 1001).await?.into_iter().eq(1..=1001), "version {version}");
    }
    Ok(())
}

#[tokio::test]
async fn a_primary_shuts_down_though_a_prepared_transaction_is_held() -> Result<()> {
    let mut cluster = decoding(18).setting("max_prepared_transactions", "5").start().await?;
    publish(&cluster).await?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.arg("--two-phase").start().await?;
    cdc.wait_streaming(&cluster).await?;
    cluster.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'held'").await?;
    cluster.execute("INSERT INTO t VALUES (2)").await?;
    ensure!(numbers(&cdc, 1).await? == [2]);
    let stopped = tokio::time::timeout(Duration::from_secs(30), cluster.stop(StopMode::Fast)).await;
    ensure!(stopped.is_ok_and(|stopped| stopped.is_ok()), "it does not shut down:\n{}\n{}", cdc.log(), cluster.log());
    cluster.start().await?;
    cdc.wait_streaming(&cluster).await?;
    cluster.execute("COMMIT PREPARED 'held'").await?;
    cluster.execute("INSERT INTO t VALUES (3)").await?;
    ensure!(numbers(&cdc, 3).await? == [2, 1, 3], "in the order of commits");
    Ok(())
}
