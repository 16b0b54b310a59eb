//! The server whose WAL is archived, the S3 that it goes to, and one run of a contender.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beyond_pg_benches::machine::Machine;
use harness::s3::{Client, S3Kind};
use harness::{Postgres, S3, Scratch, eventually, program};
use tokio::time::Instant;

use crate::contender::{Contender, Running};

/// How long one run may take.
const RUN_MAX: Duration = Duration::from_mins(20);

/// How many calls are timed whose segment is archived already.
const CALLS: usize = 20;

/// The size of a segment.
const SEGMENT_MB: f64 = 16.777_216;

/// All that a run needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) cluster: Postgres,
    pub(crate) server: S3,
    pub(crate) client: Client,
    /// The file of the authority that the server's certificate is of.
    pub(crate) authority: PathBuf,
    pub(crate) machine: Machine,
    /// What each run archives.
    segments: Vec<String>,
    pub(crate) scratch: Scratch,
}

/// What one run gave.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Run {
    /// From the moment that all were ready until Postgres had ticked the last one off.
    pub(crate) push_mb_per_second: f64,
    /// One call whose segment the store has already: the middle one.
    pub(crate) push_ms: f64,
    /// All of them, one call after the other, as recovery asks.
    pub(crate) fetch_mb_per_second: f64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { push_mb_per_second, push_ms, fetch_mb_per_second } = self;
        write!(f, "push {push_mb_per_second:.0} MB/s, a call {push_ms:.1} ms, fetch {fetch_mb_per_second:.0} MB/s")
    }
}

impl Bench {
    pub(crate) async fn start(count: u32) -> Result<Self> {
        let scratch = Scratch::new()?;
        let machine = Machine::of(scratch.path())?;
        machine.check_disk()?;
        let mut server = S3::new(S3Kind::Own)?;
        let authority = server.tls()?;
        server.start().await?;
        let wal_mb = (count + 32) * 16;
        let cluster = Postgres::version(18)
            .setting("archive_mode", "on")
            .setting("shared_buffers", "256MB")
            .setting("synchronous_commit", "off")
            .setting("checkpoint_timeout", "1h")
            .setting("max_wal_size", &format!("{}MB", wal_mb * 2))
            .setting("wal_keep_size", &format!("{}MB", wal_mb * 2))
            .start()
            .await?;
        let client = server.client()?;
        let mut bench = Self { cluster, server, client, authority, machine, segments: Vec::new(), scratch };
        bench.segments = bench.write(count as usize).await?;
        Ok(bench)
    }

    /// Lets pgbench write that many segments, full pages among them, as after each checkpoint.
    async fn write(&self, count: usize) -> Result<Vec<String>> {
        self.cluster.pgbench(&["--initialize", "--quiet", "--scale=20"]).await?;
        loop {
            self.cluster.execute("CHECKPOINT").await?;
            self.cluster.pgbench(&["--no-vacuum", "--client=8", "--time=3"]).await?;
            let mut ready = self.named(".ready")?;
            if ready.len() >= count {
                ready.sort();
                // What is left over takes part in no run.
                rename(&self.cluster, &ready.split_off(count), ".ready", ".done")?;
                return Ok(ready);
            }
        }
    }

