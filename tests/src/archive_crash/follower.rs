//! `follow` in a round: beside `archive_command`, or in its place.

use anyhow::{Context, Result, bail};
use walbus::{Lsn, SegmentName};

use super::{CATCH_UP, Stage};
use crate::archiver::{Archiver, Launched};
use crate::postgres::Postgres;
use crate::wait::eventually;

/// How long it waits for the store; a request that is left hanging holds it up for half of that.
const TIMEOUT_SECONDS: u32 = 4;

/// How much it may be behind before it is given more.
const URGED_SEGMENTS: u64 = 4;

/// One that streams from the cluster.
#[derive(Debug)]
pub(super) struct Follower {
    archiver: Archiver,
    from: String,
    running: Option<Launched>,
    /// `archive_command` archives nothing.
    pub(super) is_alone: bool,
    /// Where its slot began: WAL before that is none of its business.
    first: Lsn,
}

impl Follower {
    /// Makes its slot.
    pub(super) async fn new(cluster: &Postgres, archiver: &Archiver, is_alone: bool) -> Result<Self> {
        let slot = "SELECT lsn FROM pg_create_physical_replication_slot('beyond_pg_archiver', true)";
        let first = cluster.segment_size().floor(cluster.lsn(slot).await?);
        let archiver = archiver.clone().timeout(TIMEOUT_SECONDS);
        Ok(Self { archiver, from: cluster.conninfo(), running: None, is_alone, first })
    }

    /// Starts it unless it runs.
    ///
    /// # Errors
    /// Where it has ended by itself: it never may.
    pub(super) fn start(&mut self) -> Result<()> {
        self.check()?;
        if self.running.is_none() {
            let args = ["--from", &self.from, "--tail-interval", "200ms"];
            self.running = Some(self.archiver.launch("follow", args)?);
        }
        Ok(())
    }

    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(running) = &mut self.running
            && running.process().ended()?.is_some()
        {
            bail!("follow has ended: {}", running.log());
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.process().kill_all())
    }

    pub(super) fn log(&self) -> String {
        self.running.as_ref().map(Launched::log).unwrap_or_default()
    }
}

impl Stage {
    pub(super) fn is_followed_alone(&self) -> bool {
        self.follower.as_ref().is_some_and(|follower| follower.is_alone)
    }

    /// What the slot lets the server remove, the store has.
    pub(super) async fn check_slot(&self) -> Result<()> {
        let Some(first) = self.follower.as_ref().map(|follower| follower.first) else { return Ok(()) };
        let system = self.cluster.system().await?;
        let restart = self.cluster.rows("SELECT restart_lsn FROM pg_replication_slots WHERE restart_lsn IS NOT NULL").await?;
        let Some(restart) = restart.first().and_then(|row| row.first()) else { return Ok(()) };
        let restart: Lsn = restart.parse()?;
        let size = self.cluster.segment_size();
        for name in self.written_segments()? {
            if name.segment(size).is_some_and(|segment| segment.start(size) >= first && segment.end(size) <= restart) {
                self.check_file(system, name.as_str()).await.with_context(|| format!("the slot is at {restart}"))?;
            }
        }
        Ok(())
    }

    /// Waits until the follower has stored every segment that Postgres has written.
    pub(super) async fn followed(&mut self) -> Result<()> {
        if !self.is_followed_alone() {
            return Ok(());
        }
        let system = self.cluster.system().await?;
        let written = self.written_segments()?;
        eventually(CATCH_UP, "follow to have all", async || {
            let files = self.archiver.files(&self.client, system).await?;
            let missing = written.iter().find(|name| !files.iter().any(|file| file == name.as_str()));
            if let Some(missing) = missing {
                self.follower.as_mut().map_or(Ok(()), Follower::check)?;
                bail!("{missing} is missing");
            }
            Ok(Some(()))
        })
        .await
        .with_context(|| self.follower.as_ref().map(Follower::log).unwrap_or_default())
    }

    /// Waits until the follower has asked something of the store so many times.
    pub(super) async fn asked(&mut self, times: u64) -> Result<()> {
        let from = self.faults.requests();
        eventually(CATCH_UP, "follow to ask the store for something", async || {
            self.urge_follow().await?;
            self.follower.as_mut().map_or(Ok(()), Follower::check)?;
            Ok((self.faults.requests() >= from + times).then_some(()))
        })
        .await
        .with_context(|| self.follower.as_ref().map(Follower::log).unwrap_or_default())
    }

    /// Sees to it that there is something for `follow` to archive, and no more than it takes: a store may hold it up for minutes.
    pub(super) async fn urge_follow(&mut self) -> Result<()> {
        let behind = "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::int8 FROM pg_replication_slots";
        let behind: u64 = self.cluster.value(behind).await?.parse()?;
        if behind < URGED_SEGMENTS * self.cluster.segment_size().bytes() { self.urge().await } else { Ok(()) }
    }

    /// Whether nobody archives that file, `follow` being alone: what was there before its slot, and a timeline's last segment, which
    /// it has as a tail.
    pub(super) fn is_nobodys(&self, file: &str) -> bool {
        let Some(follower) = self.follower.as_ref().filter(|follower| follower.is_alone) else { return false };
        let size = self.cluster.segment_size();
        let is_before = |name: SegmentName| name.segment(size).is_some_and(|segment| segment.start(size) < follower.first);
        file.ends_with(".partial") || file.parse().is_ok_and(is_before)
    }

    /// The whole segments that Postgres has had archived.
    fn written_segments(&self) -> Result<Vec<SegmentName>> {
        let names = std::fs::read_dir(&self.written)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names = names.filter(|name| !self.is_nobodys(name));
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }
}
