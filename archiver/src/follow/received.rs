//! What was received and is not all stored: what is uploaded of it, in which order, and what may be reported. Pure.
//!
//! Call order: `handle_*` for what has happened, then [`Received::poll_upload`] and [`Received::poll_delete`] until both give nothing, then
//! [`Received::flushed`].
//!
//! ```text
//!   line:  history 2 · segment 5 · segment 6 │ current: segment 7, as far as it has come
//!          stored in any order, counted from the front              its tail
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use walbus::{Lsn, Segment, SegmentSize, Timeline};

use crate::serve::outage::Outage;

/// Something to be put into the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// A timeline's history.
    History(Timeline, Bytes),
    /// A whole segment.
    Segment(Segment, Bytes),
    /// A segment's bytes from its start up to there.
    Tail(Segment, Lsn, Bytes, Supersedes),
}

/// What must be gone before a tail counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supersedes {
    /// All tails of the segment that are longer: they end in a record that was never whole, and recovery would take them for their
    /// length.
    Longer,
    /// Nothing.
    Nothing,
}

/// Something that is superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// All tails of a segment that is stored whole.
    AllTails(Segment),
    /// The tail of a segment that ends there.
    Tail(Segment, Lsn),
}

/// Which upload it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// One of the line.
    Line(u64),
    /// The current segment's tail.
    Tail(Segment, Lsn),
}

/// WAL that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceivedError {
    /// It is not what the archive has.
    #[error(
        "the WAL of {segment} differs at {lsn} from what the archive has of it: two servers write one timeline. Nothing more is archived from this one"
    )]
    Differs {
        /// The segment.
        segment: walbus::SegmentName,
        /// The first byte that differs.
        lsn: Lsn,
    },
    /// There is a gap, or something comes twice.
    #[error("WAL at {found} came where {expected} was to come")]
    Gap {
        /// Where it was to go on.
        expected: Lsn,
        /// What came.
        found: Lsn,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stored,
    Waiting,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    upload: Upload,
    /// What may be reported once this and all before it are stored.
    end: Lsn,
    state: State,
}

/// What the tails of a segment have that the archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its segment.
    pub segment: Segment,
    /// Where the longest of the segment's tails ends.
    pub end: Lsn,
    /// The complete records, from the segment's start: these have to come again.
    pub complete: Vec<u8>,
}

/// What was received.
#[derive(Debug)]
pub struct Received {
    size: SegmentSize,
    jobs: usize,
    tail_interval: Option<Duration>,
    line: VecDeque<Entry>,
    next_id: u64,
    running: usize,
    segment: Segment,
    current: Vec<u8>,
    /// A tail that the archive has, until it was compared with what comes.
    held: Option<Held>,
    /// The longest one after that, until it is superseded.
    found: Option<(Segment, Lsn)>,
    /// All from the start up to there is stored.
    stored_end: Lsn,
    start: Lsn,
    /// Where the slot was at the start.
    slot: Lsn,
    flushed: Option<Lsn>,
    tail_running: bool,
    /// The tail is wanted now, whatever the interval is.
    is_urgent: bool,
    /// The last tail that is in the archive.
    tail: Option<(Segment, Lsn)>,
    /// The segments of the line that have tails in the archive.
    tailed: Vec<Segment>,
    next_tail: Duration,
    deletes: VecDeque<Delete>,
}

impl Received {
    /// Nothing yet; the first byte will be that of `segment`. Up to `jobs` segments are uploaded at once, and as many are kept in memory.
    #[must_use]
    pub fn new(size: SegmentSize, segment: Segment, jobs: usize, tail_interval: Option<Duration>) -> Self {
        Self {
            size,
            jobs: jobs.max(1),
            tail_interval,
            line: VecDeque::new(),
            next_id: 0,
            running: 0,
            segment,
            current: Vec::new(),
            held: None,
            found: None,
            stored_end: segment.start(size),
            start: segment.start(size),
            slot: Lsn::INVALID,
            flushed: None,
            tail_running: false,
            is_urgent: false,
            tail: None,
            tailed: Vec::new(),
            next_tail: Duration::ZERO,
            deletes: VecDeque::new(),
        }
    }

