//! `beyond-pg boot` with real Postgres and PgBouncer: killed anywhere and run again it ends in the same place.

mod faults;
mod full;
mod ha;
mod killed;
mod loss;
mod sidecar;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::init::{As, Init, can_be_pid_one};
use harness::mmds::{Mmds, MmdsFault, MmdsVersion};
use harness::program::command;
use harness::{Account, DEADLINE, FullDisk, Process, Scratch, Sink, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Each step of a primary's boot.
const STEPS: [&str; 16] = [
    "mounts",
    "settings",
    "volume",
    "initdb",
    "wal_dir",
    "config",
    "sink_recover",
    "pitr",
    "check",
    "identity",
    "start",
    "roles",
    "verify",
    "pgbouncer",
    "sidecars",
    "ready",
];

/// What every boot ends with: a role that can log in through the pool, its database, and nothing half-made.
async fn assert_works(init: &Init) -> Result<()> {
    ensure!(init.sql("select current_user || '@' || current_database()").await? == "app@app");
    let mut names: Vec<String> = std::fs::read_dir(init.volume())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.retain(|name| name != "ballast");
    names.sort();
    ensure!(names == [".beyond-pg.lock", "beyond-pg.json", "data", "wal"], "{names:?}");
    ensure!(std::fs::read_link(init.data().join("pg_wal"))?.as_os_str() == "../wal");
    Ok(())
}

fn deaths(status: &Value, name: &str) -> u64 {
    let children = status["children"].as_array().cloned().unwrap_or_default();
    children.iter().find(|child| child["name"] == name).and_then(|child| child["deaths"].as_u64()).unwrap_or_default()
}

#[tokio::test]
async fn an_empty_volume_becomes_a_database_and_sigterm_leaves_nothing_behind() -> Result<()> {
    let mut init = Init::new().await?;
    let status = init.start().await?;
    assert_works(&init).await?;
    ensure!(status["phase"] == "running" && status["tier"] == "primary", "{status:#}");
    ensure!(init.health("/readyz").await? == (200, "ready\n".to_owned()));
    ensure!(init.health("/metrics").await?.1.contains("beyond_pg_child_up{child=\"postgres\"} 1\n"));
    let (code, table) = init.status_table().await?;
    ensure!(code == Some(0) && table.starts_with("state "), "{table}");
    ensure!(init.admin(&["show wal_level", "show archive_mode", "show data_checksums"]).await? == "logical\non\non");
    ensure!(!init.log().contains("a 'secret'"), "the password is in the log");
    init.sql("create table kept (a int)").await?;

    ensure!(init.stop().await?.success(), "{}", init.log());
    ensure!(init.left_behind()?.is_empty(), "{:?}", init.left_behind()?);
    ensure!(!init.data().join("postmaster.pid").exists() && !init.run_dir().join("control.sock").exists());

    init.start().await?;
    ensure!(init.sql("select count(*) from kept").await? == "0");
    ensure!(init.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_boot_that_is_killed_after_any_step_ends_the_same_when_it_is_run_again() -> Result<()> {
    for step in STEPS {
        let mut init = Init::new().await?;
        let (status, log) = init.end_of(&["--die-after", step]).await?;
        ensure!(status.code().is_none() && log.contains(&format!("dying after step {step}")), "{step}: {status} {log}");
        init.start().await?;
        assert_works(&init).await?;
        ensure!(init.stop().await?.success(), "{step}");
    }
    Ok(())
}

#[tokio::test]
async fn an_initdb_that_was_cut_off_is_made_anew() -> Result<()> {
    let mut init = Init::new().await?;
    let half = init.volume().join("data.new");
    std::fs::create_dir_all(half.join("base"))?;
    std::fs::write(half.join("PG_VERSION"), "18\n")?;
    for path in [init.volume(), &half, &half.join("base"), &half.join("PG_VERSION")] {
        Account::current().give(path)?;
    }
    init.start().await?;
    assert_works(&init).await
}

#[tokio::test]
async fn children_that_die_are_started_again() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    init.sql("create table t (a int)").await?;
    for name in ["postgres", "pgbouncer"] {
        init.signal_child(name, Signal::KILL).await?;
        init.wait_for("another one", |status| status["ready"] == true && deaths(status, name) == 1).await?;
        ensure!(init.sql("insert into t values (1) returning a").await?.starts_with('1'));
    }
    let status = init.status().await?;
    ensure!(status["children"].to_string().contains("ended by signal 9"), "{status:#}");
    ensure!(init.stop().await?.success());
    ensure!(init.left_behind()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_killed_init_leaves_no_server_that_the_next_one_trips_over() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    init.sql("create table t as select 1 as a").await?;
    // It alone: what it has started is told by the kernel.
    init.process()?.signal(Signal::KILL)?;
    init.process()?.wait(DEADLINE).await?;
    init.start().await?;
    ensure!(init.sql("select a from t").await? == "1");
    ensure!(init.stop().await?.success());
    ensure!(init.left_behind()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_the_user_broke_is_set_aside_and_said() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    ensure!(init.stop().await?.success());
    let layers = init.data().join("conf.d");
    // Found by a look at the configuration; found by a start alone; fine.
    let files = [
        ("90-typo.conf", "work_mem = lots\n"),
        ("91-library.conf", "shared_preload_libraries = 'nothing'\n"),
        ("95-fine.conf", "maintenance_work_mem = 70MB\n"),
    ];
    for (name, text) in files {
        std::fs::write(layers.join(name), text)?;
        Account::current().give(&layers.join(name))?;
    }
    let status = init.start().await?;
    ensure!(status["set_aside"].to_string().contains("90-typo.conf.set-aside"), "{status:#}");
    ensure!(status["set_aside"].to_string().contains("91-library.conf.set-aside"), "{status:#}");
    ensure!(init.log().contains("90-typo.conf is set aside"), "{}", init.log());
    ensure!(init.stop().await?.success());
    // Known at the next boot as well.
    let status = init.start().await?;
    ensure!(status["set_aside"].to_string().contains("90-typo.conf.set-aside"), "{status:#}");
    Ok(())
}

#[tokio::test]
async fn what_keeps_postgres_from_a_half_recovered_volume_is_not_set_aside() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    ensure!(init.stop().await?.success());
    let path = init.data().join("postgresql.auto.conf");
    let before = std::fs::read_to_string(&path)?;
    for guard in
        ["beyond_pg_sink_recover_has_not_finished_run_it_again", "beyond_pg_archiver_restore_has_not_finished_run_it_again"]
    {
        let guarded = format!("{before}{guard} = on\n");
        std::fs::write(&path, &guarded)?;
        let (status, log) = init.end_of(&[]).await?;
        ensure!(status.code() == Some(1) && log.contains("half recovered"), "{status}: {log}");
        ensure!(std::fs::read_to_string(&path)? == guarded, "the guard is gone");
    }
    std::fs::write(&path, before)?;
    init.start().await?;
    Ok(())
}

#[tokio::test]
async fn a_stale_postmaster_pid_that_names_a_living_process_is_no_hindrance() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    init.sql("create table t as select 1 as a").await?;
    init.kill()?;
    // Of the same account, and no server; Postgres passes over itself, its parent and its parent's parent.
    let mut sleep = command(Path::new("sleep"));
    sleep.arg("1000");
    let other = Process::spawn("a neighbour", sleep, &init.run_dir().join("neighbour.log"))?;
    let socket_lock = init.run_dir().join(format!(".s.PGSQL.{}.lock", init.port()));
    for path in [init.data().join("postmaster.pid"), socket_lock] {
        let text = std::fs::read_to_string(&path)?;
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        std::fs::write(&path, format!("{}\n{rest}", other.pid().as_raw_nonzero()))?;
    }
    init.start().await?;
    ensure!(init.sql("select a from t").await? == "1");
    Ok(())
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_not_touched() -> Result<()> {
    let mut init = Init::new().await?;
    std::fs::create_dir_all(init.data())?;
    std::fs::write(init.data().join("thesis.txt"), "years of work")?;
    for path in [init.volume(), &init.data()] {
        Account::current().give(path)?;
    }
    let (status, log) = init.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && log.contains("no PG_VERSION"), "{status} {log}");
    ensure!(std::fs::read_to_string(init.data().join("thesis.txt"))? == "years of work");

    std::fs::write(init.data().join("PG_VERSION"), "13\n")?;
    let (status, log) = init.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && log.contains("is of Postgres 13"), "{status} {log}");

    init.env("BEYOND_PG_TIERS", "primary");
    let (status, log) = init.end_of(&[]).await?;
    ensure!(status.code() == Some(2) && log.contains("BEYOND_PG_TIERS"), "{status} {log}");
    Ok(())
}

#[tokio::test]
async fn as_pid_1_it_reaps_orphans_and_ends_with_its_namespace() -> Result<()> {
    if !can_be_pid_one() {
        return Ok(());
    }
    let mut init = Init::new().await?;
    init.run_as(As::PidOne).start().await?;
    assert_works(&init).await?;
    let before = init.status().await?["reaped"].as_u64().unwrap_or_default();
    // Of a backend: each leaves a child behind that ends later.
    init.admin(&["copy (select 1) to program 'for i in $(seq 500); do (sleep 0.1 &) ; done'"]).await?;
    let reaped = init.wait_for("500 orphans", |status| status["reaped"].as_u64().unwrap_or_default() >= before + 500).await?;
    ensure!(reaped["ready"] == true, "{reaped:#}");
    ensure!(init.stop().await?.success(), "{}", init.log());
    ensure!(init.left_behind()?.is_empty(), "{:?}", init.left_behind()?);
    Ok(())
}

#[tokio::test]
async fn one_volume_has_one_boot() -> Result<()> {
    let mut init = Init::new().await?;
    init.start().await?;
    let mut other = Init::new().await?;
    other.env("BEYOND_PG_VOLUME", &init.volume().display().to_string());
    let (status, log) = other.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && log.contains("is in use"), "{status} {log}");
    ensure!(init.status().await?["ready"] == true);
    assert_works(&init).await
}

