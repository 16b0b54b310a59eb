//! Crash rounds: eight clients commit through a sink while everything is killed, and in the end the primary's host is lost.
//!
//! ```text
//!   clients ─▶ primary ◀─ proxy ─▶ sink          events: SIGKILL of sink, primary, both; cuts; switch storms; ...
//!                 │                  │
//!                 ✗ host lost        │           what comes back: an older data folder, perhaps without its WAL
//!                 ▼                  │
//!        older folder ◀── recover ───┘           then: every acknowledged commit is there, or the round has failed
//! ```
//!
//! A seed fixes what happens in which order; how far the clients get in between is up to the machine.

mod events;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;
use walbus::Lsn;
use walbus::sim::Random;

use crate::ledger::{Found, Ledger};
use crate::postgres::{Postgres, Snapshot};
use crate::proxy::Proxy;
use crate::sink::{APPLICATION_NAME, Sink};

pub use events::Counts;
use events::Event;

/// How many clients commit at once.
const CLIENTS: usize = 8;

/// How long a round may take before it counts as failed: something waits that should not.
const ROUND_MAX: Duration = Duration::from_mins(5);

/// What `synchronous_commit` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `on`: a commit waits until the sink has flushed it.
    On,
    /// `remote_write`: a commit waits until the sink has written it.
    RemoteWrite,
}

impl Mode {
    const fn setting(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteWrite => "remote_write",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting())
    }
}

/// What a round is like.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Fixes what happens.
    pub seed: u64,
    /// What commits wait for.
    pub mode: Mode,
    /// The version of Postgres.
    pub version: u32,
}

/// How a round went, nothing being lost.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened in it.
    pub counts: Counts,
    /// What was found after the recovery.
    pub found: Found,
    /// How many transactions ended without an answer.
    pub doubtful: u64,
    /// What the primary's host came back with.
    pub loss: &'static str,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { acknowledged, rows, lost } = &self.found;
        write!(
            f,
            "{}; {}; acknowledged {acknowledged}, found {rows} (in doubt {}), lost {}; {:.1} s",
            self.counts,
            self.loss,
            self.doubtful,
            lost.len(),
            self.took.as_secs_f64()
        )
    }
}

/// All that takes part in a round.
#[derive(Debug)]
struct Stage {
    random: Random,
    // Before what they use: dropped first.
    ledger: Ledger,
    sink: Sink,
    proxy: Proxy,
    cluster: Postgres,
    older: Snapshot,
    counts: Counts,
}

/// Plays one round.
///
/// # Errors
/// Where an acknowledged commit is lost, or anything on the way fails: with the folders where all is kept to be looked into.
pub async fn play(round: Round) -> Result<Outcome> {
    let start = Instant::now();
    let mut stage = Stage::set(round).await?;
    let played = match tokio::time::timeout(ROUND_MAX, stage.play()).await {
        Ok(played) => played,
        Err(_elapsed) => Err(anyhow::anyhow!("the round was not over after {ROUND_MAX:?}")),
    };
    match played {
        Ok((found, loss)) => {
            let (counts, doubtful) = (stage.counts.clone(), stage.ledger.doubtful());
            Ok(Outcome { counts, found, doubtful, loss, took: start.elapsed() })
        }
        Err(error) => {
            let evidence = stage.keep();
            Err(error).with_context(|| format!("{}; evidence: {evidence:?}", stage.counts))
        }
    }
}

impl Stage {
    async fn set(round: Round) -> Result<Self> {
        let mut random = Random::new(round.seed);
        let segment_mb = if random.chance(3, 4) { 1 } else { 16 };
        let mut cluster = Postgres::version(round.version)
            .wal_segment_mb(segment_mb)
            // Few, so that checkpoints remove and recycle WAL all the time.
            .setting("max_wal_size", &format!("{}MB", segment_mb * 4))
            .setting("min_wal_size", &format!("{}MB", segment_mb * 2))
            .setting("wal_sender_timeout", "20s")
            .start()
            .await?;
        let proxy = Proxy::to(cluster.port())?;
        let sink = Sink::through(&proxy).await?;
        cluster.synchronous(APPLICATION_NAME, round.mode.setting()).await?;
        let mut ledger = Ledger::create(&cluster).await?;
        ledger.write(&cluster, CLIENTS);
        ledger.wait_more(10).await?;
        let older = cluster.snapshot().await?;
        Ok(Self { random, ledger, sink, proxy, cluster, older, counts: Counts::default() })
    }

