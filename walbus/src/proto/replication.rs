//! What CopyData carries during replication.
//!
//! Follows the manual's chapter "Streaming Replication Protocol". Every integer is big-endian, every time a [`PgTime`].

#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::cast_possible_truncation)]

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use super::backend::ProtocolError;
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// What a walsender sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalsenderMessage {
    /// `k`: where the server is.
    Keepalive(Keepalive),
    /// `w`: a piece of the stream.
    XLogData(XLogData),
}

impl WalsenderMessage {
    /// The message in the payload of one CopyData. The data of [`XLogData`] shares the payload's memory.
    ///
    /// # Errors
    /// Where the first byte is unknown or the rest is not what it announces.
    pub fn parse(mut payload: Bytes) -> Result<Self, ProtocolError> {
        match payload.try_get_u8() {
            Ok(b'k') => Keepalive::parse(payload).map(Self::Keepalive),
            Ok(b'w') => XLogData::parse(payload).map(Self::XLogData),
            Ok(tag) => Err(ProtocolError::UnknownReplicationMessage(tag)),
            Err(_) => Err(malformed("CopyData", "it is empty")),
        }
    }
}

/// A piece of the stream: WAL in physical replication, one message of the output plugin in logical.
#[derive(Clone, PartialEq, Eq)]
pub struct XLogData {
    /// The position of the data's first byte.
    pub start: Lsn,
    /// The end of WAL on the server when it sent this.
    pub server_end: Lsn,
    /// When the server sent this.
    pub time: PgTime,
    /// The data. In physical replication it does not have to start or end with a record, but never straddles two segments.
    pub data: Bytes,
}

impl XLogData {
    fn parse(mut payload: Bytes) -> Result<Self, ProtocolError> {
        match (payload.try_get_u64(), payload.try_get_u64(), payload.try_get_i64()) {
            (Ok(start), Ok(server_end), Ok(time)) => {
                Ok(Self { start: Lsn(start), server_end: Lsn(server_end), time: PgTime(time), data: payload })
            }
            _ => Err(malformed("XLogData", "it ends early")),
        }
    }

    /// Appends the message, type byte and all, as the payload of a CopyData.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(b'w');
        out.put_u64(self.start.0);
        out.put_u64(self.server_end.0);
        out.put_i64(self.time.0);
        out.put_slice(&self.data);
    }
}

impl fmt::Debug for XLogData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, server_end, time, data } = self;
        write!(f, "XLogData {{ {} bytes at {start}, server at {server_end}, sent {time:?} }}", data.len())
    }
}

/// Where the server is, sent while there is nothing else to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The end of WAL on the server.
    pub server_end: Lsn,
    /// When the server sent this.
    pub time: PgTime,
    /// Whether the server wants a [`StandbyStatus`] at once, or it will take the connection for dead.
    pub reply_requested: bool,
}

impl Keepalive {
    fn parse(mut payload: Bytes) -> Result<Self, ProtocolError> {
        match (payload.try_get_u64(), payload.try_get_i64(), payload.try_get_u8()) {
            (Ok(server_end), Ok(time), Ok(reply @ 0..=1)) if payload.is_empty() => {
                Ok(Self { server_end: Lsn(server_end), time: PgTime(time), reply_requested: reply == 1 })
            }
            _ => Err(malformed("keepalive", "it is not 17 bytes of which the last is 0 or 1")),
        }
    }

    /// Appends the message, type byte and all, as the payload of a CopyData.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(b'k');
        out.put_u64(self.server_end.0);
        out.put_i64(self.time.0);
        out.put_u8(u8::from(self.reply_requested));
    }
}