#[tokio::test]
async fn a_fork_beside_its_parent_takes_nothing_from_it() -> Result<()> {
    let mut parent = Init::new().await?;
    parent.env("BEYOND_PG_IDENTITY", "parent").start().await?;
    parent
        .admin(&[
            "select pg_create_physical_replication_slot('standby', true)",
            "select pg_create_logical_replication_slot('cdc', 'pgoutput')",
            "create table t as select 1 as a",
            "create subscription s connection 'host=192.0.2.1 password=secret' publication p with (connect = false)",
            "alter system set archive_command = 'touch /nonexistent/%f'",
        ])
        .await?;
    let layer = parent.data().join("conf.d/95-ha.conf");
    std::fs::write(&layer, "synchronous_standby_names = 'nobody'\n")?;
    Account::current().give(&layer)?;
    let mut fork = parent.fork().await?;
    // As an instance of its own, which it would be on another machine.
    let status = fork.env("BEYOND_PG_IDENTITY", "fork").start().await?;
    let cleared = status["cleared"].to_string();
    for word in ["standby", "cdc", "subscription s", "archive_command", "95-ha.conf"] {
        ensure!(cleared.contains(word), "{word} is missing: {cleared}");
    }
    let left = fork
        .admin(&[
            "select count(*) from pg_replication_slots",
            "select count(*) from pg_subscription where subenabled",
            "show synchronous_standby_names",
        ])
        .await?;
    ensure!(left == "0\n0", "{left}");
    ensure!(fork.admin(&["insert into t values (2)", "select count(*) from t"]).await?.ends_with('2'));
    ensure!(parent.sql("select count(*) from pg_replication_slots").await? == "2");
    ensure!(parent.admin(&["select count(*) from t"]).await? == "1");
    // Once: what the fork has from then on is its own.
    fork.admin(&["select pg_create_physical_replication_slot('own')"]).await?;
    ensure!(fork.stop().await?.success());
    fork.start().await?;
    ensure!(fork.admin(&["select slot_name from pg_replication_slots"]).await? == "own");
    Ok(())
}

