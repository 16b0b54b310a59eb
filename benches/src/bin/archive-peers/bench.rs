//! The server whose WAL is archived, the S3 that it goes to, and one run of a contender.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beyond_pg_benches::machine::Machine;
use harness::s3::{Client, S3Kind};
use harness::{Account, Postgres, S3, Scratch, Snapshot, StopMode, eventually};
use tokio::time::Instant;
use walbus::{Lsn, SegmentName};

use crate::contender::{Contender, Running, Task};
use crate::replay;
use crate::report::Row;

/// How long one step of a run may take.
pub(crate) const STEP_MAX: Duration = Duration::from_mins(20);

/// How many calls are timed whose segment is archived already.
const CALLS: usize = 50;

/// How much memory the servers have for pages: all that pgbench touches fits in.
pub(crate) const SHARED_BUFFERS: &str = "512MB";

/// All that a run needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) cluster: Postgres,
    pub(crate) server: S3,
    pub(crate) client: Client,
    /// The file of the authority that the server's certificate is of.
    pub(crate) authority: PathBuf,
    pub(crate) machine: Machine,
    /// The data folder as it was before the segments were written, without any WAL.
    pub(crate) base: Snapshot,
    /// What each run archives.
    pub(crate) segments: Vec<SegmentName>,
    /// What is in the tables where replay ends, once it has been there.
    pub(crate) replayed: Option<String>,
    pub(crate) scratch: Scratch,
}

