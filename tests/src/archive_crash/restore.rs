//! The end of a round: an older copy of the folder and the archive make the very same tables, with a store that comes and goes.

use anyhow::{Context, Result, ensure};

use super::events::outage;
use super::lie::Lie;
use super::{CATCH_UP, PUSH_SECONDS, PUSH_SECONDS_PATIENT, Stage};
use crate::s3::{Fault, When};
use crate::wait::eventually;

/// What a restored server must have of pgbench's tables.
const TABLES: &str = "SELECT (SELECT count(*) FROM pgbench_history), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
                      (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                      (SELECT md5(string_agg(b::text, ',' ORDER BY b.bid)) FROM pgbench_branches b)";

/// How a start of the server in recovery went on.
enum Recovered {
    /// It ended: a file could not be had.
    Broken,
    /// Recovery is over, and the server takes writes.
    Whole,
}

impl Stage {
    pub(super) async fn tables(&self) -> Result<Vec<Vec<String>>> {
        self.cluster.rows(TABLES).await
    }

    /// Restores the older copy, over an outage or several; `files` are in the archive.
    pub(super) async fn check_restore(&mut self, before: &[Vec<String>], files: usize) -> Result<u64> {
        self.kill_daemon()?;
        self.cluster.restore(&self.older).await?;
        self.start_daemon().await?;
        if let Some(disk) = &self.spool {
            // Less than the daemon would take.
            disk.fill(self.random.below(3 << 20))?;
        }
        let signal = self.cluster.data().join("recovery.signal");
        std::fs::write(&signal, "")?;
        crate::Account::current().give(&signal)?;
        self.restore_within(PUSH_SECONDS)?;
        for outages in 0..1 + self.random.below(3) {
            // The first one well before the end, where there is something to be lost.
            let requests = if outages == 0 { files as u64 / 2 } else { files as u64 + 2 };
            let when = When::any().after(self.random.below(requests));
            let broken = self.broken();
            let hits = self.faults.add(when, broken);
            let recovered = self.recover().await?;
            self.counts.hits += hits.count();
            self.faults.heal();
            match recovered {
                Recovered::Broken => self.counts.recoveries_broken += 1,
                Recovered::Whole => return self.compare(before).await,
            }
            if let Some(disk) = self.spool.as_ref().filter(|_| self.random.chance(1, 2)) {
                disk.free().ok();
            }
        }
        self.restore_within(PUSH_SECONDS_PATIENT)?;
        ensure!(matches!(self.recover().await?, Recovered::Whole), "nothing fails, and recovery did:\n{}", self.cluster.log());
        self.compare(before).await
    }

    /// What befalls a recovery: the store is away, or what comes of it is damaged.
    fn broken(&mut self) -> Fault {
        match self.random.below(6) {
            0 => Fault::FlipResponse(self.random.below(4000)),
            1 => Fault::Truncate(self.random.below(4000)),
            2 => Fault::Shorten(self.random.below(4000)),
            // A store that is killed is away as one that hangs is: only the moment counts.
            _ => outage(&mut self.random).unwrap_or(Fault::Hang),
        }
    }

    fn restore_within(&self, seconds: u32) -> Result<()> {
        let fetch = format!("{} %f %p", self.archiver.clone().timeout(seconds).command_line("fetch")?);
        let restore = Lie::restore_command(self.lie, &fetch);
        self.cluster.append_settings(&[("restore_command", &restore), ("archive_command", "false")])
    }

    /// Starts Postgres in recovery, and waits until that is over or it has ended.
    async fn recover(&mut self) -> Result<Recovered> {
        self.cluster.launch()?;
        eventually(CATCH_UP, "the end of recovery", async || {
            if !self.cluster.runs() {
                return Ok(Some(Recovered::Broken));
            }
            let over = self.cluster.value("SELECT pg_is_in_recovery()").await? == "f";
            Ok(over.then_some(Recovered::Whole))
        })
        .await
        .with_context(|| self.cluster.log())
    }

    async fn compare(&self, before: &[Vec<String>]) -> Result<u64> {
        let after = self.tables().await?;
        ensure!(after == before, "restored {after:?}, was {before:?}\n{}", self.cluster.log());
        Ok(after[0][0].parse()?)
    }
}
