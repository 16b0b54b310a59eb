//! What is fetched before it is asked for, what of it is thrown away, and what those are told who wait for it. Pure.
//!
//! Call order: `handle_*` for what has happened, then [`Prefetch::poll_evict`], [`Prefetch::poll_fetch`], [`Prefetch::poll_sync`] and
//! [`Prefetch::poll_answer`] until all give nothing.
//!
//! Postgres syncs each segment that it is given, and replays nothing meanwhile. So what lies in the spool and is not asked for yet is synced
//! there, one after the other, and Postgres finds nothing left to write. What somebody waits for is given without.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use walbus::{Segment, SegmentSize};

use super::outage::Outage;

/// How many may wait at once. Postgres has one.
pub const WAITING_MAX: usize = 64;
/// How long nothing is fetched ahead after the disk was full.
const FULL_PAUSE: Duration = Duration::from_secs(10);
/// How long nobody may ask before what is in the spool is thrown away: recovery has ended, or its server is down.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// What became of fetching a segment into the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It is proven not to be in the archive whole.
    Absent,
    /// The store failed.
    Away(String),
    /// What came can't be given to anybody, for this reason.
    Damaged(String),
    /// The spool has no room on its disk.
    Full(String),
    /// It is in the spool.
    Stored,
}

/// What somebody is told who wants a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// It is in the spool; it is theirs, and counts no more.
    Here(Segment),
    /// They have to get it themselves.
    Yourself(String),
}

/// How much of a segment in the spool is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Perhaps nothing.
    Loose,
    /// All of it.
    Synced,
    /// It is being synced. It is not given until that is known to have succeeded: the kernel tells of a failure once, and Postgres' own sync
    /// would find that all is well.
    Syncing,
}

/// The spool, and who waits for what comes into it.
#[derive(Debug)]
pub struct Prefetch {
    size: SegmentSize,
    room: usize,
    jobs: usize,
    held: BTreeMap<Segment, Durability>,
    running: BTreeSet<Segment>,
    waiting: Vec<(u64, Segment)>,
    answers: VecDeque<(u64, Given)>,
    evicted: VecDeque<Segment>,
    /// Whether a sync runs.
    syncing: bool,
    /// The segment behind the last one that was given: where fetching ahead begins.
    next: Option<Segment>,
    /// The first one behind it that is not in the archive: fetching ahead ends there.
    absent: Option<Segment>,
    paused_until: Duration,
    asked: Duration,
    stopping: bool,
    hits: u64,
    misses: u64,
}

impl Prefetch {
    /// A spool of `bytes_max` for segments of `size`, into which up to `jobs` are fetched at once.
    #[must_use]
    pub fn new(size: SegmentSize, bytes_max: u64, jobs: usize) -> Self {
        Self {
            size,
            room: usize::try_from(bytes_max / size.bytes()).unwrap_or(usize::MAX),
            jobs: jobs.max(1),
            held: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: Vec::new(),
            answers: VecDeque::new(),
            evicted: VecDeque::new(),
            syncing: false,
            next: None,
            absent: None,
            paused_until: Duration::ZERO,
            asked: Duration::ZERO,
            stopping: false,
            hits: 0,
            misses: 0,
        }
    }

    /// Somebody wants a segment, and waits under this number.
    pub fn handle_fetch(&mut self, id: u64, segment: Segment, now: Duration, outage: &Outage) {
        self.asked = now;
        match self.held.get(&segment) {
            Some(Durability::Loose | Durability::Synced) => {
                self.hits += 1;
                return self.give(id, segment);
            }
            Some(Durability::Syncing) if !self.stopping => {
                self.hits += 1;
                return self.waiting.push((id, segment));
            }
            Some(Durability::Syncing) | None => {}
        }
        if self.running.contains(&segment) {
            self.hits += 1;
        } else {
            self.misses += 1;
        }
        let refusal = if self.stopping {
            "it is being stopped".to_owned()
        } else if self.room == 0 {
            format!("--spool-size holds no segment of {}", self.size)
        } else if let Some(reason) = outage.reason() {
            format!("the store is away: {reason}")
        } else if self.waiting.len() >= WAITING_MAX {
            format!("{WAITING_MAX} others wait already")
        } else {
            self.waiting.push((id, segment));
            return;
        };
        self.answers.push_back((id, Given::Yourself(refusal)));
    }

