//! A pair of servers: one is lost, the other takes over, and the first comes back.

use anyhow::{Context, Result, ensure};
use harness::init::Init;
use harness::{DEADLINE, Ledger, Sink, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Whom a standby connects as; and what `pg_rewind` needs beside, in the database that it connects to.
const ROLE: &str = "create role repl login replication password 'repl'";
const GRANT: &str = "grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), \
                     pg_read_binary_file(text, bigint, bigint, boolean) to repl";

fn follow(init: &mut Init, primary: &Init) {
    let conninfo = format!("host=127.0.0.1 port={} user=repl password=repl dbname=app", primary.port());
    init.env("BEYOND_PG_TIER", "replica").env("BEYOND_PG_PRIMARY_CONNINFO", &conninfo);
    init.env("BEYOND_PG_PGBOUNCER_TARGET", "primary");
}

/// A primary and its standby, in step, each the other's peer.
async fn pair() -> Result<(Init, Init)> {
    let (mut one, mut two) = (Init::new().await?, Init::new().await?);
    one.env("BEYOND_PG_HA_STANDBY", "twin").env("BEYOND_PG_PEERS", &two.health_address());
    two.env("BEYOND_PG_HA_STANDBY", "twin").env("BEYOND_PG_PEERS", &one.health_address());
    one.start().await?;
    one.admin(&["set synchronous_commit = local", ROLE, GRANT]).await?;
    follow(&mut two, &one);
    two.start().await?;
    in_step(&mut two).await?;
    Ok((one, two))
}

async fn in_step(standby: &mut Init) -> Result<Value> {
    standby.wait_for("a standby in step", |status| status["ha"]["role"] == "standby" && status["ha"]["in_step"] == true).await
}

/// Asks for the promotion until the standby has noticed that its primary is gone.
async fn promoted(standby: &Init) -> Result<String> {
    let mut last = String::new();
    let waited = eventually(DEADLINE, "the promotion", async || {
        let (is_done, said) = standby.promote(&[]).await?;
        last.clone_from(&said);
        Ok(is_done.then_some(said))
    });
    waited.await.with_context(|| last)
}

#[tokio::test]
async fn a_primary_that_is_lost_loses_nothing_and_is_refused_until_it_follows() -> Result<()> {
    let (mut one, mut two) = pair().await?;
    // Through the standby's pool, which goes to the primary: with the same password, by SCRAM all the way.
    let mut ledger = Ledger::create_at(&two.pool()).await?;
    ledger.write_to(&two.pool(), 8);
    ledger.wait_more(500).await?;
    let (is_done, said) = two.promote(&[]).await?;
    ensure!(!is_done && said.contains("the primary streams to this standby"), "{said}");

    one.kill()?;
    let lost_at = Instant::now();
    let said = promoted(&two).await?;
    ensure!(said.contains("timeline 2"), "{said}");
    let promotion = lost_at.elapsed();
    ledger.wait_more(1).await?;
    eprintln!("promoted {promotion:?} after the primary was killed; the first commit {:?} after that", lost_at.elapsed());
    ledger.wait_more(500).await?;
    let alone = two.wait_for("an alarm", |status| status["alarms"].to_string().contains("no standby twin")).await?;
    ensure!(alone["tier"] == "primary" && alone["ha"]["standby"]["commits_wait"] == false, "{alone:#}");

    // It is refused, also when it can't ask any more.
    let (status, log) = one.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && log.contains("fenced: ") && log.contains("BEYOND_PG_TIER = replica"), "{status} {log}");
    one.env("BEYOND_PG_PEERS", "127.0.0.1:1");
    let (status, log) = one.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && log.contains("fenced: "), "{status} {log}");

    // As the other's standby it comes back, and commits wait for it; killed before, when it was rewound and that not noted.
    std::fs::write(one.data().join("standby.signal"), "")?;
    follow(one.env("BEYOND_PG_PEERS", &two.health_address()), &two);
    one.start().await?;
    in_step(&mut one).await?;
    let whole = two.wait_for("a pair", |status| status["alarms"] == json!([])).await?;
    ensure!(whole["ha"]["standby"]["commits_wait"] == true, "{whole:#}");
    ledger.wait_more(100).await?;
    ledger.stop().await;
    let found = ledger.verify_at(&one.pool()).await?;
    ensure!(found.lost.is_empty() && found.acknowledged > 1000, "{found:?}");
    // The setting of old still says replica: what was promoted stays the primary.
    ensure!(two.stop().await?.success());
    let again = two.start().await?;
    ensure!(again["tier"] == "primary" && again["ha"]["timeline"] == 2, "{again:#}");
    Ok(())
}