/// The names of what was archived there.
fn archived(store: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path())
            } else {
                names.extend(entry.file_name().into_string().ok())
            }
        }
    }
    Ok(names)
}

#[tokio::test]
async fn a_fork_is_recovered_to_a_target_out_of_its_parents_archive_and_archives_to_its_own() -> Result<()> {
    let scratch = Scratch::new()?;
    let (parents, own) = (scratch.folder("parents")?, scratch.folder("own")?);
    let url = |folder: &Path| format!("file://{}", folder.display());
    let mut parent = Init::new().await?;
    parent.env("BEYOND_PG_IDENTITY", "parent").env("BEYOND_PG_ARCHIVE_STORE", &url(&parents)).start().await?;
    let mut fork = parent.fork().await?;
    parent.sql("create table t as select 1 as a").await?;
    let target = parent.admin(&["select pg_current_wal_insert_lsn()"]).await?;
    parent.sql("insert into t values (2)").await?;
    let last = parent.admin(&["select pg_walfile_name(pg_current_wal_insert_lsn())", "select pg_switch_wal()"]).await?;
    let last = last.lines().next().unwrap_or_default().to_owned();
    let there = eventually(DEADLINE, "the parent's WAL to be archived", async || {
        Ok(archived(&parents)?.iter().any(|name| name.starts_with(&last)).then_some(()))
    });
    there.await?;

    fork.env("BEYOND_PG_IDENTITY", "fork").env("BEYOND_PG_ARCHIVE_STORE", &url(&parents)).env("BEYOND_PG_PITR_TARGET", &target);
    let status = fork.start().await?;
    ensure!(status["recovered"].to_string().contains(&target), "{status:#}");
    ensure!(fork.sql("select count(*) from t").await? == "1");
    fork.wait_for("an alarm", |status| status["alarms"].to_string().contains("nothing is archived")).await?;
    ensure!(fork.admin(&["show archive_command"]).await? == "true");
    fork.admin(&["select pg_switch_wal()", "checkpoint"]).await?;
    ensure!(fork.stop().await?.success());

    // With a store of its own it archives there, its timeline's history first. The parent's it never touched.
    fork.env("BEYOND_PG_ARCHIVE_STORE", &url(&own)).env("BEYOND_PG_PITR_STORE", &url(&parents));
    let status = fork.start().await?;
    ensure!(!status["alarms"].to_string().contains("archived"), "{status:#}");
    fork.admin(&["insert into t values (3)", "select pg_switch_wal()"]).await?;
    let there = eventually(DEADLINE, "the fork's WAL to be archived", async || {
        Ok(archived(&own)?.iter().any(|name| name.starts_with("00000002") && !name.contains("history")).then_some(()))
    });
    there.await?;
    let of_parent = archived(&parents)?;
    ensure!(!of_parent.iter().any(|name| name.starts_with("00000002")), "{of_parent:?}");
    ensure!(fork.sql("select count(*) from t").await? == "2");
    ensure!(parent.sql("select count(*) from t").await? == "2");
    Ok(())
}

