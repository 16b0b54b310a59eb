//! Which WAL is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use walbus::{Lsn, Segment, SegmentSize};

use crate::state::Held;

/// How much is kept. With neither a size nor an age, everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The most bytes of WAL files.
    pub size_bytes_max: Option<u64>,
    /// The longest time that a whole segment is kept.
    pub age_max: Option<Duration>,
    /// How many of the newest segments are kept whatever the others say.
    pub segments_min: u64,
}

/// Which segments may go, oldest first: whole ones that are too many or too old, from the oldest on without a hole, and never one of the newest
/// `segments_min`, nor one that has anything from `needed` on, with which the next session begins. `age` says how long ago a segment was finished, `None` where that is not known.
#[must_use]
pub fn expired(
    segments: &BTreeMap<Segment, Held>,
    size: SegmentSize,
    policy: Policy,
    needed: Lsn,
    age: impl Fn(Segment) -> Option<Duration>,
) -> Vec<Segment> {
    if policy.size_bytes_max.is_none() && policy.age_max.is_none() {
        return Vec::new();
    }
    let kept = usize::try_from(policy.segments_min).unwrap_or(usize::MAX).max(1);
    let candidates = segments.len().saturating_sub(kept);
    let newest = segments.keys().next_back().map(|segment| segment.timeline);
    let mut held_bytes = segments.len() as u64 * size.bytes();
    let mut gone = Vec::new();
    for (segment, held) in segments.iter().take(candidates) {
        // The partial end of an older timeline may go with its time; that of the newest is being written.
        let being_written = held.partial_end.is_some() && Some(segment.timeline) == newest;
        let too_much = policy.size_bytes_max.is_some_and(|max| held_bytes > max);
        let too_old = policy.age_max.is_some_and(|max| age(*segment).is_some_and(|age| age > max));
        if being_written || segment.end(size) > needed || !(too_much || too_old) {
            break;
        }
        held_bytes -= size.bytes();
        gone.push(*segment);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Timeline;
    use walbus::index::SegmentFacts;

    const MB: u64 = 1 << 20;

    fn segments(count: u64) -> BTreeMap<Segment, Held> {
        let held = |number| Held { partial_end: (number + 1 == count).then_some(Lsn(1)), facts: SegmentFacts::default() };
        (0..count).map(|number| (Segment { number, timeline: Timeline::FIRST }, held(number))).collect()
    }

    fn gone(count: u64, policy: Policy, age: impl Fn(u64) -> u64) -> Vec<u64> {
        let size = SegmentSize::new(MB).unwrap();
        let age = |segment: Segment| Some(Duration::from_secs(age(segment.number)));
        expired(&segments(count), size, policy, Lsn::MAX, age).into_iter().map(|segment| segment.number).collect()
    }

    #[test]
    fn without_a_limit_everything_is_kept() {
        assert!(gone(10, Policy { size_bytes_max: None, age_max: None, segments_min: 0 }, |_| 1_000_000).is_empty());
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        assert_eq!(gone(10, Policy { size_bytes_max: Some(7 * MB), age_max: None, segments_min: 0 }, |_| 0), [0, 1, 2]);
    }

    #[test]
    fn the_newest_stay_whatever_the_size() {
        assert_eq!(gone(10, Policy { size_bytes_max: Some(0), age_max: None, segments_min: 8 }, |_| 0), [0, 1]);
        assert_eq!(gone(10, Policy { size_bytes_max: Some(0), age_max: None, segments_min: 0 }, |_| 0), (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_next_session_begins_with_stays() {
        let size = SegmentSize::new(MB).unwrap();
        let policy = Policy { size_bytes_max: Some(0), age_max: None, segments_min: 0 };
        // A promotion under way: the parent's partial end holds commits that the new timeline's segment does not hold yet.
        let held = |partial_end| Held { partial_end, facts: SegmentFacts::default() };
        let next = Timeline::new(2).unwrap();
        let mut segments = segments(4);
        segments.insert(Segment { number: 3, timeline: next }, held(Some(Lsn(3 * MB + 1))));
        let gone = |needed| expired(&segments, size, policy, Lsn(needed), |_| None).into_iter().map(|segment| segment.number);
        assert_eq!(gone(3 * MB + MB / 2).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(gone(3 * MB - 1).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(gone(4 * MB).collect::<Vec<_>>(), [0, 1, 2, 3], "the parent's is not needed any more");
    }

    #[test]
    fn the_old_go_and_no_hole_is_made() {
        let policy = Policy { size_bytes_max: None, age_max: Some(Duration::from_secs(60)), segments_min: 0 };
        assert_eq!(gone(10, policy, |number| 100 - number * 20), [0, 1]);
        assert!(gone(10, policy, |number| number * 20).is_empty(), "the oldest is new: those behind it stay");
    }
}
