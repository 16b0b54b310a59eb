//! Where recovery would stop, found by the indexes and proven by the records.

use std::ops::ControlFlow;

use walbus::archive::index::{Invalid, SegmentIndex};
use walbus::proto::wal::{Record, WalEvent};
use walbus::{Lsn, PgTime, Segment, Timeline};

use crate::holdings::Holdings;
use crate::plan::base::Found;
use crate::plan::target::{end_time, is_commit, may_change_parameters};
use crate::plan::{Goal, Link, ParameterChange, Run, Side};
use crate::records::{End, read};

/// A run of segments, and what is in each.
#[derive(Debug)]
pub struct Search<'a> {
    holdings: &'a Holdings,
    run: Run,
    timeline: Timeline,
    indexes: Vec<Option<SegmentIndex>>,
}

/// A commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its record starts.
    pub lsn: Lsn,
    /// The record's end.
    pub end: Lsn,
    /// The transaction; `None` where it could not be read.
    pub xid: Option<u32>,
    /// When, by the primary's clock.
    pub time: PgTime,
}

impl Commit {
    fn of(record: &Record, xid: Option<u32>) -> Option<Self> {
        let event = record.event.as_ref().filter(|event| is_commit(event))?;
        Some(Self { lsn: record.lsn, end: record.end, xid, time: end_time(event)? })
    }
}

impl<'a> Search<'a> {
    /// Reads what is in each segment of the run, which leads to `timeline`.
    ///
    /// # Errors
    /// Where the store gives no answer.
    pub async fn new(holdings: &'a Holdings, run: Run, timeline: Timeline) -> anyhow::Result<Self> {
        let indexes = holdings.proven_indexes(&run.links).await?;
        Ok(Self { holdings, run, timeline, indexes })
    }

    /// The run.
    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    /// How many whole segments have no index, so that they must be read.
    #[must_use]
    pub fn unindexed(&self) -> usize {
        self.indexes.iter().filter(|index| index.is_none()).count()
    }

