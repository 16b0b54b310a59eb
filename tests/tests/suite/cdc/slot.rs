//! Slots that are lost, moved or made anew: never a gap in silence, and never a slot that nobody reads.

use anyhow::{Context, Result, ensure};
use beyond_cdc_client::Start;
use harness::cdc::SLOT;
use harness::{Cdc, DEADLINE, FullDisk, Postgres, eventually};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::{decoding, numbers, publish, read, streaming};

/// The flag that the server asks for, as it prints it.
fn asked_for(text: &str) -> Result<String> {
    let (_, rest) = text.split_once("--new-epoch ").with_context(|| format!("no --new-epoch in {text}"))?;
    Ok(rest.chars().take_while(char::is_ascii_hexdigit).collect())
}

async fn slots(cluster: &Postgres) -> Result<String> {
    cluster.value("SELECT count(*) FROM pg_replication_slots").await
}

#[tokio::test]
async fn a_slot_made_anew_behind_our_back_is_noticed_and_left_by_one_flag() -> Result<()> {
    let (cluster, mut cdc) = streaming(decoding(18)).await?;
    cluster.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    ensure!(cdc.stop().await?.success());
    cluster.drop_slot(SLOT).await?;
    cluster.execute("INSERT INTO t VALUES (2)").await?;
    cluster.value(&format!("SELECT 1 FROM pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")).await?;
    cluster.execute("INSERT INTO t VALUES (3)").await?;
    cdc.start().await?;
    let said = cdc.wait_says("/readyz", "slot_lost").await?;
    ensure!(said.contains("moved by somebody else, or dropped and made anew"), "{said}");
    let epoch = asked_for(&said)?;
    ensure!(cdc.log().contains(&format!("--new-epoch {epoch}")), "{}", cdc.log());
    ensure!(numbers(&cdc, 1).await? == [1], "what is held is served");
    ensure!(cdc.stop().await?.success());

    // Of another epoch, nothing is touched.
    cdc.arg("--new-epoch").arg("00000000000000000000000000000007");
    let (status, log) = cdc.start_refused().await?;
    ensure!(!status.success() && log.contains(&format!("--new-epoch {epoch}")), "{log}");
    cdc.without_arg("00000000000000000000000000000007").arg(&epoch).start().await?;
    cdc.wait_streaming(&cluster).await?;
    ensure!(numbers(&cdc, 1).await? == [3]);
    // Left in a unit's file, it begins no other one.
    ensure!(cdc.stop().await?.success());
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    ensure!(numbers(&cdc, 1).await? == [3]);
    ensure!(cdc.log().matches("began a new epoch").count() == 1, "{}", cdc.log());
    Ok(())
}

