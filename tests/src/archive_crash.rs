//! Crash rounds of the archiver: pgbench writes while Postgres, its pushes, the daemon and the store are killed, and the store fails in
//! every other way.
//!
//! ```text
//!   pgbench ─▶ Postgres ── archive_command: a copy, then push ─▶ (daemon) ─▶ Faults ─▶ S3 ◀─ push ── a second cluster
//!                 │        and follow, or follow alone ─────────────────────▶ │          │
//!                 │                             │                                       │
//!                 │                      what it wrote  ◀───────── is the same ───────▶ │
//!                 └── an older copy of its folder ◀──────────── fetch ──────────────────┘   replays to the very same tables
//! ```
//!
//! The copy keeps what Postgres wrote, whatever becomes of the file. A seed fixes what happens in which order; how far all get in
//! between is up to the machine. [`Lie`] plants what the rounds have to find.

mod counts;
mod events;
mod follower;
mod lie;
mod neighbour;
mod restore;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use walbus::sim::Random;

use crate::archiver::{Archiver, Daemon};
use crate::clock::ShiftedClock;
use crate::disk::FullDisk;
use crate::postgres::{Postgres, Snapshot};
use crate::process::Process;
use crate::s3::{Client, Faults, S3};
use crate::wait::eventually;

pub use counts::Counts;
pub use lie::Lie;

use events::Event;
use follower::Follower;
use neighbour::Neighbour;

/// How long a round may take before it counts as failed: something waits that should not.
const ROUND_MAX: Duration = Duration::from_mins(8);

/// How many seconds a push has while things fail: so few that it fails as well, and Postgres has to try again.
const PUSH_SECONDS: u32 = 1;

/// How many it has where all is to be archived, on a machine with much else to do.
const PUSH_SECONDS_PATIENT: u32 = 60;

/// How long the archive may take to have all, once nothing fails any more.
const CATCH_UP: Duration = Duration::from_mins(3);

/// What the name ends in of a copy that is being made of a file that Postgres wrote.
const HALF: &str = ".half";

/// The room of the spool's disk, in megabytes.
const SPOOL_MB: u32 = 6;

/// What a round is like.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Fixes what happens.
    pub seed: u64,
    /// The version of Postgres.
    pub version: u32,
    /// What is planted, and has to be found.
    pub lie: Option<Lie>,
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
    /// In every third round, beside `archive_command` or in its place.
    follower: Option<Follower>,
    /// In every third round.
    neighbour: Option<Neighbour>,
    cluster: Postgres,
    /// Where the daemon fetches to, now and then.
    spool: Option<FullDisk>,
    /// The clock of `push`, `fetch` and the daemon.
    clock: ShiftedClock,
    faults: Faults,
    server: S3,
    /// The server itself, as a test sees it.
    client: Client,
    archiver: Archiver,
    /// The folder of what Postgres wrote.
    written: PathBuf,
    older: Snapshot,
    lie: Option<Lie>,
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
        // That was to be found.
        Err(error) if stage.lie.is_some() => Err(error).with_context(|| stage.counts.to_string()),
        Err(error) => {
            let mut evidence = vec![stage.cluster.keep().to_owned(), stage.server.keep().to_owned()];
            evidence.extend(stage.neighbour.as_mut().map(Neighbour::keep));
            Err(error).with_context(|| format!("{}; evidence: {evidence:?}", stage.counts))
        }
    }
}

impl Stage {
    async fn set(round: Round) -> Result<Self> {
        let mut random = Random::new(round.seed);
        let segment_mb = if random.chance(3, 4) { 1 } else { 4 };
        let server = S3::start_new().await?;
        let (faults, clock) = (Faults::before(server.port())?, ShiftedClock::new().await?);
        let variables = clock.environment();
        let archiver = variables.iter().fold(Archiver::at(faults.port()), |archiver, (name, value)| archiver.env(name, value));
        let mut cluster = Postgres::version(round.version)
            .wal_segment_mb(segment_mb)
            .setting("archive_mode", "on")
            // What was archived is removed soon, or becomes another segment.
            .setting("max_wal_size", &format!("{}MB", segment_mb * 4))
            .setting("min_wal_size", &format!("{}MB", segment_mb * 2))
            .setting("wal_recycle", if random.chance(1, 2) { "on" } else { "off" })
            .setting("synchronous_commit", "off")
            .start()
            .await?;
        let written = cluster.scratch().folder("written")?;
        cluster.pgbench(&["--initialize", "--quiet", "--scale=1"]).await?;
        let follows = random.chance(1, 3) && round.lie.is_none();
        let follower = if follows { Some(Follower::new(&cluster, &archiver, random.chance(1, 2)).await?) } else { None };
        let older = cluster.snapshot().await?;
        let spool = if random.chance(1, 2) { FullDisk::new(SPOOL_MB)? } else { None };
        let at = spool.as_ref().map(|disk| disk.path().to_string_lossy().into_owned());
        let served = at.iter().fold(archiver.clone(), |served, at| served.env("BEYOND_PG_ARCHIVE_SPOOL", at));
        let has_daemon = random.chance(2, 3) || round.lie == Some(Lie::Claimed);
        let daemon = has_daemon.then(|| Daemon::of(&cluster, &served));
        let neighbour = if random.chance(1, 3) { Some(Neighbour::start(round.version, &archiver).await?) } else { None };
        let client = server.client()?;
        let mut stage = Self {
            random,
            bench: None,
            daemon,
            follower,
            neighbour,
            cluster,
            spool,
            clock,
            faults,
            server,
            client,
            archiver,
            written,
            older,
            lie: round.lie,
            counts: Counts::default(),
        };
        stage.start_daemon().await?;
        stage.follower.as_mut().map_or(Ok(()), Follower::start)?;
        Ok(stage)
    }

