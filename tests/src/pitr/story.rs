//! A cluster's life: commits whose times do not always rise, rollbacks, prepared transactions, restore points, segments, promotions.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio_postgres::Client;
use walbus::Lsn;

use super::archive::Archive;
use crate::clock::ShiftedClock;
use crate::postgres::{Postgres, copy_folder, rows};
use crate::program;
use crate::wait::{DEADLINE, eventually};

/// A transaction's end, in the order of the WAL.
#[derive(Debug, Clone)]
pub struct Event {
    /// The row that it committed; `None` for a rollback.
    pub row: Option<i64>,
    /// The transaction.
    pub xid: u64,
    /// When, in microseconds since 1970: exact for a commit, the earliest for a rollback.
    pub from_us: i64,
    /// The latest.
    pub to_us: i64,
    /// A position before its record.
    pub before: Lsn,
    /// A position behind it.
    pub after: Lsn,
}

/// A copy of the data folder that recovery can start from.
#[derive(Debug, Clone)]
pub struct Base {
    /// Where it is.
    pub path: PathBuf,
    /// How many events had happened at most where its replay starts.
    pub begun: usize,
    /// How many when it was consistent.
    pub consistent: usize,
    /// Whether it was made by `pg_basebackup`.
    pub is_backup: bool,
}

/// The cluster, its archive, and what happened.
#[derive(Debug)]
pub struct Story {
    /// The primary.
    pub primary: Postgres,
    /// Its archive.
    pub archive: Archive,
    /// Its clock.
    pub clock: ShiftedClock,
    /// Transactions' ends, in order.
    pub events: Vec<Event>,
    /// Bases, in order.
    pub bases: Vec<Base>,
    /// Restore points: the name, and how many events were before it.
    pub names: Vec<(String, usize)>,
    rows: i64,
}

impl Story {
    /// A cluster with an empty table, archived.
    ///
    /// # Errors
    /// Where it can't be started.
    pub async fn begin(version: u32) -> Result<Self> {
        let archive = Archive::new()?;
        let clock = ShiftedClock::new().await?;
        let mut setup = Postgres::version(version)
            .wal_segment_mb(1)
            .own_system_id()
            .setting("track_commit_timestamp", "on")
            .setting("max_prepared_transactions", "4")
            .setting("wal_keep_size", "64MB")
            .environment(clock.environment());
        for (name, value) in archive.settings()? {
            setup = setup.setting(name, &value);
        }
        let primary = setup.start().await?;
        primary.execute("CREATE TABLE t (n bigint PRIMARY KEY, filler text)").await?;
        Ok(Self { primary, archive, clock, events: Vec::new(), bases: Vec::new(), names: Vec::new(), rows: 0 })
    }

