//! The part of a transaction that is in memory.

use bytes::Bytes;

/// The smallest block. Many transactions may be open, most of them with little in memory.
const BLOCK_BYTES_MIN: usize = 1 << 10;
/// The largest block, but for an entry that is larger.
const BLOCK_BYTES_MAX: usize = 256 << 10;

/// What comes before each entry: the length of its payload and the xid it counts for, each of 32 bits, little-endian.
pub(super) const ENTRY_BYTES: usize = 8;

/// Entries in blocks that grow with their number, so that none is ever copied to make room, and none straddles two blocks.
#[derive(Debug, Default)]
pub(super) struct Tail {
    blocks: Vec<Block>,
    /// The room that all blocks take, used or not.
    capacity: usize,
}

#[derive(Debug)]
struct Block {
    /// Where it starts among all bytes of the transaction.
    start: u64,
    content: Vec<u8>,
}

impl Tail {
    /// How much memory it takes.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts an entry at the end, which is at `at` among all bytes of the transaction.
    pub(super) fn push(&mut self, at: u64, xid: u32, payload: &[u8]) {
        let bytes = ENTRY_BYTES + payload.len();
        let fits = self.blocks.last().is_some_and(|block| block.content.capacity() - block.content.len() >= bytes);
        if !fits {
            let room = self.capacity.clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX).max(bytes);
            self.capacity += room;
            self.blocks.push(Block { start: at, content: Vec::with_capacity(room) });
        }
        let block = self.blocks.last_mut().expect("one was made where none had room");
        debug_assert_eq!(block.start + block.content.len() as u64, at, "entries follow each other");
        let length = u32::try_from(payload.len()).expect("a message of Postgres is shorter than 2 GiB");
        block.content.extend_from_slice(&length.to_le_bytes());
        block.content.extend_from_slice(&xid.to_le_bytes());
        block.content.extend_from_slice(payload);
    }

    /// Drops what lies at `end` and behind.
    pub(super) fn truncate(&mut self, end: u64) {
        while let Some(block) = self.blocks.last_mut() {
            let kept = usize::try_from(end.saturating_sub(block.start)).unwrap_or(usize::MAX);
            if kept > 0 {
                block.content.truncate(kept);
                return;
            }
            self.capacity -= block.content.capacity().min(self.capacity);
            self.blocks.pop();
        }
    }

    /// The content, in blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().map(|block| block.content.as_slice())
    }

    /// The content, in blocks that are not copied.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Bytes> {
        self.blocks.into_iter().map(|block| Bytes::from(block.content))
    }
}
