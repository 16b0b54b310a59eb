//! What is wrong around a boot: its disk, its sink, its clock, a child that hangs.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::init::Init;
use harness::{DEADLINE, FullDisk, ShiftedClock, eventually};
use rustix::process::Signal;

use super::{assert_works, with_sink, without_its_sink};

#[tokio::test]
async fn a_volume_that_can_only_be_read_is_named() -> Result<()> {
    let Some(disk) = FullDisk::new(300)? else { return Ok(()) };
    let mut init = Init::new().await?;
    init.set_volume(&disk.path().join("volume")).env("BEYOND_PG_MEMORY_MB", "256").start().await?;
    ensure!(init.stop().await?.success());
    disk.only_read(true)?;
    let (status, log) = init.end_of(&[]).await?;
    disk.only_read(false)?;
    ensure!(status.code() == Some(1) && log.contains("Read-only file system"), "{status} {log}");
    init.start().await?;
    assert_works(&init).await
}

#[tokio::test]
async fn a_required_sink_that_goes_away_holds_commits_up_and_is_said() -> Result<()> {
    let (mut init, mut sink) = without_its_sink("required").await?;
    let away = init.wait_for("an alarm", |status| status["alarms"].to_string().contains("commits wait for it")).await?;
    ensure!(away["sink"]["commits_wait"] == true && away["sink"]["policy"] == "required", "{away:#}");
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let (inserted, seen) = tokio::join!(init.sql("insert into t values (1) returning a"), async {
        let waiting = eventually(DEADLINE, "a commit that waits", async || Ok((init.admin(&[waits]).await? == "1").then_some(())));
        waiting.await?;
        sink.start().await
    });
    seen?;
    ensure!(inserted?.starts_with('1'), "it is done when the sink is back");
    init.wait_for("the sink again", |status| status["sink"]["streaming"] == true && status["alarms"] == serde_json::json!([]))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_sink_of_another_cluster_lets_nothing_start() -> Result<()> {
    let (mut other, mut sink) = with_sink("required").await?;
    other.start().await?;
    sink.wait_streaming().await?;
    ensure!(other.stop().await?.success());
    let mut init = Init::new().await?;
    init.start().await?;
    init.sql("create table t as select 1 as a").await?;
    ensure!(init.stop().await?.success());
    init.set_sink(&sink)?.launch(&[])?;
    let told = init.wait_for("the refusal", |status| status["not_ready"].to_string().contains("another cluster")).await?;
    ensure!(told["ready"] == false && told["step"] == "sink_recover", "{told:#}");
    ensure!(init.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_is_ended_when_its_time_is_over() -> Result<()> {
    let mut init = Init::new().await?;
    init.env("BEYOND_PG_STOP_TIMEOUT", "1s").start().await?;
    init.sql("create table t as select 1 as a").await?;
    init.signal_child("postgres", Signal::STOP).await?;
    let status = init.stop().await?;
    ensure!(init.left_behind()?.is_empty(), "{status} {:?}", init.left_behind()?);
    init.start().await?;
    ensure!(init.sql("select a from t").await? == "1");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_years_off_and_jumps_back_changes_nothing() -> Result<()> {
    const YEAR: i64 = 365 * 86_400 * 1_000_000;
    let clock = ShiftedClock::new().await?;
    let mut init = Init::new().await?;
    for (name, value) in clock.environment() {
        init.env(&name, &value);
    }
    clock.shift_us(8 * YEAR)?;
    init.start().await?;
    init.sql("create table t as select now() as at").await?;
    clock.shift_us(-8 * YEAR)?;
    init.sql("insert into t values (now())").await?;
    ensure!(init.sql("select max(at) - min(at) > interval '5800 days' from t").await? == "t");
    init.signal_child("postgres", Signal::KILL).await?;
    init.wait_for("another one", |status| status["ready"] == true && status["children"].to_string().contains("signal 9")).await?;
    let stopped = tokio::time::timeout(Duration::from_secs(30), init.stop()).await??;
    ensure!(stopped.success(), "{stopped}");
    init.start().await?;
    ensure!(init.sql("select count(*) from t").await? == "2");
    Ok(())
}
