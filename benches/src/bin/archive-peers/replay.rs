//! A real server that replays all that was archived, as `restore_command` brings it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Account, Postgres, eventually};
use tokio::time::Instant;

use crate::bench::{Bench, SHARED_BUFFERS, STEP_MAX};
use crate::contender::{Contender, Running, Task};

/// What Postgres logs when it has reached the target.
const REACHED: &str = "recovery stopping";
/// What it logs of each segment that it was given.
const RESTORED: &str = "restored log file";

/// From the moment that the server is started, and the daemon with it where there is one, until it has replayed what was archived.
pub(crate) async fn run(bench: &mut Bench, contender: Contender, round: u32) -> Result<Duration> {
    let target = bench.target()?.to_string();
    let mut cluster = Postgres::version(18)
        .setting("archive_mode", "off")
        .setting("archive_command", "")
        .setting("shared_buffers", SHARED_BUFFERS)
        .setting("recovery_target_lsn", &target)
        .setting("recovery_target_action", "pause")
        .copy_of(bench.base.path())
        .await?;
    let signal = cluster.data().join("recovery.signal");
    std::fs::write(&signal, "")?;
    Account::current().give(&signal)?;
    // What was written before is no part of it.
    rustix::fs::sync();
    let start = Instant::now();
    let running = Running::start(contender, bench, &cluster, Task { name: "replay", round }).await?;
    cluster.append_settings(&[("restore_command", &running.restore_command)])?;
    cluster.launch()?;
    eventually(STEP_MAX, "the end of replay", async || {
        let reached = cluster.log().contains(REACHED);
        Ok((reached || cluster.process()?.check_runs().is_err()).then_some(()))
    })
    .await?;
    let took = start.elapsed();
    let log = cluster.log();
    ensure!(log.contains(REACHED), "replay ended early: the server's log:\n{log}");
    let restored = log.lines().filter(|line| line.contains(RESTORED)).count();
    ensure!(restored >= bench.segments.len(), "only {restored} segments came from the archive");
    cluster.wait_until_ready().await?;
    let state = cluster.value("SELECT count(*) || ' ' || sum(delta) FROM pgbench_history").await?;
    ensure!(*bench.replayed.get_or_insert_with(|| state.clone()) == state, "another state than that of the runs before: {state}");
    cluster.kill().context("end the server")?;
    running.end().await?;
    Ok(took)
}
