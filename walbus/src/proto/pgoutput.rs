//! What the output plugin `pgoutput` sends: every message of `proto_version` 1 to 4.
//!
//! ```text
//!   XLogData.data ──▶ Parser ──▶ Parsed { xid, message }      one payload is one message
//!                       │
//!                       └─▶ knows the version, the streaming option, and whether it is between Stream Start and Stream Stop
//! ```
//!
//! Follows the manual's chapters "Logical Streaming Replication Protocol" and "Logical Replication Message Formats", and
//! `replication/logical/proto.c` and `pgoutput.c` of Postgres 15 to 18. Every integer is big-endian, every string ends with a zero byte.
//!
//! | version | adds |
//! |---|---|
//! | 1 (10) | `B` `C` `O` `R` `Y` `I` `U` `D` `T` `M` |
//! | 2 (14) | `S` `E` `c` `A`: transactions that are sent while they run |
//! | 3 (15) | `b` `P` `K` `r` `p`: two-phase commit |
//! | 4 (16) | with `streaming 'parallel'` an `A` says where and when as well |
//!
//! Between `S` and `E`, the messages `R` `Y` `I` `U` `D` `T` `M` carry an xid behind their type byte. It is the one of the
//! subtransaction that made the change, with one exception: that of an `M` is always the top transaction's, also where a subtransaction
//! wrote it (`pgoutput_message` takes the xid of the transaction that is replayed, not that of the change).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions, clippy::cast_possible_truncation))]

mod change;
mod error;
mod field;
mod parser;
mod prepared;
mod relation;
mod stream;
#[cfg(test)]
mod tests;
mod transaction;
mod tuple;

use bytes::{BufMut, Bytes};

pub use change::{Delete, Insert, LogicalMessage, Old, Truncate, Update};
pub use error::PgoutputError;
use field::Fields;
pub use parser::{Parsed, Parser, ProtoVersion, Streaming};
pub use prepared::{BeginPrepare, CommitPrepared, Prepare, RollbackPrepared, StreamPrepare};
pub use relation::{Column, Relation, ReplicaIdentity, Type};
pub use stream::{AbortedAt, StreamAbort, StreamCommit, StreamStart};
pub use transaction::{Begin, Commit, Origin};
pub use tuple::{Tuple, Value, Values};

/// The most columns of a tuple or a relation: `MaxTupleAttributeNumber`.
pub const COLUMNS_MAX: u16 = 1664;

/// The longest name of a schema, relation, column or type, in bytes. Postgres has 63, a build of one's own may have more.
pub const NAME_BYTES_MAX: usize = 1024;

/// The longest identifier of a prepared transaction, in bytes: `GIDSIZE`, without its zero.
pub const GID_BYTES_MAX: usize = 199;

/// The longest name of a replication origin, in bytes: what a row of `pg_replication_origin` has room for.
pub const ORIGIN_BYTES_MAX: usize = 8192;

/// One message of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `B`: a transaction follows, whole.
    Begin(Begin),
    /// `b`: a transaction that was prepared follows, whole.
    BeginPrepare(BeginPrepare),
    /// `C`: the end of what [`Begin`] began.
    Commit(Commit),
    /// `K`: a prepared transaction was committed.
    CommitPrepared(CommitPrepared),
    /// `D`: a row was deleted.
    Delete(Delete),
    /// `I`: a row was inserted.
    Insert(Insert),
    /// `M`: what `pg_logical_emit_message` wrote.
    LogicalMessage(LogicalMessage),
    /// `O`: the transaction was replicated to here from elsewhere.
    Origin(Origin),
    /// `P`: the end of what [`BeginPrepare`] began.
    Prepare(Prepare),
    /// `R`: how a relation looks from here on.
    Relation(Relation),
    /// `r`: a prepared transaction was rolled back.
    RollbackPrepared(RollbackPrepared),
    /// `A`: a streamed transaction, or a subtransaction of one, was rolled back.
    StreamAbort(StreamAbort),
    /// `c`: a streamed transaction was committed.
    StreamCommit(StreamCommit),
    /// `p`: a streamed transaction was prepared.
    StreamPrepare(StreamPrepare),
    /// `S`: a part of a transaction follows that is still running.
    StreamStart(StreamStart),
    /// `E`: the end of what [`StreamStart`] began.
    StreamStop,
    /// `T`: tables were truncated.
    Truncate(Truncate),
    /// `Y`: the name of a type that is not built in.
    Type(Type),
    /// `U`: a row was updated.
    Update(Update),
}

impl Message {
    /// The message in the data of one XLogData, and the xid it carries, which it does where `streamed` is set: the bytes lie between
    /// a Stream Start and a Stream Stop. `abort_info` says whether a Stream Abort has its LSN and time, as it has with
    /// `streaming 'parallel'`.
    ///
    /// Knows no order and no version: [`Parser`] does. What the message holds of rows shares the payload's memory.
    ///
    /// # Errors
    /// Where the type byte is unknown or the rest is not what it announces, to the byte.
    pub fn parse(payload: &Bytes, streamed: bool, abort_info: bool) -> Result<(Option<u32>, Self), PgoutputError> {
        let tag = *payload.first().ok_or(PgoutputError::Empty)?;
        let message = name(tag).ok_or(PgoutputError::UnknownMessage(tag))?;
        let mut fields = Fields::new(message, payload);
        let xid = if streamed && carries_xid(tag) { Some(fields.xid()?) } else { None };
        let parsed = Self::parse_fields(tag, &mut fields, abort_info)?;
        fields.end()?;
        Ok((xid, parsed))
    }

