//! What subscribers see.

use std::sync::Arc;

use super::error::LogicalError;
use super::relation::{Definition, RelationCache};
use crate::ident::PgTime;
use crate::lsn::Lsn;
use crate::position::Position;
use crate::proto::pgoutput::{LogicalMessage, Message, Old, Origin, Tuple};

/// A transaction that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The top transaction.
    pub xid: u32,
    /// The position of the commit record's first byte: what orders transactions.
    pub commit_lsn: Lsn,
    /// The position behind the commit record: what is confirmed once the transaction is durable.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
    /// Where it came from, if not from here.
    pub origin: Option<Origin>,
    /// Where it was prepared, with two-phase commit, if that was seen.
    pub prepare_lsn: Option<Lsn>,
    /// What it was prepared as, with two-phase commit.
    pub gid: Option<String>,
}

/// A change of a committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place among all changes.
    pub position: Position,
    /// The transaction that made it; in one that was streamed, the subtransaction.
    pub xid: u32,
    /// What was changed.
    pub body: Body,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A row was deleted.
    Delete {
        /// The relation it was in.
        relation: Arc<Definition>,
        /// The row, or its key.
        old: Old,
    },
    /// A row was inserted.
    Insert {
        /// The relation it is in.
        relation: Arc<Definition>,
        /// The row.
        new: Tuple,
    },
    /// A logical message was written.
    Message(LogicalMessage),
    /// Tables were truncated, all at once.
    Truncate {
        /// The tables.
        relations: Vec<Arc<Definition>>,
        /// Whether `CASCADE` was said.
        cascade: bool,
        /// Whether `RESTART IDENTITY` was said.
        restart_identity: bool,
    },
    /// A row was updated.
    Update {
        /// The relation it is in.
        relation: Arc<Definition>,
        /// What was sent of the old row.
        old: Option<Old>,
        /// The new row.
        new: Tuple,
    },
}

impl Body {
    /// The change in a message, `None` where it is no change.
    #[inline]
    pub(super) fn of(message: Message, relations: &RelationCache) -> Result<Option<Self>, LogicalError> {
        let find = |oid| relations.definition(oid).cloned().ok_or(LogicalError::UnknownRelation { oid });
        Ok(Some(match message {
            Message::Insert(insert) => {
                let relation = find(insert.relation)?;
                check(&relation, &insert.new)?;
                Self::Insert { relation, new: insert.new }
            }
            Message::Update(update) => {
                let relation = find(update.relation)?;
                if let Some(old) = &update.old {
                    check(&relation, old.tuple())?;
                }
                check(&relation, &update.new)?;
                Self::Update { relation, old: update.old, new: update.new }
            }
            Message::Delete(delete) => {
                let relation = find(delete.relation)?;
                check(&relation, delete.old.tuple())?;
                Self::Delete { relation, old: delete.old }
            }
            Message::Truncate(truncate) => Self::Truncate {
                relations: truncate.relations.into_iter().map(find).collect::<Result<_, _>>()?,
                cascade: truncate.cascade,
                restart_identity: truncate.restart_identity,
            },
            Message::LogicalMessage(message) => Self::Message(message),
            _ => return Ok(None),
        }))
    }
}

#[inline]
fn check(definition: &Definition, tuple: &Tuple) -> Result<(), LogicalError> {
    let (expected, found) = (definition.relation.columns.len(), usize::from(tuple.columns()));
    if expected == found {
        return Ok(());
    }
    let relation = format!("{}.{}", definition.relation.schema, definition.relation.name);
    Err(LogicalError::Columns { relation, expected, found })
}
