//! Logical replication, the deciding half: messages in, committed transactions out, and what may be confirmed to the primary.
//!
//! ```text
//!   proto::pgoutput::Parser ──▶ Assembler ──▶ Step      a transaction that came whole passes through, change by change
//!                                 │   │
//!                                 │   └─────▶ Replay    one that was streamed or prepared is read back at its commit
//!                                 ▼
//!                               Spool                   what does not fit into memory meanwhile
//!
//!   Feedback: what is durable ──▶ what is confirmed
//! ```
//!
//! # What a server sends of subtransactions
//!
//! Read off `reorderbuffer.c` and `pgoutput.c` of Postgres 18, and watched on a server of that version:
//!
//! - A part of a transaction (`S`..`E`) holds changes in the order of the WAL, each with the xid of the subtransaction that made it.
//!   All that was made before is sent before, so what an `A` drops has either come already or never comes.
//! - An abort record lists the subtransactions that were committed into the one that is rolled back. Each of them gets an `A` of
//!   its own, and so does that one itself, last (`DecodeAbort`, `ReorderBufferAbort`), provided that something of it was sent. What
//!   was filtered away counts as sent, so an `A` may name a subtransaction of which nothing has been seen. The top transaction gets
//!   one for all (`xid` = `subxid`).
//! - Xids are given out in order, and to a parent before its child. Whatever was made between the birth of a subtransaction and its
//!   rollback was made by it or below it. So an `A` drops each change so far whose xid is the given one *or a later one*: what is left
//!   of the transaction is a prefix, which is how [`Assembler`] drops it, without a list of all subtransactions.
//! - A logical message carries the top transaction's xid even where a subtransaction wrote it. It is taken to be of the
//!   subtransaction whose change came last. A message that a subtransaction writes *before its first row* can't be told from one of
//!   its parent and survives its rollback; where that matters, messages have to be asked for without streaming, in which case the
//!   server leaves out what was rolled back.
//! - The relations that a streamed transaction was told of are its own until it commits; then the server takes them as known to all
//!   (`cleanup_rel_sync_cache`). It remembers them for the top transaction, whichever subtransaction they came with. Since an `A`
//!   makes it forget them, it tells them again; they are kept here nevertheless, which needs no faith in that.
//! - The relations that came with a transaction that was sent whole at its `PREPARE` are known to all from then on, although it may be
//!   rolled back: a change of definition is followed by an invalidation, upon which they are told again.

mod assembler;
mod buffer;
mod change;
mod error;
mod feedback;
mod relation;
mod replay;
mod spool;
mod tail;
#[cfg(test)]
mod tests;

pub use assembler::{Assembler, Limits, NotHeld, Step};
pub use change::{Body, Change, Transaction};
pub use error::LogicalError;
pub use feedback::Feedback;
pub use relation::{Announced, Definition, RelationCache};
pub use replay::Replay;
#[cfg(any(test, feature = "sim"))]
pub use spool::{MemoryFile, MemorySpool};
pub use spool::{Spool, SpoolFile};