    /// Who waited under this number is gone.
    pub fn handle_gone(&mut self, id: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }

    /// A segment that [`Self::poll_fetch`] gave has come, or not.
    pub fn handle_fetched(&mut self, segment: Segment, fetched: Fetched, now: Duration) {
        assert!(self.running.remove(&segment), "fetching {segment:?} was started");
        let refusal = match fetched {
            Fetched::Stored => {
                self.held.insert(segment, Durability::Loose);
                return self.give_to_first(segment);
            }
            // Asked for once more by the one who wants it: a part of it may be there.
            Fetched::Absent => {
                self.end_at(segment);
                "the archive does not have it whole".to_owned()
            }
            Fetched::Away(reason) => format!("the store is away: {reason}"),
            Fetched::Damaged(reason) => {
                self.end_at(segment);
                reason
            }
            Fetched::Full(reason) => {
                self.paused_until = now + FULL_PAUSE;
                reason
            }
        };
        self.refuse(segment, &refusal);
    }

    /// A segment that [`Self::poll_sync`] gave is synced, or can't be, for this reason.
    pub fn handle_synced(&mut self, segment: Segment, synced: Result<(), String>, now: Duration) {
        assert!(std::mem::take(&mut self.syncing), "syncing {segment:?} was started");
        // Thrown away meanwhile, and perhaps fetched again.
        if self.held.get(&segment) != Some(&Durability::Syncing) {
            return;
        }
        match synced {
            Ok(()) => {
                self.held.insert(segment, Durability::Synced);
                self.give_to_first(segment);
            }
            Err(reason) => {
                self.held.remove(&segment);
                self.evicted.push_back(segment);
                self.paused_until = now + FULL_PAUSE;
                self.refuse(segment, &reason);
            }
        }
    }

    /// Two who ask for one segment: the file is the first one's.
    fn give_to_first(&mut self, segment: Segment) {
        if let Some(place) = self.waiting.iter().position(|(_, wanted)| *wanted == segment) {
            let (id, _) = self.waiting.remove(place);
            self.give(id, segment);
        }
    }

    fn refuse(&mut self, segment: Segment, reason: &str) {
        for (id, _) in self.waiting.extract_if(.., |(_, wanted)| *wanted == segment) {
            self.answers.push_back((id, Given::Yourself(reason.to_owned())));
        }
    }

    /// No more is fetched, and who waits has to do it alone.
    pub fn handle_stop(&mut self) {
        self.stopping = true;
        for (id, _) in self.waiting.drain(..) {
            self.answers.push_back((id, Given::Yourself("it is being stopped".to_owned())));
        }
    }

    /// Fetching ahead ends before this segment, if it leads there.
    fn end_at(&mut self, segment: Segment) {
        if self.next.is_some_and(|next| next.timeline == segment.timeline && next <= segment) {
            self.absent = Some(self.absent.map_or(segment, |absent| absent.min(segment)));
        }
    }

    /// Gives a segment of the spool away, and goes on behind it.
    fn give(&mut self, id: u64, segment: Segment) {
        assert!(self.held.remove(&segment).is_some(), "only what is in the spool is given");
        self.answers.push_back((id, Given::Here(segment)));
        self.next = Some(segment.next());
        self.absent = None;
        // What lies before it, on another timeline or far ahead is of an earlier recovery, or of none that goes on.
        let ahead = segment.number..=segment.number.saturating_add(self.room as u64);
        let useless = self.held.extract_if(.., |held, _| held.timeline != segment.timeline || !ahead.contains(&held.number));
        self.evicted.extend(useless.map(|(held, _)| held));
    }

