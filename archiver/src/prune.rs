//! `beyond-pg-archiver prune`: deletes what no base needs any longer.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use walbus::clock::{Clock, SystemClock};
use walbus::pgdata::BackupHistory;
use walbus::units::parse_duration;
use walbus::{Lsn, PgTime};

use crate::cluster::{self, chosen_timeline};
use crate::holdings::Holdings;
use crate::locate::BaseReport;
use crate::moment;
use crate::output::print;
use crate::plan::prune::{Prune, is_recent, newest_base, prune};
use crate::plan::{Chain, Goal, Link, Target};
use crate::search::Search;
use crate::settings::{StoreArgs, SystemArgs};

/// How many objects are deleted at once, of those of one kind and segment or later.
const REQUESTS: usize = 16;

/// Delete the WAL that no base needs any longer. Says what it would delete, and deletes it with --apply alone.
///
/// What is kept is kept whole: from the segment in which the oldest base's replay starts, everything on every timeline, and all histories.
/// Base copies themselves are not touched: delete those first that are given up, then prune.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("keep").required(true))]
#[command(after_help = "Exit codes: 0 done, or said; 1 refused or failed; 2 wrong usage.\n\nExamples:\n  \
                  beyond-pg-archiver prune --keep-age 14d\n  \
                  beyond-pg-archiver prune --keep-base 0/5000028 --apply")]
pub struct PruneArgs {
    /// Keep what a base needs whose replay starts there: its redo point (`pg_controldata`, or START WAL LOCATION in backup_label). For bases
    /// that the archive does not know of, such as snapshots: name the oldest one that is kept.
    #[arg(long, value_name = "LSN", group = "keep")]
    pub keep_base: Option<Lsn>,

    /// Keep what it takes to restore to any moment from so long ago until now, out of the base backups that the archive knows of.
    #[arg(long, value_name = "DURATION", group = "keep", value_parser = parse_duration)]
    pub keep_age: Option<Duration>,

