//! What to do, out of what the data folder says, what `pg_wal` holds and what the sink holds. No file, no socket.
//!
//! ```text
//!           redo                       complete  flushed
//!   ─────────┼────────────────────────────┼────────┼─────────▶
//!       [ segment ][ segment ][ segment ][ tail ......0000 ][ beyond ][ beyond ]
//!         the sink's, or the folder's own where the sink        left alone, or set aside where it
//!         has none and the folder has it whole                  could be taken for a continuation
//! ```

use std::collections::{BTreeMap, BTreeSet};

use walbus::pgdata::BackupLabel;
use walbus::{Lsn, Segment, SegmentName, SegmentSize, SystemId, Timeline};

use crate::api;

mod refusal;
#[cfg(test)]
mod tests;

pub use refusal::Refusal;

/// What `global/pg_control` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// Whether the server was shut down in order, so that it would start without replaying anything.
    pub shut_down: bool,
    /// Where the last checkpoint's record starts.
    pub checkpoint: Lsn,
    /// Where replay from it starts.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub checkpoint_timeline: Timeline,
    /// The timeline up to which the folder was recovered once, where it was.
    pub min_recovery_timeline: Option<Timeline>,
}

impl Control {
    /// The timeline that crash recovery follows: the checkpoint's, or the one that a promotion went to after it
    /// (`InitWalRecovery` in Postgres' xlogrecovery.c).
    #[must_use]
    pub fn recovery_timeline(&self) -> Timeline {
        self.min_recovery_timeline.map_or(self.checkpoint_timeline, |timeline| timeline.max(self.checkpoint_timeline))
    }
}

/// The timelines that a timeline came from, oldest first, each with the position at which it was left.
pub type Ancestors = Vec<(Timeline, Lsn)>;

/// The data folder, as it was read.
#[derive(Debug, Clone)]
pub struct Local {
    /// `global/pg_control`.
    pub control: Control,
    /// `backup_label`, where there is one.
    pub label: Option<BackupLabel>,
    /// `standby.signal` or `recovery.signal`, where there is one.
    pub signal: Option<&'static str>,
    /// The segments in `pg_wal` and the lengths of their files in bytes.
    pub segments: BTreeMap<Segment, u64>,
    /// The history of the recovery timeline in `pg_wal`, where it is there.
    pub ancestors: Option<Ancestors>,
}

/// One segment of the sink's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldSegment {
    /// The end of the WAL in it.
    pub end: Lsn,
    /// Whether all its bytes are WAL.
    pub complete: bool,
}

/// What the sink holds, as it said.
#[derive(Debug, Clone)]
pub struct Held {
    /// The cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// What its stream is doing.
    pub state: api::State,
    /// What it says is wrong.
    pub problem: Option<String>,
    /// The timeline that it follows.
    pub timeline: Timeline,
    /// The end of its WAL.
    pub flushed: Lsn,
    /// The end of the last complete record in it.
    pub complete: Lsn,
    /// Its segments.
    pub segments: BTreeMap<Segment, HeldSegment>,
    /// Where its timeline comes from; empty for timeline 1.
    pub ancestors: Ancestors,
}

/// Where a segment's bytes are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The folder has it whole and the sink has it not.
    Folder,
    /// The sink.
    Sink,
}

/// One segment of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The segment.
    pub segment: Segment,
    /// Where its bytes come from.
    pub origin: Origin,
    /// The length of its file in `pg_wal`, `None` where there is none.
    pub local_len: Option<u64>,
}

