//! Messages on a stream: each after its length as a big-endian u32.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// The largest control message that either side takes, in bytes.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;

/// The largest batch that a client has to take, in bytes: one with a row as large as Postgres sends any. A row is never split.
pub const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// How long the length before a message is.
const LENGTH_BYTES: usize = 4;

/// A message that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes, where {max} are the most")]
pub struct TooLong {
    /// The length that was announced.
    pub len: u32,
    /// The most there may be.
    pub max: usize,
}

/// Takes a stream's bytes apart.
///
/// Give it bytes as they arrive by [`Frames::push`]; then take messages by [`Frames::next`] until there is none. What is buffered is at most
/// one message and what was pushed last.
#[derive(Debug)]
pub struct Frames {
    buffer: BytesMut,
    max: usize,
}

impl Frames {
    /// Frames of at most `max` bytes each.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    /// Takes bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without its length; `None` where more bytes are needed.
    ///
    /// # Errors
    /// Where the next one is too long: nothing that follows can be read then.
    #[expect(clippy::should_implement_trait, reason = "it may fail, and there may be more after a None")]
    pub fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let len = usize::try_from(announced).unwrap_or(usize::MAX);
        if len > self.max {
            return Err(TooLong { len: announced, max: self.max });
        }
        if self.buffer.len() - LENGTH_BYTES < len {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Whether no message has begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// A message with its length before it.
///
/// # Panics
/// Where it has 4 GiB or more, which no message comes near.
#[must_use]
pub fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + len);
    bytes.put_u32(u32::try_from(len).unwrap_or_else(|_| panic!("a message of {len} bytes")));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Ping;
    use proptest::prelude::*;

    #[test]
    fn a_length_that_may_not_be_is_refused_before_its_bytes_come() {
        let mut frames = Frames::new(10);
        frames.push(&[0, 0, 0]);
        assert_eq!(frames.next(), Ok(None));
        frames.push(&[11]);
        assert_eq!(frames.next(), Err(TooLong { len: 11, max: 10 }));
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(ids in proptest::collection::vec(any::<u64>(), 0..8), cut in 1_usize..20) {
            let mut stream = Vec::new();
            for id in &ids {
                stream.extend_from_slice(&encode(&Ping { id: *id }));
            }
            let mut frames = Frames::new(100);
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                frames.push(piece);
                while let Some(message) = frames.next().unwrap() {
                    found.push(Ping::decode(message).unwrap().id);
                }
            }
            prop_assert_eq!(found, ids);
            prop_assert!(frames.is_empty());
        }
    }
}