    /// The slot keeps WAL from there.
    pub const fn handle_slot(&mut self, at: Lsn) {
        self.slot = at;
    }

    /// The archive has a tail of a segment to come, which has to come again.
    pub fn handle_held(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// Whether what has come of the current segment was not compared yet with its tail in the archive.
    fn is_uncompared(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.segment == self.segment)
    }

    /// WAL has come.
    ///
    /// # Errors
    /// See [`ReceivedError`]. What was received before stays.
    pub fn handle_wal(&mut self, at: Lsn, mut data: &[u8]) -> Result<(), ReceivedError> {
        let expected = self.end();
        if at != expected {
            return Err(ReceivedError::Gap { expected, found: at });
        }
        let whole = usize::try_from(self.size.bytes()).unwrap_or(usize::MAX);
        while !data.is_empty() {
            if self.current.capacity() == 0 {
                self.current.reserve_exact(whole);
            }
            let (now, later) = data.split_at(data.len().min(whole - self.current.len()));
            self.current.extend_from_slice(now);
            data = later;
            self.compare()?;
            if self.current.len() == whole {
                let content = Bytes::from(std::mem::take(&mut self.current));
                let segment = self.segment;
                self.segment = segment.next();
                self.push(Upload::Segment(segment, content), segment.end(self.size));
            }
        }
        Ok(())
    }

    /// Compares what has come with what the archive has, once there is as much of it.
    fn compare(&mut self) -> Result<(), ReceivedError> {
        let Some(held) = self.held.take_if(|held| held.segment == self.segment) else { return Ok(()) };
        let mut pairs = held.complete.iter().zip(&self.current);
        if let Some(offset) = pairs.position(|(archived, received)| archived != received) {
            self.current.clear();
            let (segment, start) = (self.segment.name(self.size), self.segment.start(self.size));
            return Err(ReceivedError::Differs { segment, lsn: Lsn(start.0 + offset as u64) });
        }
        if self.current.len() < held.complete.len() {
            self.held = Some(held);
        } else {
            self.found = Some((held.segment, held.end));
            self.tailed.push(held.segment);
        }
        Ok(())
    }

    /// The timeline has ended, and this one goes on with the segment in which it begins.
    pub fn handle_timeline(&mut self, timeline: Timeline, begin: Lsn, history: Bytes) {
        let (segment, end) = (self.segment, self.end());
        if !self.current.is_empty() && !self.is_uncompared() {
            // Postgres archives it as a .partial of its own; its tail is what is ours to store.
            let content = Bytes::from(std::mem::take(&mut self.current));
            self.push(Upload::Tail(segment, end, content, self.supersedes(segment, end)), end);
        }
        self.current = Vec::new();
        (self.held, self.found) = (None, None);
        self.tailed.clear();
        self.handle_history(timeline, history);
        self.segment = Segment::containing(timeline, begin, self.size);
    }

    /// A timeline's history, which has to be stored before any of its WAL.
    pub fn handle_history(&mut self, timeline: Timeline, content: Bytes) {
        let end = self.line.back().map_or(self.stored_end, |entry| entry.end);
        self.push(Upload::History(timeline, content), end);
    }

    fn push(&mut self, upload: Upload, end: Lsn) {
        self.line.push_back(Entry { id: self.next_id, upload, end, state: State::Waiting });
        self.next_id += 1;
    }

    /// An upload that [`Self::poll_upload`] gave has ended, and whether the archive has it now.
    pub fn handle_uploaded(&mut self, id: Id, is_stored: bool) {
        assert!(self.running > 0, "it was started");
        self.running -= 1;
        match id {
            Id::Line(id) => {
                let entry = self.line.iter_mut().find(|entry| entry.id == id);
                if let Some(entry) = entry {
                    entry.state = if is_stored { State::Stored } else { State::Waiting };
                }
                while let Some(entry) = self.line.pop_front_if(|entry| entry.state == State::Stored) {
                    self.stored(&entry);
                }
            }
            Id::Tail(segment, end) => {
                self.tail_running = false;
                if is_stored {
                    self.tail_stored(segment, end);
                }
            }
        }
        let tail = self.tail.filter(|(segment, _)| segment.start(self.size) <= self.stored_end).map(|(_, end)| end);
        let end = tail.map_or(self.stored_end, |tail| tail.max(self.stored_end));
        if is_stored && end > self.flushed.unwrap_or(self.start) {
            self.flushed = Some(end);
        }
    }

