//! What a data folder is to recovery: from where replay starts, and from where on its data is consistent.
//!
//! | the folder | replay starts | consistent | what Postgres does |
//! |---|---|---|---|
//! | has a `backup_label` | at the label's redo point | where the backup ended | reads the archive at once |
//! | was shut down cleanly | behind its last checkpoint | there | reads the archive at once |
//! | was in recovery (a standby's copy, or a restore that was interrupted) | at its last restart point | at `pg_control`'s minimum recovery point | reads the archive at once |
//! | any other: a copy of one moment of a running server, or what a crash left | at its last checkpoint's redo point | at the end of its own `pg_wal` | replays its own `pg_wal` to the end, then reads the archive |
//!
//! A target before the consistent point ends recovery with an error there and then, and leaves a folder that is of no use; so it is
//! refused before. Source: `InitWalRecovery`, `CheckRecoveryConsistency` and `ReadRecord` in Postgres' xlogrecovery.c, 15 to 18.

use std::fmt;

use walbus::pgdata::BackupLabel;
use walbus::proto::control::{Control, DbState};
use walbus::proto::history::History;
use walbus::{Lsn, PgTime, SystemId, Timeline};

use super::chain::Gap;
use super::target::{Goal, Side, Target};
use crate::moment;

/// What sort of copy a data folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A base backup: `pg_basebackup`, or whatever else left a `backup_label`.
    Backup,
    /// A copy of one moment of a running server, or the folder of a server that crashed.
    Crashed,
    /// A standby's, or that of a recovery that was interrupted.
    Recovering,
    /// A server's that was shut down.
    ShutDown,
}

/// From where on the data of a folder is consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// From this position on.
    At(Lsn),
    /// From the record on that ends the base backup whose replay starts there, and not before `not_before`.
    BackupEnd {
        /// The backup's redo point.
        start: Lsn,
        /// The minimum recovery point, `0/0` where there is none.
        not_before: Lsn,
    },
    /// From the end of the folder's own WAL on.
    FolderEnd,
}

/// What a data folder is to recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What sort of copy it is.
    pub kind: Kind,
    /// The cluster.
    pub system: SystemId,
    /// The timeline of the checkpoint that replay starts from.
    pub timeline: Timeline,
    /// Where that checkpoint's record starts.
    pub checkpoint: Lsn,
    /// Where replay starts; the checkpoint's record itself where the server was shut down.
    pub redo: Lsn,
    /// From where on the data is consistent.
    pub consistency: Consistency,
    /// The position that the folder was recovered to before, and its timeline.
    pub recovered_to: Option<(Lsn, Timeline)>,
    /// The timeline that recovery would follow if it were not told another (`InitWalRecovery`).
    pub own_timeline: Timeline,
}

/// Where recovery would stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where the record starts at which it stops.
    pub lsn: Lsn,
    /// Its end.
    pub end: Lsn,
    /// Where the record before starts.
    pub prev: Lsn,
    /// On which side of it.
    pub side: Side,
    /// The transaction that it ends, 0 for none.
    pub xid: u32,
    /// When that ended.
    pub time: Option<PgTime>,
    /// Whether that was a commit.
    pub is_commit: bool,
}

impl Found {
    /// The end of what is replayed.
    #[must_use]
    pub const fn replayed(&self) -> Lsn {
        match self.side {
            Side::After => self.end,
            Side::Before => self.lsn,
        }
    }
}

