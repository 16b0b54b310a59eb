//! What has to hold at any moment, and in the end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use walbus::proto::wal::Scan;
use walbus::{Segment, SegmentName, SystemId, Timeline};

use super::{CATCH_UP, Stage};
use crate::wait::eventually;

/// What was found in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) files: usize,
    pub(super) timelines: usize,
    pub(super) rows: u64,
}

/// What a restored server must have of pgbench's tables.
const TABLES: &str = "SELECT (SELECT count(*) FROM pgbench_history), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
                      (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                      (SELECT md5(string_agg(b::text, ',' ORDER BY b.bid)) FROM pgbench_branches b)";

impl Stage {
    /// Postgres being down: what it takes for archived, the store has.
    pub(super) async fn check_done(&mut self) -> Result<()> {
        let was_up = self.server.runs();
        if !was_up {
            self.server.start().await?;
        }
        let system = self.cluster.system().await?;
        for entry in std::fs::read_dir(self.cluster.wal().join("archive_status"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(file) = name.strip_suffix(".done") {
                self.check_file(system, file).await?;
            }
        }
        Ok(())
    }

    /// The store has this file, as Postgres wrote it.
    async fn check_file(&self, system: SystemId, file: &str) -> Result<()> {
        let held = self.archiver.content(&self.client, system, file).await?;
        let held = held.with_context(|| format!("Postgres was told that {file} is archived, and it is not there"))?;
        // What is done without its command was never written by this server: a copy of another timeline's history.
        let written = match std::fs::read(self.written.join(file)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            written => written.with_context(|| format!("read what was written as {file}"))?,
        };
        ensure!(held == written, "{file} in the archive is not what Postgres wrote");
        Ok(())
    }

    pub(super) async fn verify(&mut self) -> Result<Found> {
        let before = self.cluster.rows(TABLES).await?;
        // With it, the last of its WAL is archived.
        self.cluster.stop(crate::StopMode::Fast).await?;
        let system = self.cluster.system().await?;
        self.check_done().await?;
        let waiting = std::fs::read_dir(self.cluster.wal().join("archive_status"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".ready"))
            .collect::<Vec<_>>();
        ensure!(waiting.is_empty(), "was not archived though nothing failed: {waiting:?}\n{}", self.cluster.log());
        for entry in std::fs::read_dir(&self.written)? {
            self.check_file(system, &entry?.file_name().to_string_lossy()).await?;
        }
        let files = self.archiver.files(&self.client, system).await?;
        for file in &files {
            self.check_file(system, file).await?;
        }
        let timelines = self.check_chain(system, &files).await?;
        let rows = self.check_restore(&before).await?;
        Ok(Found { files: files.len(), timelines, rows })
    }

    /// No segment is missing between the first and the last of a timeline, each timeline begins in the segment in which its parent ends,
    /// and the records go on from segment to segment.
    async fn check_chain(&self, system: SystemId, files: &[String]) -> Result<usize> {
        let size = self.cluster.segment_size();
        let mut timelines: BTreeMap<Timeline, Vec<Segment>> = BTreeMap::new();
        for file in files {
            if let Ok(name) = file.parse::<SegmentName>() {
                let segment = name.segment(size).with_context(|| format!("{name} is of another size"))?;
                timelines.entry(segment.timeline).or_default().push(segment);
            }
        }
        let mut reached = None;
        for (timeline, segments) in &timelines {
            let (first, last) = (segments.first().context("it has one")?, segments.last().context("it has one")?);
            let expected = usize::try_from(last.number - first.number + 1)?;
            ensure!(segments.len() == expected, "timeline {timeline} has gaps: {} of {expected} segments", segments.len());
            ensure!(
                reached.is_none_or(|reached| first.number == reached),
                "timeline {timeline} begins at {first:?}, not at {reached:?}"
            );
            // Its parent's last segment is there as a .partial, unless it was full.
            reached = Some(last.number + 1);
            let mut scan = Scan::new(size, first.start(size), *timeline)?;
            for segment in segments {
                let name = segment.name(size).to_string();
                let content = self.archiver.content(&self.client, system, &name).await?.context("it was listed")?;
                if !scan.feed(&content, &mut |_| ()) {
                    let end = scan.finish();
                    bail!("in {name}, valid WAL ends at {}: {:?}", end.complete_end, end.reason);
                }
            }
            let end = scan.finish();
            ensure!(end.complete_end > last.start(size), "timeline {timeline} has no record in its last segment: {end:?}");
        }
        ensure!(!timelines.is_empty(), "nothing is archived");
        Ok(timelines.len())
    }

    /// An older copy of the folder and the archive make the very same tables.
    async fn check_restore(&mut self, before: &[Vec<String>]) -> Result<u64> {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill()?;
        }
        self.cluster.restore(&self.older).await?;
        if let Some(daemon) = &mut self.daemon {
            daemon.start().await?;
        }
        let restore = format!("{} %f %p", self.archiver.clone().timeout(60).command_line("fetch")?);
        self.cluster.append_settings(&[("restore_command", &restore), ("archive_command", "false")])?;
        let signal = self.cluster.data().join("recovery.signal");
        std::fs::write(&signal, "")?;
        crate::Account::current().give(&signal)?;
        self.cluster.start().await?;
        eventually(CATCH_UP, "the end of recovery", async || {
            Ok((self.cluster.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
        })
        .await
        .with_context(|| self.cluster.log())?;
        let after = self.cluster.rows(TABLES).await?;
        ensure!(after == before, "restored {after:?}, was {before:?}\n{}", self.cluster.log());
        Ok(after[0][0].parse()?)
    }
}
