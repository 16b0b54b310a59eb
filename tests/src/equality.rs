//! Equality rounds: a random workload on a real Postgres, a subscriber that applies what it gets to a second database, and both are equal in the
//! end, while everything is killed.
//!
//! ```text
//!   sessions ──▶ Postgres: database postgres ──▶ beyond-pg-cdc ──▶ client library ──▶ subscriber ──▶ database mirror
//!                    │                              events: SIGKILL of each of them                       │
//!                    ├── row by row, as text ─────────────────────────────────────────────────────────────┤
//!                    └── test_decoding by pg_recvlogical: transaction by transaction ── what the client was given
//! ```
//!
//! A seed fixes what each session does and what happens in which order; how the sessions get into each other's way is up to the machine.

mod apply;
mod compare;
mod decoding;
mod events;
mod evolve;
mod mirror;
mod record;
mod session;
mod sql;
mod stats;
mod steps;
mod subscriber;
mod tables;
mod text;
mod types;
mod workload;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;
use walbus::Lsn;
use walbus::sim::Random;

use crate::cdc::{Cdc, PUBLICATION, SLOT};
use crate::postgres::{Postgres, VERSIONS};
use crate::wait::eventually;

pub use crate::crash::seed_of;
pub use compare::Compared;
pub use events::Kills;
pub use stats::Counts;

use events::Event;
use mirror::MIRROR;
use subscriber::Subscriber;
use workload::Workload;

/// How long a round may take before it counts as failed: something waits that should not.
const ROUND_MAX: Duration = Duration::from_mins(5);

/// How long the subscriber may take for what is left when the workload has ended.
const REST_MAX: Duration = Duration::from_mins(2);

/// How much a round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A few hundred transactions, and some events.
    Full,
    /// Less, for a machine with much else to do.
    Small,
}

/// What a round is like.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Fixes what happens.
    pub seed: u64,
    /// The version of Postgres.
    pub version: u32,
    /// How much does.
    pub size: Size,
}

/// What differs from round to round, besides the workload.
#[derive(Debug, Clone, Copy)]
struct Variant {
    /// Whether messages are followed; then transactions are not streamed.
    messages: bool,
    /// Whether transactions are decoded when they are prepared.
    two_phase: bool,
    /// Whether every transaction is streamed at once, where the version has such a setting.
    stream_all: bool,
    /// Whether the server has hardly any memory.
    spool: bool,
    /// Whether the subscriber has a name.
    named: bool,
}

impl Variant {
    /// How the server is told.
    fn flags(self) -> impl Iterator<Item = &'static str> {
        let flags = [(self.messages, "--messages"), (self.two_phase, "--two-phase"), (self.spool, "--memory=64kB")];
        flags.into_iter().filter_map(|(wanted, flag)| wanted.then_some(flag))
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.messages, "messages"),
            (!self.messages, "streamed"),
            (self.two_phase, "two-phase"),
            (self.stream_all && !self.messages, "all at once"),
            (self.spool, "spooled"),
            (self.named, "named"),
        ];
        let words: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        f.write_str(&words.join(" "))
    }
}

/// How a round went, all being equal.
#[derive(Debug, Clone)]
pub struct Outcome {
    variant: Variant,
    /// What the workload did.
    pub counts: Counts,
    /// What befell it.
    pub kills: Kills,
    /// How many transactions the subscriber was given.
    pub transactions: u64,
    /// How many of them the other decoder saw in the same way: all, unless the server crashed in it.
    pub decoded: u64,
    /// How many changes were in them.
    pub changes: u64,
    /// Messages that were heard.
    pub messages: u64,
    /// What was compared.
    pub compared: Compared,
    /// How long all of it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variant, counts, kills, transactions, decoded, changes, messages, compared: Compared { tables, rows }, took } =
            self;
        let other = if decoded == transactions {
            "as test_decoding".to_owned()
        } else {
            format!("as test_decoding for the first {decoded}, then the server crashed in it")
        };
        write!(
            f,
            "({variant}) {counts}; {kills}; received {transactions} transactions, {changes} changes, {messages} messages, {other}; {tables} \
             tables, {rows} rows: equal; {:.1} s",
            took.as_secs_f64()
        )
    }
}