/// An instance whose commits wait for a sink, and the sink.
async fn with_sink(policy: &str) -> Result<(Init, Sink)> {
    let mut init = Init::new().await?;
    let mut sink = Sink::new(&init.conninfo())?;
    sink.start().await?;
    init.set_sink(&sink)?.env("BEYOND_PG_WAL_SINK_POLICY", policy).env("BEYOND_PG_WAL_SINK_DELAY", "1s");
    Ok((init, sink))
}

/// The same, where there is a table and the sink has just gone away.
async fn without_its_sink(policy: &str) -> Result<(Init, Sink)> {
    let (mut init, mut sink) = with_sink(policy).await?;
    init.start().await?;
    sink.wait_streaming().await?;
    init.sql("create table t (a int)").await?;
    init.wait_for("the sink", |status| status["sink"]["streaming"] == true).await?;
    sink.stop().await?;
    Ok((init, sink))
}

#[tokio::test]
async fn a_volume_that_lost_its_newest_wal_has_it_again_when_it_is_ready() -> Result<()> {
    let (mut init, mut sink) = with_sink("required").await?;
    init.start().await?;
    sink.wait_streaming().await?;
    init.sql("create table t as select generate_series(1, 1000) as a").await?;
    init.admin(&["checkpoint"]).await?;
    let older = init.fork().await?;
    init.sql("insert into t select generate_series(1, 500)").await?;
    init.kill()?;
    // The host is gone; its volume comes back as it was.
    std::fs::remove_dir_all(init.volume())?;
    older.become_volume_of(&init).await?;
    let status = init.start().await?;
    ensure!(status["recovered"].to_string().contains("proven"), "{status:#}");
    ensure!(init.sql("select count(*) from t").await? == "1500");
    Ok(())
}

#[tokio::test]
async fn commits_go_on_without_a_preferred_sink_and_wait_again_when_it_is_back() -> Result<()> {
    let (mut init, mut sink) = without_its_sink("preferred").await?;
    init.sql("insert into t values (1)").await?;
    let away = init.wait_for("an alarm", |status| status["sink"]["commits_wait"] == false).await?;
    ensure!(away["alarms"].to_string().contains("do not wait"), "{away:#}");
    sink.start().await?;
    let back =
        init.wait_for("the sink again", |status| status["sink"]["commits_wait"] == true && status["sink"]["streaming"] == true);
    let back = back.await?;
    ensure!(back["alarms"].as_array().is_some_and(Vec::is_empty), "{back:#}");
    let names = eventually(DEADLINE, "synchronous names", async || {
        Ok(init.admin(&["show synchronous_standby_names"]).await?.contains("beyond-pg-sink").then_some(()))
    });
    names.await?;
    Ok(())
}