#[tokio::test]
async fn no_slot_is_made_for_a_log_that_it_would_not_go_on_with() -> Result<()> {
    let (cluster, mut cdc) = streaming(decoding(18)).await?;
    cluster.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    cdc.kill()?;
    cluster.drop_slot(SLOT).await?;
    // It is told to make one, and does not.
    cdc.start().await?;
    let said = cdc.wait_says("/readyz", "slot_lost").await?;
    ensure!(said.contains("--create-slot"), "{said}");
    ensure!(slots(&cluster).await? == "0");
    let epoch = asked_for(&said)?;
    ensure!(cdc.stop().await?.success());
    cdc.arg("--new-epoch").arg(&epoch).start().await?;
    cdc.wait_streaming(&cluster).await?;
    cluster.execute("INSERT INTO t VALUES (2)").await?;
    ensure!(numbers(&cdc, 1).await? == [2]);
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_slot_behind() -> Result<()> {
    let cluster = decoding(18).start().await?;
    publish(&cluster).await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.arg("--http").arg(&taken.local_addr()?.to_string());
    let (status, log) = cdc.start_refused().await?;
    ensure!(!status.success() && log.contains("--http"), "{log}");
    ensure!(slots(&cluster).await? == "0", "an address that is in use");

    let Some(disk) = FullDisk::new(100)? else { return Ok(()) };
    disk.fill(10 << 20)?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.set_data(&disk.path().join("cdc"));
    let (status, log) = cdc.start_refused().await?;
    ensure!(!status.success() && log.contains("No space left"), "{log}");
    ensure!(slots(&cluster).await? == "0", "a disk without room for a log: {log}");
    disk.free()?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await
}

#[tokio::test]
async fn a_slot_that_was_invalidated_is_named_with_the_way_out() -> Result<()> {
    let setup = decoding(18).wal_segment_mb(1).setting("max_slot_wal_keep_size", "2MB").setting("max_wal_size", "2MB");
    let (cluster, mut cdc) = streaming(setup).await?;
    cluster.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    // It hangs, and WAL goes on.
    cdc.signal(Signal::STOP)?;
    cluster.write_wal(8 << 20).await?;
    cluster.execute("CHECKPOINT").await?;
    let status = "SELECT wal_status FROM pg_replication_slots";
    eventually(DEADLINE, "the slot to be lost", async || {
        cluster.execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
        Ok((cluster.value(status).await? == "lost").then_some(()))
    })
    .await?;
    cdc.signal(Signal::CONT)?;
    let said = cdc.wait_says("/readyz", "slot_lost").await?;
    let epoch = asked_for(&said)?;
    cdc.wait_says("/readyz", "pg_drop_replication_slot").await?;
    ensure!(numbers(&cdc, 1).await? == [1], "what is held is served");
    ensure!(cdc.stop().await?.success());
    cluster.drop_slot(SLOT).await?;
    cdc.arg("--new-epoch").arg(&epoch).start().await?;
    cdc.wait_streaming(&cluster).await?;
    cluster.execute("INSERT INTO t VALUES (2)").await?;
    ensure!(numbers(&cdc, 1).await? == [2]);
    // Who comes with a place of the old epoch is told.
    let later = read(&cdc, Start::Earliest, 1).await?;
    ensure!(later.len() == 1);
    Ok(())
}

/// What stands between a server and its primary, and lets a test act right before the stream of changes is asked for.
struct Between {
    listener: TcpListener,
    primary: u16,
}

impl Between {
    /// Passes bytes on for as long as this runs; calls `before` once, before the first START_REPLICATION is passed on.
    async fn run(&self, before: impl AsyncFn() -> Result<()>) -> Result<()> {
        let mut connections = tokio::task::JoinSet::new();
        let (found, mut finds) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
        let mut armed = true;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (from_client, to_client) = accepted?.0.into_split();
                    let (from_server, to_server) = TcpStream::connect(("127.0.0.1", self.primary)).await?.into_split();
                    connections.spawn(copy(from_server, to_client, None));
                    connections.spawn(copy(from_client, to_server, Some(found.clone())));
                }
                Some(go_on) = finds.recv() => {
                    if std::mem::take(&mut armed) {
                        before().await?;
                    }
                    drop(go_on);
                }
            }
        }
    }
}

/// Copies until either side ends; waits for word before START_REPLICATION goes out.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    found: Option<tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<()>>>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if let Some(found) = &found
            && bytes[..read].windows(17).any(|window| window == b"START_REPLICATION")
        {
            let (go_on, wait) = tokio::sync::oneshot::channel();
            drop(found.send(go_on).await);
            drop(wait.await);
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_slot_that_is_moved_while_the_session_begins_is_noticed() -> Result<()> {
    let (cluster, mut cdc) = streaming(decoding(18)).await?;
    cluster.execute("INSERT INTO t VALUES (1)").await?;
    ensure!(numbers(&cdc, 1).await? == [1]);
    ensure!(cdc.stop().await?.success());
    cluster.execute("INSERT INTO t VALUES (2)").await?;
    let between = Between { listener: TcpListener::bind("127.0.0.1:0").await?, primary: cluster.port() };
    let conninfo = harness::postgres::conninfo(between.listener.local_addr()?.port());
    cdc.set_upstream(&format!("{conninfo} dbname=postgres"));
    let advance = async || {
        cluster.execute(&format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())")).await?;
        cluster.execute("INSERT INTO t VALUES (3)").await
    };
    let follow = async {
        cdc.start().await?;
        let said = cdc.wait_says("/readyz", "slot_lost").await?;
        ensure!(said.contains("was moved by somebody else") && said.contains("--new-epoch"), "{said}");
        ensure!(cdc.log().contains("while the session began"), "{}", cdc.log());
        ensure!(numbers(&cdc, 1).await? == [1], "nothing is taken behind a gap");
        Ok(())
    };
    tokio::select! {
        ended = between.run(advance) => ended,
        done = follow => done,
    }
}
