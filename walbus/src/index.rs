//! What an index of WAL keeps of each segment: when it was, and by what names its points are known.

use crate::ident::{PgTime, Timeline};
use crate::lsn::Lsn;
use crate::proto::wal::WalEvent;

/// How many restore points are kept of one segment. A program that makes more of them than this is a loop; the rest is left out, and
/// [`SegmentFacts::restore_points_left_out`] counts it.
pub const RESTORE_POINTS_MAX: usize = 1_000;

/// A named restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// The end of its record.
    pub end: Lsn,
    /// When it was made, by the primary's clock.
    pub time: PgTime,
}

/// What is known of one segment.
///
/// A record belongs to the segment in which it ends: recovery needs that one to replay it. Times are not monotonic in the WAL, so both
/// ends are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentFacts {
    /// The earliest commit or abort.
    pub commit_time_min: Option<PgTime>,
    /// The latest commit or abort.
    pub commit_time_max: Option<PgTime>,
    /// Restore points in it, in the order of the WAL.
    pub restore_points: Vec<RestorePoint>,
    /// How many restore points past [`RESTORE_POINTS_MAX`] were left out.
    pub restore_points_left_out: u64,
    /// Timelines that start in it: the end of the record that says so, and the timeline.
    pub timelines: Vec<(Lsn, Timeline)>,
}

impl SegmentFacts {
    /// Takes note of an event whose record ends at `end`.
    pub fn add(&mut self, end: Lsn, event: &WalEvent) {
        match event {
            WalEvent::Abort { time }
            | WalEvent::AbortPrepared { time, .. }
            | WalEvent::Commit { time }
            | WalEvent::CommitPrepared { time, .. } => {
                self.add_time(*time);
            }
            WalEvent::CheckpointShutdown { timeline, previous, .. } | WalEvent::EndOfRecovery { timeline, previous, .. } => {
                if timeline != previous {
                    self.timelines.push((end, *timeline));
                }
            }
            WalEvent::RestorePoint { time, name } => self.add_restore_point(RestorePoint { name: name.clone(), end, time: *time }),
            WalEvent::BackupEnd { .. }
            | WalEvent::CheckpointOnline { .. }
            | WalEvent::CheckpointRedo
            | WalEvent::OverwriteContrecord { .. }
            | WalEvent::ParameterChange { .. }
            | WalEvent::Switch => {}
        }
    }

    /// Adds what else was found in the same segment. What was known already is not counted twice.
    pub fn merge(&mut self, other: Self) {
        for time in [other.commit_time_min, other.commit_time_max].into_iter().flatten() {
            self.add_time(time);
        }
        for point in other.restore_points {
            self.add_restore_point(point);
        }
        for timeline in other.timelines {
            if !self.timelines.contains(&timeline) {
                self.timelines.push(timeline);
            }
        }
        self.restore_points_left_out = self.restore_points_left_out.max(other.restore_points_left_out);
    }

    fn add_time(&mut self, time: PgTime) {
        self.commit_time_min = Some(self.commit_time_min.map_or(time, |min| min.min(time)));
        self.commit_time_max = Some(self.commit_time_max.map_or(time, |max| max.max(time)));
    }

    fn add_restore_point(&mut self, point: RestorePoint) {
        if self.restore_points.contains(&point) {
            return;
        }
        if self.restore_points.len() < RESTORE_POINTS_MAX {
            self.restore_points.push(point);
        } else {
            self.restore_points_left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(time: i64) -> WalEvent {
        WalEvent::Commit { time: PgTime(time) }
    }

    #[test]
    fn both_ends_of_time_are_kept() {
        let mut facts = SegmentFacts::default();
        for time in [5, 3, 9, 4] {
            facts.add(Lsn(1), &commit(time));
        }
        assert_eq!((facts.commit_time_min, facts.commit_time_max), (Some(PgTime(3)), Some(PgTime(9))));
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let mut facts = SegmentFacts::default();
        facts.add(Lsn(8), &WalEvent::RestorePoint { time: PgTime(1), name: "before the migration".into() });
        facts.add(Lsn(16), &commit(2));
        let once = facts.clone();
        facts.merge(once.clone());
        assert_eq!(facts, once);
    }

    #[test]
    fn restore_points_are_bounded_and_those_left_out_are_counted() {
        let mut facts = SegmentFacts::default();
        for at in 0..RESTORE_POINTS_MAX as u64 + 3 {
            facts.add(Lsn(at), &WalEvent::RestorePoint { time: PgTime(1), name: "loop".into() });
        }
        assert_eq!((facts.restore_points.len(), facts.restore_points_left_out), (RESTORE_POINTS_MAX, 3));
    }
}