    /// The segments whose status Postgres keeps under names that end so.
    fn named(&self, end: &str) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.cluster.wal().join("archive_status"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(end).filter(|segment| segment.len() == 24).map(str::to_owned)).collect())
    }

    /// Archives all of them and brings them back.
    pub(crate) async fn run(&mut self, contender: Contender, round: u32) -> Result<Run> {
        self.command("").await?;
        self.mark(".ready", ".done")?;
        let mut running = Running::start(contender, self, round).await?;
        self.command(&running.archive_command).await?;
        let start = Instant::now();
        self.mark(".done", ".ready")?;
        self.cluster.reload()?;
        eventually(RUN_MAX, "all to be archived", async || {
            Ok((!self.named(".ready")?.iter().any(|ready| self.segments.contains(ready))).then_some(()))
        })
        .await?;
        let pushed = start.elapsed();
        self.command("").await?;
        let push_ms = self.calls(&running).await?;
        let fetched = self.fetch(&running).await?;
        if let Some(daemon) = &mut running.daemon {
            daemon.kill()?;
        }
        let keys = self.client.keys(&format!("{}/", running.prefix)).await?;
        ensure!(contender == Contender::Cp || keys.len() >= self.segments.len(), "{} objects", keys.len());
        for key in &keys {
            self.client.delete(key).await?;
        }
        let megabytes = self.segments.len() as f64 * SEGMENT_MB;
        let rate = |took: Duration| megabytes / took.as_secs_f64();
        Ok(Run { push_mb_per_second: rate(pushed), push_ms, fetch_mb_per_second: rate(fetched) })
    }

    /// Sets `archive_command`, and waits until Postgres has read it.
    async fn command(&mut self, command: &str) -> Result<()> {
        self.cluster.append_settings(&[("archive_command", command)])?;
        self.cluster.reload()?;
        eventually(harness::DEADLINE, "the archive_command to be read", async || {
            Ok((self.cluster.value("SHOW archive_command").await? == command).then_some(()))
        })
        .await
    }

    /// Gives the status of all of them another name; those that have it are left.
    fn mark(&self, from: &str, to: &str) -> Result<()> {
        rename(&self.cluster, &self.segments, from, to)
    }

    /// The middle one of several calls of the archive command whose segment was uploaded ahead; where nothing is done ahead, of a segment
    /// that is there.
    async fn calls(&self, running: &Running) -> Result<f64> {
        self.mark(".done", ".ready")?;
        let calls = &self.segments[..CALLS.min(self.segments.len())];
        if let Some(spool) = &running.spool {
            // The first call starts what works ahead.
            self.archive(running, self.segments.last().context("there is one")?).await?;
            eventually(RUN_MAX, "the spool", async || {
                Ok(calls.iter().all(|segment| spool.join(format!("{segment}.ok")).exists()).then_some(()))
            })
            .await?;
        }
        let mut millis = Vec::new();
        for segment in calls {
            let start = Instant::now();
            self.archive(running, segment).await?;
            millis.push(start.elapsed().as_secs_f64() * 1e3);
        }
        self.mark(".ready", ".done")?;
        millis.sort_by(f64::total_cmp);
        Ok(millis[millis.len() / 2])
    }

    async fn archive(&self, running: &Running, segment: &str) -> Result<()> {
        let path = self.cluster.wal().join(segment);
        self.shell(&running.archive_command.replace("%p", &path.to_string_lossy()).replace("%f", segment)).await
    }

    /// Brings all of them back, one after the other, and compares the last.
    async fn fetch(&self, running: &Running) -> Result<Duration> {
        let to = self.cluster.wal().join("RECOVERYXLOG");
        let start = Instant::now();
        for segment in &self.segments {
            let command = running.restore_command.replace("%p", &to.to_string_lossy()).replace("%f", segment);
            self.shell(&command).await.with_context(|| segment.clone())?;
        }
        let took = start.elapsed();
        let last = self.segments.last().context("there is one")?;
        ensure!(std::fs::read(&to)? == std::fs::read(self.cluster.wal().join(last))?, "{last} came back as another");
        std::fs::remove_file(&to)?;
        Ok(took)
    }

    /// Runs a command as Postgres does: by the shell, in the data folder.
    async fn shell(&self, command: &str) -> Result<()> {
        let mut shell: Command = program::command(std::path::Path::new("/bin/sh"));
        shell.args(["-c", command]).current_dir(self.cluster.data());
        program::run(shell).await.map(drop)
    }
}

/// Gives the status of these segments another name, where it has the first.
fn rename(cluster: &Postgres, segments: &[String], from: &str, to: &str) -> Result<()> {
    let status = cluster.wal().join("archive_status");
    for segment in segments {
        let (from, to) = (status.join(format!("{segment}{from}")), status.join(format!("{segment}{to}")));
        if from.exists() {
            rustix::fs::rename(&from, &to).with_context(|| format!("rename {}", from.display()))?;
        }
    }
    Ok(())
}
