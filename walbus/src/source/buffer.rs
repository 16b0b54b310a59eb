//! Where bytes of the server wait until they are whole messages.

use std::fmt;

use bytes::BytesMut;

use crate::proto::backend::{Frame, ProtocolError, frame_bytes, take_frame};

/// How much room a read is given at least, while little comes.
const READ_BYTES_MIN: usize = 16 * 1024;
/// The same while much comes.
const READ_BYTES_MAX: usize = 256 * 1024;
/// How many reads' room one allocation has, so that few messages lie across two of them.
const READS_PER_BLOCK: usize = 4;
/// A block that a large message made larger than this is given back behind it.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// After how many small reads in a row the room shrinks.
const SMALL_READS: u32 = 64;

/// A read buffer whose messages are slices of it.
///
/// Its block is used over and over again, as long as the slices of it are dropped before it is full; otherwise the slices keep it
/// and another one is allocated.
pub(super) struct ReadBuffer {
    buf: BytesMut,
    read_bytes: usize,
    small_reads: u32,
    limit: usize,
    /// How many blocks were allocated so far.
    blocks: u64,
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { buf, read_bytes, limit, blocks, .. } = self;
        write!(f, "ReadBuffer {{ {} bytes, reads {read_bytes}, limit {limit}, blocks {blocks} }}", buf.len())
    }
}

