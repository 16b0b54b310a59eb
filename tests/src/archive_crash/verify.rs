//! What has to hold at any moment, and in the end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use walbus::proto::wal::Scan;
use walbus::{Segment, SegmentName, SystemId, Timeline};

use super::{PUSH_SECONDS_PATIENT, Stage};
use crate::account::Account;

/// What was found in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) files: usize,
    pub(super) timelines: usize,
    pub(super) rows: u64,
}

impl Stage {
    /// What Postgres takes for archived, the store has.
    pub(super) async fn check_done(&mut self) -> Result<()> {
        let was_up = self.server.runs();
        if !was_up {
            self.server.start().await?;
        }
        // Nothing is archived by its command then.
        if self.is_followed_alone() {
            return Ok(());
        }
        let system = self.cluster.system().await?;
        for file in self.marked(".done")? {
            self.check_file(system, &file).await?;
        }
        Ok(())
    }

    /// The store has this file, as Postgres wrote it.
    pub(super) async fn check_file(&self, system: SystemId, file: &str) -> Result<()> {
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
        let before = self.tables().await?;
        // With it, the last of its WAL is archived.
        self.cluster.stop(crate::StopMode::Fast).await?;
        let system = self.cluster.system().await?;
        self.check_done().await?;
        self.followed().await?;
        let waiting = self.ready()?;
        ensure!(waiting.is_empty(), "was not archived though nothing failed: {waiting:?}\n{}", self.cluster.log());
        for entry in std::fs::read_dir(&self.written)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // A copy that was killed half-way: Postgres was told of nothing.
            if !name.ends_with(super::HALF) && !self.is_nobodys(&name) {
                self.check_file(system, &name).await?;
            }
        }
        let files = self.archiver.files(&self.client, system).await?;
        for file in &files {
            self.check_file(system, file).await?;
        }
        let timelines = self.check_chain(system, &files).await?;
        self.check_impostors(system, &files).await?;
        if let Some(neighbour) = &mut self.neighbour {
            self.counts.neighbours_files = neighbour.verify(&self.client).await?;
        }
        let rows = self.check_restore(&before, files.len()).await?;
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

    /// Other content under the names of what is there is refused, and replaces nothing.
    async fn check_impostors(&mut self, system: SystemId, files: &[String]) -> Result<()> {
        let folder = self.cluster.scratch().folder("impostor")?;
        let segments: Vec<_> = files.iter().filter(|file| file.parse::<SegmentName>().is_ok()).collect();
        for _ in 0..2 {
            let at = usize::try_from(self.random.below(segments.len() as u64))?;
            let name = *segments.get(at).context("there is a segment")?;
            let mut content = self.archiver.content(&self.client, system, name).await?.context("it was listed")?.to_vec();
            let byte = usize::try_from(self.random.below(content.len() as u64 / 2))? + content.len() / 4;
            content[byte] ^= 1 << self.random.below(8);
            let path = folder.join(name);
            std::fs::write(&path, content)?;
            Account::current().give(&path)?;
            let args = [Path::new("--pgdata"), self.cluster.data(), &path];
            let run = self.archiver.clone().timeout(PUSH_SECONDS_PATIENT).run("push", args).await?;
            ensure!(run.ended(1, &["other content"]), "other content went under the name of {name}: {run:?}");
            self.check_file(system, name).await?;
            self.counts.impostors += 1;
        }
        Ok(())
    }
}