/// Whether the primary has two standbys that stream, all of its WAL sent.
async fn both_stream(primary: &Init) -> Result<()> {
    let sql = "select count(*) from pg_stat_replication where state = 'streaming' and flush_lsn = pg_current_wal_flush_lsn()";
    let streaming = eventually(DEADLINE, "both to stream", async || Ok((primary.admin(&[sql]).await? == "2").then_some(())));
    streaming.await
}

#[tokio::test]
async fn a_standby_that_takes_anothers_place_is_in_step_when_it_is_itself() -> Result<()> {
    let (mut one, mut two) = pair().await?;
    let mut three = Init::new().await?;
    three.env("BEYOND_PG_HA_STANDBY", "twin").env("BEYOND_PG_PEERS", &one.health_address());
    follow(&mut three, &one);
    three.start().await?;
    both_stream(&one).await?;
    // Its copy has the row that says of the other that it is in step.
    let rows = three.admin(&[r"\connect postgres", "select count(*) from beyond_pg.ha"]).await?;
    ensure!(rows.lines().last() == Some("1"), "{rows}");
    let alarm = "has not seen this standby in step";
    let status = three.wait_for("an alarm", |status| status["alarms"].to_string().contains(alarm)).await?;
    ensure!(status["ha"]["in_step"] == false, "{status:#}");

    // Where the first is away, commits wait for the second, and for it alone.
    ensure!(two.stop().await?.success());
    in_step(&mut three).await?;
    let names = one.admin(&["show synchronous_standby_names"]).await?;
    ensure!(names.contains("\"twin:") && names.matches("twin").count() == 1, "{names}");
    two.start().await?;
    both_stream(&one).await?;
    two.wait_for("an alarm", |status| status["alarms"].to_string().contains(alarm)).await?;
    ensure!(one.admin(&["show synchronous_standby_names"]).await? == names);
    one.sql("create table t as select 1 as a").await?;

    one.kill()?;
    three.wait_for("the loss", |status| status["alarms"].to_string().contains("does not stream")).await?;
    two.wait_for("the loss", |status| status["alarms"].to_string().contains("does not stream")).await?;
    let (is_done, said) = two.promote(&[]).await?;
    ensure!(!is_done && said.contains("has not seen this standby (twin:"), "{said}");
    let said = promoted(&three).await?;
    ensure!(said.contains("timeline 2"), "{said}");
    ensure!(three.sql("select count(*) from t").await? == "1");
    Ok(())
}

#[tokio::test]
async fn a_pair_with_a_sink_goes_on_with_it_after_the_promotion() -> Result<()> {
    let (mut one, mut two) = (Init::new().await?, Init::new().await?);
    let hosts = format!(
        "host={},{} port={},{} user=postgres target_session_attrs=read-write",
        one.run_dir().display(),
        two.run_dir().display(),
        one.port(),
        two.port()
    );
    let mut sink = Sink::new(&hosts)?;
    sink.start().await?;
    one.env("BEYOND_PG_HA_STANDBY", "twin").env("BEYOND_PG_PEERS", &two.health_address()).set_sink(&sink)?;
    two.env("BEYOND_PG_HA_STANDBY", "twin").env("BEYOND_PG_PEERS", &one.health_address()).set_sink(&sink)?;
    one.start().await?;
    one.admin(&["set synchronous_commit = local", ROLE, GRANT]).await?;
    follow(&mut two, &one);
    two.start().await?;
    in_step(&mut two).await?;
    let names = one.admin(&["show synchronous_standby_names"]).await?;
    ensure!(names.starts_with("FIRST 2 (\"twin:") && names.ends_with("\"beyond-pg-sink\")"), "{names}");
    let mut ledger = Ledger::create_at(&two.pool()).await?;
    ledger.write_to(&two.pool(), 4);
    ledger.wait_more(300).await?;

    one.kill()?;
    promoted(&two).await?;
    // Commits wait for the sink alone, which has found the new primary by itself.
    ledger.wait_more(300).await?;
    ensure!(two.admin(&["show synchronous_standby_names"]).await? == "FIRST 1 (\"beyond-pg-sink\")");
    ensure!(sink.status().await?.timeline.is_some_and(|timeline| timeline.get() == 2), "{:?}", sink.status().await?);
    ledger.stop().await;
    let found = ledger.verify_at(&two.pool()).await?;
    ensure!(found.lost.is_empty() && found.acknowledged > 600, "{found:?}");
    // A later boot of it has what the sink has.
    two.kill()?;
    let status = two.start().await?;
    ensure!(status["tier"] == "primary" && status["recovered"].to_string().contains("proven"), "{status:#}");

    // Killed in the middle of a promotion it needs nothing of a sink; and one that has not followed it yet can't until the server runs.
    two.kill()?;
    sink.stop().await?;
    set_promotion(&two, json!({ "from": 2, "to": null }))?;
    two.start().await?;
    two.wait_for("its timeline", |status| status["ha"]["promoted"] == 3).await?;
    two.kill()?;
    sink.start().await?;
    two.set_sink(&sink)?;
    two.start().await?;
    ensure!(two.log().contains("has not followed the promotion yet"), "{}", two.log());
    two.sql("create table after (a int)").await?;
    Ok(())
}

