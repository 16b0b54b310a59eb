//! What the writer tells the readers.

use std::collections::VecDeque;
use std::sync::Arc;

use walbus::{Lsn, Position};

use super::index::{SegmentIndex, Summary};
use super::ring::Ring;

/// A place in the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) segment: u64,
    /// The offset in it.
    pub(super) offset: u64,
}

/// A segment that is not written any more.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) summary: Summary,
    /// The length of its file.
    pub(super) file_bytes: u64,
    /// Its index, until that lies beside it.
    pub(super) index: Option<Arc<SegmentIndex>>,
}

/// Held under one lock, and only for a moment: no file is touched under it.
#[derive(Debug)]
pub(super) struct State {
    /// The end of the last transaction that is whole and durable.
    pub(super) head: Position,
    /// That transaction's end LSN.
    pub(super) end_lsn: Lsn,
    /// The place behind that transaction. No reader looks at it or beyond.
    pub(super) visible: Place,
    /// Oldest first, their numbers without a gap.
    pub(super) sealed: VecDeque<Sealed>,
    /// The segment being written, with what is not durable in it.
    pub(super) current: SegmentIndex,
    /// The length of its file.
    pub(super) current_bytes: u64,
    pub(super) ring: Ring,
}

impl State {
    /// Whole transactions are held behind this position: that before the first segment, unless it begins within a transaction.
    pub(super) fn earliest(&self) -> Position {
        let summaries = self.sealed.iter().map(|sealed| &sealed.summary).chain([&self.current.summary]);
        let mut within = false;
        for summary in summaries {
            if !within && summary.header.before == summary.header.complete {
                return summary.header.before;
            }
            // The first transaction's begin was removed: what is whole begins behind its end.
            within = true;
            if let Some(end) = summary.first_end {
                return end.min(self.head);
            }
        }
        self.head
    }

    /// The header's view of what came before the first segment that is held.
    pub(super) fn first(&self) -> &Summary {
        self.sealed.front().map_or(&self.current.summary, |sealed| &sealed.summary)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.file_bytes).sum::<u64>() + self.current_bytes
    }

    /// Moves the head. Called after a sync and by nobody else.
    pub(super) fn publish(&mut self, head: Position, end_lsn: Lsn, visible: Place) {
        assert!(self.head <= head && self.end_lsn <= end_lsn && self.visible <= visible, "what is visible stays visible");
        assert!(self.current.summary.last >= head, "the head was written");
        (self.head, self.end_lsn, self.visible) = (head, end_lsn, visible);
    }
}