/// What a standby tells the server: `r`.
///
/// Each position is the one after the last byte that is there, 0/0 for none. Under `synchronous_standby_names` a commit with
/// `synchronous_commit = remote_write` waits for `write`, with `on` for `flush`, with `remote_apply` for `apply`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Handed to the operating system up to here.
    pub write: Lsn,
    /// Durable up to here.
    pub flush: Lsn,
    /// Applied up to here.
    pub apply: Lsn,
    /// When this was sent.
    pub time: PgTime,
    /// Whether the server should send a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// The length of the payload in bytes, type byte and all.
    pub const BYTES: usize = 34;

    /// Appends the message, type byte and all, as the payload of a CopyData.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(b'r');
        out.put_u64(self.write.0);
        out.put_u64(self.flush.0);
        out.put_u64(self.apply.0);
        out.put_i64(self.time.0);
        out.put_u8(u8::from(self.reply_requested));
    }

    /// The status in the payload of one CopyData.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn parse(mut payload: &[u8]) -> Result<Self, ProtocolError> {
        match payload.try_get_u8() {
            Ok(b'r') => {}
            Ok(tag) => return Err(ProtocolError::UnknownReplicationMessage(tag)),
            Err(_) => return Err(malformed("CopyData", "it is empty")),
        }
        let positions = (payload.try_get_u64(), payload.try_get_u64(), payload.try_get_u64());
        match (positions, payload.try_get_i64(), payload.try_get_u8()) {
            ((Ok(write), Ok(flush), Ok(apply)), Ok(time), Ok(reply @ 0..=1)) if payload.is_empty() => Ok(Self {
                write: Lsn(write),
                flush: Lsn(flush),
                apply: Lsn(apply),
                time: PgTime(time),
                reply_requested: reply == 1,
            }),
            _ => Err(malformed("standby status update", "it is not 33 bytes of which the last is 0 or 1")),
        }
    }
}

const fn malformed(message: &'static str, problem: &'static str) -> ProtocolError {
    ProtocolError::Malformed { message, problem }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_is_not_copied() {
        let mut payload = Vec::new();
        XLogData { start: Lsn(1), server_end: Lsn(2), time: PgTime(3), data: Bytes::from_static(b"wal") }.encode(&mut payload);
        let payload = Bytes::from(payload);
        let WalsenderMessage::XLogData(message) = WalsenderMessage::parse(payload.clone()).unwrap() else { panic!("no XLogData") };
        assert_eq!(message.data.as_ptr(), payload.slice(25..).as_ptr());
    }

    #[test]
    fn unknown_messages_are_named() {
        assert_eq!(WalsenderMessage::parse(Bytes::from_static(b"x")), Err(ProtocolError::UnknownReplicationMessage(b'x')));
        assert_eq!(StandbyStatus::parse(b"h"), Err(ProtocolError::UnknownReplicationMessage(b'h')));
        assert!(WalsenderMessage::parse(Bytes::new()).is_err());
    }

    proptest! {
        #[test]
        fn xlog_data_comes_back(start: u64, end: u64, time: i64, data: Vec<u8>) {
            let message = XLogData { start: Lsn(start), server_end: Lsn(end), time: PgTime(time), data: data.into() };
            let mut payload = Vec::new();
            message.encode(&mut payload);
            prop_assert_eq!(WalsenderMessage::parse(payload.into()), Ok(WalsenderMessage::XLogData(message)));
        }

        #[test]
        fn keepalive_comes_back_whole_or_not_at_all(end: u64, time: i64, reply: bool, cut in 1usize..18) {
            let message = Keepalive { server_end: Lsn(end), time: PgTime(time), reply_requested: reply };
            let mut payload = Vec::new();
            message.encode(&mut payload);
            prop_assert!(WalsenderMessage::parse(Bytes::copy_from_slice(&payload[..cut])).is_err());
            prop_assert_eq!(WalsenderMessage::parse(payload.into()), Ok(WalsenderMessage::Keepalive(message)));
        }

        #[test]
        fn status_comes_back_whole_or_not_at_all(at: [u64; 3], time: i64, reply: bool, cut in 0usize..34) {
            let [write, flush, apply] = at.map(Lsn);
            let status = StandbyStatus { write, flush, apply, time: PgTime(time), reply_requested: reply };
            let mut payload = Vec::new();
            status.encode(&mut payload);
            prop_assert_eq!(payload.len(), StandbyStatus::BYTES);
            prop_assert!(StandbyStatus::parse(&payload[..cut]).is_err());
            prop_assert_eq!(StandbyStatus::parse(&payload), Ok(status));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(payload: Vec<u8>) {
            let mut again = Vec::new();
            if let Ok(status) = StandbyStatus::parse(&payload) {
                status.encode(&mut again);
                prop_assert_eq!(&again, &payload);
            }
            again.clear();
            match WalsenderMessage::parse(payload.clone().into()) {
                Ok(WalsenderMessage::Keepalive(message)) => message.encode(&mut again),
                Ok(WalsenderMessage::XLogData(message)) => message.encode(&mut again),
                Err(_) => return Ok(()),
            }
            prop_assert_eq!(again, payload);
        }
    }
}