/// What to do. All that is left to find out is in the bytes: whether they contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// The timeline that recovery follows.
    pub timeline: Timeline,
    /// Where replay starts.
    pub redo: Lsn,
    /// The checkpoint's record, which must be in the WAL.
    pub checkpoint: Lsn,
    /// The end of the last complete record that the sink holds.
    pub complete: Lsn,
    /// The end of what the sink holds.
    pub flushed: Lsn,
    /// Where the timeline comes from.
    pub ancestors: Ancestors,
    /// The segments from the redo segment to the sink's last, in order, none missing. Empty where replay starts above all that
    /// the sink holds complete: then the folder needs nothing of it.
    pub pieces: Vec<Piece>,
    /// Segments of the recovery timeline in `pg_wal` behind the sink's last, with the lengths of their files.
    pub beyond: Vec<(Segment, u64)>,
    /// Whether the timeline's history is to be written, which `pg_wal` lacks.
    pub write_history: bool,
    /// Whether the server was shut down in order: then it would start without replaying anything, and write over what is to be
    /// replayed. Where WAL follows the checkpoint, `pg_control` must be changed to what it was when that WAL was written.
    pub shut_down: bool,
    /// Whether the WAL must hold a base backup's end.
    pub needs_backup_end: bool,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The name of a segment's file.
    #[must_use]
    pub fn name(&self, segment: Segment) -> SegmentName {
        segment.name(self.segment_size)
    }

    /// The segment that recovery reads for a position, on the timeline whose file of it recovery reads.
    #[must_use]
    pub fn segment_at(&self, lsn: Lsn) -> Segment {
        let number = self.segment_size.number(lsn);
        Segment { number, timeline: timeline_of(&self.ancestors, self.timeline, self.segment_size, number) }
    }

    /// How many bytes the sink sends at most.
    #[must_use]
    pub fn download_bytes_max(&self) -> u64 {
        let count = self.pieces.iter().filter(|piece| piece.origin == Origin::Sink).count();
        u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(self.segment_size.bytes())
    }
}

impl Held {
    /// What the sink said, as values.
    ///
    /// # Errors
    /// [`Refusal::SinkEmpty`] where it has not received anything, [`Refusal::SinkUnreadable`] where it says what is no value.
    pub fn parse(status: &api::Status, segments: &api::Segments, ancestors: Ancestors) -> Result<Self, Refusal> {
        let (Some(timeline), Some(flushed), Some(complete)) = (status.timeline, &status.flushed, &status.complete) else {
            return Err(Refusal::SinkEmpty { problem: status.problem.clone() });
        };
        let unreadable = |what: &str| Refusal::SinkUnreadable { what: what.to_owned() };
        let lsn = |text: &str| text.parse::<Lsn>().map_err(|error| unreadable(&error.to_string()));
        let size = SegmentSize::new(segments.segment_size).map_err(|error| unreadable(&error.to_string()))?;
        let mut held = BTreeMap::new();
        for entry in &segments.segments {
            let name = entry.name.parse::<SegmentName>().map_err(|error| unreadable(&error.to_string()))?;
            let segment = name.segment(size).ok_or_else(|| unreadable(&format!("a segment {name} among those of {size}")))?;
            held.insert(segment, HeldSegment { end: lsn(&entry.end)?, complete: entry.complete });
        }
        Ok(Self {
            system_id: segments.system_id.parse().map_err(|_no| unreadable(&format!("system id {:?}", segments.system_id)))?,
            segment_size: size,
            state: status.state,
            problem: status.problem.clone(),
            timeline: Timeline::new(timeline).ok_or_else(|| unreadable("timeline 0"))?,
            flushed: lsn(flushed)?,
            complete: lsn(complete)?,
            segments: held,
            ancestors,
        })
    }

    /// Whether all WAL of that segment is there that the sink's timeline has of it.
    fn has(&self, segment: Segment) -> bool {
        let tail = self.flushed > segment.start(self.segment_size) && self.flushed <= segment.end(self.segment_size);
        self.segments.get(&segment).is_some_and(|held| held.complete || (tail && held.end >= self.flushed))
    }
}

/// Decides.
///
/// # Errors
/// A [`Refusal`]: nothing can be done that is sure to lose nothing, and its text says what is in the way and the way out.
pub fn plan(local: &Local, held: &Held) -> Result<Plan, Refusal> {
    same_cluster(local, held)?;
    let timeline = same_timeline(local, held)?;
    let (redo, checkpoint) = start(local, held)?;
    let size = held.segment_size;
    let mut plan = Plan {
        system_id: held.system_id,
        segment_size: size,
        timeline,
        redo,
        checkpoint,
        complete: held.complete,
        flushed: held.flushed,
        ancestors: held.ancestors.clone(),
        pieces: Vec::new(),
        beyond: Vec::new(),
        write_history: timeline > Timeline::FIRST && local.ancestors.is_none(),
        shut_down: local.control.shut_down,
        needs_backup_end: local.label.as_ref().is_some_and(|label| label.needs_end_record),
        warnings: warnings(local, held),
    };
    if redo >= held.complete {
        return Ok(plan);
    }
    let last = size.number(Lsn(held.flushed.0 - 1));
    plan.pieces = pieces(local, held, size.number(redo), last)?;
    plan.beyond = local
        .segments
        .iter()
        .filter(|(segment, _)| segment.timeline == timeline && segment.number > last)
        .map(|(segment, len)| (*segment, *len))
        .collect();
    Ok(plan)
}