#[tokio::test]
async fn a_required_sink_that_is_away_at_boot_is_waited_for() -> Result<()> {
    let (mut init, mut sink) = with_sink("required").await?;
    init.start().await?;
    sink.wait_streaming().await?;
    init.sql("create table t as select 1 as a").await?;
    ensure!(init.stop().await?.success());
    sink.stop().await?;
    init.launch(&[])?;
    let waits = init.wait_for("why it is not ready", |status| status["not_ready"].to_string().contains("sink_recover: ")).await?;
    ensure!(waits["ready"] == false && init.health("/readyz").await?.0 == 503, "{waits:#}");
    ensure!(tokio::time::timeout(Duration::from_secs(30), init.stop()).await??.success());
    Ok(())
}

fn document(memory_mb: u64) -> Value {
    json!({ "latest": { "meta-data": { "BEYOND_PG_MEMORY_MB": memory_mb.to_string() } } })
}

#[tokio::test]
async fn metadata_is_waited_for_followed_and_not_believed_when_it_is_garbage() -> Result<()> {
    let mmds = Mmds::start(MmdsVersion::V2).await?;
    let mut init = Init::new().await?;
    init.env("BEYOND_PG_METADATA", &mmds.address()).env("BEYOND_PG_METADATA_INTERVAL", "1s");
    init.launch(&[])?;
    // There is none yet, and the environment has a value that does not count.
    eventually(DEADLINE, "waiting for metadata", async || Ok(init.log().contains("has nothing yet").then_some(()))).await?;
    mmds.set(document(1024));
    let status = init.wait_for("ready", |status| status["ready"] == true).await?;
    ensure!(
        status["settings"].to_string().contains(r#""name":"BEYOND_PG_MEMORY_MB","source":"mmds-v2","value":"1024""#),
        "{status:#}"
    );
    ensure!(init.admin(&["show shared_buffers", "show effective_cache_size"]).await? == "256MB\n768MB");

    mmds.set(document(2048));
    let pending =
        init.wait_for("a pending restart", |status| status["pending_restart"].to_string().contains("shared_buffers")).await?;
    ensure!(pending["ready"] == true, "{pending:#}");
    ensure!(init.admin(&["show shared_buffers", "show effective_cache_size"]).await? == "256MB\n1536MB");

    for fault in [MmdsFault::Garbage, MmdsFault::Hang, MmdsFault::Status(500)] {
        mmds.fault(fault);
        let alarm = init.wait_for("an alarm", |status| status["alarms"].to_string().contains("those of before stay")).await?;
        ensure!(alarm["ready"] == true, "{alarm:#}");
        mmds.heal();
        init.wait_for("no alarm", |status| status["alarms"].as_array().is_some_and(Vec::is_empty)).await?;
    }
    ensure!(init.admin(&["show effective_cache_size"]).await? == "1536MB");
    ensure!(init.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_full_disk_makes_it_read_only_and_the_ballast_lets_it_start() -> Result<()> {
    let Some(disk) = FullDisk::new(300)? else { return Ok(()) };
    let mut init = Init::new().await?;
    init.set_volume(&disk.path().join("volume")).env("BEYOND_PG_MEMORY_MB", "256");
    // Too little for a cluster: said, and made when there is room.
    disk.fill(20 << 20)?;
    let (status, log) = init.end_of(&[]).await?;
    ensure!(status.code() == Some(1) && (log.contains("No space left") || log.contains("free disk space")), "{status} {log}");
    disk.free()?;

    init.start().await?;
    init.sql("create table t (a int)").await?;
    eventually(DEADLINE, "a ballast", async || Ok(init.volume().join("ballast").exists().then_some(()))).await?;
    disk.fill(0)?;
    init.wait_for("read-only", |status| status["disk"]["read_only"] == true).await?;
    let refused = eventually(DEADLINE, "a refusal", async || Ok(init.sql("insert into t values (1)").await.err())).await?;
    ensure!(format!("{refused:#}").contains("read-only transaction"), "{refused:#}");
    init.signal_child("postgres", Signal::KILL).await?;
    init.wait_for("the server again", |status| status["ready"] == true && deaths(status, "postgres") > 0).await?;

    disk.free()?;
    init.wait_for("read-write", |status| status["disk"]["read_only"] == false).await?;
    eventually(DEADLINE, "an insert", async || Ok(init.sql("insert into t values (2)").await.ok())).await?;
    ensure!(init.stop().await?.success());
    Ok(())
}
