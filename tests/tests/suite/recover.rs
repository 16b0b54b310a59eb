//! `recover` on real data folders, with what `pg_receivewal` received served as a sink serves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{DEADLINE, Postgres, Process, StopMode, eventually};
use sink::api::State;
use sink::config::ClientArgs;
use sink::https::{self, Limits, Options};
use sink::metrics::Metrics;
use sink::recover::{self, RecoverArgs};
use sink::state::{Catalog, Held, Identity, Positions, StreamState};
use walbus::index::SegmentFacts;
use walbus::proto::wal::Decoder;
use walbus::{Lsn, Segment, Timeline, WalFile};

/// A receiver of a cluster's WAL: a folder, and `pg_receivewal` while it runs.
struct Receiver {
    folder: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Receiver {
    async fn of(cluster: &Postgres) -> Result<Self> {
        cluster.execute("SELECT pg_create_physical_replication_slot('receiver', true)").await?;
        let folder = cluster.scratch().folder("received")?;
        let mut receiver = Self { folder, log: cluster.scratch().path().join("receiver.log"), process: None };
        receiver.start(cluster)?;
        Ok(receiver)
    }

    fn start(&mut self, cluster: &Postgres) -> Result<()> {
        let mut command = cluster.program("pg_receivewal");
        command.arg("-D").arg(&self.folder).args(["--slot=receiver", "--synchronous", "--no-loop"]);
        self.process = Some(Process::spawn("pg_receivewal", command, &self.log)?);
        Ok(())
    }

    /// Waits until all is flushed that the cluster has flushed.
    async fn catch_up(&self, cluster: &Postgres) -> Result<Lsn> {
        let end = cluster.flush_lsn().await?;
        eventually(DEADLINE, "pg_receivewal to catch up", async || {
            let sql = "SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication";
            Ok((cluster.lsn(sql).await? >= end).then_some(()))
        })
        .await?;
        Ok(end)
    }

    /// Ends it.
    fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill_all())
    }

    /// A sink that holds what it has received.
    async fn serve(&self, cluster: &Postgres) -> Result<Server> {
        Server::start(&self.folder, cluster).await
    }
}

/// A sink's HTTPS over a folder.
struct Server {
    url: String,
    args: ClientArgs,
    complete: Lsn,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(folder: &Path, cluster: &Postgres) -> Result<Self> {
        let size = cluster.segment_size();
        let mut catalog = Catalog::default();
        let system_id = cluster.control("Database system identifier").await?.parse()?;
        catalog.identity = Some(Identity { system_id, segment_size: size });
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let (name, partial) = match entry?.file_name().to_str().and_then(WalFile::parse) {
                Some(WalFile::Segment(name)) => (name, false),
                Some(WalFile::Partial(name)) => (name, true),
                Some(WalFile::History(timeline)) => {
                    catalog.histories.insert(timeline);
                    continue;
                }
                None => continue,
            };
            files.push((name.segment(size).context("a segment's name")?, partial));
        }
        files.sort_unstable();
        let (last, _) = *files.last().context("a segment")?;
        let complete = end_of(folder, &files, cluster)?;
        for (segment, partial) in &files {
            let held = Held { partial_end: partial.then_some(complete), facts: SegmentFacts::default() };
            catalog.segments.insert(*segment, held);
        }
        let state = Arc::new(StreamState::new(catalog));
        state.set_positions(Positions {
            timeline: last.timeline,
            received: complete,
            written: complete,
            flushed: complete,
            complete,
            server_end: complete,
        });
        state.set_condition(State::Connecting, None);
        let own = sink::tls::provision(folder, &[])?;
        let options = Options {
            listen: "127.0.0.1:0".to_owned(),
            data_dir: folder.to_owned(),
            slot: "receiver".to_owned(),
            tls: own.files(),
            renew: Some(Vec::new()),
            token_file: own.token_path,
            metrics_public: false,
            limits: Limits::default(),
        };
        let metrics = Arc::new(Metrics::new(Arc::clone(&state)));
        let (handle, driver) = https::bind(options, state, metrics).await?;
        let args =
            ClientArgs { ca: Some(folder.join("tls/ca.pem")), token_file: Some(folder.join("token")), ..ClientArgs::default() };
        let url = format!("https://127.0.0.1:{}", handle.address().port());
        let task = tokio::spawn(async move {
            // Kept: a server without its handle ends.
            let _handle = handle;
            driver.run().await;
        });
        Ok(Self { url, args, complete, task })
    }

    async fn recover(&self, cluster: &Postgres) -> Result<ExitCode> {
        recover::run(RecoverArgs { from: Some(self.url.clone()), client: self.args.clone(), ..args(cluster) }).await
    }
}

