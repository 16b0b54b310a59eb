//! What is held, derived from the catalog and the positions. Pure.

use std::ops::Range;

use walbus::proto::history::History;
use walbus::{Lsn, Segment, SegmentSize, Timeline};

use crate::api::Gap;
use crate::state::{Catalog, Held, Positions};

/// A timeline and its ancestors: where each began. The newest first; the last one has no known parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lineage {
    steps: Vec<Step>,
}

/// One timeline of a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    timeline: Timeline,
    /// Where its own child took over, `Lsn::MAX` for the newest: what lies at or behind it is not of the lineage.
    until: Lsn,
}

impl Lineage {
    /// Of the timeline whose history this is.
    pub(super) fn new(history: &History) -> Self {
        let newest = Step { timeline: history.timeline(), until: Lsn::MAX };
        let older = history.ancestors().iter().rev().map(|ancestor| Step { timeline: ancestor.timeline, until: ancestor.end });
        Self { steps: std::iter::once(newest).chain(older).collect() }
    }

    /// Which part of `wanted`, a range within segment `number`, each timeline can give, the newest first.
    fn candidates(&self, number: u64) -> impl Iterator<Item = (Segment, Lsn)> {
        self.steps.iter().map(move |step| (Segment { number, timeline: step.timeline }, step.until))
    }
}

/// The end of the WAL that a held segment gives to readers: never above `flushed`, and its start where it gives none.
pub(super) fn end_of(segment: Segment, held: &Held, positions: Option<&Positions>, size: SegmentSize) -> Lsn {
    let (start, end) = (segment.start(size), segment.end(size));
    let Some(recorded) = held.partial_end else {
        // A whole file of the timeline being received can't lie above what is flushed; should it, it is not shown.
        return match positions {
            Some(now) if now.timeline == segment.timeline => end.min(now.flushed).max(start),
            _ => end,
        };
    };
    match positions {
        // The tail. Where `flushed` lies further on, the catalog knows best: the file may be one that a gap left behind.
        Some(now) if now.timeline == segment.timeline && now.flushed <= end => now.flushed.clamp(start, end),
        _ => recorded.clamp(start, end),
    }
}

/// One segment's part of a range of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The segment whose file has it.
    pub(super) segment: Segment,
    /// Which bytes of the file.
    pub(super) bytes: Range<u64>,
}

/// A position from which on WAL is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotHeld(pub(super) Lsn);

/// The files that have the WAL of `range` on this lineage, in order.
///
/// # Errors
/// With the first position that none has.
pub(super) fn pieces(
    catalog: &Catalog,
    positions: Option<&Positions>,
    size: SegmentSize,
    lineage: &Lineage,
    range: Range<Lsn>,
) -> Result<Vec<Piece>, NotHeld> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let number = size.number(at);
        let until = size.floor(at).checked_add(size.bytes()).unwrap_or(Lsn::MAX).min(range.end);
        // A new timeline's first segment begins with a copy of its parent's part of it, so one file has all of the part wanted.
        let segment = lineage
            .candidates(number)
            .find(|(segment, ended)| {
                *ended >= until
                    && catalog.segments.get(segment).is_some_and(|held| end_of(*segment, held, positions, size) >= until)
            })
            .ok_or(NotHeld(at))?
            .0;
        let offset = size.offset(at);
        found.push(Piece { segment, bytes: offset..offset + until.bytes_after(at) });
        at = until;
    }
    Ok(found)
}

/// The first position that is held without a gap behind it up to `to` on this lineage; `None` where `to` is not held itself.
pub(super) fn oldest(
    catalog: &Catalog,
    positions: Option<&Positions>,
    size: SegmentSize,
    lineage: &Lineage,
    to: Lsn,
) -> Option<Lsn> {
    let mut oldest = None;
    let mut until = to;
    while until > Lsn::INVALID {
        let number = size.number(Lsn(until.0 - 1));
        let held = lineage.candidates(number).any(|(segment, ended)| {
            ended >= until && catalog.segments.get(&segment).is_some_and(|held| end_of(segment, held, positions, size) >= until)
        });
        if !held {
            break;
        }
        until = size.start_of(number)?;
        oldest = Some(until);
    }
    oldest
}

/// The end of what is held of a timeline, `None` where nothing is.
pub(super) fn timeline_end(catalog: &Catalog, positions: Option<&Positions>, size: SegmentSize, timeline: Timeline) -> Option<Lsn> {
    let (segment, held) =
        catalog.segments.iter().rev().find(|(segment, held)| {
            segment.timeline == timeline && end_of(**segment, held, positions, size) > segment.start(size)
        })?;
    Some(end_of(*segment, held, positions, size))
}

/// What no file holds between the first and the last byte held, timeline by timeline. A timeline's WAL before its first segment is its
/// parent's affair.
pub(crate) fn gaps(catalog: &Catalog, positions: Option<&Positions>, size: SegmentSize) -> Vec<Gap> {
    let mut ends = std::collections::BTreeMap::<Timeline, Lsn>::new();
    let mut gaps = Vec::new();
    for (segment, held) in &catalog.segments {
        let (start, end) = (segment.start(size), end_of(*segment, held, positions, size));
        if end == start {
            continue;
        }
        if let Some(before) = ends.insert(segment.timeline, end)
            && before < start
        {
            gaps.push(Gap { timeline: segment.timeline.get(), from: before.to_string(), to: start.to_string() });
        }
    }
    gaps
}

#[cfg(test)]
mod tests;