/// All that takes part in a round.
#[derive(Debug)]
struct Stage {
    round: Round,
    variant: Variant,
    random: Random,
    // Before what they use: dropped first.
    workload: Workload,
    subscriber: Subscriber,
    cdc: Cdc,
    cluster: Postgres,
    kills: Kills,
}

/// Plays one round.
///
/// # Errors
/// Where the databases differ, or anything on the way fails: with the folders where all is kept to be looked into.
pub async fn play(round: Round) -> Result<Outcome> {
    let start = Instant::now();
    let mut stage = Stage::set(round).await?;
    let played = match tokio::time::timeout(ROUND_MAX, stage.play()).await {
        Ok(played) => played,
        Err(_elapsed) => Err(anyhow!("the round was not over after {ROUND_MAX:?}")),
    };
    match played {
        Ok(outcome) => Ok(Outcome { took: start.elapsed(), ..outcome }),
        Err(error) => {
            let (counts, failures) = (stage.workload.counts(), stage.workload.failures());
            let evidence = [stage.cluster.keep().to_owned(), stage.cdc.keep().to_owned()];
            let variant = stage.variant;
            Err(error).with_context(|| format!("({variant}) {counts} {failures:?}; {}; evidence: {evidence:?}", stage.kills))
        }
    }
}

impl Stage {
    async fn set(round: Round) -> Result<Self> {
        let mut random = Random::new(round.seed);
        let mut often = |times, of| random.chance(times, of);
        let variant = Variant {
            messages: often(1, 2),
            two_phase: often(1, 3),
            stream_all: often(1, 3),
            spool: often(1, 3),
            named: often(1, 2),
        };
        let cluster = cluster(round.version, variant).await?;
        cluster.execute(&workload::tables(&mut random)).await?;
        decoding::make_slot(&cluster).await?;
        let mut cdc = Cdc::of(&cluster)?;
        for flag in variant.flags() {
            cdc.arg(flag);
        }
        cdc.start().await?;
        cdc.wait_streaming(&cluster).await?;
        let mut mirror = cluster.config();
        mirror.dbname(MIRROR);
        let mut subscriber = Subscriber::new(subscriber::Settings { options: cdc.options()?, mirror, named: variant.named });
        subscriber.start();
        let settings = match round.size {
            Size::Full => workload::Settings { sessions: 4, many_rows: 3000 },
            Size::Small => workload::Settings { sessions: 3, many_rows: 800 },
        };
        let workload = Workload::start(&cluster.config(), settings, &mut random);
        Ok(Self { round, variant, random, workload, subscriber, cdc, cluster, kills: Kills::default() })
    }

    async fn play(&mut self) -> Result<Outcome> {
        let (events, pause) = match self.round.size {
            Size::Full => (3 + self.random.below(5), 60),
            Size::Small => (2, 25),
        };
        for _ in 0..events {
            let more = 1 + self.random.below(pause);
            self.workload.wait_more(more).await?;
            self.subscriber.check()?;
            let event = Event::any(&mut self.random);
            self.befall(event).await.with_context(|| format!("{event:?}"))?;
        }
        let more = 1 + self.random.below(pause);
        self.workload.wait_more(more).await?;
        self.workload.stop().await?;
        self.end().await?;
        self.compare().await
    }

    /// Ends all transactions, and waits until the subscriber has seen the last one.
    async fn end(&mut self) -> Result<()> {
        for row in self.cluster.rows("SELECT gid FROM pg_prepared_xacts ORDER BY gid").await? {
            let what = if self.random.chance(1, 2) { "COMMIT" } else { "ROLLBACK" };
            self.cluster.execute(&format!("{what} PREPARED {}", sql::literal(&row.concat()))).await?;
        }
        for table in tables::TABLES {
            self.touch(table).await.with_context(|| format!("touch {}", table.name))?;
        }
        self.cluster.execute("INSERT INTO marker VALUES (1)").await?;
        let end = self.cluster.flush_lsn().await?;
        let mut config = self.cluster.config();
        config.dbname(MIRROR);
        let seen = eventually(REST_MAX, "the last row in the mirror", async || {
            if let Err(wrong) = self.subscriber.check() {
                return Ok(Some(Err(wrong)));
            }
            let client = compare::connect(&config).await?;
            let there = crate::postgres::rows(&client, "SELECT n FROM marker").await?;
            Ok((there == [["1"]]).then_some(Ok(())))
        });
        seen.await.with_context(|| format!("the CDC server's log:\n{}", tail(&self.cdc.log())))??;
        self.confirmed(end).await
    }