/// Why a target is refused; the text says what can be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Postgres would have to go back.
    #[error(
        "{goal} lies before this folder's consistent point {consistent} (recovery would stop at {stop}): the folder holds changes from after \
         it, and Postgres can't take them back. Use an older base; this one reaches {reach}"
    )]
    BeforeConsistent {
        /// What was asked for.
        goal: String,
        /// Where recovery would stop.
        stop: Lsn,
        /// From where on the folder is consistent.
        consistent: Lsn,
        /// What can be reached.
        reach: Reach,
    },
    /// The base backup's end is not in the WAL.
    #[error(
        "the end of the base backup that starts at {start} is not in the archive's WAL, which goes up to {end}: until it is, the folder is not \
         consistent. Archive the rest (on the primary: SELECT pg_switch_wal()), or finish the backup"
    )]
    BackupEndMissing {
        /// The backup's redo point.
        start: Lsn,
        /// The end of what is held from there on.
        end: Lsn,
    },
    /// The folder's changes are newer than the target.
    #[error(
        "{goal} lies before the last commit in this folder, of {}, at {at}: Postgres can't take it back. Use an older base; this one reaches \
         {reach}", moment::text(*.time)
    )]
    CommitsAfter {
        /// What was asked for.
        goal: String,
        /// That commit's time.
        time: PgTime,
        /// Its end.
        at: Lsn,
        /// What can be reached.
        reach: Reach,
    },
    /// The moment lies before the folder's checkpoint, and the archive does not show what was committed last before that.
    #[error(
        "{goal} lies before this folder's checkpoint of {}, and the archive does not have the WAL before it: so it can't be proven that the \
         folder holds nothing later. Use an older base; this one reaches {reach}", moment::text(*.since)
    )]
    CommitsUnknown {
        /// What was asked for.
        goal: String,
        /// When the checkpoint was made.
        since: PgTime,
        /// What can be reached.
        reach: Reach,
    },
    /// The checkpoint that replay starts from is not what the WAL has there.
    #[error(
        "the WAL at {checkpoint} on timeline {timeline} has no checkpoint with redo point {redo}, which this folder starts from: the folder \
         and the archive are of two histories of cluster {system}. Use a base of the history that was archived, or the archive of this one"
    )]
    Checkpoint {
        /// Where the checkpoint should be.
        checkpoint: Lsn,
        /// Its redo point.
        redo: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// The cluster.
        system: SystemId,
    },
    /// What the folder's own WAL holds is not what the archive holds.
    #[error(
        "pg_wal of this folder and the archive hold different WAL in segment {segment} (first difference at {at}): these are two histories of \
         the same timeline. Use a base of the history that was archived"
    )]
    Diverged {
        /// The segment.
        segment: String,
        /// The first byte that differs.
        at: Lsn,
    },
    /// Segments are missing on the way.
    #[error("the archive lacks {} of the WAL between {from} and {goal}: {}{}. This folder reaches {reach}",
        segments(.gap.count), .gap.first, if .gap.count > 1 { format!(" to {}", .gap.last) } else { String::new() })]
    Gap {
        /// What was asked for.
        goal: String,
        /// Where replay starts.
        from: Lsn,
        /// What is missing.
        gap: Box<Gap>,
        /// What can be reached.
        reach: Reach,
    },
    /// A segment on the way stops to be valid WAL.
    #[error(
        "segment {segment}, on the way to {goal}, is no valid WAL from {at} on ({problem}): recovery would end there. Where another copy of it \
         is known, put it in its place (verify --full looks at all of them), or name a target before it"
    )]
    Invalid {
        /// What was asked for.
        goal: String,
        /// The segment.
        segment: String,
        /// Where it stops to be valid.
        at: Lsn,
        /// What is wrong.
        problem: String,
    },
    /// WAL on the way was written with `wal_level = minimal`.
    #[error(
        "from {at} on, the WAL on the way to {goal} was written with wal_level = minimal: it lacks changes, and Postgres does not recover \
         from it. Name a target before that, or use a base from after wal_level was raised again; this folder reaches {reach}"
    )]
    Minimal {
        /// What was asked for.
        goal: String,
        /// The record of that change, or where replay starts.
        at: Lsn,
        /// What can be reached.
        reach: Reach,
    },
    /// The target never comes.
    #[error("{goal} is not reached on timeline {timeline}: {reason}. This folder reaches {reach}{}", elsewhere(.others))]
    NotReached {
        /// What was asked for.
        goal: String,
        /// The timeline.
        timeline: Timeline,
        /// Why.
        reason: String,
        /// What can be reached.
        reach: Reach,
        /// Other timelines that go through the folder's point.
        others: Vec<Timeline>,
    },
    /// Replay can't even start.
    #[error(
        "the archive has no WAL of cluster {system} on timeline {timeline} from {redo} on, where this folder's replay starts{}",
        .next.as_ref().map(|next| format!(": the next that it has is {next}")).unwrap_or_default()
    )]
    NoStart {
        /// The cluster.
        system: SystemId,
        /// The timeline.
        timeline: Timeline,
        /// Where replay starts.
        redo: Lsn,
        /// The first segment after it that is held.
        next: Option<String>,
    },
    /// The timeline does not come from the folder's.
    #[error(
        "timeline {timeline} does not come from this folder: {why}. Timelines that do: {}", list(.possible)
    )]
    OtherBranch {
        /// The timeline that was asked for.
        timeline: Timeline,
        /// Why not.
        why: String,
        /// Those that would do.
        possible: Vec<Timeline>,
    },
}

/// What a folder can be recovered to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The consistent point, where it is known.
    pub from: Option<Lsn>,
    /// The end of the last complete record.
    pub to: Option<Lsn>,
    /// The newest commit up to there.
    pub newest: Option<PgTime>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (Some(from), Some(to)) => write!(f, "from {from} to {to}")?,
            (None, Some(to)) => write!(f, "up to {to}")?,
            (Some(from), None) => write!(f, "from {from} on")?,
            (None, None) => f.write_str("nothing that is known")?,
        }
        match self.newest {
            Some(time) => write!(f, " (newest commit {})", moment::text(time)),
            None => Ok(()),
        }
    }
}

fn segments(count: u64) -> String {
    if count == 1 { "a segment".to_owned() } else { format!("{count} segments") }
}

