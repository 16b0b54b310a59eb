//! What may come when.

use bytes::Bytes;

use super::{Message, PgoutputError, name};

/// The option `proto_version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtoVersion {
    /// Postgres 10.
    V1,
    /// Postgres 14: streaming of transactions that are running.
    V2,
    /// Postgres 15: two-phase commit.
    V3,
    /// Postgres 16: streaming for subscribers that apply in parallel.
    V4,
}

impl ProtoVersion {
    /// The number that is asked for.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

/// The option `streaming`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// Transactions are sent when they are committed or prepared.
    Off,
    /// Large transactions are sent while they run.
    On,
    /// The same, and a Stream Abort says where and when.
    Parallel,
}

impl Streaming {
    /// The value that is asked for.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Parallel => "parallel",
        }
    }
}

/// A message, and the xid it carried: that of the subtransaction, while a transaction is streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The xid, `None` outside of a stream and with messages that never carry one.
    pub xid: Option<u32>,
    /// The message.
    pub message: Message,
}

/// The messages of one replication session, in their order.
///
/// Give it the data of every XLogData, one after the other. After an error it is of no further use.
#[derive(Debug, Clone)]
pub struct Parser {
    version: ProtoVersion,
    streaming: Streaming,
    in_stream: bool,
}

impl Parser {
    /// The parser of a session that was started with these options.
    ///
    /// # Errors
    /// [`PgoutputError::NotAsked`] where the version does not have that way of streaming; a server refuses that as well.
    pub const fn new(version: ProtoVersion, streaming: Streaming) -> Result<Self, PgoutputError> {
        let message = "Stream Start";
        match (version, streaming) {
            (ProtoVersion::V1, Streaming::On | Streaming::Parallel) => {
                Err(PgoutputError::NotAsked { message, needs: "proto_version 2" })
            }
            (ProtoVersion::V2 | ProtoVersion::V3, Streaming::Parallel) => {
                Err(PgoutputError::NotAsked { message, needs: "proto_version 4" })
            }
            _ => Ok(Self { version, streaming, in_stream: false }),
        }
    }

    /// Whether the last message was of a running transaction that is being streamed, so that more of it may follow.
    #[must_use]
    pub const fn in_stream(&self) -> bool {
        self.in_stream
    }

    /// The message in the data of the next XLogData. What it holds of rows shares the payload's memory.
    ///
    /// # Errors
    /// Where the payload is no message, or one that may not come here or in this session.
    #[inline]
    pub fn parse(&mut self, payload: &Bytes) -> Result<Parsed, PgoutputError> {
        let tag = *payload.first().ok_or(PgoutputError::Empty)?;
        // Rows, which most messages are, may come anywhere.
        if !matches!(tag, b'I' | b'U' | b'D') {
            self.check(tag)?;
        }
        let abort_info = matches!(self.streaming, Streaming::Parallel);
        let (xid, message) = Message::parse(payload, self.in_stream, abort_info)?;
        match tag {
            b'S' => self.in_stream = true,
            b'E' => self.in_stream = false,
            _ => {}
        }
        Ok(Parsed { xid, message })
    }

    fn check(&self, tag: u8) -> Result<(), PgoutputError> {
        let message = name(tag).ok_or(PgoutputError::UnknownMessage(tag))?;
        let streams = matches!(tag, b'S' | b'E' | b'c' | b'A' | b'p');
        let two_phase = matches!(tag, b'b' | b'P' | b'K' | b'r' | b'p');
        if two_phase && self.version < ProtoVersion::V3 {
            return Err(PgoutputError::NotAsked { message, needs: "proto_version 3" });
        }
        if streams && self.version < ProtoVersion::V2 {
            return Err(PgoutputError::NotAsked { message, needs: "proto_version 2" });
        }
        // Postgres 18 tells the end of a large transaction that it found rolled back while it decoded it, streamed or not: it marks it as streamed
        // when it drops what it has of it (`ReorderBufferTruncateTXN`).
        if streams && tag != b'A' && matches!(self.streaming, Streaming::Off) {
            return Err(PgoutputError::NotAsked { message, needs: "the option streaming" });
        }
        match (self.in_stream, tag) {
            (true, b'S') => Err(PgoutputError::OutOfPlace { message, problem: "the last one has not been stopped" }),
            (false, b'E') => Err(PgoutputError::OutOfPlace { message, problem: "none was started" }),
            (true, b'E' | b'O' | b'R' | b'Y' | b'T' | b'M') | (false, _) => Ok(()),
            (true, _) => Err(PgoutputError::OutOfPlace { message, problem: "it lies between Stream Start and Stream Stop" }),
        }
    }
}
