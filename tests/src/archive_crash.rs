//! Crash rounds of the archiver: pgbench writes while Postgres, its pushes, the daemon and the store are killed, and the store fails in
//! every other way.
//!
//! ```text
//!   pgbench ─▶ Postgres ── archive_command: a hard link, then push ─▶ (daemon) ─▶ Faults ─▶ S3
//!                 │                             │                                        │
//!                 │                      what it wrote  ◀───────── is the same ────────▶ │
//!                 └── an older copy of its folder ◀──────────── fetch ───────────────────┘   replays to the very same tables
//! ```
//!
//! The hard link keeps what Postgres wrote, whatever becomes of the file: with `wal_recycle` off, it is never written again. A seed fixes
//! what happens in which order; how far all get in between is up to the machine.

mod events;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use walbus::sim::Random;

use crate::archiver::{Archiver, Daemon};
use crate::postgres::{Postgres, Snapshot};
use crate::process::Process;
use crate::s3::{Client, Faults, S3};
use crate::wait::eventually;

pub use events::Counts;
use events::Event;

/// How long a round may take before it counts as failed: something waits that should not.
const ROUND_MAX: Duration = Duration::from_mins(8);

/// How many seconds a push has while things fail: so few that it fails as well, and Postgres has to try again.
const PUSH_SECONDS: u32 = 2;

/// How many it has where all is to be archived, on a machine with much else to do.
const PUSH_SECONDS_PATIENT: u32 = 60;

/// How long the archive may take to have all, once nothing fails any more.
const CATCH_UP: Duration = Duration::from_mins(3);

/// What a round is like.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Fixes what happens.
    pub seed: u64,
    /// The version of Postgres.
    pub version: u32,
}

/// How a round went, nothing being lost.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened in it.
    pub counts: Counts,
    /// How many files of WAL are in the archive, each the same as Postgres wrote it.
    pub files: usize,
    /// The timelines that the chain goes over.
    pub timelines: usize,
    /// How many rows pgbench's history has after the restore, as before it.
    pub rows: u64,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, files, timelines, rows, took } = self;
        let seconds = took.as_secs_f64();
        write!(f, "{counts}; {files} files the same, {timelines} timelines, {rows} rows restored; {seconds:.1} s")
    }
}

/// All that takes part in a round.
#[derive(Debug)]
struct Stage {
    random: Random,
    // Before what they use: dropped first.
    bench: Option<Process>,
    /// In two rounds of three: uploads ahead of `archive_command`, and fetches ahead in the end.
    daemon: Option<Daemon>,
    cluster: Postgres,
    faults: Faults,
    server: S3,
    /// The server itself, as a test sees it.
    client: Client,
    archiver: Archiver,
    /// The folder of what Postgres wrote.
    written: PathBuf,
    older: Snapshot,
    counts: Counts,
}

/// Plays one round.
///
/// # Errors
/// Where the archive is not what Postgres wrote, or anything on the way fails: with the folders where all is kept to be looked into.
pub async fn play(round: Round) -> Result<Outcome> {
    let start = Instant::now();
    let mut stage = Stage::set(round).await?;
    let played = match tokio::time::timeout(ROUND_MAX, stage.play()).await {
        Ok(played) => played,
        Err(_elapsed) => Err(anyhow::anyhow!("the round was not over after {ROUND_MAX:?}")),
    };
    match played {
        Ok(found) => {
            let verify::Found { files, timelines, rows } = found;
            Ok(Outcome { counts: stage.counts.clone(), files, timelines, rows, took: start.elapsed() })
        }
        Err(error) => {
            let evidence = [stage.cluster.keep().to_owned(), stage.server.keep().to_owned()];
            Err(error).with_context(|| format!("{}; evidence: {evidence:?}", stage.counts))
        }
    }
}