    /// The front of the line is stored.
    fn stored(&mut self, entry: &Entry) {
        self.stored_end = self.stored_end.max(entry.end);
        match &entry.upload {
            Upload::History(..) => {}
            Upload::Segment(segment, _) => {
                if self.tailed.contains(segment) {
                    self.tailed.retain(|of| of != segment);
                    self.tail = self.tail.filter(|(of, _)| of != segment);
                    self.deletes.push_back(Delete::AllTails(*segment));
                }
            }
            Upload::Tail(segment, end, ..) => self.tail_stored(*segment, *end),
        }
    }

    fn tail_stored(&mut self, segment: Segment, end: Lsn) {
        let is_whole = self.segment.timeline == segment.timeline && segment.end(self.size) <= self.stored_end;
        if is_whole {
            self.deletes.push_back(Delete::Tail(segment, end));
            return;
        }
        if !self.tailed.contains(&segment) && segment.timeline == self.segment.timeline {
            self.tailed.push(segment);
        }
        let before = [self.tail.replace((segment, end)), self.found.take_if(|(of, _)| *of == segment)];
        for (of, before) in before.into_iter().flatten().filter(|(of, before)| *of == segment && *before < end) {
            self.deletes.push_back(Delete::Tail(of, before));
        }
    }

    /// What is to be uploaded now. While the store is away, one is tried at a time.
    pub fn poll_upload(&mut self, now: Duration, outage: &Outage) -> Option<(Id, Upload)> {
        let jobs = if outage.reason().is_some() { 1 } else { self.jobs };
        if self.running >= jobs || !outage.may_try(now) {
            return None;
        }
        for entry in &mut self.line {
            match (entry.state, &entry.upload) {
                (State::Waiting, _) => {
                    entry.state = State::Running;
                    self.running += 1;
                    return Some((Id::Line(entry.id), entry.upload.clone()));
                }
                // What comes behind a history waits for it.
                (State::Running, Upload::History(..)) => return None,
                _ => {}
            }
        }
        self.tail(now)
    }

    fn tail(&mut self, now: Duration) -> Option<(Id, Upload)> {
        let is_due = self.is_urgent || self.tail_interval.is_some() && now >= self.next_tail;
        let (segment, end) = (self.segment, self.end());
        let has_grown = self.tail.is_none_or(|(of, before)| of != segment || before < end);
        if self.tail_running || !is_due || self.current.is_empty() || self.is_uncompared() || !has_grown {
            return None;
        }
        self.next_tail = now + self.tail_interval.unwrap_or_default();
        self.is_urgent = false;
        self.tail_running = true;
        self.running += 1;
        let content = Bytes::copy_from_slice(&self.current);
        Some((Id::Tail(segment, end), Upload::Tail(segment, end, content, self.supersedes(segment, end))))
    }

    /// What was found may end in a record that the server lost in a crash, and has written another in its place. All complete records were
    /// compared.
    fn supersedes(&self, segment: Segment, end: Lsn) -> Supersedes {
        match self.found {
            Some((of, found)) if of == segment && found > end => Supersedes::Longer,
            _ => Supersedes::Nothing,
        }
    }

    /// What has come is to be stored now, whatever the interval is: the stream is over, or the server waits for that, as it does before it
    /// shuts down.
    pub fn handle_urgent(&mut self) {
        if self.end() == self.start {
            // Nothing came, and what lies before is in the archive, or was never asked for.
            self.flushed = Some(self.start);
        }
        self.is_urgent = self.flushed.is_none_or(|flushed| flushed < self.end());
    }

