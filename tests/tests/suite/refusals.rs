//! What a sink can't use: each is named, with the way out, and nothing that is held is touched.

use anyhow::{Result, ensure};
use harness::postgres::conninfo;
use harness::tls::Authority;
use harness::{Auth, DEADLINE, Postgres, Sink, SinkStatus, StopMode, eventually, program};

/// Waits for a problem that says all of these words.
async fn problem(sink: &mut Sink, state: &str, words: &[&str]) -> Result<SinkStatus> {
    let what = format!("{state}, with a problem that says {words:?}");
    sink.wait_for(&what, |status| status.state == state && words.iter().all(|word| status.problem.contains(word))).await
}

/// A sink of this connection string, started; it need not stream.
async fn started(conninfo: &str) -> Result<Sink> {
    let mut sink = Sink::new(conninfo)?;
    sink.start().await?;
    Ok(sink)
}

#[tokio::test]
async fn a_wrong_password() -> Result<()> {
    for auth in [Auth::Scram, Auth::Md5, Auth::Password] {
        let cluster = Postgres::version(18).auth(auth).start().await?;
        let right = cluster.conninfo();
        let mut sink = started(&right.replace("password=", "password=not-")).await?;
        let status = problem(&mut sink, "refused", &["password", "\"sink\""]).await?;
        ensure!(status.alarm && !status.problem.contains("not-of-the-sink"), "{status:?}");
        ensure!(!sink.log().contains("of-the-sink"), "no password is logged: {}", sink.log());
        // With the right one it goes on where it is.
        ensure!(sink.stop().await?.success());
        sink.set_upstream(&right).start().await?;
        sink.wait_streaming().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_authority() -> Result<()> {
    let cluster = Postgres::version(18).tls().start().await?;
    let authority = cluster.scratch().file("ca.pem", cluster.authority()?.certificate())?;
    let other = cluster.scratch().file("other.pem", Authority::new()?.certificate())?;
    let tls = |ca: &std::path::Path| format!("{} sslmode=verify-full sslrootcert={}", cluster.conninfo(), ca.display());
    let mut sink = started(&tls(&other)).await?;
    problem(&mut sink, "refused", &["certificate", "sslrootcert"]).await?;
    ensure!(sink.stop().await?.success());
    sink.set_upstream(&tls(&authority)).start().await?;
    sink.wait_streaming().await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_or_tls() -> Result<()> {
    let cluster = Postgres::version(18).tls().auth(Auth::Cert).start().await?;
    let mut sink = started(&cluster.conninfo()).await?;
    problem(&mut sink, "refused", &["certificate"]).await?;
    ensure!(sink.stop().await?.success());
    sink.set_upstream(&format!("{} sslmode=disable", cluster.conninfo())).start().await?;
    problem(&mut sink, "refused", &["pg_hba.conf"]).await?;
    ensure!(sink.stop().await?.success());

    let identity = cluster.authority()?.client("sink")?;
    let certificate = cluster.scratch().file("sink.pem", identity.certificate)?;
    let key = cluster.scratch().file("sink.key", identity.key)?;
    let with = format!("{} sslcert={} sslkey={}", cluster.conninfo(), certificate.display(), key.display());
    sink.set_upstream(&with).start().await?;
    sink.wait_streaming().await?;
    Ok(())
}

#[tokio::test]
async fn no_such_slot() -> Result<()> {
    let cluster = Postgres::version(18).start().await?;
    let mut sink = Sink::new(&cluster.conninfo())?;
    sink.arg("--no-create-slot").set_slot("absent").start().await?;
    problem(&mut sink, "refused", &["\"absent\"", "--slot", "--no-create-slot", "pg_create_physical_replication_slot"]).await?;
    ensure!(cluster.value("SELECT count(*) FROM pg_replication_slots").await? == "0", "none was made");
    Ok(())
}

#[tokio::test]
async fn a_slot_that_another_sink_uses() -> Result<()> {
    let cluster = Postgres::version(18).start().await?;
    let mut first = Sink::of(&cluster).await?;
    let mut second = started(&cluster.conninfo()).await?;
    problem(&mut second, "connecting", &["slot \"sink\" is active", "--slot"]).await?;
    // It takes over by itself when the other is gone.
    first.kill()?;
    second.wait_streaming().await?;
    Ok(())
}

#[tokio::test]
async fn a_slot_that_the_primary_invalidated() -> Result<()> {
    let cluster = Postgres::version(18)
        .wal_segment_mb(1)
        .setting("max_slot_wal_keep_size", "2MB")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
        .start()
        .await?;
    let mut sink = Sink::of(&cluster).await?;
    ensure!(sink.stop().await?.success());
    eventually(DEADLINE, "the slot to be invalidated", async || {
        cluster.write_wal(4 << 20).await?;
        cluster.execute("CHECKPOINT").await?;
        Ok((cluster.value("SELECT wal_status FROM pg_replication_slots").await? == "lost").then_some(()))
    })
    .await?;
    sink.start().await?;
    let status = problem(&mut sink, "refused", &["\"sink\"", "max_slot_wal_keep_size"]).await?;
    ensure!(status.alarm, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn wal_that_the_primary_has_removed() -> Result<()> {
    let cluster =
        Postgres::version(18).wal_segment_mb(1).setting("min_wal_size", "2MB").setting("max_wal_size", "2MB").start().await?;
    let mut sink = Sink::of(&cluster).await?;
    let held = sink.wait_flushed(cluster.flush_lsn().await?).await?.flushed;
    ensure!(sink.stop().await?.success());
    cluster.drop_slot("sink").await?;
    cluster.write_wal(8 << 20).await?;
    cluster.execute("CHECKPOINT").await?;
    cluster.execute("CHECKPOINT").await?;
    sink.start().await?;
    let status = problem(&mut sink, "refused", &["has already been removed", "--data-dir"]).await?;
    ensure!(status.alarm && status.flushed >= held, "what is held stays: {status:?}");
    Ok(())
}

#[tokio::test]
async fn segments_of_another_size() -> Result<()> {
    let mut cluster = Postgres::version(18).wal_segment_mb(1).start().await?;
    let mut sink = Sink::of(&cluster).await?;
    sink.wait_flushed(cluster.flush_lsn().await?).await?;
    ensure!(sink.stop().await?.success());
    cluster.stop(StopMode::Fast).await?;
    let mut reset = cluster.program("pg_resetwal");
    reset.args(["--force", "--wal-segsize=4", "-D"]).arg(cluster.data());
    program::run(reset).await?;
    cluster.append_settings(&[("min_wal_size", "8MB")])?;
    cluster.start().await?;
    sink.start().await?;
    let status = problem(&mut sink, "refused", &["wal_segment_size", "4 MB", "1 MB", "--data-dir"]).await?;
    ensure!(status.alarm, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_folder_that_another_sink_uses() -> Result<()> {
    let cluster = Postgres::version(18).start().await?;
    let mut first = Sink::of(&cluster).await?;
    let mut second = Sink::new(&cluster.conninfo())?;
    second.set_data(first.data());
    let (status, log) = second.start_refused().await?;
    ensure!(!status.success() && log.contains("in use") && log.contains("--data-dir"), "{status}: {log}");
    first.wait_streaming().await?;
    Ok(())
}

#[tokio::test]
async fn nobody_there() -> Result<()> {
    let mut cluster = Postgres::version(18).start().await?;
    cluster.stop(StopMode::Fast).await?;
    let mut sink = started(&cluster.conninfo()).await?;
    let port = cluster.port().to_string();
    problem(&mut sink, "connecting", &["127.0.0.1", &port]).await?;
    cluster.start().await?;
    sink.wait_streaming().await?;
    Ok(())
}

#[tokio::test]
async fn a_role_that_may_not_replicate() -> Result<()> {
    let cluster = Postgres::version(18).auth(Auth::Trust).start().await?;
    cluster.execute("CREATE ROLE plain LOGIN").await?;
    let mut sink = started(&conninfo(cluster.port()).replace("user=sink", "user=plain")).await?;
    problem(&mut sink, "refused", &["REPLICATION"]).await?;
    Ok(())
}

#[tokio::test]
async fn settings_that_make_no_sense() -> Result<()> {
    let refused = async |upstream: &str, args: &[&str]| -> Result<String> {
        let mut sink = Sink::new(upstream)?;
        for arg in args {
            sink.arg(arg);
        }
        let (status, log) = sink.start_refused().await?;
        ensure!(!status.success(), "{upstream} {args:?} was taken");
        Ok(log)
    };
    for (upstream, args, words) in [
        ("host=127.0.0.1 nonsense=1", [].as_slice(), ["upstream", "nonsense"].as_slice()),
        ("host=127.0.0.1 sslmode=perhaps", &[], &["sslmode", "perhaps"]),
        ("host=127.0.0.1", &["--keep-size", "10"], &["keep-size", "10"]),
        ("host=127.0.0.1", &["--ack", "all"], &["ack", "all"]),
    ] {
        let log = refused(upstream, args).await?;
        ensure!(words.iter().all(|word| log.contains(word)), "{upstream} {args:?}: {log}");
    }
    Ok(())
}