    #[inline]
    fn parse_fields(tag: u8, fields: &mut Fields<'_>, abort_info: bool) -> Result<Self, PgoutputError> {
        Ok(match tag {
            b'I' => Self::Insert(Insert::parse(fields)?),
            b'U' => Self::Update(Update::parse(fields)?),
            b'D' => Self::Delete(Delete::parse(fields)?),
            b'B' => Self::Begin(Begin::parse(fields)?),
            b'C' => Self::Commit(Commit::parse(fields)?),
            b'R' => Self::Relation(Relation::parse(fields)?),
            b'Y' => Self::Type(Type::parse(fields)?),
            b'T' => Self::Truncate(Truncate::parse(fields)?),
            b'M' => Self::LogicalMessage(LogicalMessage::parse(fields)?),
            b'O' => Self::Origin(Origin::parse(fields)?),
            b'S' => Self::StreamStart(StreamStart::parse(fields)?),
            b'E' => Self::StreamStop,
            b'c' => Self::StreamCommit(StreamCommit::parse(fields)?),
            b'A' => Self::StreamAbort(StreamAbort::parse(fields, abort_info)?),
            b'b' => Self::BeginPrepare(BeginPrepare::parse(fields)?),
            b'P' => Self::Prepare(Prepare::parse(fields)?),
            b'K' => Self::CommitPrepared(CommitPrepared::parse(fields)?),
            b'r' => Self::RollbackPrepared(RollbackPrepared::parse(fields)?),
            b'p' => Self::StreamPrepare(StreamPrepare::parse(fields)?),
            tag => return Err(PgoutputError::UnknownMessage(tag)),
        })
    }

    /// Appends the message as a primary sends it, `xid` behind the type byte where it lies between Stream Start and Stream Stop. A
    /// message that carries none there is written without.
    ///
    /// # Panics
    /// Where a text has a zero byte in it or a count does not fit its field: no primary has such a thing to send.
    pub fn encode(&self, xid: Option<u32>, out: &mut impl BufMut) {
        let tag = self.tag();
        out.put_u8(tag);
        if let (Some(xid), true) = (xid, carries_xid(tag)) {
            out.put_u32(xid);
        }
        match self {
            Self::Begin(message) => message.encode(out),
            Self::BeginPrepare(message) => message.encode(out),
            Self::Commit(message) => message.encode(out),
            Self::CommitPrepared(message) => message.encode(out),
            Self::Delete(message) => message.encode(out),
            Self::Insert(message) => message.encode(out),
            Self::LogicalMessage(message) => message.encode(out),
            Self::Origin(message) => message.encode(out),
            Self::Prepare(message) => message.encode(out),
            Self::Relation(message) => message.encode(out),
            Self::RollbackPrepared(message) => message.encode(out),
            Self::StreamAbort(message) => message.encode(out),
            Self::StreamCommit(message) => message.encode(out),
            Self::StreamPrepare(message) => message.encode(out),
            Self::StreamStart(message) => message.encode(out),
            Self::StreamStop => {}
            Self::Truncate(message) => message.encode(out),
            Self::Type(message) => message.encode(out),
            Self::Update(message) => message.encode(out),
        }
    }

    /// The type byte.
    #[must_use]
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Begin(_) => b'B',
            Self::BeginPrepare(_) => b'b',
            Self::Commit(_) => b'C',
            Self::CommitPrepared(_) => b'K',
            Self::Delete(_) => b'D',
            Self::Insert(_) => b'I',
            Self::LogicalMessage(_) => b'M',
            Self::Origin(_) => b'O',
            Self::Prepare(_) => b'P',
            Self::Relation(_) => b'R',
            Self::RollbackPrepared(_) => b'r',
            Self::StreamAbort(_) => b'A',
            Self::StreamCommit(_) => b'c',
            Self::StreamPrepare(_) => b'p',
            Self::StreamStart(_) => b'S',
            Self::StreamStop => b'E',
            Self::Truncate(_) => b'T',
            Self::Type(_) => b'Y',
            Self::Update(_) => b'U',
        }
    }

    /// The message's name in the manual.
    #[must_use]
    pub fn name(&self) -> &'static str {
        name(self.tag()).unwrap_or("unknown")
    }
}

/// The name in the manual of the message with this type byte, `None` where there is none.
#[must_use]
pub const fn name(tag: u8) -> Option<&'static str> {
    Some(match tag {
        b'A' => "Stream Abort",
        b'B' => "Begin",
        b'C' => "Commit",
        b'D' => "Delete",
        b'E' => "Stream Stop",
        b'I' => "Insert",
        b'K' => "Commit Prepared",
        b'M' => "Message",
        b'O' => "Origin",
        b'P' => "Prepare",
        b'R' => "Relation",
        b'S' => "Stream Start",
        b'T' => "Truncate",
        b'U' => "Update",
        b'Y' => "Type",
        b'b' => "Begin Prepare",
        b'c' => "Stream Commit",
        b'p' => "Stream Prepare",
        b'r' => "Rollback Prepared",
        _ => return None,
    })
}

/// Whether a message of this type has an xid behind its type byte while a transaction is streamed.
const fn carries_xid(tag: u8) -> bool {
    matches!(tag, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M')
}