fn same_cluster(local: &Local, held: &Held) -> Result<(), Refusal> {
    if local.control.system_id != held.system_id {
        return Err(Refusal::OtherCluster { folder: local.control.system_id, sink: held.system_id });
    }
    if local.control.segment_size != held.segment_size {
        return Err(Refusal::OtherSegmentSize { folder: local.control.segment_size, sink: held.segment_size });
    }
    if let Some(file) = local.signal {
        return Err(Refusal::Signal { file });
    }
    if held.state == api::State::Diverged {
        return Err(Refusal::Diverged { problem: held.problem.clone().unwrap_or_default() });
    }
    Ok(())
}

/// The timeline that recovery follows, where the sink follows the same.
fn same_timeline(local: &Local, held: &Held) -> Result<Timeline, Refusal> {
    let (folder, sink) = (local.control.recovery_timeline(), held.timeline);
    if folder > sink {
        return Err(Refusal::SinkOnOlderTimeline { folder, sink });
    }
    if folder < sink {
        // Crash recovery never leaves its timeline, and archive recovery would end on a timeline that nobody else is on.
        let left = held.ancestors.iter().find(|(timeline, _)| *timeline == folder);
        return Err(match left {
            Some((_, at)) => Refusal::SinkOnNewerTimeline { folder, sink, at: *at },
            None => Refusal::NoAncestor { folder, sink },
        });
    }
    if local.ancestors.as_ref().is_some_and(|ours| *ours != held.ancestors) {
        return Err(Refusal::OtherHistory { timeline: folder });
    }
    Ok(folder)
}

/// Where replay starts, and the checkpoint that it starts from.
fn start(local: &Local, held: &Held) -> Result<(Lsn, Lsn), Refusal> {
    let (redo, checkpoint, timeline) = match &local.label {
        Some(label) => (label.start, label.checkpoint, label.timeline),
        None => (local.control.redo, local.control.checkpoint, local.control.checkpoint_timeline),
    };
    // Of its own timeline every position is; of an ancestor only those up to where it was left.
    let left = held.ancestors.iter().find(|(ancestor, _)| *ancestor == timeline).map(|(_, at)| *at);
    let on_the_way = if timeline == held.timeline { true } else { left.is_some_and(|at| checkpoint < at) };
    if !on_the_way {
        return Err(match left {
            Some(at) => Refusal::StartBehindSwitch { checkpoint, timeline, at },
            None => Refusal::NoAncestor { folder: timeline, sink: held.timeline },
        });
    }
    Ok((redo, checkpoint))
}

/// The chain's segments, none missing.
fn pieces(local: &Local, held: &Held, first: u64, last: u64) -> Result<Vec<Piece>, Refusal> {
    let size = held.segment_size;
    let mut pieces = Vec::new();
    let mut missing = BTreeSet::new();
    for number in first..=last {
        let segment = Segment { number, timeline: timeline_of(&held.ancestors, held.timeline, size, number) };
        let local_len = local.segments.get(&segment).copied();
        let origin = if held.has(segment) {
            Origin::Sink
        } else if local_len == Some(size.bytes()) {
            Origin::Folder
        } else {
            missing.insert(segment);
            continue;
        };
        pieces.push(Piece { segment, origin, local_len });
    }
    match (missing.first(), missing.last()) {
        (Some(from), Some(to)) => Err(Refusal::Gap {
            first: from.name(size),
            last: to.name(size),
            count: missing.len(),
            oldest: held.segments.keys().next().map(|segment| segment.name(size)),
        }),
        _ => Ok(pieces),
    }
}

/// The timeline whose file of a segment recovery reads: the newest that had begun by then (`XLogFileReadAnyTLI`).
fn timeline_of(ancestors: &Ancestors, newest: Timeline, size: SegmentSize, number: u64) -> Timeline {
    let mut timeline = newest;
    for (parent, left_at) in ancestors.iter().rev() {
        if size.number(*left_at) <= number {
            break;
        }
        timeline = *parent;
    }
    timeline
}

fn warnings(local: &Local, held: &Held) -> Vec<String> {
    let mut warnings = Vec::new();
    if held.state == api::State::Streaming {
        warnings.push(
            "the sink is connected to a primary, or was until a moment ago: make sure that the old one is dead before you start this one"
                .to_owned(),
        );
    }
    if local.label.is_some() {
        warnings.push("backup_label is there: replay starts where the base backup did, and must pass its end".to_owned());
    }
    warnings
}
