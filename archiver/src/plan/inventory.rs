//! What lies in an archive of one cluster, by names alone.

use std::collections::{BTreeMap, BTreeSet};

use walbus::archive::layout::ObjectName;
use walbus::proto::history::History;
use walbus::{Lsn, Segment, SegmentName, SegmentSize, SystemId, Timeline};

/// What an archive holds of one cluster.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The cluster.
    pub system: SystemId,
    /// The size of its segments.
    pub size: SegmentSize,
    /// Whole segments.
    pub whole: BTreeSet<Segment>,
    /// The last segments of timelines that were left, as Postgres archives them at a promotion.
    pub partial: BTreeSet<Segment>,
    /// Segments that are still being filled: where the bytes end that are held of each.
    pub tails: BTreeMap<Segment, BTreeSet<Lsn>>,
    /// Those segments whose longest tail reaches further than their `.partial`, by the records in both.
    pub beyond_partial: BTreeSet<Segment>,
    /// Segments that have an index.
    pub indexes: BTreeSet<Segment>,
    /// Backup history files: the segment in which a base backup's replay starts, and how far into it, in bytes.
    pub backups: BTreeSet<(Segment, u32)>,
    /// The timeline histories, read.
    pub histories: BTreeMap<Timeline, History>,
    /// Names of segments that are too great for the segment size.
    pub misnamed: BTreeSet<String>,
}

/// A timeline's history is not in the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the archive has no history of timeline {timeline} ({timeline_file}): without it nobody can tell where that timeline comes from. \
     Copy it from pg_wal of a server on that timeline, with `beyond-pg-archiver push`"
)]
pub struct NoHistory {
    /// The timeline.
    pub timeline: Timeline,
    timeline_file: String,
}

impl Inventory {
    /// An archive that holds nothing yet.
    #[must_use]
    pub const fn new(system: SystemId, size: SegmentSize) -> Self {
        Self {
            system,
            size,
            whole: BTreeSet::new(),
            partial: BTreeSet::new(),
            tails: BTreeMap::new(),
            beyond_partial: BTreeSet::new(),
            indexes: BTreeSet::new(),
            backups: BTreeSet::new(),
            histories: BTreeMap::new(),
            misnamed: BTreeSet::new(),
        }
    }

    /// Takes note of an object. A history counts once it is read: see [`Self::histories`].
    pub fn add(&mut self, name: &ObjectName) {
        let Some(named) = name.segment() else { return };
        let Some(segment) = named.segment(self.size) else {
            self.misnamed.insert(name.to_string());
            return;
        };
        match name {
            ObjectName::Backup { offset, .. } => {
                self.backups.insert((segment, *offset));
            }
            ObjectName::Index { .. } => {
                self.indexes.insert(segment);
            }
            ObjectName::Partial { .. } => {
                self.partial.insert(segment);
            }
            ObjectName::Segment { .. } => {
                self.whole.insert(segment);
            }
            ObjectName::Tail { end, .. } => {
                self.tails.entry(segment).or_default().insert(*end);
            }
            ObjectName::History { .. } | ObjectName::Marker => {}
        }
    }

    /// The name of a segment's file.
    #[must_use]
    pub fn name(&self, segment: Segment) -> SegmentName {
        segment.name(self.size)
    }

    /// The timelines of which anything is held, histories included.
    #[must_use]
    pub fn timelines(&self) -> BTreeSet<Timeline> {
        let mut timelines = self.timelines_with_wal();
        timelines.extend(self.histories.keys());
        timelines
    }

    /// The timelines of which segments are held: a history alone is left by a promotion whose WAL is still to come.
    #[must_use]
    pub fn timelines_with_wal(&self) -> BTreeSet<Timeline> {
        self.whole.iter().chain(&self.partial).chain(self.tails.keys()).map(|segment| segment.timeline).collect()
    }

    /// Where `timeline` comes from. Timeline 1 has no file: it comes from nowhere.
    ///
    /// # Errors
    /// Where the archive does not say.
    pub fn history(&self, timeline: Timeline) -> Result<History, NoHistory> {
        match self.histories.get(&timeline) {
            Some(history) => Ok(history.clone()),
            None if timeline == Timeline::FIRST => Ok(History::root(timeline)),
            None => Err(NoHistory { timeline, timeline_file: format!("{:08X}.history", timeline.get()) }),
        }
    }

    /// The newest timeline that goes through `at` on `on`: by its history the byte at `at` is of that timeline. `on` itself where none
    /// later does.
    #[must_use]
    pub fn newest_through(&self, on: Timeline, at: Lsn) -> Timeline {
        let later = self.histories.values().rev().filter(|history| history.timeline() > on);
        later.filter(|history| history.timeline_at(at) == on).map(History::timeline).max().unwrap_or(on)
    }

    /// All timelines that go through `at` on `on`, in order.
    #[must_use]
    pub fn all_through(&self, on: Timeline, at: Lsn) -> Vec<Timeline> {
        let later = self.histories.values().filter(|history| history.timeline() > on && history.timeline_at(at) == on);
        std::iter::once(on).chain(later.map(History::timeline)).collect()
    }
}
