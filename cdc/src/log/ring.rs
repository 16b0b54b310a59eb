//! Recent batches in memory, for readers that keep up.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use walbus::Position;

use super::layout::BatchMeta;
use super::schemas::SchemaSet;

/// A batch, as it is given to readers.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What is known of it without decoding it.
    pub meta: BatchMeta,
    /// An encoded `beyond_cdc.v1.Batch`.
    pub payload: Bytes,
    /// The definitions known before it.
    pub schemas: Arc<SchemaSet>,
}

/// What the ring has for a reader.
#[derive(Debug, Clone, PartialEq)]
pub enum Recent {
    /// The next batch.
    Entry(Arc<Entry>),
    /// The reader has everything.
    NotYet,
    /// The next batch is only in the files.
    Past,
}

/// The newest batches, with no gap between them.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// The last position before the first entry.
    from: Position,
    bytes: usize,
    bytes_max: usize,
}

/// What an entry takes beside its payload.
const ENTRY_BYTES: usize = size_of::<Entry>() + 32;

impl Ring {
    /// A ring that begins behind `from`.
    pub(super) const fn new(from: Position, bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), from, bytes: 0, bytes_max }
    }

    /// Takes in the next batch, which may be written only; and forgets the oldest ones above the limit.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        assert!(self.entries.back().map_or(self.from, |last| last.meta.last) < entry.meta.first, "positions rise");
        self.bytes += entry.payload.len() + ENTRY_BYTES;
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.from = oldest.meta.last;
            self.bytes -= oldest.payload.len() + ENTRY_BYTES;
        }
    }

    /// What comes next behind `after`, of what is visible up to `head`.
    pub(super) fn next(&self, after: Position, head: Position) -> Recent {
        if after >= head {
            return Recent::NotYet;
        }
        if after < self.from {
            return Recent::Past;
        }
        let next = self.entries.partition_point(|entry| entry.meta.last <= after);
        match self.entries.get(next) {
            Some(entry) if entry.meta.last <= head => Recent::Entry(Arc::clone(entry)),
            _ => Recent::NotYet,
        }
    }
}

#[cfg(test)]
mod tests {
    use walbus::Lsn;

    use super::*;

    fn at(lsn: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    fn entry(first: u64, last: u64) -> Arc<Entry> {
        let (first, last) = (at(first), at(last));
        let meta = BatchMeta { first, last, end_lsn: Lsn(0), time_min: 0, time_max: 0, ends: true, schemas: false };
        Arc::new(Entry { meta, payload: Bytes::from_static(&[0; 100]), schemas: Arc::default() })
    }

    #[test]
    fn gives_what_is_visible_and_no_more() {
        let mut ring = Ring::new(at(10), 1 << 20);
        ring.push(entry(11, 12));
        ring.push(entry(13, 20));
        assert_eq!(ring.next(at(10), at(10)), Recent::NotYet);
        assert_eq!(ring.next(at(10), at(12)), Recent::Entry(entry(11, 12)));
        assert_eq!(ring.next(at(11), at(12)), Recent::Entry(entry(11, 12)), "the middle of a batch: all of it");
        assert_eq!(ring.next(at(12), at(12)), Recent::NotYet);
        assert_eq!(ring.next(at(12), at(20)), Recent::Entry(entry(13, 20)));
        assert_eq!(ring.next(at(9), at(20)), Recent::Past);
    }

    #[test]
    fn holds_no_more_than_it_may_and_no_gap() {
        let mut ring = Ring::new(at(0), 3 * (100 + ENTRY_BYTES));
        for n in 1..=10 {
            ring.push(entry(n * 10, n * 10 + 1));
        }
        assert_eq!((ring.entries.len(), ring.from), (3, at(71)));
        assert_eq!(ring.next(at(70), at(101)), Recent::Past);
        assert_eq!(ring.next(at(71), at(101)), Recent::Entry(entry(80, 81)));
        let mut none = Ring::new(at(0), 0);
        none.push(entry(1, 1));
        assert_eq!((none.next(at(0), at(1)), none.next(at(1), at(1))), (Recent::Past, Recent::NotYet));
    }
}
