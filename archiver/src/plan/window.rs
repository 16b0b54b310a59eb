//! What can be restored.

use std::collections::BTreeMap;

use walbus::archive::index::SegmentIndex;
use walbus::pgdata::BackupHistory;
use walbus::{Lsn, PgTime, Segment, Timeline};

use super::chain::{Chain, Gap, Held, Run};
use super::inventory::{Inventory, NoHistory};

/// What of one timeline can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineWindow {
    /// The timeline.
    pub timeline: Timeline,
    /// Its parent, and where it left it.
    pub parent: Option<(Timeline, Lsn)>,
    /// What of the WAL that leads to it follows each other without a gap, its ancestors' included.
    pub runs: Vec<RunWindow>,
    /// What is missing between.
    pub gaps: Vec<Gap>,
    /// The base backups that the archive knows of along it.
    pub bases: Vec<BaseWindow>,
}

/// A stretch of WAL without a gap: every moment in it can be restored from a base whose replay starts in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunWindow {
    /// Its first byte.
    pub start: Lsn,
    /// The end of what is held.
    pub end: Lsn,
    /// How many segments it is.
    pub segments: usize,
    /// How many of these have no index: what is in them is not known here.
    pub unindexed: usize,
    /// How its last segment is held.
    pub last: Held,
    /// The earliest commit or rollback.
    pub oldest: Option<PgTime>,
    /// The latest one.
    pub newest: Option<PgTime>,
    /// How many restore points there are.
    pub restore_points: u64,
}

/// What can be restored from one base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseWindow {
    /// The backup.
    pub history: BackupHistory,
    /// The end of the WAL that follows it without a gap; `None` where the WAL up to its own end is not there.
    pub end: Option<Lsn>,
    /// The newest commit or rollback up to there.
    pub newest: Option<PgTime>,
}

/// What can be restored, timeline by timeline. `indexes` are those of the segments that have one.
///
/// # Errors
/// Where the archive does not say where a timeline comes from.
pub fn window(
    inventory: &Inventory,
    indexes: &BTreeMap<Segment, SegmentIndex>,
    backups: &[BackupHistory],
) -> Result<Vec<TimelineWindow>, NoHistory> {
    inventory.timelines().into_iter().map(|timeline| of_timeline(inventory, timeline, indexes, backups)).collect()
}

fn of_timeline(
    inventory: &Inventory,
    timeline: Timeline,
    indexes: &BTreeMap<Segment, SegmentIndex>,
    backups: &[BackupHistory],
) -> Result<TimelineWindow, NoHistory> {
    let history = inventory.history(timeline)?;
    let parent = history.ancestors().last().map(|parent| (parent.timeline, parent.end));
    let chain = Chain::of(inventory, history);
    let runs = chain.runs();
    let on_chain = backups.iter().filter(|backup| chain.history().timeline_at(backup.label.start) == backup.label.timeline);
    let bases = on_chain.map(|backup| base(backup, &runs, indexes)).collect();
    Ok(TimelineWindow {
        timeline,
        parent,
        gaps: chain.gaps(),
        runs: runs.iter().filter_map(|run| of_run(run, indexes)).collect(),
        bases,
    })
}

fn of_run(run: &Run, indexes: &BTreeMap<Segment, SegmentIndex>) -> Option<RunWindow> {
    let known = || run.links.iter().filter_map(|link| indexes.get(&link.segment));
    let points = |index: &SegmentIndex| index.restore_points.len() as u64 + index.restore_points_left_out;
    Some(RunWindow {
        start: run.start,
        end: run.end,
        segments: run.links.len(),
        unindexed: run.links.len() - known().count(),
        last: run.links.last()?.held,
        oldest: known().filter_map(|index| index.commit_time_min).min(),
        newest: known().filter_map(|index| index.commit_time_max).max(),
        restore_points: known().map(points).sum(),
    })
}

fn base(backup: &BackupHistory, runs: &[Run], indexes: &BTreeMap<Segment, SegmentIndex>) -> BaseWindow {
    let run = runs.iter().find(|run| run.contains(backup.label.start) && backup.stop <= run.end);
    let after = run.into_iter().flat_map(|run| &run.links).filter_map(|link| indexes.get(&link.segment));
    let newest = after.filter(|index| index.end > backup.label.start).filter_map(|index| index.commit_time_max).max();
    BaseWindow { history: backup.clone(), end: run.map(|run| run.end), newest }
}
