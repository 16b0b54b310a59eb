//! `beyond-pg-archiver window`: what can be restored.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;
use walbus::{PgTime, Timeline};

use crate::cluster::{self, parse_timeline};
use crate::locate::BaseReport;
use crate::moment;
use crate::output::print;
use crate::plan::window::{BaseWindow, RunWindow, TimelineWindow, window};
use crate::plan::{Gap, Held};
use crate::settings::{StoreArgs, SystemArgs};

/// Print what can be restored: each timeline, its gaps, and from which base backup up to when.
///
/// Every moment within a stretch of WAL without a gap can be restored, from a base that starts in it: a base backup, which the archive knows
/// of once its history file was archived, or a snapshot, of which it knows nothing.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 printed, whatever it says; 1 failed; 2 wrong usage. `verify` is the one that fails on a gap."
)]
pub struct WindowArgs {
    /// This timeline alone.
    #[arg(long, value_name = "N", value_parser = parse_timeline)]
    pub timeline: Option<Timeline>,

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

/// What can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cluster.
    pub system_id: String,
    /// In bytes.
    pub segment_size: u64,
    /// By timeline.
    pub timelines: Vec<TimelineReport>,
}

/// What of one timeline can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineReport {
    /// The timeline.
    pub timeline: u32,
    /// The one it comes from.
    pub parent: Option<u32>,
    /// Where it left that.
    pub forked_at: Option<String>,
    /// Stretches without a gap, oldest first.
    pub ranges: Vec<RangeReport>,
    /// What is missing between them.
    pub gaps: Vec<GapReport>,
    /// Base backups, oldest first.
    pub bases: Vec<BaseWindowReport>,
}

/// A stretch of WAL without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangeReport {
    /// Its first byte.
    pub start: String,
    /// The end of what is held.
    pub end: String,
    /// How many segments it is.
    pub segments: usize,
    /// How many of these have no index.
    pub segments_without_index: usize,
    /// How the last one is held: `whole`, `tail` or `partial`.
    pub last: &'static str,
    /// The earliest commit or rollback.
    pub oldest_commit: Option<String>,
    /// The latest one.
    pub newest_commit: Option<String>,
    /// How many restore points there are.
    pub restore_points: u64,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapReport {
    /// The first byte that is missing.
    pub start: String,
    /// The first one that is there again.
    pub end: String,
    /// The first segment that is not there whole.
    pub first: String,
    /// The last one.
    pub last: String,
    /// How many these are.
    pub segments: u64,
}

/// What can be restored from a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseWindowReport {
    /// The backup.
    #[serde(flatten)]
    pub base: BaseReport,
    /// Whether the WAL up to its own end is there.
    pub usable: bool,
    /// The end of what can be restored from it.
    pub restorable_to: Option<String>,
    /// The newest commit or rollback in that.
    pub newest_commit: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Where the archive can't be read.
pub async fn run(args: WindowArgs) -> anyhow::Result<ExitCode> {
    let holdings = cluster::open(&args.store, &args.system).await?;
    let inventory = holdings.inventory();
    let mut links = BTreeMap::new();
    for timeline in inventory.timelines() {
        links.extend(holdings.chain(timeline)?.links().map(|link| (link.segment, *link)));
    }
    let links: Vec<_> = links.into_values().collect();
    let found = holdings.indexes(&links).await?;
    let indexes = links.iter().zip(found).filter_map(|(link, index)| Some((link.segment, index?))).collect();
    let backups: Vec<_> = holdings.backups().await?.into_iter().map(|known| known.history).collect();
    let windows = window(inventory, &indexes, &backups)?;
    let wanted = windows.iter().filter(|window| args.timeline.is_none_or(|timeline| timeline == window.timeline));
    let report = Report {
        system_id: inventory.system.to_string(),
        segment_size: inventory.size.bytes(),
        timelines: wanted.map(TimelineReport::of).collect(),
    };
    print(args.json, &report.text(), &report)?;
    Ok(ExitCode::SUCCESS)
}

impl TimelineReport {
    fn of(window: &TimelineWindow) -> Self {
        Self {
            timeline: window.timeline.get(),
            parent: window.parent.map(|(parent, _)| parent.get()),
            forked_at: window.parent.map(|(_, at)| at.to_string()),
            ranges: window.runs.iter().map(RangeReport::of).collect(),
            gaps: window.gaps.iter().map(GapReport::of).collect(),
            bases: window.bases.iter().map(BaseWindowReport::of).collect(),
        }
    }
}

impl RangeReport {
    fn of(run: &RunWindow) -> Self {
        let time = |time: Option<PgTime>| time.map(moment::text);
        Self {
            start: run.start.to_string(),
            end: run.end.to_string(),
            segments: run.segments,
            segments_without_index: run.unindexed,
            last: match run.last {
                Held::Folder | Held::Whole => "whole",
                Held::Partial => "partial",
                Held::FolderPart(_) | Held::Tail(_) => "tail",
            },
            oldest_commit: time(run.oldest),
            newest_commit: time(run.newest),
            restore_points: run.restore_points,
        }
    }
}

impl GapReport {
    /// What is missing.
    #[must_use]
    pub fn of(gap: &Gap) -> Self {
        Self {
            start: gap.start.to_string(),
            end: gap.end.to_string(),
            first: gap.first.to_string(),
            last: gap.last.to_string(),
            segments: gap.count,
        }
    }
}

impl BaseWindowReport {
    fn of(window: &BaseWindow) -> Self {
        let history = &window.history;
        Self {
            base: BaseReport::of_history(history),
            usable: window.end.is_some(),
            restorable_to: window.end.map(|end| end.to_string()),
            newest_commit: window.newest.map(moment::text),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("cluster {}, segments of {} MB\n", self.system_id, self.segment_size >> 20);
        let mut line = |line: String| text.extend([line.as_str(), "\n"]);
        let unknown = || "unknown".to_owned();
        for timeline in &self.timelines {
            let origin = match (&timeline.parent, &timeline.forked_at) {
                (Some(parent), Some(at)) => format!(", from timeline {parent} at {at}"),
                _ => String::new(),
            };
            line(format!("timeline {}{origin}", timeline.timeline));
            for (number, range) in timeline.ranges.iter().enumerate() {
                line(format!(
                    "  WAL   {} to {}  commits {} to {}  ({} segments{}, {} restore points)",
                    range.start,
                    range.end,
                    range.oldest_commit.clone().unwrap_or_else(unknown),
                    range.newest_commit.clone().unwrap_or_else(unknown),
                    range.segments,
                    if range.segments_without_index > 0 {
                        format!(", {} without index", range.segments_without_index)
                    } else {
                        String::new()
                    },
                    range.restore_points
                ));
                if let Some(gap) = timeline.gaps.get(number) {
                    line(format!(
                        "  GAP   {} to {}  {} to {} are missing ({})",
                        gap.start, gap.end, gap.first, gap.last, gap.segments
                    ));
                }
            }
            for base in &timeline.bases {
                let BaseReport { start, end, label, stop_time } = &base.base;
                let reach = match (&base.restorable_to, &base.newest_commit) {
                    (Some(to), Some(newest)) => format!("restores to any moment from {stop_time} to {to} (newest commit {newest})"),
                    (Some(to), None) => format!("restores to any position from {end} to {to}"),
                    (None, _) => "NOT USABLE: WAL up to its own end is missing".to_owned(),
                };
                line(format!("  base  {start} to {end}  {label}: {reach}"));
            }
            if timeline.bases.is_empty() {
                line("  base  none that the archive knows of; snapshots leave no trace here".to_owned());
            }
        }
        text
    }
}
