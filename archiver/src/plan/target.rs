//! Where recovery stops.

use std::fmt;

use walbus::archive::index::{Joined, SegmentIndex, Tail, join};
use walbus::proto::wal::{Record, WalEvent};
use walbus::{Lsn, PgTime, SegmentSize};

use super::chain::Link;
use crate::moment;

/// What recovery is to reach: one of Postgres' `recovery_target` settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As soon as the data is consistent.
    Immediate,
    /// The end of the WAL.
    Latest,
    /// A position.
    Lsn(Lsn),
    /// A restore point.
    Name(String),
    /// A moment.
    Time(PgTime),
    /// A transaction: its lower 32 bits, which is all that WAL holds of it.
    Xid(u32),
}

/// A target, and whether what stands at it is wanted as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The target.
    pub target: Target,
    /// `recovery_target_inclusive`.
    pub inclusive: bool,
}

/// On which side of a record recovery stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The record is replayed.
    After,
    /// It is not.
    Before,
}

impl fmt::Display for Goal {
    /// As in a sentence: `time 2026-11-20 14:30:00+00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Immediate => f.write_str("the consistent point")?,
            Target::Latest => f.write_str("the end of the WAL")?,
            Target::Lsn(lsn) => write!(f, "LSN {lsn}")?,
            Target::Name(name) => write!(f, "restore point {name:?}")?,
            Target::Time(time) => write!(f, "time {}", moment::text(*time))?,
            Target::Xid(xid) => write!(f, "transaction {xid}")?,
        }
        if self.inclusive { Ok(()) } else { f.write_str(", exclusive") }
    }
}

impl Goal {
    /// A target with what stands at it, which is what Postgres does unless told otherwise.
    #[must_use]
    pub const fn inclusive(target: Target) -> Self {
        Self { target, inclusive: true }
    }

    /// Whether recovery stops at this record, and on which side. `xid` is the transaction that the record ends, where it ends one and it
    /// could be read. [`Target::Immediate`] and [`Target::Latest`] stop at no record for what it is.
    ///
    /// As `recoveryStopsBefore` and `recoveryStopsAfter` in Postgres' xlogrecovery.c: an LSN stops at the first record that *starts* at
    /// or behind it; a time before the first transaction's end that is later, wherever in the order of the WAL that stands; a
    /// transaction at its own end alone; a name behind the first restore point of that name.
    #[must_use]
    pub fn side(&self, record: &Record, xid: Option<u32>) -> Option<Side> {
        let side = if self.inclusive { Side::After } else { Side::Before };
        match &self.target {
            Target::Immediate | Target::Latest => None,
            Target::Lsn(lsn) => (record.lsn >= *lsn).then_some(side),
            Target::Name(wanted) => match &record.event {
                Some(WalEvent::RestorePoint { name, .. }) => (name == wanted).then_some(Side::After),
                _ => None,
            },
            Target::Time(wanted) => {
                let time = end_time(record.event.as_ref()?)?;
                self.is_past(time, *wanted).then_some(Side::Before)
            }
            Target::Xid(wanted) => {
                end_time(record.event.as_ref()?)?;
                (xid? == *wanted).then_some(side)
            }
        }
    }

    /// Whether recovery to the moment `wanted` stops at a transaction that ended at `time`.
    #[must_use]
    pub fn is_past(&self, time: PgTime, wanted: PgTime) -> bool {
        if self.inclusive { time > wanted } else { time >= wanted }
    }

    /// Whether a record that ends in this segment could be where recovery stops, by what its index says; the one that comes in over the
    /// segment's start excepted.
    #[must_use]
    pub fn may_stop_in(&self, index: &SegmentIndex) -> bool {
        if index.invalid.is_some() {
            return true;
        }
        match &self.target {
            Target::Immediate | Target::Latest => false,
            Target::Lsn(lsn) => index.end > *lsn,
            Target::Name(name) => index.restore_points_left_out > 0 || index.restore_points.iter().any(|point| point.name == *name),
            Target::Time(wanted) => index.commit_time_max.is_some_and(|max| self.is_past(max, *wanted)),
            Target::Xid(xid) => index.prepared_unnamed > 0 || index.xids.is_some_and(|range| range.contains(*xid)),
        }
    }

