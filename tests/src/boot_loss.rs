//! Rounds of a lost host, through `beyond-pg boot` alone: eight clients commit by its pool, commits wait for a sink, all settings come from
//! a metadata service, and the whole host is killed. Its volume comes back as it was some time before.
//!
//! ```text
//!                    metadata service (v2)
//!                        │ settings
//!   clients ─▶ PgBouncer ─ Postgres ◀──── sink     all of the host is killed: SIGKILL of init and what it has started
//!                        ✗ host lost        │      what comes back: an older volume, perhaps without its WAL
//!                        ▼                  │      then: boot again, now and then killed at a step of it as well
//!                   older volume ◀── boot ──┘      its first answer through the pool has every acknowledged commit
//! ```
//!
//! The rounds are played on one cluster, one after the other. A seed fixes what happens in which order; how far the clients get in between
//! is up to the machine.

mod events;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;
use walbus::sim::Random;

use crate::init::Init;
use crate::ledger::{Found, Ledger};
use crate::mmds::{Mmds, MmdsVersion};
use crate::postgres::Snapshot;
use crate::sink::Sink;
use crate::wait::{DEADLINE, eventually};

pub use events::Counts;

/// How many clients commit at once.
const CLIENTS: usize = 8;

/// How long a round may take before it counts as failed: something waits that should not.
const ROUND_MAX: Duration = Duration::from_mins(5);

/// The steps of a boot that the host may die after once more.
const STEPS: [&str; 12] =
    ["volume", "wal_dir", "config", "sink_recover", "pitr", "check", "identity", "start", "roles", "verify", "pgbouncer", "ready"];

/// How a round went, nothing being lost.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened in it before the host was lost.
    pub counts: Counts,
    /// What the host came back with.
    pub loss: String,
    /// How many commits were acknowledged since the volume was what came back.
    pub behind: u64,
    /// What the first answer through the pool had.
    pub found: Found,
    /// How many transactions have ended without an answer until now.
    pub doubtful: u64,
    /// How long the boot took until it was ready.
    pub ready_ms: u64,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { acknowledged, rows, lost } = &self.found;
        write!(
            f,
            "{}; {}, {} acknowledged commits behind; ready after {} ms: acknowledged {acknowledged}, found {rows} (in doubt {}), \
             lost {}; {:.1} s",
            self.counts,
            self.loss,
            self.behind,
            self.ready_ms,
            self.doubtful,
            lost.len(),
            self.took.as_secs_f64()
        )
    }
}

/// One cluster, and all that takes part in its rounds.
#[derive(Debug)]
pub struct Stage {
    random: Random,
    // Before what they use: dropped first.
    ledger: Ledger,
    init: Init,
    sink: Sink,
    mmds: Mmds,
    settings: Value,
    older: Snapshot,
    /// How many commits were acknowledged when that copy was made, at least.
    older_has: u64,
    counts: Counts,
}

impl Stage {
    /// A cluster that has booted on an empty volume, with a sink that streams.
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn set(seed: u64) -> Result<Self> {
        let mut init = Init::new().await?;
        let mut sink = Sink::new(&init.conninfo())?;
        sink.start().await?;
        init.set_sink(&sink)?.env("BEYOND_PG_WAL_SINK_POLICY", "required");
        let mmds = Mmds::start(MmdsVersion::V2).await?;
        let settings = init.take_settings();
        mmds.set(settings.clone());
        init.env("BEYOND_PG_METADATA", &mmds.address());
        let status = init.start().await?;
        // Without its token, the service gives nothing away.
        for (name, value) in [("BEYOND_PG_WAL_SINK", sink.url()?), ("BEYOND_PG_WAL_SINK_POLICY", "required")] {
            let told = serde_json::json!({ "name": name, "source": "mmds-v2", "value": value });
            ensure!(status["settings"].as_array().is_some_and(|settings| settings.contains(&told)), "{status:#}");
        }
        sink.wait_streaming().await?;
        // Little, so that checkpoints remove and recycle WAL all the time.
        init.admin(&[
            "alter system set max_wal_size = '64MB'",
            "alter system set min_wal_size = '32MB'",
            "select pg_reload_conf()",
        ])
        .await?;
        let mut ledger = Ledger::create_at(&init.pool()).await?;
        ledger.write_to(&init.pool(), CLIENTS);
        ledger.wait_more(10).await?;
        let older_has = ledger.count();
        let older = init.snapshot().await?;
        ledger.stop().await;
        let (random, counts) = (Random::new(seed), Counts::default());
        Ok(Self { random, ledger, init, sink, mmds, settings, older, older_has, counts })
    }