impl ReadBuffer {
    /// An empty buffer for messages of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { buf: BytesMut::new(), read_bytes: READ_BYTES_MIN, small_reads: 0, limit, blocks: 0 }
    }

    pub(super) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// How many blocks were allocated so far.
    #[cfg(test)]
    pub(super) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The bytes that no message was made of.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buf
    }

    /// The next whole message, `None` where bytes are missing.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        take_frame(&mut self.buf, self.limit)
    }

    /// Room to read into; to be called once [`Self::next_frame`] has given `None`. Then call [`Self::has_read`].
    pub(super) fn room(&mut self) -> Result<&mut BytesMut, ProtocolError> {
        let block_bytes = self.read_bytes * READS_PER_BLOCK;
        // Where nothing is held of the block, it starts over at its front: nothing is copied, and its memory is in the cache.
        let at_front = self.buf.is_empty() && self.buf.try_reclaim(block_bytes);
        if at_front && self.buf.capacity() > KEPT_BYTES_MAX {
            self.buf = BytesMut::with_capacity(block_bytes);
            self.blocks += 1;
        }
        if !at_front && self.spare() < self.read_bytes {
            // The beginning of a message moves to the front, if the rest of the block is free.
            let moved = self.buf.try_reclaim(self.read_bytes);
            if !moved && self.spare() < self.read_bytes / 4 {
                self.start_block(block_bytes)?;
            }
        }
        Ok(&mut self.buf)
    }

    /// Another block, which the beginning of a message moves to. It grows with what has come of that message and not with what its
    /// length claims, so that a lie costs no memory.
    fn start_block(&mut self, block_bytes: usize) -> Result<(), ProtocolError> {
        let missing = frame_bytes(&self.buf, self.limit)?.saturating_sub(self.buf.len());
        let room = block_bytes.max(missing.min(self.buf.len()));
        let mut block = BytesMut::with_capacity(self.buf.len() + room);
        block.extend_from_slice(&self.buf);
        self.buf = block;
        self.blocks += 1;
        Ok(())
    }

    fn spare(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Follows how much comes at a time.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
            self.small_reads = 0;
        } else if bytes < self.read_bytes / 8 {
            self.small_reads += 1;
            if self.small_reads == SMALL_READS {
                self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                self.small_reads = 0;
            }
        } else {
            self.small_reads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::backend::MESSAGE_BYTES_MAX;
    use bytes::{BufMut, Bytes};
    use proptest::prelude::*;

    /// Reads `wire` as a socket would give it, at most `piece` bytes at a time; `hold` keeps that many payloads alive.
    fn read(buffer: &mut ReadBuffer, mut wire: &[u8], piece: usize, hold: usize) -> Vec<Bytes> {
        let mut held = Vec::new();
        loop {
            while let Some(frame) = buffer.next_frame().unwrap() {
                held.push(frame.body);
                if held.len() > hold {
                    held.remove(0);
                }
            }
            if wire.is_empty() {
                return held;
            }
            let room = buffer.room().unwrap();
            let bytes = piece.min(room.capacity() - room.len()).min(wire.len());
            room.put_slice(&wire[..bytes]);
            buffer.has_read(bytes);
            wire = &wire[bytes..];
        }
    }

    fn messages(lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut wire = Vec::new();
        for (number, length) in lengths.into_iter().enumerate() {
            wire.put_u8(b'd');
            wire.put_u32(u32::try_from(length + 4).unwrap());
            wire.put_bytes(u8::try_from(number % 256).unwrap(), length);
        }
        wire
    }

    #[test]
    fn a_block_is_used_over_and_over_once_its_slices_are_dropped() {
        let wire = messages([128 * 1024; 64]);
        for piece in [1000, 100_000, usize::MAX] {
            let mut buffer = ReadBuffer::new(MESSAGE_BYTES_MAX);
            read(&mut buffer, &wire, piece, 0);
            let warm = buffer.blocks();
            for _ in 0..10 {
                read(&mut buffer, &wire, piece, 0);
            }
            assert_eq!(buffer.blocks(), warm, "80 MB in pieces of {piece}");
        }
    }

    #[test]
    fn a_large_message_leaves_no_large_block() {
        let mut buffer = ReadBuffer::new(64 << 20);
        read(&mut buffer, &messages([100, 20 << 20, 100]), 60_000, 0);
        buffer.room().unwrap();
        assert!(buffer.buf.capacity() <= READ_BYTES_MAX * READS_PER_BLOCK, "{}", buffer.buf.capacity());
    }

    #[test]
    fn small_messages_stay_in_one_small_block() {
        let mut buffer = ReadBuffer::new(MESSAGE_BYTES_MAX);
        read(&mut buffer, &messages([300; 10_000]), 300, 0);
        assert_eq!(buffer.blocks(), 1);
        assert_eq!(buffer.read_bytes, READ_BYTES_MIN);
        assert!(buffer.buf.capacity() <= READ_BYTES_MIN * READS_PER_BLOCK);
    }

    #[test]
    fn held_slices_keep_their_bytes() {
        let mut buffer = ReadBuffer::new(MESSAGE_BYTES_MAX);
        let lengths = (0..200).map(|n| n * 997);
        let held = read(&mut buffer, &messages(lengths.clone()), 60_000, usize::MAX);
        assert_eq!(held.len(), 200);
        for (number, (body, length)) in held.iter().zip(lengths).enumerate() {
            assert_eq!(body.len(), length);
            assert!(body.iter().all(|byte| usize::from(*byte) == number), "message {number}");
        }
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        let mut buffer = ReadBuffer::new(MESSAGE_BYTES_MAX);
        read(&mut buffer, b"d\x00\xFF\xFF\xFFx", usize::MAX, 0);
        buffer.room().unwrap();
        assert!(buffer.buf.capacity() <= READ_BYTES_MIN * READS_PER_BLOCK);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            lengths in prop::collection::vec(0usize..70_000, 0..40), piece in 1usize..300_000, hold in 0usize..8,
        ) {
            let mut buffer = ReadBuffer::new(MESSAGE_BYTES_MAX);
            let held = read(&mut buffer, &messages(lengths.clone()), piece.max(500), hold);
            let expected = &lengths[lengths.len().saturating_sub(hold)..];
            prop_assert_eq!(held.iter().map(Bytes::len).collect::<Vec<_>>(), expected);
            prop_assert!(buffer.rest().is_empty());
        }
    }
}
