//! The primary, and one run of `pgbench` on it.

use anyhow::Result;
use beyond_pg_benches::latency::Latencies;
use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::usage::Usage;
use harness::{Postgres, Scratch, program};

use crate::contender::{Contender, Running};
use crate::{Args, Row};

/// How often WAL is switched in the storm, a second.
pub(crate) const SWITCHES_A_SECOND: u32 = 5;

/// The table that is inserted into. No index: what is measured is the commit, not the insert.
const TABLE: &str = "CREATE TABLE commits (client int, filler text)";

/// One transaction: one row.
const INSERT: &str = "INSERT INTO commits VALUES (:client_id, 'one row, of a length that is usual for a row of one table');\n";

/// The primary, with all that a run needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) cluster: Postgres,
    pub(crate) machine: Machine,
    pub(crate) seconds: u32,
    pub(crate) rounds: u32,
    scratch: Scratch,
}

/// What one run gave.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) latencies: Latencies,
    pub(crate) seconds: f64,
    /// What the receiver used in it; its memory since its start.
    pub(crate) usage: Usage,
}

impl Run {
    pub(crate) fn commits_a_second(&self) -> f64 {
        self.latencies.count() as f64 / self.seconds
    }

    pub(crate) fn cpu_micros_a_commit(&self) -> f64 {
        self.usage.cpu_seconds * 1e6 / self.latencies.count().max(1) as f64
    }
}

impl Bench {
    pub(crate) async fn start(args: &Args) -> Result<Self> {
        let scratch = Scratch::new()?;
        let machine = Machine::of(scratch.path())?;
        machine.check_disk()?;
        // Storms are ended by a checkpoint, never met by one; what they write, they write into segments of an earlier one, since a new
        // segment's zeroing holds up all commits of the primary whoever receives.
        let storm = args.rows.contains(&Row::Storm);
        let segments = if storm { (args.storm_seconds.div_ceil(args.rounds) + 5) * SWITCHES_A_SECOND } else { 0 };
        let wal_mb = (u64::from(segments) * 16).max(4096).max(u64::from(args.backlog_mb) * 2);
        let cluster = Postgres::version(args.postgres)
            .setting("shared_buffers", "256MB")
            .setting("autovacuum", "off")
            .setting("checkpoint_timeout", "1h")
            .setting("max_wal_size", &format!("{}MB", wal_mb * 2))
            .setting("min_wal_size", &format!("{}MB", wal_mb.min(u64::from(segments.max(16)) * 16)))
            .start()
            .await?;
        cluster.execute(TABLE).await?;
        let bench = Self { cluster, machine, seconds: args.seconds, rounds: args.rounds, scratch };
        bench.scratch.file("insert.sql", INSERT)?;
        Ok(bench)
    }

    /// Starts one of the two with a slot made for it, and makes commits wait for it. `commit` is the primary's `synchronous_commit` from before
    /// the start on: the sink asks for it when it connects.
    pub(crate) async fn receiver(&mut self, contender: Contender, commit: &str) -> Result<Running> {
        let slot = format!("SELECT pg_create_physical_replication_slot('{}', true)", contender.name());
        self.cluster.value(&slot).await?;
        self.cluster.synchronous(contender.name(), commit).await?;
        let mut running = contender.start(&self.cluster)?;
        running.wait_synchronous(&self.cluster).await?;
        Ok(running)
    }

    /// Ends it; no commit waits for anyone from then on.
    pub(crate) async fn end(&mut self, running: Running) -> Result<()> {
        self.cluster.append_settings(&[("synchronous_standby_names", "")])?;
        self.cluster.reload()?;
        running.end(&self.cluster).await?;
        self.cluster.execute("TRUNCATE commits; CHECKPOINT").await
    }

    /// Commits for so many seconds through a receiver.
    pub(crate) async fn run(&self, running: &mut Running, clients: u32, commit: &str, seconds: u32) -> Result<Run> {
        let before = running.usage()?;
        let (latencies, seconds) = self.pgbench(clients, commit, seconds).await?;
        let after = running.usage()?;
        let usage = Usage { cpu_seconds: after.cpu_seconds - before.cpu_seconds, ..after };
        Ok(Run { latencies, seconds, usage })
    }

    /// Commits for so many seconds; gives the latency of each, and how many seconds there were.
    pub(crate) async fn pgbench(&self, clients: u32, commit: &str, seconds: u32) -> Result<(Latencies, f64)> {
        // Per run, so that no earlier one's log is read.
        let logs = Scratch::new()?;
        let mut command = self.cluster.program("pgbench");
        command.args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix=commits"]);
        command.args([format!("--client={clients}"), format!("--jobs={}", clients.min(2)), format!("--time={seconds}")]);
        command.arg(format!("--file={}", self.scratch.path().join("insert.sql").display()));
        command.env("PGOPTIONS", format!("-c synchronous_commit={commit}")).current_dir(logs.path());
        program::run(command).await?;
        Ok((Latencies::of_logs(logs.path(), "commits")?, f64::from(seconds)))
    }

    /// So many counted runs of each of the two in turns, after one of each that does not count: `turn` does one.
    pub(crate) async fn in_turns<T>(
        &mut self,
        what: &str,
        mut turn: impl AsyncFnMut(&mut Self, Contender) -> Result<T>,
    ) -> Result<Turns<T>> {
        let mut turns = Turns { peer: Vec::new(), ours: Vec::new() };
        for round in 0..=self.rounds {
            for contender in Contender::BOTH {
                eprintln!(
                    "{what}: {contender}, {}",
                    if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {}", self.rounds) }
                );
                let result = turn(self, contender).await?;
                match contender {
                    _ if round == 0 => {}
                    Contender::Peer => turns.peer.push(result),
                    Contender::Ours => turns.ours.push(result),
                }
            }
        }
        Ok(turns)
    }
}

/// The results of the counted runs.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    pub(crate) peer: Vec<T>,
    pub(crate) ours: Vec<T>,
}