/// Writes into the volume's state how far a promotion has come.
fn set_promotion(init: &Init, promotion: Value) -> Result<()> {
    let path = init.volume().join("beyond-pg.json");
    let mut held: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    held["promotion"] = promotion;
    held["without_standby"] = json!(true);
    Ok(std::fs::write(&path, held.to_string())?)
}

#[tokio::test]
async fn a_promotion_that_was_killed_is_carried_out_at_the_next_boot() -> Result<()> {
    let (mut one, mut two) = pair().await?;
    two.sql("create table t as select 1 as a").await?;
    one.kill()?;
    two.kill()?;
    // Killed when it was decided, and the server in the middle of it: without its signal it would go on on the old timeline. Then killed
    // when it was done, and that not noted: nobody else knows of the second timeline, and a third does no harm.
    std::fs::remove_file(two.data().join("standby.signal"))?;
    for (rows, timeline) in [("2", 2), ("3", 3)] {
        set_promotion(&two, json!({ "from": 1, "to": null }))?;
        let status = two.start().await?;
        ensure!(status["tier"] == "primary", "{status:#}");
        ensure!(!two.data().join("standby.signal").exists());
        let status = two.wait_for("its timeline", |status| status["ha"]["promoted"] == timeline).await?;
        ensure!(status["ha"]["role"] == "primary" && status["ha"]["timeline"] == timeline, "{status:#}");
        two.sql("insert into t values (2)").await?;
        ensure!(two.sql("select count(*) from t").await? == rows);
        two.kill()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_promotion_that_was_only_decided_is_dropped_while_the_primary_lives() -> Result<()> {
    let (mut one, mut two) = pair().await?;
    ensure!(two.stop().await?.success());
    set_promotion(&two, json!({ "from": 1, "to": null }))?;
    let status = two.start().await?;
    ensure!(status["tier"] == "replica", "{status:#}");
    in_step(&mut two).await?;
    ensure!(!std::fs::read_to_string(two.volume().join("beyond-pg.json"))?.contains("promotion"));
    ensure!(one.status().await?["ready"] == true);
    ensure!(one.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_primary_that_hangs_and_goes_on_finds_itself_fenced() -> Result<()> {
    let (mut one, two) = pair().await?;
    one.process()?.signal_all(Signal::STOP)?;
    // Its connection stands: without force that is a primary that lives.
    let (is_done, said) = two.promote(&["--force"]).await?;
    ensure!(is_done, "{said}");
    ensure!(two.log().contains("promoted by force, in spite of: the primary streams"), "{}", two.log());
    one.process()?.signal_all(Signal::CONT)?;
    let status = one.process()?.wait(DEADLINE).await?;
    ensure!(status.code() == Some(1) && one.log().contains("fenced: "), "{status} {}", one.log());
    ensure!(one.left_behind()?.is_empty(), "{:?}", one.left_behind()?);
    let (is_done, said) = two.promote(&[]).await?;
    ensure!(!is_done && said.contains("the primary already since timeline 2"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_standby_that_nobody_waited_for_is_promoted_by_force_alone() -> Result<()> {
    let (mut one, mut two) = (Init::new().await?, Init::new().await?);
    one.start().await?;
    one.admin(&[ROLE]).await?;
    follow(&mut two, &one);
    two.env("BEYOND_PG_PGBOUNCER_TARGET", "local").start().await?;
    ensure!(two.sql("select pg_is_in_recovery()").await? == "t");
    ensure!(one.stop().await?.success());
    let (is_done, said) = two.promote(&[]).await?;
    ensure!(!is_done && said.contains("BEYOND_PG_HA_STANDBY is not set") && said.contains("may be lost"), "{said}");
    let (is_done, said) = two.promote(&["--force"]).await?;
    ensure!(is_done, "{said}");
    two.sql("create table t (a int)").await?;
    ensure!(std::fs::read_to_string(two.volume().join("beyond-pg.json"))?.contains("in_spite_of"));
    Ok(())
}