/// The end of the last complete record in a folder.
fn end_of(folder: &Path, files: &[(Segment, bool)], cluster: &Postgres) -> Result<Lsn> {
    let size = cluster.segment_size();
    let newest = files.last().context("a segment")?.0.timeline;
    let mut decoder = Decoder::new(size, files.first().context("a segment")?.0.start(size), newest)?;
    for (segment, partial) in files {
        let name = segment.name(size);
        let file = if *partial { WalFile::Partial(name) } else { WalFile::Segment(name) };
        if decoder.position() != segment.start(size) {
            continue;
        }
        match decoder.push(&fs::read(folder.join(file.name()))?, &mut |_| {}) {
            Err(error) if *partial && error.is_unwritten() => break,
            pushed => pushed?,
        }
    }
    Ok(decoder.complete_end())
}

fn args(cluster: &Postgres) -> RecoverArgs {
    RecoverArgs {
        from: None,
        pgdata: cluster.data().to_owned(),
        dry_run: false,
        verify: false,
        conninfo: None,
        wait: Duration::from_secs(30),
        abandon: false,
        jobs: 3,
        json: false,
        client: ClientArgs::default(),
    }
}

async fn verify(cluster: &Postgres) -> Result<ExitCode> {
    recover::run(RecoverArgs { verify: true, conninfo: Some(cluster.socket_conninfo()), ..args(cluster) }).await
}

/// Some WAL, a transaction, so that the next commit's record is not alone.
async fn write(cluster: &Postgres, rows: u32) -> Result<()> {
    cluster.execute("CREATE TABLE IF NOT EXISTS t (n serial, filler text)").await?;
    for _ in 0..4 {
        cluster.execute(&format!("INSERT INTO t (filler) SELECT repeat('x', 900) FROM generate_series(1, {rows})")).await?;
    }
    Ok(())
}

async fn rows(cluster: &Postgres) -> Result<u64> {
    Ok(cluster.value("SELECT count(*) FROM t").await?.parse()?)
}