    /// The daemon, where there is one and it runs.
    fn running(&mut self) -> Option<&mut Daemon> {
        let daemon = self.daemon.as_mut()?;
        if daemon.runs() { Some(daemon) } else { None }
    }

    /// Starts the daemon, where there is one and it does not run.
    async fn start_daemon(&mut self) -> Result<()> {
        if self.running().is_none()
            && let Some(daemon) = &mut self.daemon
        {
            daemon.start().await?;
        }
        Ok(())
    }

    /// Kills the daemon and the follower, where there are any.
    fn kill_daemon(&mut self) -> Result<()> {
        self.counts.followers_killed += u32::from(self.follower.is_some());
        self.follower.as_mut().map_or(Ok(()), Follower::kill)?;
        self.running().map_or(Ok(()), Daemon::kill)
    }

    /// Gives each push so many seconds.
    fn push_within(&mut self, seconds: u32) -> Result<()> {
        let push = format!("{} %p", self.archiver.clone().timeout(seconds).command_line("push")?);
        let push = if self.is_followed_alone() { "true".to_owned() } else { Lie::archive_command(self.lie, &push) };
        let copy = self.written.display();
        let command = format!("cp %p {copy}/%f{HALF} && mv {copy}/%f{HALF} {copy}/%f && {push}");
        self.cluster.append_settings(&[("archive_command", &command)])?;
        self.cluster.reload()
    }

    /// The files that Postgres has marked so, `.ready` or `.done`.
    fn marked(&self, mark: &str) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.cluster.wal().join("archive_status"))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(mark).map(str::to_owned)).collect())
    }

    /// The files that wait for `archive_command`.
    fn ready(&self) -> Result<Vec<String>> {
        self.marked(".ready")
    }

    async fn play(&mut self) -> Result<verify::Found> {
        self.push_within(PUSH_SECONDS)?;
        self.write().await?;
        for event in Event::sequence(&mut self.random) {
            self.befall(event).await.with_context(|| format!("{event:?}"))?;
            self.write().await.with_context(|| format!("after {event:?}"))?;
            self.mend().await.with_context(|| format!("the end of {event:?}"))?;
        }
        self.end().await?;
        self.verify().await
    }

    /// Lets pgbench write some more WAL; what was archived may be removed then.
    async fn write(&mut self) -> Result<()> {
        let more = (1 + self.random.below(32)) << 17;
        if let Some(neighbour) = &self.neighbour {
            neighbour.write().await?;
        }
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
        .with_context(|| self.cluster.log())?;
        if self.random.chance(1, 2) {
            self.cluster.execute("CHECKPOINT").await?;
        }
        Ok(())
    }

    /// What failed for a while is well again.
    async fn mend(&mut self) -> Result<()> {
        self.faults.heal();
        if !self.server.runs() {
            self.server.start().await?;
        }
        self.start_daemon().await?;
        self.follower.as_mut().map_or(Ok(()), Follower::start)?;
        self.check_slot().await?;
        self.check_done().await
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
        eventually(CATCH_UP, "all to be archived", async || {
            let waiting = !self.ready()?.is_empty();
            if waiting {
                // After three failures, the archiver sleeps for a minute, unless it is woken.
                self.cluster.reload()?;
            }
            Ok((!waiting).then_some(()))
        })
        .await
        .with_context(|| {
            let daemon = self.daemon.as_ref().map_or_else(String::new, Daemon::log);
            format!("{}\nthe daemon's log:\n{daemon}", self.cluster.log())
        })?;
        self.followed().await
    }
}
