//! The two that are measured.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use beyond_pg_benches::usage::Usage;
use harness::{DEADLINE, Postgres, Process, Scratch, eventually};
use walbus::Lsn;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// `pg_receivewal --synchronous`.
    Peer,
    /// `beyond-pg-sink serve`.
    Ours,
}

impl Contender {
    /// In the order of their turns.
    pub(crate) const BOTH: [Self; 2] = [Self::Peer, Self::Ours];

    /// Its application name and its slot.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Ours => "ours",
        }
    }

    /// Starts it in an empty folder; the slot must exist. Both connect in the same way, and log in as the same role.
    pub(crate) fn start(self, cluster: &Postgres) -> Result<Running> {
        let scratch = Scratch::new()?;
        let wal = scratch.folder("wal")?;
        let log = scratch.path().join("log");
        let conninfo = format!("{} application_name={}", cluster.conninfo(), self.name());
        let command = match self {
            Self::Peer => {
                let mut command = cluster.program("pg_receivewal");
                command.args(["--synchronous", "--no-password", "--slot", self.name(), "--dbname", &conninfo]);
                command.arg("--directory").arg(&wal);
                command
            }
            Self::Ours => {
                let mut command = harness::sink::program("serve")?;
                command.args(["--slot", self.name(), "--upstream", &conninfo, "--https", "127.0.0.1:0"]);
                command.arg("--data-dir").arg(&wal);
                command
            }
        };
        let process = Process::spawn(self.name(), command, &log)?;
        Ok(Running { process, contender: self, wal, _scratch: scratch })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "pg_receivewal",
            Self::Ours => "beyond-pg-sink",
        })
    }
}

/// One of the two, running. Its files go with it.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    contender: Contender,
    wal: PathBuf,
    _scratch: Scratch,
}

impl Running {
    pub(crate) fn usage(&mut self) -> Result<Usage> {
        self.process.check_runs()?;
        Usage::of(self.process.pid())
    }

    /// Waits until all below `lsn` is flushed by it, and looks often: for what takes seconds, that is exact enough.
    pub(crate) async fn wait_flushed(&mut self, cluster: &Postgres, lsn: Lsn) -> Result<()> {
        let client = cluster.client().await?;
        let query =
            "SELECT coalesce(max(flush_lsn) >= $2::text::pg_lsn, false) FROM pg_stat_replication WHERE application_name = $1";
        let query = client.prepare(query).await?;
        let (name, wanted) = (self.contender.name(), lsn.to_string());
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
        let flushed = async {
            loop {
                ticks.tick().await;
                self.process.check_runs()?;
                if client.query_one(&query, &[&name, &wanted]).await?.get(0) {
                    return Ok(());
                }
            }
        };
        let seen = tokio::time::timeout(DEADLINE * 10, flushed).await;
        seen.with_context(|| format!("{} did not flush {lsn} in {} s", self.contender, DEADLINE.as_secs() * 10))?
    }

    /// Waits until commits wait for it, and for it alone.
    pub(crate) async fn wait_synchronous(&mut self, cluster: &Postgres) -> Result<()> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}' AND state = 'streaming' AND sync_state = 'sync'",
            self.contender.name()
        );
        eventually(DEADLINE, "the receiver to be the synchronous standby", async || {
            self.process.check_runs()?;
            Ok((cluster.value(&sql).await? == "1").then_some(()))
        })
        .await
        .with_context(|| self.process.log_tail())
    }

    /// Kills it and frees its slot. Gives the bytes of the files that it left.
    pub(crate) async fn end(mut self, cluster: &Postgres) -> Result<()> {
        self.process.kill_all()?;
        let drop_slot = format!("SELECT pg_drop_replication_slot('{}')", self.contender.name());
        // The server sees only by and by that its peer is gone.
        eventually(DEADLINE, "the slot to be free", async || cluster.value(&drop_slot).await.map(Some)).await?;
        std::fs::remove_dir_all(&self.wal).with_context(|| format!("remove {}", self.wal.display()))
    }
}
