//! Boots that are killed after each of their steps, with all that they have started, where there is something to lose: commits that a sink
//! has acknowledged, and a primary's rows.

use anyhow::{Context, Result, ensure};
use harness::init::Init;
use harness::{DEADLINE, eventually};

use super::{STEPS, assert_works, with_sink};

/// Each step of a boot with a sink, killed after each one of a row in turn before the boot that gets to its end: what is in a row leaves the
/// volume as it was, or does not see what is there.
const ROUNDS: [&[&str]; 8] = [
    &["mounts", "settings", "volume", "initdb", "wal_dir", "config"],
    &["sink_recover"],
    &["pitr", "check", "identity"],
    &["start"],
    &["roles"],
    &["verify"],
    &["pgbouncer", "sidecars"],
    &["ready"],
];

/// What was written.
const ROWS: &str = "select string_agg(row, '; ' order by id) from t";

/// The same of a replica's boot.
const ROUNDS_OF_REPLICA: [&[&str]; 6] = [
    &["mounts", "settings", "volume", "base"],
    &["wal_dir", "config"],
    &["check", "identity"],
    &["start"],
    &["pgbouncer", "sidecars"],
    &["ready"],
];

#[tokio::test]
async fn with_a_sink_a_boot_that_is_killed_after_any_step_has_all_that_was_acknowledged() -> Result<()> {
    let (mut init, mut sink) = with_sink("required").await?;
    // On an empty volume, each boot goes on where the one before has died.
    for step in STEPS {
        init.die_after(step).await?;
    }
    init.start().await?;
    assert_works(&init).await?;
    sink.wait_streaming().await?;
    init.sql("create table t (id serial, row text)").await?;
    let older = init.snapshot().await?;
    ensure!(ROUNDS.concat() == STEPS);
    let mut written = Vec::new();
    for steps in ROUNDS {
        let killed = steps.join(", ");
        init.sql(&format!("insert into t (row) values ('before {killed}')")).await?;
        written.push(format!("before {killed}"));
        init.kill()?;
        // What is on the volume is what it was before the first of these rows: all of them come from the sink.
        init.restore(&older).await?;
        for step in steps {
            init.die_after(step).await?;
        }
        let status = init.start().await.with_context(|| killed.clone())?;
        ensure!(status["recovered"].to_string().contains("proven: all WAL of"), "{killed}: {status:#}");
        assert_works(&init).await?;
        let found = init.sql(ROWS).await?;
        ensure!(found == written.join("; "), "killed after {killed}: {found}");
        sink.wait_streaming().await?;
    }
    ensure!(init.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_replica_s_boot_that_is_killed_after_any_step_follows_its_primary_when_it_is_run_again() -> Result<()> {
    let mut primary = Init::new().await?;
    primary.start().await?;
    primary.admin(&["create role repl login replication password 'repl'"]).await?;
    primary.sql("create table t (id serial, row text)").await?;
    let conninfo = format!("host=127.0.0.1 port={} user=repl password=repl", primary.port());
    let mut written = Vec::new();
    for steps in ROUNDS_OF_REPLICA {
        let killed = steps.join(", ");
        let mut replica = Init::new().await?;
        replica.env("BEYOND_PG_TIER", "replica").env("BEYOND_PG_PRIMARY_CONNINFO", &conninfo);
        for step in steps {
            replica.die_after(step).await?;
        }
        let mut write = async |row: String| {
            primary.sql(&format!("insert into t (row) values ('{row}')")).await?;
            written.push(row);
            anyhow::Ok(written.join("; "))
        };
        write(format!("while down, after {killed}")).await?;
        let status = replica.start().await.with_context(|| killed.clone())?;
        ensure!(status["tier"] == "replica", "{killed}: {status:#}");
        assert_works(&replica).await?;
        let wanted = write(format!("while up, after {killed}")).await?;
        eventually(DEADLINE, "what the primary has", async || {
            let found = replica.sql(ROWS).await?;
            ensure!(found == wanted, "killed after {killed}: {found}");
            Ok(Some(()))
        })
        .await?;
        ensure!(replica.sql("select pg_is_in_recovery()").await? == "t", "{killed}");
        ensure!(replica.stop().await?.success(), "{killed}");
    }
    Ok(())
}
