//! Where recovery ends, by reading every record that there is: no index, no chain, no decoder.

use walbus::proto::history::History;
use walbus::{Lsn, PgTime, Segment, Timeline};

use super::Copy;
use super::world::{Fact, Held, Line, Part, SIZE, What, World};
use crate::plan::{Goal, Kind, Side, Target};

/// Where recovery gets to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) timeline: Timeline,
    pub(super) consistent: Lsn,
    pub(super) stop: Option<(Lsn, Side)>,
    pub(super) replayed: Lsn,
    pub(super) parameter_changes: Vec<Lsn>,
}

/// The timelines of a history, each with where it begins.
fn path(history: &History) -> Vec<(Timeline, Lsn)> {
    let mut path = Vec::new();
    let mut begin = Lsn(0);
    for parent in history.ancestors() {
        path.push((parent.timeline, begin));
        begin = parent.end;
    }
    path.push((history.timeline(), begin));
    path
}

/// Whose file of that segment recovery along `history` reads: the newest timeline's that has begun in it or before.
pub(super) fn file_of(history: &History, number: u64) -> Timeline {
    path(history).into_iter().rfind(|(_, begin)| SIZE.number(*begin) <= number).unwrap().0
}

/// Whose the byte at `lsn` is.
fn owner(history: &History, lsn: Lsn) -> Timeline {
    path(history).into_iter().rfind(|(_, begin)| *begin <= lsn).unwrap().0
}

/// Up to where two timelines are one.
fn shared(one: &History, other: &History) -> Lsn {
    let (one, other) = (path(one), path(other));
    let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    [one.get(common), other.get(common)].into_iter().flatten().map(|(_, begin)| *begin).min().unwrap_or(Lsn(u64::MAX))
}

/// Behind a segment switch is nothing: its end is the segment's.
pub(super) fn normal(facts: &[Fact], lsn: Lsn) -> Lsn {
    let switch = facts.iter().find(|fact| fact.what == What::Switch && fact.lsn < lsn && lsn <= fact.end);
    switch.map_or(lsn, |switch| switch.end)
}

/// What recovery reads of a segment: where the bytes end, and whether it goes on with the next one.
fn read(world: &World, copy: &Copy, line: &Line, number: u64, use_own: bool) -> Option<(Lsn, bool)> {
    let segment = Segment { number, timeline: file_of(&line.history, number) };
    let Held { whole, partial, tail, .. } = world.held.get(&segment).copied().unwrap_or_default();
    if whole {
        return Some((segment.end(SIZE), true));
    }
    let part = match (partial, tail) {
        (Some(partial), Some(tail)) => Some(if tail.complete > partial.complete { tail } else { partial }),
        (partial, tail) => partial.or(tail),
    };
    let own = copy.own.iter().find(|(own, _)| *own == segment && use_own).map(|(_, end)| *end);
    match (own, part) {
        (None, None) => None,
        (Some(own), None) => Some((own, true)),
        (None, Some(part)) => Some((part.end, false)),
        (Some(own), Some(part)) => {
            let of = world.lines.iter().position(|line| line.history.timeline() == segment.timeline)?;
            let ours = world.part(of, segment, own).unwrap_or(Part { end: own, complete: own });
            // fetch leaves it to Postgres where that has as many records, or, where neither has any, as many bytes.
            let is_ours =
                if ours.complete.max(part.complete) > Lsn(0) { ours.complete >= part.complete } else { ours.end >= part.end };
            Some(if is_ours { (own, true) } else { (part.end, false) })
        }
    }
}

/// The timeline that is followed.
fn follow<'a>(world: &'a World, copy: &Copy, named: Option<Timeline>) -> Result<&'a Line, &'static str> {
    let base = &copy.base;
    let fits = |line: &&Line| {
        let recovered = base.recovered_to.is_none_or(|(lsn, timeline)| owner(&line.history, Lsn(lsn.0 - 1)) == timeline);
        owner(&line.history, base.checkpoint) == base.timeline && recovered
    };
    let has_wal = |line: &&Line| world.held.keys().any(|segment| segment.timeline == line.history.timeline());
    let of = |timeline: Timeline| world.lines.iter().find(|line| line.history.timeline() == timeline);
    let line = match named {
        Some(named) => of(named).ok_or("no such timeline")?,
        None => {
            let newest = world.lines.iter().filter(fits).filter(has_wal).max_by_key(|line| line.history.timeline());
            newest.or_else(|| of(base.own_timeline)).ok_or("none")?
        }
    };
    if !fits(&line) {
        return Err("it does not come from the folder");
    }
    // What is in a copy of one moment can't be taken back.
    if base.kind == Kind::Crashed && shared(&line.history, &world.lines[copy.line].history) < copy.end {
        return Err("it leaves the folder's own WAL");
    }
    Ok(line)
}

/// What can be read of a line from where replay starts.
struct Reading<'a> {
    facts: Vec<&'a Fact>,
    /// Whether there is more behind where it ends.
    has_gap: bool,
}