    /// Plays one round.
    ///
    /// # Errors
    /// Where an acknowledged commit is lost, or anything on the way fails: with the folders where all is kept to be looked into.
    pub async fn round(&mut self) -> Result<Outcome> {
        self.counts = Counts::default();
        let played = match tokio::time::timeout(ROUND_MAX, self.play()).await {
            Ok(played) => played,
            Err(_elapsed) => Err(anyhow::anyhow!("the round was not over after {ROUND_MAX:?}")),
        };
        played.map_err(|error| {
            let evidence = self.keep();
            error.context(format!("{}; evidence: {evidence:?}", self.counts))
        })
    }

    /// The sink's own look at all that it holds, once it has ended.
    ///
    /// # Errors
    /// Where it finds something wrong.
    pub async fn check_sink(&mut self) -> Result<()> {
        self.sink.stop().await?;
        let check = self.sink.check().await?;
        let said = [check.stdout, check.stderr].concat();
        ensure!(check.status.success(), "check: {}\n{}", check.status, String::from_utf8_lossy(&said));
        Ok(())
    }

    async fn play(&mut self) -> Result<Outcome> {
        let start = Instant::now();
        self.ledger.write_to(&self.init.pool(), CLIENTS);
        for _ in 0..2 + self.random.below(4) {
            self.ledger.wait_more(1 + self.random.below(150)).await.with_context(|| self.stalled())?;
            self.befall().await?;
        }
        self.ledger.wait_more(1 + self.random.below(200)).await.with_context(|| self.stalled())?;
        let mut loss = self.lose_host().await?;
        let behind = self.ledger.count() - self.older_has;
        if self.random.chance(1, 2) {
            let step = STEPS[usize::try_from(self.random.below(STEPS.len() as u64))?];
            self.init.die_after(step).await?;
            loss = format!("{loss}, killed again after {step}");
        }
        let (status, found) = self.boot().await?;
        let lost = &found.lost;
        ensure!(lost.is_empty(), "lost {} of {} acknowledged commits: {lost:?}", lost.len(), found.acknowledged);
        self.sink.wait_streaming().await?;
        let ready_ms = status["boot_ms"].as_u64().context("a boot takes some time")?;
        let (counts, doubtful) = (self.counts.clone(), self.ledger.doubtful());
        Ok(Outcome { counts, loss, behind, found, doubtful, ready_ms, took: start.elapsed() })
    }

    /// The whole host dies in the midst of commits, the sink's process with it now and then, and comes back with an older volume.
    async fn lose_host(&mut self) -> Result<String> {
        self.init.kill()?;
        let sink_too = self.random.chance(1, 3);
        if sink_too {
            self.sink.kill()?;
        }
        self.ledger.stop().await;
        if sink_too {
            self.sink.start().await?;
            // At another port, of which the metadata tell.
            self.settings["latest"]["meta-data"]["BEYOND_PG_WAL_SINK"] = self.sink.url()?.into();
            self.mmds.set(self.settings.clone());
        }
        self.mmds.forget_tokens();
        self.init.restore(&self.older).await?;
        let (segments, without) = match self.random.below(3) {
            0 => (usize::MAX, " without any WAL"),
            1 => (1, " without its last segment"),
            _ => (0, ""),
        };
        self.init.remove_last_wal(segments)?;
        Ok(format!("host{} lost, older volume{without}", if sink_too { " and sink" } else { "" }))
    }

    /// Boots what came back; what the first client through the pool finds is the round's result.
    async fn boot(&mut self) -> Result<(Value, Found)> {
        let told = self.mmds.answered();
        let (pool, ledger) = (self.init.pool(), &self.ledger);
        let first = eventually(DEADLINE, "an answer through the pool", async || Ok(Some(ledger.verify_at(&pool).await?)));
        let (status, found) = tokio::try_join!(self.init.start(), first)?;
        ensure!(status["recovered"].to_string().contains("proven: all WAL of"), "ready without a proof: {status:#}");
        ensure!(self.mmds.answered() > told, "it has not asked for its settings");
        Ok((status, found))
    }

    fn stalled(&self) -> String {
        format!("commits are stalled; the sink's log:\n{}", self.sink.log())
    }

    fn keep(&mut self) -> [PathBuf; 2] {
        [self.init.keep(), self.sink.keep().to_owned()]
    }
}
