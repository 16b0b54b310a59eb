//! What can go wrong between messages and transactions.

use std::io;

use crate::lsn::Lsn;
use crate::proto::pgoutput::PgoutputError;

/// Why the stream can't be followed further. Whatever it is: what is not confirmed is sent again in the next session.
#[derive(Debug, thiserror::Error)]
pub enum LogicalError {
    /// A row that does not have the columns of its relation.
    #[error("a row of {relation} has {found} columns, its relation {expected}")]
    Columns {
        /// The relation, with its schema.
        relation: String,
        /// How many columns the relation has.
        expected: usize,
        /// How many the row has.
        found: usize,
    },
    /// A commit that does not lie behind the one before it.
    #[error("the commit at {commit_lsn} does not lie behind the one before it, at {last}")]
    NotBehind {
        /// Where it is.
        commit_lsn: Lsn,
        /// Where the one before it is.
        last: Lsn,
    },
    /// A message that may not come where it came.
    #[error("{message} message of pgoutput out of place: {problem}")]
    OutOfPlace {
        /// The message's name in the manual.
        message: &'static str,
        /// Why it may not come there.
        problem: &'static str,
    },
    /// A message that is none.
    #[error(transparent)]
    Pgoutput(#[from] PgoutputError),
    /// The spool failed, or does not hold what was put there.
    #[error("spool a transaction")]
    Spool(#[from] io::Error),
    /// More changes in one transaction than can be counted.
    #[error("the transaction {xid} has more than 4,294,967,295 changes")]
    TooManyChanges {
        /// The top transaction.
        xid: u32,
    },
    /// A change of a relation that was not told of.
    #[error("a change of the relation with OID {oid}, which was not described before")]
    UnknownRelation {
        /// The relation.
        oid: u32,
    },
    /// A message about a transaction of which nothing is held.
    #[error("{message} message of pgoutput about transaction {xid}, of which no part has come")]
    UnknownTransaction {
        /// The message's name in the manual.
        message: &'static str,
        /// The top transaction.
        xid: u32,
    },
}
