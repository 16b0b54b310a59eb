//! That timelines fit together.

use std::collections::BTreeMap;

use walbus::proto::history::History;
use walbus::{Lsn, Segment, Timeline};

use super::folder::{Folder, Identity};
use super::{Finding, TimelineReport};

/// How much of two files is compared at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Checks each timeline against the ones it comes from.
pub(super) fn check(
    folder: &Folder,
    timelines: &BTreeMap<Timeline, TimelineReport>,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    for timeline in timelines.keys() {
        if *timeline != Timeline::FIRST && !folder.histories().contains_key(timeline) {
            let name = format!("{:08X}.history", timeline.get());
            let problem = "is missing: where the timeline comes from can't be checked, and a recovery that follows it will fail";
            findings.push(Finding::warning(&name, None, problem));
        }
    }
    for (timeline, history) in folder.histories() {
        contradictions(folder, history, findings);
        let (Some(identity), Some(parent)) = (folder.identity(), history.ancestors().last()) else { continue };
        if let Some(report) = timelines.get(timeline) {
            let end = history.switchpoint(parent.timeline).unwrap_or(parent.end);
            joint(identity, (*timeline, report), (parent.timeline, timelines.get(&parent.timeline)), end, findings);
            same_bytes(folder, identity, *timeline, parent.timeline, end, findings)?;
        }
    }
    Ok(())
}

/// A timeline's history starts with that of each timeline it comes from.
fn contradictions(folder: &Folder, history: &History, findings: &mut Vec<Finding>) {
    for (index, ancestor) in history.ancestors().iter().enumerate() {
        let Some(other) = folder.histories().get(&ancestor.timeline) else { continue };
        let places = |history: &History| history.ancestors().iter().map(|a| (a.timeline, a.end)).collect::<Vec<_>>();
        if places(history).get(..index) != Some(places(other).as_slice()) {
            let name = format!("{:08X}.history", history.timeline().get());
            let problem = format!(
                "contradicts {:08X}.history about where timeline {} comes from",
                ancestor.timeline.get(),
                ancestor.timeline
            );
            findings.push(Finding::error(&name, None, problem));
        }
    }
}

/// Nothing is missing between a timeline and the one that it comes from.
fn joint(
    identity: Identity,
    (timeline, child): (Timeline, &TimelineReport),
    (parent, held): (Timeline, Option<&TimelineReport>),
    end: Lsn,
    findings: &mut Vec<Finding>,
) {
    let first = Segment::containing(timeline, end, identity.segment);
    let name = first.name(identity.segment).to_string();
    // Without any of the parent's WAL the folder begins within this timeline, which is as good a place as any.
    let Some(held) = held else { return };
    if child.from > first.start(identity.segment) {
        findings.push(Finding::error(&name, Some(end), format!("is missing: timeline {timeline} begins in it, at {end}")));
    } else if held.complete_end < end && held.complete_end < child.from {
        let problem =
            format!("timeline {parent} is held up to {} only, and timeline {timeline} leaves it at {end}", held.complete_end);
        findings.push(Finding::error(&name, Some(held.complete_end), problem));
    }
}

/// The segment in which a timeline begins starts with what the one before has there.
fn same_bytes(
    folder: &Folder,
    identity: Identity,
    child: Timeline,
    parent: Timeline,
    end: Lsn,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let segment = |timeline| Segment::containing(timeline, end, identity.segment);
    let (Some(new), Some(old)) = (folder.segment(segment(child)), folder.segment(segment(parent))) else { return Ok(()) };
    let until = identity.segment.offset(end);
    let mut offset = 0;
    while offset < until {
        let len = usize::try_from(until - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let (of_new, of_old) = (folder.read_at(&new.name, offset, len)?, folder.read_at(&old.name, offset, len)?);
        let differs = of_new.iter().zip(&of_old).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let lsn = Lsn(segment(child).start(identity.segment).0 + offset + at as u64);
            let problem = format!("differs from {} before {end}, where timeline {child} leaves timeline {parent}", old.name);
            findings.push(Finding::error(&new.name, Some(lsn), problem));
            return Ok(());
        }
        if of_new.len() < len || of_old.len() < len {
            return Ok(()); // Cut off: its length was found wrong already, or it ends before the switch.
        }
        offset += len as u64;
    }
    Ok(())
}
