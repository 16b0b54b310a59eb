//! A cluster's timelines, and an archive of them.

use std::collections::BTreeMap;

use walbus::proto::history::History;
use walbus::proto::wal::{Built, Parameters, WalBuilder};
use walbus::sim::Random;
use walbus::{Lsn, PgTime, Segment, SegmentSize, SystemId, Timeline};

use super::{EPOCH, builder, root};

pub(super) const SYSTEM: SystemId = SystemId(7_100_000_000_000_000_001);
pub(super) const SIZE: SegmentSize = SegmentSize::MIN;
pub(super) const START: Lsn = Lsn(0x300_0000);

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Abort,
    BackupEnd { start: Lsn },
    Checkpoint { redo: Lsn },
    Commit,
    Other,
    Parameters,
    Point(String),
    Shutdown,
    Switch,
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) what: What,
    pub(super) xid: u32,
    /// When, for what has a time; about when, for what has none.
    pub(super) time: PgTime,
}

/// A timeline, with all that it has of those before it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) history: History,
    pub(super) wal: WalBuilder,
    pub(super) facts: Vec<Fact>,
}

/// A part of a segment: where its bytes end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) end: Lsn,
    /// The end of its last record that starts in the segment.
    pub(super) complete: Lsn,
}

/// What the archive has of a segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) whole: bool,
    pub(super) indexed: bool,
    pub(super) partial: Option<Part>,
    pub(super) tail: Option<Part>,
}

pub(super) struct World {
    /// The first timeline, and those that leave one before them.
    pub(super) lines: Vec<Line>,
    pub(super) held: BTreeMap<Segment, Held>,
}

impl World {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut writer = Writer { xid: 700, clock: EPOCH };
        let mut first = Line { history: root(), wal: builder(), facts: Vec::new() };
        writer.write(&mut first, random, 3);
        let mut lines = vec![first];
        for number in 2..2 + u32::try_from(random.below(3)).unwrap() {
            let parent = lines[usize::try_from(random.below(lines.len() as u64)).unwrap()].clone();
            let segments = random.below(3);
            lines.extend(writer.branch(parent, Timeline::new(number).unwrap(), random, segments));
        }
        let mut world = Self { lines, held: BTreeMap::new() };
        for line in 0..world.lines.len() {
            world.archive(line, random);
        }
        world
    }

    /// Puts what is of that timeline alone into the archive, but for what is lost.
    fn archive(&mut self, line: usize, random: &mut Random) {
        let Line { history, wal, .. } = &self.lines[line];
        let timeline = history.timeline();
        let begin = history.ancestors().last().map_or(START, |parent| parent.end);
        for number in SIZE.number(begin)..=SIZE.number(Lsn(wal.end().0 - 1)) {
            let segment = Segment { number, timeline };
            let mut held = Held::default();
            let is_full = segment.end(SIZE) <= wal.end();
            held.whole = is_full && !random.chance(1, 14);
            held.indexed = held.whole && !random.chance(1, 6);
            let mut part = || {
                let end = self.cut(line, random, segment.start(SIZE), wal.end().min(segment.end(SIZE)));
                self.part(line, segment, end)
            };
            if !held.whole {
                // Of what has no record of its own, one part is enough.
                held.tail = part();
                held.partial =
                    part().filter(|partial| held.tail.is_none_or(|tail| tail.complete > Lsn(0) && partial.complete > Lsn(0)));
                if random.chance(1, 3) {
                    held.partial = None;
                }
                if random.chance(1, 3) {
                    held.tail = None;
                }
            }
            if held.whole || held.partial.is_some() || held.tail.is_some() {
                self.held.insert(segment, held);
            }
        }
    }

    /// A part of a segment up to `end`, where that has its first page and is not all of it.
    pub(super) fn part(&self, line: usize, segment: Segment, end: Lsn) -> Option<Part> {
        let start = segment.start(SIZE);
        let facts = self.lines[line].facts.iter().filter(|fact| fact.lsn >= start && fact.end <= end);
        let complete = facts.map(|fact| fact.end).max().unwrap_or_default();
        (end.0 > start.0 + 64 && end < segment.end(SIZE)).then_some(Part { end, complete })
    }

    /// Some position between, as bytes are cut off anywhere, but neither in the padding of a record nor behind a segment switch.
    pub(super) fn cut(&self, line: usize, random: &mut Random, from: Lsn, to: Lsn) -> Lsn {
        let at = Lsn(from.0 + 1 + random.below(to.bytes_after(from)));
        let fact = self.lines[line].facts.iter().find(|fact| fact.lsn < at && at < fact.end);
        match fact {
            Some(fact) if fact.what == What::Switch => fact.lsn,
            Some(fact) if at.0 + 8 > fact.end.0 => fact.end.min(to),
            _ => at,
        }
    }

    /// The files of a `pg_wal` on that line that holds its WAL from `from` to `end`.
    pub(super) fn files(&self, line: usize, from: Lsn, end: Lsn) -> Vec<(Segment, Lsn)> {
        let last = Lsn(end.0.saturating_sub(1));
        if end <= from {
            return Vec::new();
        }
        let files = (SIZE.number(from)..=SIZE.number(last)).map(|number| {
            // A timeline that had not begun by then has no file.
            let timeline =
                super::oracle::file_of(&self.lines[line].history, number).min(self.lines[line].history.timeline_at(last));
            let segment = Segment { number, timeline };
            (segment, end.min(segment.end(SIZE)))
        });
        // One without its first page is nobody's.
        files.filter(|(segment, end)| end.0 > segment.start(SIZE).0 + 64).collect()
    }

    /// A segment's bytes up to `end`.
    pub(super) fn content(&self, segment: Segment, end: Lsn) -> Vec<u8> {
        let line = self.lines.iter().find(|line| line.history.timeline() == segment.timeline).unwrap();
        line.wal.between(segment.start(SIZE), end).to_vec()
    }

    /// The same, with zeros up to the segment's length.
    pub(super) fn padded(&self, segment: Segment, end: Lsn) -> Vec<u8> {
        let mut content = self.content(segment, end);
        content.resize(usize::try_from(SIZE.bytes()).unwrap(), 0);
        content
    }
}