    /// What is to be deleted.
    pub fn poll_delete(&mut self) -> Option<Delete> {
        self.deletes.pop_front()
    }

    /// When there is something to do next, unless something happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.tail_interval.filter(|_| !self.current.is_empty()).map(|_| self.next_tail)
    }

    /// Whether there is no room: what comes has to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.line.iter().filter(|entry| matches!(entry.upload, Upload::Segment(..))).count() >= self.jobs
    }

    /// Whether all that came is stored.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        let tail = self.current.is_empty() || self.is_uncompared() || self.flushed.is_some_and(|flushed| flushed >= self.end());
        self.line.is_empty() && !self.tail_running && tail
    }

    /// The end of what has come.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn(self.segment.start(self.size).0 + self.current.len() as u64)
    }

    /// The timeline of what comes.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.segment.timeline
    }

    /// The end of what the store has acknowledged without a gap; `None` before it has acknowledged anything.
    #[must_use]
    pub const fn flushed(&self) -> Option<Lsn> {
        self.flushed
    }

    /// What of that may be reported: a report from before the slot would take the slot back to WAL that it does not keep, and a checkpoint that is
    /// under way would invalidate it.
    #[must_use]
    pub fn reportable(&self) -> Option<Lsn> {
        self.flushed.filter(|flushed| *flushed >= self.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;
    const MB: usize = 1 << 20;

    const fn segment(number: u64) -> Segment {
        Segment { number, timeline: Timeline::FIRST }
    }

    const fn at(number: u64, offset: usize) -> Lsn {
        Lsn(number * SIZE.bytes() + offset as u64)
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn received() -> Received {
        Received::new(SIZE, segment(4), 2, Some(s(5)))
    }

    fn upload(received: &mut Received, now: Duration) -> Option<Id> {
        received.poll_upload(now, &Outage::default()).map(|(id, _)| id)
    }

    #[test]
    fn nothing_is_reported_from_before_the_slot() {
        let mut received = received();
        received.handle_slot(at(5, 10));
        received.handle_wal(at(4, 0), &vec![1; MB + 10]).unwrap();
        while let Some(id) = upload(&mut received, s(1)) {
            assert!(received.flushed().is_none_or(|flushed| flushed < at(5, 10)) && received.reportable().is_none());
            received.handle_uploaded(id, true);
        }
        assert_eq!(
            (received.flushed(), received.reportable()),
            (Some(at(5, 10)), Some(at(5, 10))),
            "a server that shuts down waits for it"
        );
    }

    #[test]
    fn segments_are_reported_in_order_however_they_are_stored() {
        let mut received = received();
        received.handle_wal(at(4, 0), &vec![1; 2 * MB + 10]).unwrap();
        assert!(received.is_full());
        assert_eq!((upload(&mut received, s(0)), upload(&mut received, s(0))), (Some(Id::Line(0)), Some(Id::Line(1))));
        assert_eq!(upload(&mut received, s(0)), None, "two at once");
        received.handle_uploaded(Id::Line(1), true);
        assert_eq!(received.flushed(), None, "the one before it is not stored");
        received.handle_uploaded(Id::Line(0), true);
        assert_eq!(received.flushed(), Some(at(6, 0)));
        assert!(!received.is_full() && !received.is_stored());
        assert_eq!(upload(&mut received, s(0)), Some(Id::Tail(segment(6), at(6, 10))));
        received.handle_uploaded(Id::Tail(segment(6), at(6, 10)), true);
        assert_eq!((received.flushed(), received.is_stored(), received.poll_delete()), (Some(at(6, 10)), true, None));
    }

    #[test]
    fn tails_come_at_their_interval_supersede_each_other_and_end_with_the_segment() {
        let mut received = received();
        received.handle_wal(at(4, 0), &[1; 10]).unwrap();
        let first = upload(&mut received, s(1)).unwrap();
        received.handle_wal(at(4, 10), &[1; 10]).unwrap();
        assert_eq!(upload(&mut received, s(9)), None, "one at a time");
        received.handle_uploaded(first, true);
        assert_eq!(received.flushed(), Some(at(4, 10)));
        let second = upload(&mut received, s(9)).unwrap();
        received.handle_uploaded(second, true);
        assert_eq!(received.poll_delete(), Some(Delete::Tail(segment(4), at(4, 10))));
        assert_eq!(upload(&mut received, s(60)), None, "it has not grown");
        received.handle_wal(at(4, 20), &vec![1; MB - 20 + 5]).unwrap();
        let whole = upload(&mut received, s(61)).unwrap();
        let third = upload(&mut received, s(61)).unwrap();
        assert_eq!(third, Id::Tail(segment(5), at(5, 5)));
        received.handle_uploaded(third, true);
        assert_eq!(received.flushed(), Some(at(4, 20)), "what lies before the tail is not all stored");
        received.handle_uploaded(whole, true);
        assert_eq!((received.flushed(), received.poll_delete()), (Some(at(5, 5)), Some(Delete::AllTails(segment(4)))));
    }

    #[test]
    fn a_segment_that_is_whole_needs_no_tail() {
        let mut received = received();
        received.handle_wal(at(4, 0), &[1; 10]).unwrap();
        let tail = upload(&mut received, s(1)).unwrap();
        received.handle_wal(at(4, 10), &vec![1; MB - 10]).unwrap();
        let whole = upload(&mut received, s(1)).unwrap();
        received.handle_uploaded(whole, true);
        received.handle_uploaded(tail, true);
        assert_eq!(received.poll_delete(), Some(Delete::Tail(segment(4), at(4, 10))));
        assert_eq!((received.poll_delete(), received.flushed()), (None, Some(at(5, 0))));
    }

    #[test]
    fn what_the_server_waits_for_is_stored_at_once() {
        let mut received = Received::new(SIZE, segment(4), 2, None);
        received.handle_urgent();
        assert_eq!(received.flushed(), Some(at(4, 0)), "nothing is to come");
        received.handle_wal(at(4, 0), &[1; 10]).unwrap();
        assert_eq!(upload(&mut received, s(100)), None, "tails are off");
        received.handle_urgent();
        let tail = upload(&mut received, s(100)).unwrap();
        received.handle_uploaded(tail, true);
        received.handle_urgent();
        assert_eq!((received.flushed(), upload(&mut received, s(100))), (Some(at(4, 10)), None));
        // The archive has it all from an earlier run: that is said once it was compared, and put again.
        let mut again = Received::new(SIZE, segment(4), 2, Some(s(5)));
        again.handle_held(Held { segment: segment(4), end: at(4, 10), complete: vec![1; 10] });
        again.handle_wal(at(4, 0), &[1; 10]).unwrap();
        let tail = upload(&mut again, s(100)).unwrap();
        again.handle_uploaded(tail, true);
        assert_eq!((again.flushed(), again.poll_delete(), again.is_stored()), (Some(at(4, 10)), None, true));
    }

    #[test]
    fn a_history_goes_before_its_timeline() {
        let mut received = received();
        received.handle_wal(at(4, 0), &[1; 10]).unwrap();
        let two = Timeline::new(2).unwrap();
        received.handle_timeline(two, at(4, 10), Bytes::from_static(b"1\t0/400000A\tx\n"));
        received.handle_wal(at(4, 0), &vec![1; MB]).unwrap();
        let tail = received.poll_upload(s(0), &Outage::default()).unwrap();
        assert!(matches!(&tail, (Id::Line(0), Upload::Tail(of, end, ..)) if *of == segment(4) && *end == at(4, 10)));
        let history = received.poll_upload(s(0), &Outage::default()).unwrap();
        assert!(matches!(&history.1, Upload::History(timeline, _) if *timeline == two));
        received.handle_uploaded(tail.0, true);
        assert_eq!((received.flushed(), upload(&mut received, s(0))), (Some(at(4, 10)), None), "the segment waits for the history");
        received.handle_uploaded(history.0, true);
        let whole = received.poll_upload(s(0), &Outage::default()).unwrap();
        assert!(matches!(&whole.1, Upload::Segment(of, _) if *of == Segment { number: 4, timeline: two }));
        received.handle_uploaded(whole.0, true);
        assert_eq!((received.flushed(), received.poll_delete()), (Some(at(5, 0)), None), "the old timeline's tail stays");
    }

    #[test]
    fn what_fails_is_tried_again() {
        let mut received = received();
        received.handle_wal(at(4, 0), &vec![1; MB]).unwrap();
        let mut outage = Outage::default();
        assert_eq!(upload(&mut received, s(1)), Some(Id::Line(0)));
        outage.handle_failure(s(1), "503", 0.0);
        received.handle_uploaded(Id::Line(0), false);
        assert_eq!((received.flushed(), received.poll_upload(s(1), &outage)), (None, None));
        assert!(matches!(received.poll_upload(s(2), &outage), Some((Id::Line(0), _))));
    }

    #[test]
    fn a_longer_tail_that_was_torn_goes_before_a_shorter_one_counts() {
        let tail_of = |found: usize, comes: usize| {
            let mut received = received();
            received.handle_held(Held { segment: segment(4), end: at(4, found), complete: vec![1; 20] });
            received.handle_wal(at(4, 0), &vec![1; comes]).unwrap();
            let (id, upload) = received.poll_upload(s(1), &Outage::default()).unwrap();
            let Upload::Tail(of, end, _, supersedes) = upload else { panic!("{upload:?}") };
            assert_eq!((of, end), (segment(4), at(4, comes)));
            received.handle_uploaded(id, true);
            assert_eq!(received.flushed(), Some(at(4, comes)));
            (received, supersedes)
        };
        let (mut received, supersedes) = tail_of(40, 30);
        assert_eq!((supersedes, received.poll_delete()), (Supersedes::Longer, None));
        received.handle_wal(at(4, 30), &[1; 5]).unwrap();
        let next = received.poll_upload(s(60), &Outage::default()).unwrap();
        assert!(matches!(next.1, Upload::Tail(.., Supersedes::Nothing)), "it is gone");
        assert_eq!(tail_of(30, 30).1, Supersedes::Nothing);
        assert_eq!(tail_of(25, 30).1, Supersedes::Nothing);
        // The same where the timeline ends before a tail was due.
        let mut ended = Received::new(SIZE, segment(4), 2, None);
        ended.handle_held(Held { segment: segment(4), end: at(4, 40), complete: vec![1; 20] });
        ended.handle_wal(at(4, 0), &[1; 30]).unwrap();
        ended.handle_timeline(Timeline::new(2).unwrap(), at(4, 30), Bytes::from_static(b"1\t0/40001E\tx\n"));
        let (_, last) = ended.poll_upload(s(0), &Outage::default()).unwrap();
        assert!(matches!(last, Upload::Tail(.., Supersedes::Longer)), "{last:?}");
    }

    #[test]
    fn what_the_archive_has_must_come_again() {
        let mut received = received();
        received.handle_held(Held { segment: segment(4), end: at(4, 25), complete: vec![1; 20] });
        received.handle_wal(at(4, 0), &[1; 10]).unwrap();
        assert_eq!(upload(&mut received, s(1)), None, "the archive has more");
        received.handle_wal(at(4, 10), &[1; 20]).unwrap();
        let tail = upload(&mut received, s(1)).unwrap();
        received.handle_uploaded(tail, true);
        assert_eq!(received.poll_delete(), Some(Delete::Tail(segment(4), at(4, 25))));
        let mut other = Received::new(SIZE, segment(4), 2, None);
        other.handle_held(Held { segment: segment(4), end: at(4, 20), complete: vec![1; 20] });
        let differs = other.handle_wal(at(4, 0), &[1, 1, 2]);
        assert_eq!(differs, Err(ReceivedError::Differs { segment: segment(4).name(SIZE), lsn: at(4, 2) }));
        assert!(matches!(other.handle_wal(at(4, 7), &[1]), Err(ReceivedError::Gap { .. })));
    }
}