    /// Whether a record that lies in more than one segment, and starts at `lsn`, could be where recovery stops.
    fn may_stop_at(&self, lsn: Lsn, xid: u32, event: Option<&WalEvent>) -> bool {
        match (&self.target, event) {
            (Target::Immediate | Target::Latest, _) => false,
            (Target::Lsn(wanted), _) => lsn >= *wanted,
            (Target::Name(wanted), Some(WalEvent::RestorePoint { name, .. })) => name == wanted,
            (Target::Time(wanted), Some(event)) => end_time(event).is_some_and(|time| self.is_past(time, *wanted)),
            (Target::Xid(wanted), Some(WalEvent::AbortPrepared { xid, .. } | WalEvent::CommitPrepared { xid, .. })) => {
                xid.is_none_or(|xid| xid == *wanted)
            }
            (Target::Xid(wanted), Some(WalEvent::Abort { .. } | WalEvent::Commit { .. })) => xid == *wanted,
            _ => false,
        }
    }

    /// Which of these segments, that follow each other, must be read because recovery could stop at a record that ends in it. What has
    /// no index must be read; so must what does not fit what comes before it.
    #[must_use]
    pub fn candidates(&self, links: &[Link], indexes: &[Option<SegmentIndex>], size: SegmentSize) -> Vec<bool> {
        if let Target::Lsn(lsn) = &self.target {
            // Positions are in the names.
            return links.iter().map(|link| link.end(size) > *lsn).collect();
        }
        to_read(indexes, |index| self.may_stop_in(index), |lsn, xid, event| self.may_stop_at(lsn, xid, event))
    }
}

/// Which of these segments, that follow each other, must be read because a change of settings may end in it.
#[must_use]
pub fn may_change_parameters(indexes: &[Option<SegmentIndex>]) -> Vec<bool> {
    to_read(
        indexes,
        |index| index.parameter_changes > 0 || index.invalid.is_some(),
        |_, _, event| matches!(event, Some(WalEvent::ParameterChange { .. })),
    )
}

/// Which segments must be read: by what is in them, by what comes in over their start, and those of which neither can be told.
fn to_read(
    indexes: &[Option<SegmentIndex>],
    may_hold: impl Fn(&SegmentIndex) -> bool,
    may_come_in: impl Fn(Lsn, u32, Option<&WalEvent>) -> bool,
) -> Vec<bool> {
    let mut carried = Carried::Unknown;
    indexes
        .iter()
        .map(|index| {
            let Some(index) = index else {
                carried = Carried::Unknown;
                return true;
            };
            let (comes_in, next) = std::mem::replace(&mut carried, Carried::Unknown).into(index);
            carried = next;
            let is_wanted = match comes_in {
                ComesIn::Nothing => false,
                ComesIn::Record(lsn, xid, event) => may_come_in(lsn, xid, event.as_ref()),
                ComesIn::Unknown => true,
            };
            is_wanted || may_hold(index)
        })
        .collect()
}

/// When a transaction ended, where the record says that one did.
#[must_use]
pub const fn end_time(event: &WalEvent) -> Option<PgTime> {
    match event {
        WalEvent::Abort { time }
        | WalEvent::AbortPrepared { time, .. }
        | WalEvent::Commit { time }
        | WalEvent::CommitPrepared { time, .. } => Some(*time),
        _ => None,
    }
}

/// Whether the record says that a transaction was committed.
#[must_use]
pub const fn is_commit(event: &WalEvent) -> bool {
    matches!(event, WalEvent::Commit { .. } | WalEvent::CommitPrepared { .. })
}

/// What goes out over the end of the segment before.
#[derive(Debug)]
enum Carried {
    Nothing,
    Part(Tail),
    Unknown,
}

/// What ends in a segment of the record that comes in over its start.
enum ComesIn {
    Nothing,
    Record(Lsn, u32, Option<WalEvent>),
    Unknown,
}

impl Carried {
    /// What comes into the next segment, and what goes out of that.
    fn into(self, next: &SegmentIndex) -> (ComesIn, Self) {
        let goes_out = next.tail.clone().map_or(Self::Nothing, Self::Part);
        match self {
            Self::Nothing | Self::Unknown if next.head.is_none() => (ComesIn::Nothing, goes_out),
            Self::Nothing | Self::Unknown => {
                // A segment that lies within the record has no end of its own.
                let within = next.head.as_ref().is_some_and(|head| head.end.is_none());
                (ComesIn::Unknown, if within { Self::Unknown } else { goes_out })
            }
            Self::Part(tail) => match join(&tail, next) {
                Ok(Joined::Continues(tail)) => (ComesIn::Nothing, Self::Part(tail)),
                Ok(Joined::Ends(record)) => (ComesIn::Record(record.lsn, record.header.xid, record.event), goes_out),
                Ok(Joined::Lost) => (ComesIn::Nothing, goes_out),
                Err(_) => (ComesIn::Unknown, goes_out),
            },
        }
    }
}