fn list(timelines: &[Timeline]) -> String {
    let texts: Vec<String> = timelines.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn elsewhere(others: &[Timeline]) -> String {
    if others.is_empty() { String::new() } else { format!("; it may be on another timeline (--timeline): {}", list(others)) }
}

impl Base {
    /// What the folder is, by its `pg_control` and its `backup_label`.
    #[must_use]
    pub fn of(control: &Control, label: Option<&BackupLabel>) -> Self {
        let own_timeline = control.min_recovery_timeline.map_or(control.timeline, |timeline| timeline.max(control.timeline));
        let recovered_to = control
            .min_recovery_timeline
            .filter(|_| control.min_recovery_point.is_valid())
            .map(|timeline| (control.min_recovery_point, timeline));
        let (redo, checkpoint, timeline) = match label {
            Some(label) => (label.start, label.checkpoint, label.timeline),
            None => (control.redo, control.checkpoint, control.timeline),
        };
        let kind = match label {
            Some(_) => Kind::Backup,
            None if control.state == DbState::ShutDown => Kind::ShutDown,
            None if matches!(control.state, DbState::ArchiveRecovery | DbState::ShutDownInRecovery) => Kind::Recovering,
            // Also one that was promoted and has not made a checkpoint since: `pg_control` still has the minimum recovery point of before, and
            // Postgres would take the folder for consistent there, though it may hold what was written after.
            None => Kind::Crashed,
        };
        Self {
            kind,
            system: control.system,
            timeline,
            checkpoint,
            redo,
            consistency: consistency(kind, control, label, redo),
            recovered_to,
            own_timeline,
        }
    }

    /// Refuses a timeline that recovery can't follow from this folder.
    ///
    /// # Errors
    /// With why not, and the timelines that would do.
    pub fn check_descent(&self, history: &History, possible: &[Timeline]) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::OtherBranch { timeline: history.timeline(), why, possible: possible.to_vec() });
        if !history.contains(self.timeline) {
            return refuse(format!("it does not go through timeline {}, on which the folder's checkpoint is", self.timeline));
        }
        if history.timeline_at(self.checkpoint) != self.timeline {
            let left = history.switchpoint(self.timeline).unwrap_or_default();
            return refuse(format!(
                "it leaves timeline {} at {left}, before the folder's checkpoint at {}",
                self.timeline, self.checkpoint
            ));
        }
        match self.recovered_to {
            Some((lsn, timeline)) if history.timeline_at(Lsn(lsn.0 - 1)) != timeline => {
                refuse(format!("the folder was recovered to {lsn} on timeline {timeline} before, which it does not go through"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a stop that Postgres would refuse.
    ///
    /// # Errors
    /// Where it lies before the consistent point. A folder that replays its own WAL first is not consistent before it has left that: a stop
    /// behind its very last record is too early as well.
    pub fn judge(&self, goal: &Goal, found: &Found, consistent: Lsn, reach: &Reach) -> Result<(), Refusal> {
        let stop = if self.kind == Kind::Crashed { found.lsn } else { found.replayed() };
        if stop >= consistent {
            return Ok(());
        }
        Err(Refusal::BeforeConsistent { goal: goal.to_string(), stop, consistent, reach: reach.clone() })
    }

    /// Refuses a moment before the last commit that the folder holds already: Postgres would stop at the next one that is later, and
    /// not notice.
    ///
    /// # Errors
    /// Where `last`, the end and time of the last commit before replay starts, is past the moment.
    pub fn check_held(&self, goal: &Goal, last: Option<(Lsn, PgTime)>, reach: &Reach) -> Result<(), Refusal> {
        match (&goal.target, last) {
            (Target::Time(wanted), Some((at, time))) if goal.is_past(time, *wanted) => {
                Err(Refusal::CommitsAfter { goal: goal.to_string(), time, at, reach: reach.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn consistency(kind: Kind, control: &Control, label: Option<&BackupLabel>, redo: Lsn) -> Consistency {
    let minimum = control.min_recovery_point.max(control.backup_end);
    match (kind, label) {
        (Kind::Crashed, _) => Consistency::FolderEnd,
        (Kind::ShutDown, _) => Consistency::At(control.checkpoint),
        // A standby's backup ends where `pg_control`, copied last, says.
        (Kind::Backup, Some(label)) if label.from_standby => Consistency::At(minimum.max(redo)),
        (Kind::Backup, Some(label)) if label.needs_end_record => {
            Consistency::BackupEnd { start: redo, not_before: control.min_recovery_point }
        }
        (Kind::Recovering, _) if control.backup_end_required && !control.backup_end.is_valid() => {
            Consistency::BackupEnd { start: control.backup_start, not_before: control.min_recovery_point }
        }
        (Kind::Backup | Kind::Recovering, _) => Consistency::At(minimum.max(redo)),
    }
}
