//! Where to start: at what the slot keeps, or with the last segment that the archive has of that without a gap. Pure.

use walbus::proto::history::History;
use walbus::{Lsn, Segment, SegmentSize, Timeline};

/// What is known before it is started.
#[derive(Debug, Clone)]
pub struct Known {
    /// The segment size.
    pub size: SegmentSize,
    /// The server's timeline.
    pub timeline: Timeline,
    /// How that one came about; [`History::root`] for the first.
    pub history: History,
    /// Where the server's WAL is flushed to.
    pub flushed: Lsn,
    /// Where the slot begins, and on which timeline.
    pub slot: (Lsn, Timeline),
}

/// Why it can't be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The archive has more of the timeline than the server.
    #[error(
        "the archive has WAL of timeline {timeline} up to {archived}, the server's ends at {flushed}: it came back without WAL that is archived, and may write \
         other WAL in its place. Give it that WAL back (`restore --latest`), or promote it, so that it goes on with a timeline of its own"
    )]
    Behind {
        /// The timeline.
        timeline: Timeline,
        /// What is archived.
        archived: Lsn,
        /// What the server has.
        flushed: Lsn,
    },
    /// The slot is of a timeline that did not lead to the server's.
    #[error(
        "the slot begins at {at} on timeline {slot}, which does not lead to the server's timeline {timeline}: drop the slot, and make it anew (--create-slot)"
    )]
    Foreign {
        /// The slot's position.
        at: Lsn,
        /// Its timeline.
        slot: Timeline,
        /// The server's.
        timeline: Timeline,
    },
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// To find out whether the archive has this segment whole, and to say so by [`Plan::handle_held`].
    Ask(Segment),
    /// To start at the start of this segment: of the last one that the archive has, so that it is compared; or else of the one behind.
    Start(Segment),
}

/// The way to the segment to start with.
#[derive(Debug, Clone)]
pub struct Plan {
    known: Known,
    segment: Segment,
    /// The last one that the archive has of the ones asked for.
    held: Option<Segment>,
    is_missing: bool,
}

impl Plan {
    /// A plan that begins where the slot does.
    ///
    /// # Errors
    /// [`PlanError::Foreign`].
    pub fn new(known: Known) -> Result<Self, PlanError> {
        let (at, timeline) = known.slot;
        if timeline != known.timeline && known.history.switchpoint(timeline).is_none_or(|end| at > end) {
            return Err(PlanError::Foreign { at, slot: timeline, timeline: known.timeline });
        }
        Ok(Self { segment: Segment::containing(timeline, at, known.size), known, held: None, is_missing: false })
    }

    /// What is to be done next.
    ///
    /// # Errors
    /// [`PlanError::Behind`].
    pub fn poll(&mut self) -> Result<Step, PlanError> {
        let size = self.known.size;
        while self.segment.timeline != self.known.timeline {
            // A timeline that the archive has to its end, or beyond it: what a server wrote that was given up.
            match self.known.history.switchpoint(self.segment.timeline) {
                Some(end) if self.segment.start(size) >= end => {
                    self.segment = Segment::containing(self.known.history.timeline_at(end), end, size);
                }
                _ => break,
            }
        }
        if !self.is_missing {
            return Ok(Step::Ask(self.segment));
        }
        let start = self.segment.start(size);
        if self.segment.timeline == self.known.timeline && start > size.ceil(self.known.flushed) {
            let flushed = self.known.flushed;
            return Err(PlanError::Behind { timeline: self.segment.timeline, archived: start, flushed });
        }
        Ok(Step::Start(self.held.filter(|held| held.next() == self.segment).unwrap_or(self.segment)))
    }

    /// Whether the archive has the segment that [`Self::poll`] asked for.
    pub const fn handle_held(&mut self, is_held: bool) {
        if is_held {
            self.held = Some(self.segment);
            self.segment = self.segment.next();
        } else {
            self.is_missing = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn timeline(number: u32) -> Timeline {
        Timeline::new(number).unwrap()
    }

    const fn at(segment: u64, offset: u64) -> Lsn {
        Lsn(segment * SIZE.bytes() + offset)
    }

    /// Where it starts: a segment's timeline and number, where the archive has these.
    fn start(known: Known, held: &[(u32, u64)]) -> Result<(u32, u64), PlanError> {
        let mut plan = Plan::new(known)?;
        loop {
            match plan.poll()? {
                Step::Ask(segment) => plan.handle_held(held.contains(&(segment.timeline.get(), segment.number))),
                Step::Start(segment) => return Ok((segment.timeline.get(), segment.number)),
            }
        }
    }

    fn first(slot: Lsn) -> Known {
        let history = History::root(Timeline::FIRST);
        Known { size: SIZE, timeline: Timeline::FIRST, history, flushed: at(9, 100), slot: (slot, Timeline::FIRST) }
    }

    /// A server on timeline 2, which began in segment 5.
    fn second(slot: Lsn) -> Known {
        let history = History::parse(timeline(2), format!("1\t{}\tpromoted\n", at(5, 500)).as_bytes()).unwrap();
        Known { size: SIZE, timeline: timeline(2), history, flushed: at(9, 100), slot: (slot, Timeline::FIRST) }
    }

    #[test]
    fn it_starts_at_the_slots_segment_or_behind_what_is_archived() {
        assert_eq!(start(first(at(4, 77)), &[]), Ok((1, 4)));
        assert_eq!(
            start(first(at(4, 77)), &[(1, 3), (1, 4), (1, 5), (1, 7)]),
            Ok((1, 5)),
            "no gap is left, and the last one is compared"
        );
        assert_eq!(start(first(at(9, 0)), &[(1, 8)]), Ok((1, 9)));
    }

    #[test]
    fn it_goes_over_to_the_next_timeline() {
        assert_eq!(start(second(at(4, 77)), &[]), Ok((1, 4)));
        assert_eq!(start(second(at(4, 77)), &[(1, 4)]), Ok((1, 4)), "the rest of the old timeline comes first");
        // The old primary's own last segment, whole: it went on for a while, alone.
        assert_eq!(start(second(at(4, 77)), &[(1, 4), (1, 5), (2, 5)]), Ok((2, 5)));
        assert_eq!(start(second(at(4, 77)), &[(1, 4), (1, 5)]), Ok((2, 5)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let held: Vec<_> = (4..=12).map(|number| (1, number)).collect();
        let refused = start(first(at(4, 0)), &held);
        assert_eq!(refused, Err(PlanError::Behind { timeline: Timeline::FIRST, archived: at(13, 0), flushed: at(9, 100) }));
        assert!(matches!(start(second(at(6, 0)), &[]), Err(PlanError::Foreign { .. })));
    }
}