    /// Commits the next row, with about as many bytes of WAL before it, while the clock is so many microseconds off.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn commit(&mut self, shift_us: i64, wal_bytes: u64) -> Result<()> {
        let client = self.primary.client().await?;
        let row = self.insert(&client, wal_bytes).await?;
        let before = insert_lsn(&client).await?;
        self.clock.shift_us(shift_us)?;
        client.batch_execute("COMMIT").await?;
        self.committed(&client, row, before).await
    }

    /// The same with a transaction that is prepared first, with as many subtransactions.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn commit_prepared(&mut self, shift_us: i64, subtransactions: u32) -> Result<()> {
        let client = self.primary.client().await?;
        let row = self.insert(&client, 0).await?;
        for number in 0..subtransactions {
            let sql = format!("SAVEPOINT s; INSERT INTO t VALUES (-{number} - 1); RELEASE s");
            client.batch_execute(&sql).await?;
        }
        client.batch_execute("DELETE FROM t WHERE n < 0; PREPARE TRANSACTION 'it'").await?;
        let before = insert_lsn(&client).await?;
        self.clock.shift_us(shift_us)?;
        client.batch_execute("COMMIT PREPARED 'it'").await?;
        self.committed(&client, row, before).await
    }

    /// Begins a transaction and inserts the next row.
    async fn insert(&mut self, client: &Client, wal_bytes: u64) -> Result<(i64, u64)> {
        self.rows += 1;
        let row = self.rows;
        let filler = format!("(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, {}))", wal_bytes / 32);
        let sql = format!("BEGIN; INSERT INTO t VALUES ({row}, {filler}); SELECT pg_current_xact_id()");
        let xid = rows(client, &sql).await?.pop().and_then(|row| row.first()?.parse().ok()).context("a transaction's number")?;
        Ok((row, xid))
    }

    async fn committed(&mut self, client: &Client, (row, xid): (i64, u64), before: Lsn) -> Result<()> {
        let after = insert_lsn(client).await?;
        self.clock.shift_us(0)?;
        let sql = format!("SELECT (extract(epoch FROM pg_xact_commit_timestamp('{xid}'::text::xid)) * 1000000)::bigint");
        let time = rows(client, &sql).await?.pop().and_then(|row| row.first()?.parse().ok()).context("a commit's time")?;
        self.events.push(Event { row: Some(row), xid, from_us: time, to_us: time, before, after });
        Ok(())
    }

    /// Rolls a row back.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn roll_back(&mut self, shift_us: i64) -> Result<()> {
        let client = self.primary.client().await?;
        let (_, xid) = self.insert(&client, 0).await?;
        self.rows -= 1;
        let before = insert_lsn(&client).await?;
        self.clock.shift_us(shift_us)?;
        let from_us = clock_us(&client).await?;
        client.batch_execute("ROLLBACK").await?;
        let to_us = clock_us(&client).await?;
        let after = insert_lsn(&client).await?;
        self.clock.shift_us(0)?;
        self.events.push(Event { row: None, xid, from_us, to_us, before, after });
        Ok(())
    }

    /// Makes a restore point of that name.
    ///
    /// # Errors
    /// Where it can't be made.
    pub async fn name(&mut self, name: &str) -> Result<()> {
        self.primary.value(&format!("SELECT pg_create_restore_point('{name}')")).await?;
        self.names.push((name.to_owned(), self.events.len()));
        Ok(())
    }

    /// Makes a base backup, with a commit during it.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn back_up(&mut self) -> Result<()> {
        let path = self.primary.scratch().path().join(format!("base-{}", self.bases.len()));
        let mut command = self.primary.program("pg_basebackup");
        command.args(["--checkpoint=fast", "--wal-method=none", "--no-sync", "-D"]).arg(&path);
        let begun = self.events.len();
        program::run(command).await?;
        self.bases.push(Base { path, begun, consistent: self.events.len(), is_backup: true });
        Ok(())
    }

    /// Makes a base backup of a standby.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn back_up_of(&mut self, standby: &Postgres) -> Result<()> {
        let path = self.primary.scratch().path().join(format!("base-{}", self.bases.len()));
        let mut command = standby.program("pg_basebackup");
        command.args(["--checkpoint=fast", "--wal-method=none", "--no-sync", "-D"]).arg(&path);
        program::run(command).await?;
        self.add_standby_s(path)
    }

    /// Copies a standby's data folder as it is at one moment.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn snapshot_of(&mut self, standby: &mut Postgres) -> Result<()> {
        let path = self.primary.scratch().path().join(format!("base-{}", self.bases.len()));
        let snapshot = standby.snapshot().await?;
        copy_folder(snapshot.path(), &path).await?;
        self.add_standby_s(path)
    }

    fn add_standby_s(&mut self, path: PathBuf) -> Result<()> {
        // With it, the copy would be a standby for ever.
        std::fs::remove_file(path.join("standby.signal")).context("remove standby.signal")?;
        self.bases.push(Base { path, begun: 0, consistent: self.events.len(), is_backup: false });
        Ok(())
    }

    /// Copies the data folder as it is at one moment.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn snapshot(&mut self) -> Result<()> {
        let redo = self.primary.lsn("SELECT redo_lsn FROM pg_control_checkpoint()").await?;
        let path = self.primary.snapshot().await?.path().to_owned();
        let begun = self.events.iter().take_while(|event| event.after <= redo).count();
        self.bases.push(Base { path, begun, consistent: self.events.len(), is_backup: false });
        Ok(())
    }

    /// Begins the next timeline.
    ///
    /// # Errors
    /// Where the server does not come up again.
    pub async fn promote(&mut self) -> Result<()> {
        self.primary.restart_as_standby().await?;
        self.primary.promote().await
    }

    /// Ends the segment, and waits until all of it is in the archive.
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn archived(&mut self) -> Result<()> {
        let sql = "SELECT pg_logical_emit_message(false, 'harness', 'x'); SELECT pg_walfile_name(pg_switch_wal())";
        let name = self.primary.value(sql).await?;
        eventually(DEADLINE, "the archive to have the last segment", async || {
            let last = self.primary.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver").await?;
            Ok((last.get(..24).unwrap_or_default() >= name.as_str()).then_some(()))
        })
        .await
        .with_context(|| format!("the server's log:\n{}", self.primary.log()))
    }

    /// The rows that a recovery has whose last event is the one before place `count`.
    #[must_use]
    pub fn rows_before(&self, count: usize) -> Vec<i64> {
        self.events.iter().take(count).filter_map(|event| event.row).collect()
    }

    /// How many events a recovery to that moment has, from a base begun before event `from` on: Postgres stops before the first that is
    /// later. `None` where that can't be told, a rollback's time being known roughly.
    #[must_use]
    pub fn count_at(&self, time_us: i64, inclusive: bool, from: usize) -> Option<usize> {
        for (number, event) in self.events.iter().enumerate().skip(from) {
            let past = |us: i64| if inclusive { us > time_us } else { us >= time_us };
            match (past(event.from_us), past(event.to_us)) {
                (true, _) => return Some(number),
                (false, true) => return None,
                (false, false) => {}
            }
        }
        Some(self.events.len())
    }
}

async fn insert_lsn(client: &Client) -> Result<Lsn> {
    let value =
        rows(client, "SELECT pg_current_wal_insert_lsn()").await?.pop().and_then(|mut row| row.pop()).context("a position")?;
    Ok(value.parse()?)
}

async fn clock_us(client: &Client) -> Result<i64> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    rows(client, sql).await?.pop().and_then(|row| row.first()?.parse().ok()).context("the time")
}