    async fn play(&mut self) -> Result<(Found, &'static str)> {
        for _ in 0..4 + self.random.below(6) {
            self.ledger.wait_more(1 + self.random.below(150)).await.with_context(|| self.stalled())?;
            let event = Event::any(&mut self.random);
            self.befall(event).await.with_context(|| format!("{event:?}"))?;
        }
        self.ledger.wait_more(1 + self.random.below(200)).await.with_context(|| self.stalled())?;
        let loss = self.lose_host().await?;
        self.recover().await?;
        let found = self.ledger.verify(&self.cluster).await?;
        ensure!(
            found.lost.is_empty(),
            "lost {} of {} acknowledged commits: {:?}",
            found.lost.len(),
            found.acknowledged,
            found.lost
        );
        self.go_on().await?;
        Ok((found, loss))
    }

    /// The primary's host dies, the sink's process with it now and then, and comes back with an older disk.
    async fn lose_host(&mut self) -> Result<&'static str> {
        if self.random.chance(1, 3) {
            self.kill_both()?;
            self.ledger.stop().await;
            self.sink.start().await?;
        } else {
            self.cluster.kill()?;
            self.ledger.stop().await;
        }
        self.proxy.heal();
        self.cluster.restore(&self.older).await?;
        Ok(match self.random.below(3) {
            0 => {
                self.cluster.remove_wal_from(Lsn::INVALID)?;
                "host lost, older folder without any WAL"
            }
            1 => {
                if let Some(segment) = self.cluster.segments()?.last() {
                    self.cluster.remove_wal_from(segment.start(self.cluster.segment_size()))?;
                }
                "host lost, older folder without its last segment"
            }
            _ => "host lost, older folder",
        })
    }

    /// What the operator of the primary does.
    async fn recover(&mut self) -> Result<()> {
        let recovered = self.sink.recover(&self.cluster).await?;
        ensure!(recovered.status.success(), "recover: {}\n{}", recovered.status, text(&recovered));
        self.cluster.start().await?;
        let verified = self.sink.verify(&self.cluster).await?;
        ensure!(verified.status.success(), "recover --verify: {}\n{}", verified.status, text(&verified));
        Ok(())
    }

    /// The recovered primary goes on through the same sink.
    async fn go_on(&mut self) -> Result<()> {
        self.sink.wait_streaming().await?;
        let before = self.ledger.count();
        self.ledger.write(&self.cluster, CLIENTS);
        self.ledger.wait_more(50).await.with_context(|| self.stalled())?;
        self.ledger.stop().await;
        let found = self.ledger.verify(&self.cluster).await?;
        ensure!(found.lost.is_empty() && found.acknowledged > before, "after going on: {found:?}");
        let check = self.sink.check().await?;
        ensure!(check.status.success(), "check: {}\n{}", check.status, text(&check));
        Ok(())
    }

    fn kill_both(&mut self) -> Result<()> {
        if self.random.chance(1, 2) {
            self.sink.kill()?;
            self.cluster.kill()
        } else {
            self.cluster.kill()?;
            self.sink.kill()
        }
    }

    fn stalled(&self) -> String {
        format!("commits are stalled; the sink's log:\n{}", self.sink.log())
    }

    fn keep(&mut self) -> [PathBuf; 2] {
        [self.cluster.keep().to_owned(), self.sink.keep().to_owned()]
    }
}

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The seed of the round of this number.
#[must_use]
pub fn seed_of(first: u64, round: u64) -> u64 {
    Random::new(first.wrapping_add(round)).next() >> 16
}

/// Modes by name; `both` is one after the other.
///
/// # Errors
/// Where there is none of that name.
pub fn modes(name: &str) -> Result<Vec<Mode>> {
    match name {
        "both" => Ok(vec![Mode::On, Mode::RemoteWrite]),
        "on" => Ok(vec![Mode::On]),
        "remote_write" => Ok(vec![Mode::RemoteWrite]),
        other => bail!("{other:?} is no mode: on, remote_write or both"),
    }
}