/// What one run gave, row by row.
#[derive(Debug, Clone)]
pub(crate) struct Run(pub(crate) Vec<(Row, f64)>);

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(|(row, value)| format!("{} {value:.1}", row.title())).collect();
        f.write_str(&texts.join("; "))
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
        let wal_mb = (count + 64) * 16;
        let mut cluster = Postgres::version(18)
            .setting("archive_mode", "on")
            .setting("shared_buffers", SHARED_BUFFERS)
            .setting("synchronous_commit", "off")
            .setting("checkpoint_timeout", "1h")
            .setting("max_wal_size", &format!("{}MB", wal_mb * 2))
            .setting("wal_keep_size", &format!("{}MB", wal_mb * 2))
            .start()
            .await?;
        cluster.pgbench(&["--initialize", "--quiet", "--scale=20"]).await?;
        // Shut down, it is consistent where its checkpoint is, in the first segment that is archived.
        cluster.stop(StopMode::Fast).await?;
        let before = named(&cluster, ".ready")?;
        rename(&cluster, &before, ".ready", ".done")?;
        let base = cluster.snapshot().await?;
        remove_segments(&base.path().join("pg_wal"))?;
        cluster.start().await?;
        let client = server.client()?;
        let segments = write(&cluster, count as usize).await?;
        Ok(Self { cluster, server, client, authority, machine, base, segments, replayed: None, scratch })
    }

    /// What each run archives, in MB.
    pub(crate) fn megabytes(&self) -> f64 {
        self.segments.len() as f64 * self.cluster.segment_size().bytes() as f64 / 1e6
    }

    /// Where replay ends: a little before the end of what is archived, so that nobody is asked for more.
    pub(crate) fn target(&self) -> Result<Lsn> {
        let size = self.cluster.segment_size();
        let last = self.segments.last().and_then(|last| last.segment(size)).context("there is a last segment")?;
        Ok(Lsn(last.start(size).0 + size.bytes() - (1 << 20)))
    }

    /// Archives all of them, and does with them what the rows ask for.
    pub(crate) async fn run(&mut self, contender: Contender, round: u32, rows: &[Row]) -> Result<Run> {
        let mut values = Vec::new();
        self.command("").await?;
        rename(&self.cluster, &self.segments, ".ready", ".done")?;
        let running = Running::start(contender, self, &self.cluster, Task { name: "archive", round }).await?;
        let pushed = self.push(&running).await?;
        values.push((Row::Push, self.megabytes() / pushed.as_secs_f64()));
        if rows.contains(&Row::Call) {
            values.push((Row::Call, self.calls(&running)?));
        }
        if rows.contains(&Row::Fetch) {
            values.push((Row::Fetch, self.megabytes() / self.fetch(&running)?.as_secs_f64()));
        }
        let archive = running.end().await?;
        if rows.contains(&Row::Replay) {
            values.push((Row::Replay, replay::run(self, contender, round).await?.as_secs_f64()));
        }
        let keys = self.client.keys(&format!("{}/", archive.prefix)).await?;
        ensure!(contender == Contender::Cp || keys.len() >= self.segments.len(), "{} objects", keys.len());
        for key in &keys {
            self.client.delete(key).await?;
        }
        archive.remove()?;
        values.retain(|(row, _)| rows.contains(row));
        Ok(Run(values))
    }

    /// Lets Postgres archive all of them, until it has ticked the last one off.
    async fn push(&mut self, running: &Running) -> Result<Duration> {
        rustix::fs::sync();
        self.command(&running.archive_command).await?;
        let start = Instant::now();
        rename(&self.cluster, &self.segments, ".done", ".ready")?;
        self.cluster.reload()?;
        eventually(STEP_MAX, "all to be archived", async || {
            let ready = named(&self.cluster, ".ready")?;
            Ok((!ready.iter().any(|ready| self.segments.contains(ready))).then_some(()))
        })
        .await?;
        let took = start.elapsed();
        self.command("").await?;
        Ok(took)
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

    /// The middle one of several calls of the archive command whose segment was archived ahead; where nothing is done ahead, of a segment
    /// that is there. Each was called for once before, so that what works ahead has done all that it will, and is at rest.
    fn calls(&self, running: &Running) -> Result<f64> {
        let calls = &self.segments[..CALLS.min(self.segments.len())];
        rename(&self.cluster, calls, ".done", ".ready")?;
        for segment in calls {
            self.archive(running, segment)?;
        }
        let mut millis = Vec::new();
        for segment in calls {
            let start = Instant::now();
            self.archive(running, segment)?;
            millis.push(start.elapsed().as_secs_f64() * 1e3);
        }
        rename(&self.cluster, calls, ".ready", ".done")?;
        millis.sort_by(f64::total_cmp);
        Ok(millis[millis.len() / 2])
    }

    fn archive(&self, running: &Running, segment: &SegmentName) -> Result<()> {
        let path = self.cluster.wal().join(segment.as_str());
        self.shell(&running.archive_command.replace("%p", &path.to_string_lossy()).replace("%f", segment.as_str()))
    }

    /// Brings all of them back, one after the other, and compares each tenth.
    fn fetch(&self, running: &Running) -> Result<Duration> {
        rustix::fs::sync();
        let to = self.cluster.wal().join("RECOVERYXLOG");
        let mut took = Duration::ZERO;
        for (number, segment) in self.segments.iter().enumerate() {
            let command = running.restore_command.replace("%p", &to.to_string_lossy()).replace("%f", segment.as_str());
            let start = Instant::now();
            self.shell(&command).with_context(|| segment.to_string())?;
            took += start.elapsed();
            if number % 10 == 0 {
                let same = std::fs::read(&to)? == std::fs::read(self.cluster.wal().join(segment.as_str()))?;
                ensure!(same, "{segment} came back as another");
            }
        }
        std::fs::remove_file(&to)?;
        Ok(took)
    }

    /// Runs a command as Postgres does: by the shell, in the data folder, as its user.
    fn shell(&self, command: &str) -> Result<()> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).current_dir(self.cluster.data()).stdin(Stdio::null());
        shell
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        Account::current().run(&mut shell);
        let output = shell.output().context("start /bin/sh")?;
        ensure!(output.status.success(), "{command}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// Lets pgbench write that many segments, full pages among them, as after each checkpoint.
async fn write(cluster: &Postgres, count: usize) -> Result<Vec<SegmentName>> {
    loop {
        cluster.execute("CHECKPOINT").await?;
        cluster.pgbench(&["--no-vacuum", "--client=8", "--time=3"]).await?;
        let mut ready = named(cluster, ".ready")?;
        if ready.len() >= count {
            ready.sort();
            // What is left over takes part in no run.
            rename(cluster, &ready.split_off(count), ".ready", ".done")?;
            return Ok(ready);
        }
    }
}

/// The segments whose status Postgres keeps under names that end so.
fn named(cluster: &Postgres, end: &str) -> Result<Vec<SegmentName>> {
    let entries = std::fs::read_dir(cluster.wal().join("archive_status"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(end)?.parse().ok()).collect())
}

/// Gives the status of these segments another name, where it has the first.
fn rename(cluster: &Postgres, segments: &[SegmentName], from: &str, to: &str) -> Result<()> {
    let status = cluster.wal().join("archive_status");
    for segment in segments {
        let (from, to) = (status.join(format!("{segment}{from}")), status.join(format!("{segment}{to}")));
        if from.exists() {
            rustix::fs::rename(&from, &to).with_context(|| format!("rename {}", from.display()))?;
        }
    }
    Ok(())
}

/// Removes the segments of a folder, and leaves what else is there.
fn remove_segments(pg_wal: &Path) -> Result<()> {
    for entry in std::fs::read_dir(pg_wal)? {
        let path = entry?.path();
        let is_segment = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<SegmentName>().is_ok());
        if is_segment {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