async fn start(version: u32) -> Result<(Postgres, Receiver)> {
    let cluster = Postgres::version(version).wal_segment_mb(1).start().await?;
    let receiver = Receiver::of(&cluster).await?;
    Ok((cluster, receiver))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_folder_gets_every_commit_back() -> Result<()> {
    for version in harness::postgres::VERSIONS {
        let (mut cluster, mut receiver) = start(version).await?;
        write(&cluster, 200).await?;
        let older = cluster.snapshot().await?;
        write(&cluster, 900).await?;
        cluster.execute("SELECT pg_switch_wal()").await?;
        write(&cluster, 7).await?;
        receiver.catch_up(&cluster).await?;
        cluster.kill()?;
        receiver.stop()?;
        cluster.restore(&older).await?;

        let sink = receiver.serve(&cluster).await?;
        ensure!(sink.recover(&cluster).await? == ExitCode::SUCCESS, "recover on {version}");
        cluster.start().await?;
        assert_eq!(rows(&cluster).await?, 4 * (200 + 900 + 7), "on {version}");
        assert_eq!(verify(&cluster).await?, ExitCode::SUCCESS, "on {version}");
        assert!(cluster.flush_lsn().await? >= sink.complete);
        // The files are the server's own.
        write(&cluster, 900).await?;
        cluster.execute("CHECKPOINT").await?;
        cluster.restart().await?;
        assert_eq!(rows(&cluster).await?, 4 * (200 + 900 + 7 + 900), "on {version}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_shut_down_in_order_replays_too() -> Result<()> {
    for version in harness::postgres::VERSIONS {
        let (mut cluster, mut receiver) = start(version).await?;
        write(&cluster, 100).await?;
        cluster.stop(StopMode::Fast).await?;
        receiver.stop()?;
        let older = cluster.snapshot().await?;
        cluster.start().await?;
        receiver.start(&cluster)?;
        write(&cluster, 500).await?;
        receiver.catch_up(&cluster).await?;
        cluster.kill()?;
        receiver.stop()?;
        cluster.restore(&older).await?;
        assert_eq!(cluster.control("Database cluster state").await?, "shut down");

        let sink = receiver.serve(&cluster).await?;
        sink.recover(&cluster).await?;
        assert_eq!(cluster.control("Database cluster state").await?, "in production");
        cluster.start().await?;
        assert_eq!(rows(&cluster).await?, 4 * (100 + 500), "on {version}");
        assert_eq!(verify(&cluster).await?, ExitCode::SUCCESS);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_is_rolled_forward_from_its_start() -> Result<()> {
    for version in [15, 18] {
        let (mut cluster, mut receiver) = start(version).await?;
        write(&cluster, 100).await?;
        let backup = cluster.scratch().path().join("backup");
        let mut command = cluster.program("pg_basebackup");
        command.arg("-D").arg(&backup).args(["-X", "none", "--checkpoint=fast"]);
        harness::program::run(command).await?;
        write(&cluster, 500).await?;
        receiver.catch_up(&cluster).await?;
        cluster.kill()?;
        receiver.stop()?;
        move_to(cluster.data(), &cluster.scratch().path().join("dead"))?;
        move_to(&backup, cluster.data())?;
        ensure!(cluster.data().join("backup_label").exists());

        let sink = receiver.serve(&cluster).await?;
        sink.recover(&cluster).await?;
        cluster.start().await?;
        assert_eq!(rows(&cluster).await?, 4 * (100 + 500), "on {version}");
        assert_eq!(cluster.control_timeline().await?, Timeline::FIRST);
        assert_eq!(verify(&cluster).await?, ExitCode::SUCCESS);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_started_without_recover_is_told() -> Result<()> {
    let (mut cluster, mut receiver) = start(18).await?;
    write(&cluster, 200).await?;
    let older = cluster.snapshot().await?;
    write(&cluster, 600).await?;
    receiver.catch_up(&cluster).await?;
    // A server that runs is left alone.
    let sink = receiver.serve(&cluster).await?;
    let error = sink.recover(&cluster).await.unwrap_err();
    assert!(format!("{error:#}").contains("a server runs on this folder"), "{error:#}");
    cluster.kill()?;
    receiver.stop()?;
    drop(sink);
    cluster.restore(&older).await?;
    cluster.start().await?;
    write(&cluster, 20).await?;
    cluster.stop(StopMode::Immediate).await?;

    let sink = receiver.serve(&cluster).await?;
    let before = listing(&cluster.wal())?;
    let error = sink.recover(&cluster).await.unwrap_err();
    assert!(format!("{error:#}").contains("divergence"), "{error:#}");
    assert_eq!(listing(&cluster.wal())?, before);
    // It runs on as before, as its owner decides.
    cluster.start().await?;
    // Also where it made a checkpoint since.
    cluster.execute("CHECKPOINT").await?;
    cluster.stop(StopMode::Fast).await?;
    let error = sink.recover(&cluster).await.unwrap_err();
    assert!(format!("{error:#}").contains("started without recover"), "{error:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_done_recovery_can_t_be_started() -> Result<()> {
    for version in harness::postgres::VERSIONS {
        let (mut cluster, mut receiver) = start(version).await?;
        cluster.execute("ALTER SYSTEM SET work_mem = '5MB'").await?;
        write(&cluster, 200).await?;
        let older = cluster.snapshot().await?;
        write(&cluster, 900).await?;
        receiver.catch_up(&cluster).await?;
        cluster.kill()?;
        receiver.stop()?;
        cluster.restore(&older).await?;
        let sink = receiver.serve(&cluster).await?;

        // The sink's tail says that it is there, and its file is gone: the download fails.
        let tail = fs::read_dir(&receiver.folder)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "partial"))
            .context("a partial segment")?;
        let away = receiver.folder.join("away");
        move_to(&tail, &away)?;
        let error = sink.recover(&cluster).await.unwrap_err();
        assert!(format!("{error:#}").contains("run it again"), "{error:#}");

        let logged = cluster.log().len();
        cluster.launch()?;
        assert!(!cluster.process()?.wait(DEADLINE).await?.success());
        let log = cluster.log()[logged..].to_owned();
        assert!(log.contains("beyond_pg_sink_recover_has_not_finished_run_it_again"), "on {version}: {log}");

        move_to(&away, &tail)?;
        sink.recover(&cluster).await?;
        cluster.start().await?;
        assert_eq!(rows(&cluster).await?, 4 * (200 + 900), "on {version}");
        assert_eq!(cluster.value("SHOW work_mem").await?, "5MB");
        assert_eq!(verify(&cluster).await?, ExitCode::SUCCESS);
    }
    Ok(())
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to).with_context(|| format!("rename {}", from.display()))
}

/// Names, lengths and times of change of the files in a folder.
fn listing(folder: &Path) -> Result<Vec<(String, u64, std::time::SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), meta.len(), meta.modified()?));
        }
    }
    files.sort();
    Ok(files)
}