/// Transactions and times, over all timelines.
struct Writer {
    xid: u32,
    clock: PgTime,
}

impl Writer {
    /// Writes that many segments and a bit.
    fn write(&mut self, line: &mut Line, random: &mut Random, segments: u64) {
        let goal = Lsn(line.wal.end().0 + segments * SIZE.bytes() + random.below(SIZE.bytes()));
        let mut begun: Option<Lsn> = None;
        while line.wal.end() < goal {
            self.clock.0 += 1_000_000;
            self.xid += 1;
            let off = i64::try_from(random.below(60)).unwrap() - 30;
            let time = PgTime(self.clock.0 + if random.chance(1, 3) { off * 1_000_000 } else { 0 });
            let xid = self.xid;
            let wal = &mut line.wal;
            let (built, what) = match random.below(20) {
                0..5 => (wal.commit(xid, time), What::Commit),
                5 => (wal.abort(xid, time), What::Abort),
                6 => {
                    let name = format!("point {}", random.below(3));
                    (wal.restore_point(&name, time), What::Point(name))
                }
                7..10 => {
                    let back = usize::try_from(random.below(6)).unwrap();
                    let Some(redo) = line.facts.iter().rev().nth(back).map(|fact| fact.lsn) else { continue };
                    begun = Some(redo);
                    (wal.checkpoint(redo), What::Checkpoint { redo })
                }
                10 => (wal.shutdown(), What::Shutdown),
                11 => {
                    let Some(start) = begun else { continue };
                    (wal.backup_end(start), What::BackupEnd { start })
                }
                12 if random.chance(1, 2) => (wal.switch(), What::Switch),
                13 if random.chance(1, 2) => {
                    let parameters = Parameters { max_connections: 100 + xid, ..Parameters::default() };
                    (wal.parameter_change(parameters, false), What::Parameters)
                }
                14..16 => (wal.filler(xid, 30_000 + u32::try_from(random.below(400_000)).unwrap()), What::Other),
                _ => (wal.filler(xid, 300 + u32::try_from(random.below(9_000)).unwrap()), What::Other),
            };
            line.note(built, what, xid, time);
        }
    }

    /// A timeline that leaves `line` somewhere.
    fn branch(&mut self, mut line: Line, timeline: Timeline, random: &mut Random, segments: u64) -> Option<Line> {
        let begin = line.history.ancestors().last().map_or(START, |parent| parent.end);
        let behind: Vec<Lsn> = line.facts.iter().map(|fact| fact.end).filter(|end| *end > begin).collect();
        let at = *behind.get(usize::try_from(random.below(behind.len() as u64)).unwrap())?;
        line.wal.truncate(at);
        line.facts.retain(|fact| fact.end <= at);
        line.history = line.history.child(timeline, at, "at random")?;
        let built = line.wal.promote(timeline, self.clock);
        line.note(built, What::Other, 0, self.clock);
        self.write(&mut line, random, segments);
        Some(line)
    }
}

impl Line {
    fn note(&mut self, built: Built, what: What, xid: u32, time: PgTime) {
        self.facts.push(Fact { lsn: built.lsn, end: built.end, what, xid, time });
    }
}
