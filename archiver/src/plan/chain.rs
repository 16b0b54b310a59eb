//! The segments that recovery reads one after the other.

use std::collections::BTreeMap;

use walbus::proto::history::History;
use walbus::{Lsn, Segment, SegmentName, SegmentSize, Timeline};

use super::inventory::Inventory;

/// How a segment is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// In the data folder's own `pg_wal` alone.
    Folder,
    /// There alone, and valid up to this position: the last one that its server wrote.
    FolderPart(Lsn),
    /// As Postgres archives the last segment of a timeline that is left: where its WAL ends is in its records.
    Partial,
    /// Up to this position: the rest was still to come.
    Tail(Lsn),
    /// All of it.
    Whole,
}

/// A segment of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The segment.
    pub segment: Segment,
    /// How it is held.
    pub held: Held,
}

/// What is held of the WAL along one timeline's history: for each segment number, the segment of the timeline whose file recovery reads.
#[derive(Debug, Clone)]
pub struct Chain {
    history: History,
    size: SegmentSize,
    links: BTreeMap<u64, Link>,
}

/// Segments of a chain that follow each other, none missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// In order, at least one. All but the last are whole.
    pub links: Vec<Link>,
    /// The first byte.
    pub start: Lsn,
    /// The end of the bytes held; where the last is [`Held::Partial`], its WAL may end before.
    pub end: Lsn,
}

/// Segments that are missing in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The first byte that is missing.
    pub start: Lsn,
    /// The first byte that is there again.
    pub end: Lsn,
    /// The first segment that is not there whole.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// How many these are.
    pub count: u64,
}

/// The timeline whose file of segment `number` recovery along `history` reads: the newest that has begun by that segment's end
/// (`XLogFileReadAnyTLI`).
#[must_use]
pub fn file_timeline(history: &History, size: SegmentSize, number: u64) -> Timeline {
    let mut timeline = history.timeline();
    for parent in history.ancestors().iter().rev() {
        if size.number(parent.end) <= number {
            break;
        }
        timeline = parent.timeline;
    }
    timeline
}

impl Link {
    /// Where its bytes end.
    #[must_use]
    pub fn end(&self, size: SegmentSize) -> Lsn {
        match self.held {
            Held::FolderPart(end) | Held::Tail(end) => end,
            Held::Folder | Held::Partial | Held::Whole => self.segment.end(size),
        }
    }

    /// Whether all its bytes are there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.held, Held::Folder | Held::Whole)
    }
}

impl Chain {
    /// What the archive holds along that history.
    #[must_use]
    pub fn of(inventory: &Inventory, history: History) -> Self {
        let size = inventory.size;
        let mut links = BTreeMap::new();
        let mut add = |segment: Segment, held: Held| {
            if file_timeline(&history, size, segment.number) == segment.timeline {
                links.entry(segment.number).or_insert(Link { segment, held });
            }
        };
        inventory.whole.iter().for_each(|segment| add(*segment, Held::Whole));
        // As `fetch` has it: what reaches further, and where neither does, what Postgres archived itself.
        let shorter = |segment: &&Segment| inventory.beyond_partial.contains(*segment) && inventory.tails.contains_key(*segment);
        inventory.partial.iter().filter(|segment| !shorter(segment)).for_each(|segment| add(*segment, Held::Partial));
        for (segment, ends) in &inventory.tails {
            if let Some(end) = ends.last() {
                add(*segment, Held::Tail(*end));
            }
        }
        Self { history, size, links }
    }

    /// What the archive has of a segment of the data folder's `pg_wal`, where recovery may read the folder's file: `None` where it has the
    /// segment whole, or reads another timeline's.
    #[must_use]
    pub fn rival_of(&self, segment: Segment) -> Option<Option<Link>> {
        let is_file = file_timeline(&self.history, self.size, segment.number) == segment.timeline;
        match self.links.get(&segment.number) {
            _ if !is_file => None,
            None => Some(None),
            Some(link) => (!link.is_whole()).then_some(Some(*link)),
        }
    }

    /// Takes a segment of the data folder's `pg_wal`, which is valid up to `end`, in the place of what the archive has.
    pub fn take_folder(&mut self, segment: Segment, end: Lsn) {
        let held = if end < segment.end(self.size) { Held::FolderPart(end) } else { Held::Folder };
        self.links.insert(segment.number, Link { segment, held });
    }

    /// The history that it is along.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// The size of its segments.
    #[must_use]
    pub const fn size(&self) -> SegmentSize {
        self.size
    }

    /// The timeline that it leads to.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.history.timeline()
    }

    /// Its segments, in order; some may be missing between them.
    pub fn links(&self) -> impl DoubleEndedIterator<Item = &Link> {
        self.links.values()
    }

    /// The segment that holds `lsn`, where it is there.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Option<&Link> {
        self.links.get(&self.size.number(lsn))
    }

    /// What follows each other without a gap, in order.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for link in self.links.values() {
            let end = link.end(self.size);
            match runs.last_mut() {
                Some(run) if run.goes_on_with(link, self.size) => {
                    run.links.push(*link);
                    run.end = end;
                }
                _ => runs.push(Run { links: vec![*link], start: link.segment.start(self.size), end }),
            }
        }
        runs
    }

    /// What is missing between the first and the last segment, in order.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let runs = self.runs();
        runs.windows(2)
            .filter_map(|pair| if let [before, after] = pair { Some(self.gap(before.end, after.start)) } else { None })
            .collect()
    }

    /// The first that is missing at or behind `end`, with more behind it.
    #[must_use]
    pub fn gap_behind(&self, end: Lsn) -> Option<Gap> {
        self.gaps().into_iter().find(|gap| gap.start >= end)
    }

    /// What can be read from the segment that holds `lsn` on, to the first gap or the end.
    ///
    /// # Errors
    /// Where that segment is missing: what is missing up to the next one that is there; `None` where none is.
    pub fn from(&self, lsn: Lsn) -> Result<Run, Option<Gap>> {
        let number = self.size.number(lsn);
        let found = self.runs().into_iter().find_map(|mut run| {
            run.links.retain(|link| link.segment.number >= number);
            let first = run.links.first().copied()?;
            run.start = first.segment.start(self.size);
            Some((run, first))
        });
        match found {
            Some((run, first)) if first.segment.number == number => Ok(run),
            Some((run, _)) => Err(Some(self.gap(self.size.floor(lsn), run.start))),
            None => Err(None),
        }
    }

    fn gap(&self, start: Lsn, end: Lsn) -> Gap {
        let (first, last) = (self.size.number(start), self.size.number(end).saturating_sub(1));
        let name = |number| Segment { number, timeline: file_timeline(&self.history, self.size, number) }.name(self.size);
        Gap { start, end, first: name(first), last: name(last), count: (last + 1).saturating_sub(first) }
    }
}

impl Run {
    fn goes_on_with(&self, next: &Link, size: SegmentSize) -> bool {
        self.links.last().is_some_and(|last| last.is_whole()) && self.end == next.segment.start(size)
    }

    /// Whether the byte at `lsn` is in it.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end
    }
}
