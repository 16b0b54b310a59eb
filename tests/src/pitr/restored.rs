//! A copy that is recovered.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::story::{Base, Story};
use crate::postgres::Postgres;
use crate::program;
use crate::wait::{DEADLINE, eventually};

/// A copy of a base, made ready by `restore`.
#[derive(Debug)]
pub struct Restored {
    /// The cluster.
    pub cluster: Postgres,
    /// What `restore` said.
    pub report: Value,
}

/// Where the server said that recovery stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The line of its log.
    pub line: String,
    /// The transaction in it.
    pub xid: Option<u32>,
}

impl Story {
    /// A copy of a base, that is to be given to `restore`.
    ///
    /// # Errors
    /// Where it can't be copied.
    pub async fn copy(&self, base: &Base) -> Result<Postgres> {
        let setup = Postgres::version(self.primary.major())
            .wal_segment_mb(1)
            // It must not archive: the archive is the first one's.
            .setting("archive_mode", "off")
            .setting("recovery_target_name", "a setting of the user's that must not hold");
        setup.copy_of(&base.path).await
    }

    /// Runs `restore` on a cluster's folder.
    ///
    /// # Errors
    /// Where the program can't be started.
    pub async fn run_restore(&self, folder: &Path, args: &[&str]) -> Result<std::process::Output> {
        let mut command = self.archive.command(&[&["restore", "--json"], args].concat())?;
        command.arg("--pgdata").arg(folder);
        program::output(command).await
    }

    /// A copy of a base, made ready to be recovered as `args` say.
    ///
    /// # Errors
    /// Where `restore` refuses it.
    pub async fn restore(&self, base: &Base, args: &[&str]) -> Result<Restored> {
        let cluster = self.copy(base).await?;
        let output = self.run_restore(cluster.data(), args).await?;
        ensure!(output.status.success(), "restore {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(Restored { cluster, report: serde_json::from_slice(&output.stdout).context("read what restore printed")? })
    }

    /// Why `restore` refuses a copy of a base.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn refusal(&self, base: &Base, args: &[&str]) -> Result<String> {
        let cluster = self.copy(base).await?;
        let conf = std::fs::read(cluster.data().join("postgresql.auto.conf"))?;
        let output = self.run_restore(cluster.data(), args).await?;
        ensure!(
            output.status.code() == Some(1),
            "restore {args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        let untouched = std::fs::read(cluster.data().join("postgresql.auto.conf"))? == conf;
        ensure!(
            untouched && !cluster.data().join("recovery.signal").exists(),
            "restore {args:?} was refused and changed the folder"
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Restored {
    /// Starts it and waits until recovery is over or paused.
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn recover(&mut self) -> Result<()> {
        self.cluster.start().await?;
        eventually(DEADLINE, "the end of recovery", async || {
            let state =
                self.cluster.value("SELECT CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE 'over' END");
            Ok(matches!(state.await?.as_str(), "over" | "paused").then_some(()))
        })
        .await
        .with_context(|| format!("the server's log:\n{}", self.cluster.log()))
    }

    /// The rows that are there.
    ///
    /// # Errors
    /// Where the server does not say.
    pub async fn rows(&self) -> Result<Vec<i64>> {
        let rows = self.cluster.rows("SELECT n FROM t ORDER BY n").await?;
        rows.iter().map(|row| row.first().context("a column")?.parse().context("a number")).collect()
    }

    /// Where the server said that recovery stopped.
    ///
    /// # Errors
    /// Where it said nothing of the kind.
    pub fn stop(&self) -> Result<Stop> {
        let log = self.cluster.log();
        let line =
            log.lines().find(|line| line.contains("recovery stopping")).with_context(|| format!("no stop in its log:\n{log}"))?;
        let xid = line.split_once("of transaction ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        Ok(Stop { line: line.to_owned(), xid })
    }
}