    /// The first record from `from` on at which recovery stops; from the run's start where that is `None`.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn find(&self, goal: &Goal, from: Option<Lsn>) -> anyhow::Result<Option<Found>> {
        let candidates = goal.candidates(&self.run.links, &self.indexes, self.holdings.inventory().size);
        let mut next = from.map_or(0, |from| self.position(from));
        while let Some(first) = (next..candidates.len()).find(|at| candidates[*at]) {
            let behind = (first..candidates.len()).find(|at| !candidates[*at]).unwrap_or(candidates.len());
            let mut found = None;
            let end = self
                .read(first, behind, from, &mut |record, xid| {
                    let Some(side) = goal.side(record, xid) else { return ControlFlow::Continue(()) };
                    found = Some(describe(record, xid, side));
                    ControlFlow::Break(())
                })
                .await?;
            if found.is_some() || end.broken.is_some() {
                return Ok(found);
            }
            next = behind;
        }
        Ok(None)
    }

    /// The first record from `from` on for which `wanted` gives something, reading everything.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn first<T>(&self, from: Lsn, mut wanted: impl FnMut(&Record) -> Option<T>) -> anyhow::Result<(Option<T>, End)> {
        let mut found = None;
        let visit = &mut |record: &Record, _| match wanted(record) {
            None => ControlFlow::Continue(()),
            some => {
                found = some;
                ControlFlow::Break(())
            }
        };
        let end = self.read(self.position(from), self.run.links.len(), Some(from), visit).await?;
        Ok((found, end))
    }

    /// The last commit whose record ends at or before `lsn`.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn commit_before(&self, lsn: Lsn) -> anyhow::Result<Option<Commit>> {
        // What ends before it may lie in the segment before, where it is a segment's start.
        let mut upper = self.position(lsn);
        loop {
            if self.may_have_end(upper) {
                let mut last = None;
                let visit = &mut |record: &Record, xid| {
                    if record.end > lsn {
                        return ControlFlow::Break(());
                    }
                    last = Commit::of(record, xid).or(last);
                    ControlFlow::Continue(())
                };
                self.read(upper, upper + 1, None, visit).await?;
                if last.is_some() {
                    return Ok(last);
                }
            }
            match upper.checked_sub(1) {
                Some(lower) => upper = lower,
                None => return Ok(None),
            }
        }
    }

    /// The first commit whose record starts at or behind `lsn`.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn commit_after(&self, lsn: Lsn) -> anyhow::Result<Option<Commit>> {
        let any = Goal { target: crate::plan::Target::Time(PgTime(i64::MIN)), inclusive: false };
        let candidates = any.candidates(&self.run.links, &self.indexes, self.holdings.inventory().size);
        for at in (self.position(lsn)..candidates.len()).filter(|at| candidates[*at]) {
            let mut first = None;
            let visit = &mut |record: &Record, xid| match Commit::of(record, xid).filter(|commit| commit.lsn >= lsn) {
                None => ControlFlow::Continue(()),
                some => {
                    first = some;
                    ControlFlow::Break(())
                }
            };
            let end = self.read(at, at + 1, None, visit).await?;
            if first.is_some() || end.broken.is_some() {
                return Ok(first);
            }
        }
        Ok(None)
    }

    /// The end of the last complete record of the run.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn end(&self) -> anyhow::Result<End> {
        let last = self.run.links.len() - 1;
        self.read(last, last + 1, None, &mut |_, _| ControlFlow::Continue(())).await
    }

    /// Where the whole segments between `from`, a record's start, and `end` stop to be valid WAL first, and why: recovery ends there. Segments
    /// without an index are read.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn invalid_before(&self, from: Lsn, end: Lsn) -> anyhow::Result<Option<(Segment, Invalid)>> {
        let inventory = self.holdings.inventory();
        let last = self.position(Lsn(end.0.saturating_sub(1)));
        for (link, index) in self.run.links.iter().zip(&self.indexes).take(last + 1).skip(self.position(from)) {
            // One that is not whole ends somewhere: up to there it was read.
            if !link.is_whole() {
                continue;
            }
            let invalid = match index {
                Some(index) => index.invalid.clone(),
                None => {
                    let bytes = self.holdings.bytes(link).await?;
                    SegmentIndex::of(inventory.system, link.segment, inventory.size, &bytes).invalid
                }
            };
            if let Some(invalid) = invalid.filter(|invalid| invalid.at < end) {
                return Ok(Some((link.segment, invalid)));
            }
        }
        Ok(None)
    }

    /// The changes of settings that recovery from `from`, a record's start, up to `end` goes through, in order. A change may be told twice.
    ///
    /// # Errors
    /// Where a segment can't be read.
    pub async fn parameter_changes(&self, from: Lsn, end: Lsn) -> anyhow::Result<Vec<ParameterChange>> {
        let candidates = may_change_parameters(&self.indexes);
        let behind_last = self.position(Lsn(end.0.saturating_sub(1))) + 1;
        let mut found = Vec::new();
        let mut next = self.position(from);
        while let Some(first) = (next..behind_last).find(|at| candidates[*at]) {
            let behind = (first..behind_last).find(|at| !candidates[*at]).unwrap_or(behind_last);
            let visit = &mut |record: &Record, _| {
                found.extend(ParameterChange::of(record).filter(|change| change.lsn >= from && change.lsn < end));
                if record.end >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            self.read(first, behind, Some(from), visit).await?;
            next = behind;
        }
        Ok(found)
    }

    /// The latest commit or rollback of all from the segment of `from` on, by the indexes.
    #[must_use]
    pub fn newest_time(&self, from: Lsn) -> Option<PgTime> {
        self.indexes.iter().skip(self.position(from)).flatten().filter_map(|index| index.commit_time_max).max()
    }

    /// The earliest one of all.
    #[must_use]
    pub fn oldest_time(&self) -> Option<PgTime> {
        self.indexes.iter().flatten().filter_map(|index| index.commit_time_min).min()
    }

    /// The restore points in it, as far as the indexes have them.
    pub fn restore_points(&self) -> impl Iterator<Item = (&str, Lsn, PgTime)> {
        self.indexes
            .iter()
            .flatten()
            .flat_map(|index| &index.restore_points)
            .map(|point| (point.name.as_str(), point.end, point.time))
    }

    /// The place in the run of the segment that holds `lsn`; the first or the last one where it lies outside.
    fn position(&self, lsn: Lsn) -> usize {
        let size = self.holdings.inventory().size;
        self.run.links.partition_point(|link| link.segment.end(size) <= lsn).min(self.run.links.len() - 1)
    }

    /// Whether a transaction's end may end in that segment, the record that comes in over its start included.
    fn may_have_end(&self, at: usize) -> bool {
        self.indexes[at]
            .as_ref()
            .is_none_or(|index| index.commit_time_max.is_some() || index.head.is_some() || index.invalid.is_some())
    }

    /// Reads the records that end in the segments from place `first` to before `behind`.
    async fn read(
        &self,
        first: usize,
        behind: usize,
        from: Option<Lsn>,
        visit: &mut impl FnMut(&Record, Option<u32>) -> ControlFlow<()>,
    ) -> anyhow::Result<End> {
        // The record that comes in over the start begins in the segment before, or further back where it fills segments.
        let mut start = first.saturating_sub(1);
        while start > 0 && self.indexes[start].as_ref().is_some_and(|index| index.first_record.is_none()) {
            start -= 1;
        }
        let from = from.filter(|from| self.position(*from) >= start);
        let start = from.map_or(start, |from| self.position(from));
        let links: &[Link] = &self.run.links[start..behind.max(start)];
        read(self.holdings, links, self.timeline, from, visit).await
    }
}

fn describe(record: &Record, xid: Option<u32>, side: Side) -> Found {
    let ends = record.event.as_ref().and_then(end_time);
    Found {
        lsn: record.lsn,
        end: record.end,
        prev: record.prev,
        side,
        xid: xid.unwrap_or(record.xid),
        time: ends.or(match &record.event {
            Some(WalEvent::RestorePoint { time, .. }) => Some(*time),
            _ => None,
        }),
        is_commit: record.event.as_ref().is_some_and(is_commit),
    }
}
