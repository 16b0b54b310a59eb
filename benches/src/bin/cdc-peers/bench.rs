//! The primary, and what is written on it.

use anyhow::Result;
use beyond_pg_benches::machine::Machine;
use harness::{DEADLINE, Postgres, Scratch, eventually, program};
use walbus::Lsn;

use crate::Args;

/// What all contenders follow.
pub(crate) const PUBLICATION: &str = "bench";
/// Keeps a backlog on the primary: each run has a copy of it as its slot.
pub(crate) const HOLDER: &str = "holder";
/// Rows of one transaction of a backlog.
pub(crate) const TRANSACTION_ROWS: u64 = 1000;

/// The table of backlogs and of the large transaction, and that of single rows. No index but the key's: what is measured is what comes behind.
const TABLES: &str = "CREATE TABLE backlog (id bigint PRIMARY KEY, customer int, note text, at timestamptz); \
     CREATE TABLE live (client int, filler text); ALTER TABLE live REPLICA IDENTITY NOTHING; \
     CREATE PUBLICATION bench FOR TABLE backlog, live";

/// The columns of the rows of a backlog, of a number `id`.
pub(crate) const COLUMNS: &str = "id, (id % 10007)::int, md5(id::text), clock_timestamp()";

/// The primary, with all that a run needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) cluster: Postgres,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) scratch: Scratch,
}

/// Changes that were written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    pub(crate) rows: u64,
    /// The end of its last transaction.
    pub(crate) end: Lsn,
}

impl Bench {
    pub(crate) async fn start(args: &Args) -> Result<Self> {
        let scratch = Scratch::new()?;
        let machine = Machine::of(scratch.path())?;
        machine.check_disk()?;
        let cluster = Postgres::version(args.postgres)
            .setting("wal_level", "logical")
            .setting("shared_buffers", "512MB")
            .setting("autovacuum", "off")
            .setting("checkpoint_timeout", "1h")
            .setting("max_wal_size", "32GB")
            // A walsender that stands still until its turn is no lost one.
            .setting("wal_sender_timeout", "0")
            .start()
            .await?;
        cluster.execute(TABLES).await?;
        Ok(Self { cluster, machine, rounds: args.rounds, scratch })
    }

    /// Writes so many rows, in transactions of a thousand.
    pub(crate) async fn write_backlog(&self, rows: u64) -> Result<Backlog> {
        let client = self.cluster.client().await?;
        client.batch_execute("SET synchronous_commit = off").await?;
        let (transactions, rows_each) = (rows / TRANSACTION_ROWS, TRANSACTION_ROWS);
        client
            .batch_execute(&format!(
                "DO $$ BEGIN FOR n IN 0..{transactions} - 1 LOOP INSERT INTO backlog SELECT {COLUMNS} \
                 FROM generate_series(n::bigint * {rows_each} + 1, n::bigint * {rows_each} + {rows_each}) AS id; COMMIT; END LOOP; END $$"
            ))
            .await?;
        let end = self.cluster.lsn("SELECT pg_current_wal_insert_lsn()").await?;
        // What was written is on the disk then, and no run meets the writing.
        self.cluster.execute("CHECKPOINT").await?;
        Ok(Backlog { rows: transactions * rows_each, end })
    }

    pub(crate) async fn clear_backlog(&self) -> Result<()> {
        self.cluster.execute("TRUNCATE backlog; CHECKPOINT").await
    }

    pub(crate) async fn make_slot(&self, name: &str) -> Result<()> {
        self.cluster
            .value(&format!("SELECT slot_name FROM pg_create_logical_replication_slot('{name}', 'pgoutput')"))
            .await
            .map(drop)
    }

    /// A slot that stands where the backlog begins.
    pub(crate) async fn copy_slot(&self, name: &str) -> Result<()> {
        self.cluster.value(&format!("SELECT slot_name FROM pg_copy_logical_replication_slot('{HOLDER}', '{name}')")).await.map(drop)
    }

    /// Drops a slot as soon as its walsender has seen that its peer is gone.
    pub(crate) async fn drop_slot(&self, name: &str) -> Result<()> {
        let sql = format!("SELECT pg_drop_replication_slot('{name}')");
        eventually(DEADLINE, "the slot to be free", async || self.cluster.value(&sql).await.map(Some)).await.map(drop)
    }

    /// Commits `transactions` of one row each at a steady rate, one insert each, `filler` bytes a row.
    pub(crate) async fn commit_at_rate(&self, rate: u32, transactions: u64, filler: usize) -> Result<()> {
        let name = format!("insert-{filler}.sql");
        let text = "x".repeat(filler);
        self.scratch.file(&name, format!("INSERT INTO live VALUES (:client_id, '{text}');\n"))?;
        let mut command = self.cluster.program("pgbench");
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1"]);
        command.args([format!("--client={CLIENTS}"), format!("--transactions={}", transactions / CLIENTS)]);
        command.args([format!("--rate={rate}"), format!("--file={}", self.scratch.path().join(name).display())]);
        program::run(command).await.map(drop)
    }
}

/// How many sessions commit at a rate: what one of them waits for, the others do not.
pub(crate) const CLIENTS: u64 = 8;

/// So many transactions as all sessions together make in so many seconds.
pub(crate) fn transactions_in(seconds: u32, rate: u32) -> u64 {
    u64::from(seconds) * u64::from(rate) / CLIENTS * CLIENTS
}
