//! What may be deleted.
//!
//! A base whose replay starts in segment `n` reads segments from `n` on alone, on whatever timeline: so what lies before `n`, on all of them,
//! is what no base from there on needs, and all else stays. Histories stay always: they are small, and tell where timelines come from. So
//! does the newest segment of a timeline that no other goes on from: a server may still be writing there, however idle.

use std::collections::BTreeMap;

use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::pgdata::BackupHistory;
use walbus::{Lsn, PgTime, Segment, Timeline};

use super::chain::Link;
use super::inventory::Inventory;

/// What may be deleted, and what that costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prune {
    /// Objects, in the order in which they are to be deleted: a run that is broken off leaves what it had to keep.
    pub delete: Vec<ObjectName>,
    /// How many segments are among them.
    pub segments: usize,
    /// Base backups that can't be restored any longer.
    pub lost: Vec<BackupHistory>,
}

/// What may be deleted where every base whose replay starts at or behind `keep` must stay usable.
#[must_use]
pub fn prune(inventory: &Inventory, backups: &[BackupHistory], keep: Lsn) -> Prune {
    let first = inventory.size.number(keep);
    let ends = open_ends(inventory);
    let before = |segment: &&Segment| segment.number < first && ends.get(&segment.timeline) != Some(&segment.number);
    let (system, name) = (inventory.system, |segment: &Segment| inventory.name(*segment));
    let mut found: Vec<(u64, u8, ObjectName)> = Vec::new();
    // Of one segment, the index goes last: what is left of a run that was broken off is found by its name all the same.
    for segment in inventory.whole.iter().filter(before) {
        found.push((segment.number, 0, ObjectName::Segment { system, segment: name(segment) }));
    }
    for segment in inventory.partial.iter().filter(before) {
        found.push((segment.number, 1, ObjectName::Partial { system, segment: name(segment) }));
    }
    for (segment, ends) in inventory.tails.iter().filter(|(segment, _)| before(segment)) {
        found.extend(ends.iter().map(|end| (segment.number, 2, ObjectName::Tail { system, segment: name(segment), end: *end })));
    }
    for (segment, offset) in inventory.backups.iter().filter(|(segment, _)| before(&segment)) {
        found.push((segment.number, 3, ObjectName::Backup { system, segment: name(segment), offset: *offset }));
    }
    for segment in inventory.indexes.iter().filter(before) {
        found.push((segment.number, 4, ObjectName::Index { system, segment: name(segment) }));
    }
    found.sort_by_key(|object| (object.0, object.1));
    Prune {
        segments: found.iter().filter(|object| object.1 == 0).count(),
        delete: found.into_iter().map(|object| object.2).collect(),
        lost: backups.iter().filter(|backup| inventory.size.number(backup.label.start) < first).cloned().collect(),
    }
}

/// The number of the newest segment of each timeline that no other goes on from at or behind that segment.
fn open_ends(inventory: &Inventory) -> BTreeMap<Timeline, u64> {
    let mut ends = BTreeMap::new();
    for segment in inventory.whole.iter().chain(&inventory.partial).chain(inventory.tails.keys()) {
        let newest: &mut u64 = ends.entry(segment.timeline).or_default();
        *newest = segment.number.max(*newest);
    }
    let held = ends.clone();
    ends.retain(|timeline, newest| {
        let goes_on = |child: &Timeline| {
            let left = inventory.histories.get(child).and_then(|history| history.switchpoint(*timeline));
            left.is_some_and(|left| inventory.size.number(left) >= *newest)
        };
        !held.keys().any(goes_on)
    });
    ends
}

/// Whether anything may have been committed on `timeline` since that moment, by what is in its own segments: what has no index may have
/// anything in it.
#[must_use]
pub fn is_recent(links: &[Link], indexes: &[Option<SegmentIndex>], timeline: Timeline, since: PgTime) -> bool {
    let mut own = links.iter().zip(indexes).filter(|(link, _)| link.segment.timeline == timeline);
    own.any(|(_, index)| index.as_ref().is_none_or(|index| index.commit_time_max.is_some_and(|time| time >= since)))
}

/// The newest base backup that is consistent at or before `at`, of those whose timeline the chain goes through.
#[must_use]
pub fn newest_base(backups: &[BackupHistory], on_chain: impl Fn(&BackupHistory) -> bool, at: Lsn) -> Option<&BackupHistory> {
    backups.iter().filter(|backup| backup.stop <= at && on_chain(backup)).max_by_key(|backup| backup.label.start)
}