    /// A table whose definition was changed last shows it when there is a row again: so there is one more in each.
    async fn touch(&mut self, table: &tables::Table) -> Result<()> {
        let client = self.cluster.client().await?;
        let exists =
            crate::postgres::rows(&client, &format!("SELECT to_regclass({}) IS NOT NULL", sql::literal(table.name))).await?;
        if exists == [["f"]] {
            client.batch_execute(&table.create(&mut self.random)).await?;
        }
        let columns = crate::postgres::rows(&client, &tables::columns_query(table.name)).await?;
        let columns: Vec<_> = columns.iter().map(|row| tables::Column::of_row(row)).collect();
        // A key that is there already, or the name of a row's parent that is not, would leave nothing: then again.
        for _ in 0..20 {
            let insert = steps::insert(&mut self.random, table, &columns);
            if client.simple_query(&insert).await.is_ok_and(|answer| wrote(&answer)) {
                return Ok(());
            }
        }
        bail!("no row could be written")
    }

    /// What is durable in the log is confirmed to the slot, also where nothing more comes.
    async fn confirmed(&self, end: Lsn) -> Result<()> {
        let sql = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        eventually(REST_MAX, "the slot to be confirmed to the end", async || {
            let confirmed = self.cluster.lsn(&sql).await?;
            if confirmed >= end { Ok(Some(())) } else { bail!("confirmed {confirmed} of {end}") }
        })
        .await
    }

    async fn compare(&self) -> Result<Outcome> {
        let mut config = self.cluster.config();
        let source = compare::connect(&config).await?;
        let mirror = compare::connect(config.dbname(MIRROR)).await?;
        let compared = compare::compare(&source, &mirror).await.context("the databases differ")?;
        let messages = if self.variant.messages {
            compare::compare_messages(&source, &mirror, &self.workload.asides()).await.context("messages differ")?
        } else {
            0
        };
        let received = self.subscriber.received();
        let decoded = decoding::compare(&self.cluster, &received, self.variant.messages).await.context("the decoders differ")?;
        let transactions = received.transactions.len() as u64;
        anyhow::ensure!(
            decoded.crashed || decoded.transactions == transactions,
            "the decoders differ in how many transactions there are"
        );
        self.subscriber.check()?;
        Ok(Outcome {
            variant: self.variant,
            counts: self.workload.counts(),
            kills: self.kills.clone(),
            transactions,
            decoded: decoded.transactions,
            changes: received.changes(),
            messages,
            compared,
            took: Duration::ZERO,
        })
    }
}

/// A cluster with the types, the publication and the second database.
async fn cluster(version: u32, variant: Variant) -> Result<Postgres> {
    let mut setup = Postgres::version(version)
        .setting("wal_level", "logical")
        .setting("logical_decoding_work_mem", "64kB")
        .setting("max_prepared_transactions", "20")
        .setting("max_wal_size", "256MB")
        .setting("autovacuum_naptime", "1s");
    if variant.stream_all && version >= 16 {
        setup = setup.setting("debug_logical_replication_streaming", "immediate");
    }
    let cluster = setup.start().await?;
    cluster.execute(&format!("CREATE DATABASE {MIRROR}")).await?;
    let mut config = cluster.config();
    let mirror = compare::connect(config.dbname(MIRROR)).await?;
    mirror.batch_execute(&format!("{}; {}; {}", types::MAKE_TYPES, mirror::SET_UP, tables::FIXED)).await?;
    cluster.execute(&format!("{}; CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES", types::MAKE_TYPES)).await?;
    Ok(cluster)
}

fn wrote(answer: &[tokio_postgres::SimpleQueryMessage]) -> bool {
    answer.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::CommandComplete(rows) if *rows > 0))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Versions by name; `all` is one after the other.
///
/// # Errors
/// Where there is none of that name.
pub fn versions(name: &str) -> Result<Vec<u32>> {
    if name == "all" {
        return Ok(VERSIONS.to_vec());
    }
    match name.parse() {
        Ok(version) if VERSIONS.contains(&version) => Ok(vec![version]),
        _ => bail!("{name:?} is no version: one of {VERSIONS:?}, or all"),
    }
}