    /// A segment to be thrown away.
    pub fn poll_evict(&mut self, now: Duration) -> Option<Segment> {
        if !self.held.is_empty() && self.waiting.is_empty() && now.saturating_sub(self.asked) >= IDLE_MAX {
            self.next = None;
            self.evicted.extend(std::mem::take(&mut self.held).into_keys());
        }
        self.evicted.pop_front()
    }

    /// The segment to be fetched now: what somebody waits for, then what comes next.
    pub fn poll_fetch(&mut self, now: Duration, outage: &Outage) -> Option<Segment> {
        if self.stopping {
            return None;
        }
        let is_coming = |segment: &Segment| self.running.contains(segment) || self.held.contains_key(segment);
        let wanted = self.waiting.iter().map(|(_, segment)| *segment).find(|segment| !is_coming(segment));
        let chosen = match wanted {
            Some(segment) => {
                // What is running comes before it ends: one more may run for somebody who waits.
                if self.running.len() > self.jobs {
                    return None;
                }
                if self.held.len() + self.running.len() >= self.room {
                    // What is farthest ahead makes room.
                    self.evicted.extend(self.held.pop_last().map(|(held, _)| held));
                }
                segment
            }
            None => self.ahead(now, outage)?,
        };
        self.running.insert(chosen);
        Some(chosen)
    }

    fn ahead(&self, now: Duration, outage: &Outage) -> Option<Segment> {
        let is_idle = now.saturating_sub(self.asked) >= IDLE_MAX;
        let is_full = self.running.len() >= self.jobs || self.held.len() + self.running.len() >= self.room;
        if is_full || is_idle || now < self.paused_until || outage.reason().is_some() {
            return None;
        }
        let next = self.next?;
        let mut segment = next;
        while self.held.contains_key(&segment) || self.running.contains(&segment) {
            segment = segment.next();
        }
        (self.absent.is_none_or(|absent| segment < absent) && segment.number - next.number < self.room as u64).then_some(segment)
    }

    /// The segment to be synced now: of those that nobody has asked for yet the first.
    pub fn poll_sync(&mut self) -> Option<Segment> {
        if self.syncing || self.stopping {
            return None;
        }
        let (segment, durability) = self.held.iter_mut().find(|(_, durability)| **durability == Durability::Loose)?;
        *durability = Durability::Syncing;
        self.syncing = true;
        Some(*segment)
    }

    /// The next answer, and to whom.
    pub fn poll_answer(&mut self) -> Option<(u64, Given)> {
        self.answers.pop_front()
    }

    /// How many were asked for that were there or on their way, and how many were not.
    #[must_use]
    pub const fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// How many segments are in the spool.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Timeline;