    /// Delete, instead of saying what would be deleted.
    #[arg(long)]
    pub apply: bool,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    /// Whose WAL.
    #[command(flatten)]
    pub system: SystemArgs,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was deleted, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cluster.
    pub system_id: String,
    /// Whether it was deleted.
    pub applied: bool,
    /// Everything from the segment that holds this position on is kept.
    pub keep_from: String,
    /// How many segments go.
    pub segments: usize,
    /// What goes, by paths below the archive's prefix, in the order of deletion.
    pub objects: Vec<String>,
    /// The base backups that can't be restored any longer.
    pub bases_lost: Vec<BaseReport>,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused or the store fails; the text says what to do.
pub async fn run(args: PruneArgs) -> anyhow::Result<ExitCode> {
    let holdings = cluster::open(&args.store, &args.system).await?;
    let backups: Vec<BackupHistory> = holdings.backups().await?.into_iter().map(|known| known.history).collect();
    let keep = match (args.keep_base, args.keep_age) {
        (Some(lsn), _) => check_held(&holdings, lsn).map(|()| lsn)?,
        (None, age) => start_of_age(&holdings, &backups, age.unwrap_or_default()).await?,
    };
    let plan = prune(holdings.inventory(), &backups, keep);
    let report = report(&holdings, &plan, keep, args.apply);
    if args.apply {
        apply(&holdings, &plan).await?;
    }
    print(args.json, &report.text(), &report)?;
    Ok(ExitCode::SUCCESS)
}

/// A position that nothing is held of is a slip of the hand: it would delete everything, or keep what can't be restored.
fn check_held(holdings: &Holdings, lsn: Lsn) -> anyhow::Result<()> {
    let mut ranges = Vec::new();
    for timeline in holdings.inventory().timelines() {
        for run in holdings.chain(timeline)?.runs() {
            if run.contains(lsn) {
                return Ok(());
            }
            ranges.push(format!("{} to {} on timeline {timeline}", run.start, run.end));
        }
    }
    anyhow::bail!(
        "the archive has no WAL at {lsn}, so that no base can start there (--keep-base): nothing was deleted. It has {}",
        ranges.join("; ")
    )
}

/// Where the replay starts of the newest base backup from which every moment from `age` ago on can be reached, on every timeline on which
/// anything was committed since then, or may have been: a timeline that was given up before holds nothing back.
async fn start_of_age(holdings: &Holdings, backups: &[BackupHistory], age: Duration) -> anyhow::Result<Lsn> {
    let age_us = i64::try_from(age.as_micros()).context("--keep-age is too long")?;
    let since = PgTime(SystemClock::new().now().0.saturating_sub(age_us));
    let newest = chosen_timeline(holdings, None)?;
    let mut keep: Option<Lsn> = None;
    for timeline in holdings.inventory().timelines() {
        let chain = holdings.chain(timeline)?;
        let Some(run) = chain.runs().pop() else { continue };
        let links: Vec<Link> = chain.links().copied().collect();
        if timeline == newest || is_recent(&links, &holdings.proven_indexes(&links).await?, timeline, since) {
            let search = Search::new(holdings, run, timeline).await?;
            let start = start_on(&chain, &search, backups, since).await?;
            keep = Some(keep.map_or(start, |keep| keep.min(start)));
        }
    }
    // Without a start nothing would be kept.
    keep.with_context(|| {
        format!(
            "no base backup was found to keep the WAL of, for --keep-age (timeline {newest} is the newest with WAL): nothing was deleted. Name \
             the oldest base that is kept by --keep-base"
        )
    })
}

/// The same on one timeline.
async fn start_on(chain: &Chain, search: &Search<'_>, backups: &[BackupHistory], since: PgTime) -> anyhow::Result<Lsn> {
    let run = search.run();
    // Where recovery to that moment would stop; where nothing is later, the end.
    let goal = Goal { target: Target::Time(since), inclusive: false };
    let at = search.find(&goal, None).await?.map_or(run.end, |found| found.replayed());
    let on_chain = |backup: &BackupHistory| {
        run.contains(backup.label.start) && chain.history().timeline_at(backup.label.start) == backup.label.timeline
    };
    let base = newest_base(backups, on_chain, at).with_context(|| {
        format!(
            "the archive knows of no base backup that reaches {} ({at} on timeline {}): nothing was deleted. Bases that leave no backup \
             history file, such as snapshots, are named by --keep-base",
            moment::text(since),
            chain.timeline()
        )
    })?;
    Ok(base.label.start)
}

/// Deletes, oldest first: whatever stops it, what is left follows each other without a gap.
async fn apply(holdings: &Holdings, plan: &Prune) -> anyhow::Result<()> {
    let archive = holdings.archive();
    ensure!(
        plan.delete.iter().all(|name| name.system() == Some(holdings.inventory().system)),
        "an object of another cluster is in the list"
    );
    for batch in plan.delete.chunks(REQUESTS) {
        let deletions = batch.iter().map(|name| archive.delete(name));
        stream::iter(deletions).buffer_unordered(REQUESTS).try_collect::<()>().await.context("delete; run it again to go on")?;
    }
    Ok(())
}

fn report(holdings: &Holdings, plan: &Prune, keep: Lsn, applied: bool) -> Report {
    Report {
        system_id: holdings.inventory().system.to_string(),
        applied,
        keep_from: keep.to_string(),
        segments: plan.segments,
        objects: plan.delete.iter().map(ToString::to_string).collect(),
        bases_lost: plan.lost.iter().map(BaseReport::of_history).collect(),
    }
}

impl Report {
    fn text(&self) -> String {
        let done = if self.applied { "deleted" } else { "would be deleted (--apply does it)" };
        let mut text =
            format!("{} segments, {} objects {done}; all from {} on is kept\n", self.segments, self.objects.len(), self.keep_from);
        for base in &self.bases_lost {
            text += &format!("  base backup {} of {} can't be restored any longer\n", base.label, base.stop_time);
        }
        if !self.applied {
            text.extend(self.objects.iter().flat_map(|object| ["  ", object.as_str(), "\n"]));
        }
        text
    }
}
