//! The most recent bytes of a stream, in memory, for readers that keep up.
//!
//! One writer, any number of readers. A reader asks for bytes from its own position on and shares them with the others; one that asks for a
//! position the ring has passed is told so, and reads the log instead. No reader can hold the writer up, nor make the ring hold more than
//! its capacity: what a slow reader still has in its hands lives until it lets go of it, outside the ring.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::lsn::Lsn;

/// The most recent bytes of a stream, by position.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    readers: AtomicUsize,
    chunks: Mutex<Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    held: VecDeque<(Lsn, Bytes)>,
    bytes: usize,
    end: Lsn,
}

/// A reader's hold on a [`Ring`]: while one exists, the ring is filled.
#[derive(Debug)]
pub struct RingReader<'a> {
    ring: &'a Ring,
}

/// What a ring has at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recent {
    /// Bytes from the position on, as many as were kept together.
    Bytes(Bytes),
    /// Nothing yet: the position is where the next bytes go.
    NotYet,
    /// Not in the ring: read the log.
    Past,
}

impl Ring {
    /// A ring that holds at most `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, readers: AtomicUsize::new(0), chunks: Mutex::default() }
    }

    /// Whether anyone reads. A writer need not push otherwise: an idle ring costs one load.
    #[must_use]
    pub fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Adds bytes at `start`; the oldest make room. Where they do not continue what is held, the ring starts anew with them.
    pub fn push(&self, start: Lsn, bytes: Bytes) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if chunks.end != start {
            chunks.held.clear();
            chunks.bytes = 0;
        }
        chunks.end = Lsn(start.0.saturating_add(bytes.len() as u64));
        if bytes.is_empty() || bytes.len() > self.capacity {
            chunks.held.clear();
            chunks.bytes = 0;
            return;
        }
        chunks.bytes += bytes.len();
        chunks.held.push_back((start, bytes));
        while chunks.bytes > self.capacity
            && let Some((_, oldest)) = chunks.held.pop_front()
        {
            chunks.bytes -= oldest.len();
        }
    }

    /// A reader.
    #[must_use]
    pub fn reader(&self) -> RingReader<'_> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        RingReader { ring: self }
    }
}

impl RingReader<'_> {
    /// What the ring has at `from`, without a copy.
    #[must_use]
    pub fn read(&self, from: Lsn) -> Recent {
        let chunks = self.ring.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if from == chunks.end && from.is_valid() {
            return Recent::NotYet;
        }
        let behind = chunks.held.partition_point(|(start, _)| *start <= from);
        let Some((start, bytes)) = behind.checked_sub(1).and_then(|at| chunks.held.get(at)) else { return Recent::Past };
        match usize::try_from(from.0 - start.0) {
            Ok(skip) if skip < bytes.len() => Recent::Bytes(bytes.slice(skip..)),
            _ => Recent::Past,
        }
    }
}

impl Drop for RingReader<'_> {
    fn drop(&mut self) {
        self.ring.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_at(start: u64, len: usize) -> Bytes {
        (start..).take(len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_ring_without_readers_says_so() {
        let ring = Ring::new(100);
        assert!(!ring.has_readers());
        let reader = ring.reader();
        assert!(ring.has_readers());
        drop(reader);
        assert!(!ring.has_readers());
    }

    #[test]
    fn a_jump_starts_anew() {
        let ring = Ring::new(100);
        let reader = ring.reader();
        ring.push(Lsn(10), bytes_at(10, 10));
        ring.push(Lsn(50), bytes_at(50, 10));
        assert_eq!(reader.read(Lsn(10)), Recent::Past);
        assert_eq!(reader.read(Lsn(55)), Recent::Bytes(bytes_at(55, 5)));
        assert_eq!(reader.read(Lsn(60)), Recent::NotYet);
        assert_eq!(reader.read(Lsn(61)), Recent::Past);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_pushed(lens in prop::collection::vec(1usize..40, 1..50), capacity in 1usize..200) {
            let ring = Ring::new(capacity);
            let reader = ring.reader();
            let mut end = 1;
            for len in lens {
                ring.push(Lsn(end), bytes_at(end, len));
                end += len as u64;
            }
            let mut held = 0;
            for at in 1..end {
                if let Recent::Bytes(bytes) = reader.read(Lsn(at)) {
                    prop_assert_eq!(&bytes, &bytes_at(at, bytes.len()));
                    held += 1;
                } else {
                    prop_assert_eq!(held, 0, "a hole behind bytes that are held");
                }
            }
            prop_assert!(held <= capacity);
            prop_assert_eq!(reader.read(Lsn(end)), Recent::NotYet);
        }
    }
}