    const NOW: Duration = Duration::from_secs(1000);
    const SIZE: SegmentSize = SegmentSize::MIN;

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { number, timeline: Timeline::new(timeline).unwrap() }
    }

    fn started(prefetch: &mut Prefetch) -> Vec<u64> {
        std::iter::from_fn(|| prefetch.poll_fetch(NOW, &Outage::default())).map(|segment| segment.number).collect()
    }

    fn evicted(prefetch: &mut Prefetch) -> Vec<Segment> {
        std::iter::from_fn(|| prefetch.poll_evict(NOW)).collect()
    }

    fn given(prefetch: &mut Prefetch) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| prefetch.poll_answer()).map(|(id, given)| (id, matches!(given, Given::Here(_)))).collect()
    }

    /// A spool of four from which segment 10 of timeline 1 was given, and in which 11 and 12 are.
    fn filled() -> Prefetch {
        let mut prefetch = Prefetch::new(SIZE, 4 * SIZE.bytes(), 2);
        prefetch.handle_fetch(1, segment(1, 10), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch), [10]);
        prefetch.handle_fetched(segment(1, 10), Fetched::Stored, NOW);
        assert_eq!(given(&mut prefetch), [(1, true)]);
        assert_eq!(started(&mut prefetch), [11, 12]);
        for number in [12, 11] {
            prefetch.handle_fetched(segment(1, number), Fetched::Stored, NOW);
        }
        prefetch
    }

    #[test]
    fn it_stays_ahead_within_its_room() {
        let mut prefetch = filled();
        assert_eq!(started(&mut prefetch), [13, 14]);
        for number in [13, 14] {
            prefetch.handle_fetched(segment(1, number), Fetched::Stored, NOW);
        }
        assert_eq!((started(&mut prefetch), prefetch.held()), (vec![], 4));
        prefetch.handle_fetch(2, segment(1, 11), NOW, &Outage::default());
        assert_eq!((given(&mut prefetch), started(&mut prefetch)), (vec![(2, true)], vec![15]));
        assert_eq!((prefetch.hits_and_misses(), evicted(&mut prefetch)), ((1, 1), vec![]));
    }

    #[test]
    fn it_stops_at_what_is_not_there_and_asks_again() {
        let mut prefetch = filled();
        assert_eq!(started(&mut prefetch), [13, 14]);
        prefetch.handle_fetched(segment(1, 14), Fetched::Absent, NOW);
        prefetch.handle_fetched(segment(1, 13), Fetched::Absent, NOW);
        assert!(started(&mut prefetch).is_empty());
        // Absent a while ago is not absent now: whoever asks makes it be asked for again.
        prefetch.handle_fetch(2, segment(1, 13), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch), [13]);
        prefetch.handle_fetched(segment(1, 13), Fetched::Absent, NOW);
        assert_eq!(given(&mut prefetch), [(2, false)]);
    }

    #[test]
    fn another_timeline_takes_the_place_once_it_is_there() {
        let mut prefetch = filled();
        prefetch.handle_fetch(2, segment(2, 12), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch), [12, 13]);
        prefetch.handle_fetched(segment(2, 12), Fetched::Absent, NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(2, false)], vec![]), "what is held may still be wanted");
        prefetch.handle_fetch(3, segment(1, 11), NOW, &Outage::default());
        prefetch.handle_fetch(4, segment(2, 12), NOW, &Outage::default());
        assert_eq!((given(&mut prefetch), started(&mut prefetch)[0]), (vec![(3, true)], 12));
        prefetch.handle_fetched(segment(2, 12), Fetched::Stored, NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(4, true)], vec![segment(1, 12)]));
    }

    #[test]
    fn a_jump_back_throws_the_future_away_that_is_too_far() {
        let mut prefetch = filled();
        prefetch.handle_fetch(2, segment(1, 2), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch)[0], 2);
        prefetch.handle_fetched(segment(1, 2), Fetched::Stored, NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(2, true)], vec![segment(1, 11), segment(1, 12)]));
    }

    #[test]
    fn who_waits_gets_room_and_a_place() {
        let mut prefetch = filled();
        assert_eq!(started(&mut prefetch), [13, 14]);
        // Both jobs are busy, and the room is spoken for.
        prefetch.handle_fetch(2, segment(1, 30), NOW, &Outage::default());
        prefetch.handle_fetch(3, segment(1, 30), NOW, &Outage::default());
        assert_eq!((started(&mut prefetch), evicted(&mut prefetch)), (vec![30], vec![segment(1, 12)]));
        prefetch.handle_fetched(segment(1, 30), Fetched::Stored, NOW);
        assert_eq!(given(&mut prefetch), [(2, true)], "the file is the first one's");
        assert_eq!(started(&mut prefetch)[0], 30, "and the second one's is fetched");
    }

    #[test]
    fn a_full_disk_and_a_store_that_is_away_stop_it_for_a_while() {
        let mut prefetch = filled();
        assert_eq!(started(&mut prefetch), [13, 14]);
        prefetch.handle_fetched(segment(1, 13), Fetched::Full("no space".into()), NOW);
        assert!(started(&mut prefetch).is_empty());
        prefetch.handle_fetch(2, segment(1, 11), NOW, &Outage::default());
        assert_eq!(given(&mut prefetch), [(2, true)], "what is there is given");
        assert_eq!(prefetch.poll_fetch(NOW + FULL_PAUSE, &Outage::default()), Some(segment(1, 13)));
        let mut outage = Outage::default();
        outage.handle_failure(NOW, "503", 0.0);
        prefetch.handle_fetched(segment(1, 13), Fetched::Away("503".into()), NOW);
        assert_eq!(prefetch.poll_fetch(NOW + FULL_PAUSE, &outage), None);
        prefetch.handle_fetch(3, segment(1, 20), NOW, &outage);
        assert_eq!(given(&mut prefetch), [(3, false)]);
    }

    #[test]
    fn what_waits_is_synced_and_given_when_that_has_succeeded() {
        let mut prefetch = filled();
        assert_eq!((prefetch.poll_sync(), prefetch.poll_sync()), (Some(segment(1, 11)), None), "one at a time");
        prefetch.handle_fetch(2, segment(1, 11), NOW, &Outage::default());
        assert_eq!((given(&mut prefetch), started(&mut prefetch)), (vec![], vec![13, 14]), "it is not fetched again");
        prefetch.handle_synced(segment(1, 11), Ok(()), NOW);
        assert_eq!((given(&mut prefetch), prefetch.hits_and_misses()), (vec![(2, true)], (1, 1)));
        // Who waits for it gets it as it comes.
        prefetch.handle_fetch(3, segment(1, 13), NOW, &Outage::default());
        prefetch.handle_fetched(segment(1, 13), Fetched::Stored, NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(3, true)], vec![segment(1, 12)]));
        assert_eq!(prefetch.poll_sync(), None);
    }

    #[test]
    fn what_cant_be_synced_is_given_to_nobody() {
        let mut prefetch = filled();
        assert_eq!(prefetch.poll_sync(), Some(segment(1, 11)));
        prefetch.handle_fetch(2, segment(1, 11), NOW, &Outage::default());
        prefetch.handle_synced(segment(1, 11), Err("input/output error".into()), NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(2, false)], vec![segment(1, 11)]));
        assert!(started(&mut prefetch).is_empty(), "nothing is fetched ahead for a while");
        // Thrown away while it is synced, and there again: what was heard is of the other file.
        assert_eq!(prefetch.poll_sync(), Some(segment(1, 12)));
        prefetch.handle_fetch(3, segment(1, 2), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch), [2]);
        prefetch.handle_fetched(segment(1, 2), Fetched::Stored, NOW);
        assert_eq!((given(&mut prefetch), evicted(&mut prefetch)), (vec![(3, true)], vec![segment(1, 12)]));
        prefetch.handle_fetch(4, segment(1, 12), NOW, &Outage::default());
        assert_eq!(started(&mut prefetch), [12]);
        prefetch.handle_synced(segment(1, 12), Err("input/output error".into()), NOW);
        prefetch.handle_fetched(segment(1, 12), Fetched::Stored, NOW);
        assert_eq!(given(&mut prefetch), [(4, true)]);
    }

    #[test]
    fn nobody_asks_any_more() {
        let mut prefetch = filled();
        let later = NOW + IDLE_MAX;
        assert_eq!(prefetch.poll_fetch(later, &Outage::default()), None);
        assert!(prefetch.poll_evict(later).is_some() && prefetch.poll_evict(later).is_some());
        assert_eq!((prefetch.poll_evict(later), prefetch.held()), (None, 0));
    }

    #[test]
    fn without_room_and_at_the_end_everybody_does_it_alone() {
        let mut prefetch = Prefetch::new(SIZE, SIZE.bytes() - 1, 2);
        prefetch.handle_fetch(1, segment(1, 1), NOW, &Outage::default());
        assert_eq!((given(&mut prefetch), started(&mut prefetch)), (vec![(1, false)], vec![]));
        let mut prefetch = filled();
        prefetch.handle_fetch(2, segment(1, 20), NOW, &Outage::default());
        prefetch.handle_stop();
        assert_eq!((given(&mut prefetch), started(&mut prefetch)), (vec![(2, false)], vec![]));
    }
}