fn reading<'a>(world: &'a World, copy: &Copy, line: &'a Line) -> Reading<'a> {
    let first = SIZE.number(copy.base.redo);
    let mut limit = SIZE.floor(copy.base.redo);
    let mut number = first;
    // The last one that recovery would open if it came so far.
    while let Some((end, goes_on)) = read(world, copy, line, number, true) {
        limit = end;
        number += 1;
        if !goes_on || limit < Lsn(number * SIZE.bytes()) {
            break;
        }
    }
    let last = SIZE.number(Lsn(line.wal.end().0));
    let has_gap = (number..=last).any(|number| read(world, copy, line, number, true).is_some());
    let facts = line.facts.iter().filter(|fact| fact.lsn >= copy.base.redo && fact.end <= limit).collect();
    Reading { facts, has_gap }
}

pub(super) fn answer(world: &World, copy: &Copy, goal: &Goal, named: Option<Timeline>) -> Result<Answer, &'static str> {
    let base = &copy.base;
    let line = follow(world, copy, named)?;
    let Reading { facts, has_gap } = reading(world, copy, line);
    facts.iter().find(|fact| fact.lsn == base.checkpoint).ok_or("the checkpoint can't be read")?;
    let end = normal(&line.facts, facts.last().map(|fact| fact.end).ok_or("nothing can be read")?);
    let consistent = consistent(copy, &facts).ok_or("never consistent")?;
    if let Target::Time(wanted) = goal.target {
        held(world, copy, line, goal, wanted)?;
    }
    let (stop, replayed) = match &goal.target {
        Target::Immediate => {
            let by_a_record = matches!(base.kind, Kind::Crashed | Kind::ShutDown);
            let was_promoted = base.kind == Kind::Crashed && base.recovered_to.is_some();
            if was_promoted || end < consistent || end == consistent && by_a_record {
                return Err("consistent too late");
            }
            (None, consistent)
        }
        Target::Latest => {
            if has_gap || end < consistent {
                return Err("the end is not the end");
            }
            (None, end)
        }
        _ => {
            let (fact, side) = facts.iter().find_map(|fact| Some((*fact, side(goal, fact)?))).ok_or("never reached")?;
            let replayed = if side == Side::After { normal(&line.facts, fact.end) } else { fact.lsn };
            let counts = if base.kind == Kind::Crashed { fact.lsn } else { replayed };
            if counts < consistent || base.redo == base.checkpoint && fact.lsn <= base.checkpoint {
                return Err("before the consistent point");
            }
            (Some((fact.lsn, side)), replayed)
        }
    };
    let changes = facts.iter().filter(|fact| fact.what == What::Parameters && fact.lsn < replayed);
    Ok(Answer {
        timeline: line.history.timeline(),
        consistent: normal(&line.facts, consistent),
        stop,
        replayed: normal(&line.facts, replayed),
        parameter_changes: changes.map(|fact| fact.lsn).collect(),
    })
}

fn consistent(copy: &Copy, facts: &[&Fact]) -> Option<Lsn> {
    let base = &copy.base;
    match base.kind {
        Kind::Backup => {
            facts.iter().find(|fact| matches!(fact.what, What::BackupEnd { start } if start == base.redo)).map(|fact| fact.end)
        }
        Kind::Crashed => Some(copy.end),
        Kind::Recovering => base.recovered_to.map(|(lsn, _)| lsn.max(base.redo)),
        Kind::ShutDown => facts.iter().find(|fact| fact.lsn == base.checkpoint).map(|fact| fact.end),
    }
}

/// Refuses a moment before what the folder holds already.
fn held(world: &World, copy: &Copy, line: &Line, goal: &Goal, wanted: PgTime) -> Result<(), &'static str> {
    let redo = copy.base.redo;
    let mut first = SIZE.number(redo);
    while let Some((end, true)) = first.checked_sub(1).and_then(|before| read(world, copy, line, before, false))
        && end == Lsn(first * SIZE.bytes())
    {
        first -= 1;
    }
    let mut before =
        line.facts.iter().filter(|fact| fact.what == What::Commit && fact.lsn.0 >= first * SIZE.bytes() && fact.end <= redo);
    let checkpoint = PgTime::from_unix_micros(copy.control.checkpoint_time_unix_s * 1_000_000);
    match before.next_back() {
        Some(commit) if goal.is_past(commit.time, wanted) => Err("before the last commit held"),
        None if wanted < checkpoint => Err("before the checkpoint, and nothing is known before that"),
        _ => Ok(()),
    }
}

/// The rule of `recovery_target_*`.
fn side(goal: &Goal, fact: &Fact) -> Option<Side> {
    let at = if goal.inclusive { Side::After } else { Side::Before };
    let ends = matches!(fact.what, What::Abort | What::Commit);
    match &goal.target {
        Target::Immediate | Target::Latest => None,
        Target::Lsn(lsn) => (fact.lsn >= *lsn).then_some(at),
        Target::Name(name) => (fact.what == What::Point(name.clone())).then_some(Side::After),
        Target::Time(time) => {
            let is_past = if goal.inclusive { fact.time > *time } else { fact.time >= *time };
            (ends && is_past).then_some(Side::Before)
        }
        Target::Xid(xid) => (ends && fact.xid == *xid).then_some(at),
    }
}