impl Stage {
    async fn set(round: Round) -> Result<Self> {
        let mut random = Random::new(round.seed);
        let segment_mb = if random.chance(3, 4) { 1 } else { 4 };
        let server = S3::start_new().await?;
        let faults = Faults::before(server.port())?;
        let archiver = Archiver::at(faults.port());
        let mut cluster = Postgres::version(round.version)
            .wal_segment_mb(segment_mb)
            .setting("archive_mode", "on")
            // What was archived is removed soon, and never written again.
            .setting("max_wal_size", &format!("{}MB", segment_mb * 4))
            .setting("min_wal_size", &format!("{}MB", segment_mb * 2))
            .setting("wal_recycle", "off")
            .setting("synchronous_commit", "off")
            .start()
            .await?;
        let written = cluster.scratch().folder("written")?;
        cluster.pgbench(&["--initialize", "--quiet", "--scale=1"]).await?;
        let older = cluster.snapshot().await?;
        let client = server.client()?;
        let mut daemon = random.chance(2, 3).then(|| Daemon::of(&cluster, &archiver));
        if let Some(daemon) = &mut daemon {
            daemon.start().await?;
        }
        Ok(Self {
            random,
            bench: None,
            daemon,
            cluster,
            faults,
            server,
            client,
            archiver,
            written,
            older,
            counts: Counts::default(),
        })
    }

    /// Gives each push so many seconds.
    fn push_within(&mut self, seconds: u32) -> Result<()> {
        let push = self.archiver.clone().timeout(seconds).command_line("push")?;
        let command = format!("ln -f %p {}/%f && {push} %p", self.written.display());
        self.cluster.append_settings(&[("archive_command", &command)])?;
        self.cluster.reload()
    }

    async fn play(&mut self) -> Result<verify::Found> {
        self.push_within(PUSH_SECONDS)?;
        self.write().await?;
        for _ in 0..4 + self.random.below(6) {
            let event = Event::any(&mut self.random);
            self.befall(event).await.with_context(|| format!("{event:?}"))?;
            self.write().await.with_context(|| format!("after {event:?}"))?;
            self.mend().await.with_context(|| format!("the end of {event:?}"))?;
        }
        self.end().await?;
        self.verify().await
    }

    /// Lets pgbench write some more WAL.
    async fn write(&mut self) -> Result<()> {
        let more = (1 + self.random.below(24)) << 17;
        let from = self.cluster.flush_lsn().await?;
        let log = self.cluster.scratch().path().join("pgbench.log");
        eventually(CATCH_UP, "more WAL", async || {
            // It ends whenever its server does.
            if self.bench.as_mut().is_none_or(|bench| !matches!(bench.ended(), Ok(None))) {
                let mut command = self.cluster.program("pgbench");
                command.args(["--no-vacuum", "--client=4", "--time=600"]);
                self.bench = Some(Process::spawn("pgbench", command, &log)?);
            }
            Ok((self.cluster.flush_lsn().await?.0 >= from.0 + more).then_some(()))
        })
        .await
        .with_context(|| self.cluster.log())
    }

    /// What failed for a while is well again.
    async fn mend(&mut self) -> Result<()> {
        self.faults.heal();
        if !self.server.runs() {
            self.server.start().await?;
        }
        if let Some(daemon) = &mut self.daemon
            && !daemon.runs()
        {
            daemon.start().await?;
        }
        Ok(())
    }

    /// The last of it is written and archived, and Postgres stops in order.
    async fn end(&mut self) -> Result<()> {
        if let Some(bench) = &mut self.bench {
            bench.kill_all()?;
        }
        self.cluster.switch_wal().await?;
        self.archived().await
    }

    /// Waits until Postgres has nothing left that is ready to be archived.
    async fn archived(&mut self) -> Result<()> {
        self.push_within(PUSH_SECONDS_PATIENT)?;
        let status = self.cluster.wal().join("archive_status");
        eventually(CATCH_UP, "all to be archived", async || {
            let names = std::fs::read_dir(&status)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let waiting = names.filter(|name| name.ends_with(".ready")).count();
            if waiting > 0 {
                // After three failures, the archiver sleeps for a minute, unless it is woken.
                self.cluster.reload()?;
            }
            Ok((waiting == 0).then_some(()))
        })
        .await
        .with_context(|| {
            let daemon = self.daemon.as_ref().map_or_else(String::new, Daemon::log);
            format!("{}\nthe daemon's log:\n{daemon}", self.cluster.log())
        })
    }
}
