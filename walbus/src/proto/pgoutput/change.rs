//! What a transaction did.

use bytes::{BufMut, Bytes};

use super::PgoutputError;
use super::field::{Fields, put_length, put_text};
use super::tuple::Tuple;
use crate::lsn::Lsn;

/// `I`: a row was inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// The relation's OID.
    pub relation: u32,
    /// The row.
    pub new: Tuple,
}

impl Insert {
    #[inline]
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let relation = fields.u32()?;
        match fields.u8()? {
            b'N' => Ok(Self { relation, new: Tuple::parse(fields)? }),
            _ => Err(fields.malformed("no new row follows")),
        }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.relation);
        out.put_u8(b'N');
        self.new.encode(out);
    }
}

/// What was sent of a row as it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// `O`: all of it, as `REPLICA IDENTITY FULL` has it.
    Full(Tuple),
    /// `K`: the columns of the replica identity. The others are NULL in it, which says nothing of them.
    Key(Tuple),
}

impl Old {
    /// The columns that were sent.
    #[must_use]
    pub const fn tuple(&self) -> &Tuple {
        match self {
            Self::Full(tuple) | Self::Key(tuple) => tuple,
        }
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(if matches!(self, Self::Full(_)) { b'O' } else { b'K' });
        self.tuple().encode(out);
    }
}

/// `U`: a row was updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The relation's OID.
    pub relation: u32,
    /// The old row: its key where the update changed that, all of it under `REPLICA IDENTITY FULL`, else nothing.
    pub old: Option<Old>,
    /// The new row. What is unchanged in it has its value in [`Old::Full`], where there is one.
    pub new: Tuple,
}

impl Update {
    #[inline]
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let relation = fields.u32()?;
        let mut kind = fields.u8()?;
        let old = match kind {
            b'K' => Some(Old::Key(Tuple::parse(fields)?)),
            b'O' => Some(Old::Full(Tuple::parse(fields)?)),
            _ => None,
        };
        if old.is_some() {
            kind = fields.u8()?;
        }
        match kind {
            b'N' => Ok(Self { relation, old, new: Tuple::parse(fields)? }),
            _ => Err(fields.malformed("no new row follows")),
        }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.relation);
        if let Some(old) = &self.old {
            old.encode(out);
        }
        out.put_u8(b'N');
        self.new.encode(out);
    }
}

/// `D`: a row was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The relation's OID.
    pub relation: u32,
    /// The row, or its key.
    pub old: Old,
}

impl Delete {
    #[inline]
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let relation = fields.u32()?;
        let old = match fields.u8()? {
            b'K' => Old::Key(Tuple::parse(fields)?),
            b'O' => Old::Full(Tuple::parse(fields)?),
            _ => return Err(fields.malformed("no old row follows")),
        };
        Ok(Self { relation, old })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.relation);
        self.old.encode(out);
    }
}

/// `T`: tables were truncated, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// Whether `CASCADE` was said. The tables it reached are among the relations.
    pub cascade: bool,
    /// Whether `RESTART IDENTITY` was said.
    pub restart_identity: bool,
    /// The relations' OIDs.
    pub relations: Vec<u32>,
}

impl Truncate {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let count = fields.length()?;
        let flags @ 0..=3 = fields.u8()? else { return Err(fields.malformed("flags that no version has are set")) };
        // Room is made for what has come, not for what is claimed.
        if count.checked_mul(4) != Some(fields.left()) {
            return Err(fields.malformed("the number of relations is not the one that follows"));
        }
        let relations = (0..count).map(|_| fields.u32()).collect::<Result<_, _>>()?;
        Ok(Self { cascade: flags & 1 != 0, restart_identity: flags & 2 != 0, relations })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        put_length(out, self.relations.len());
        out.put_u8(u8::from(self.cascade) | u8::from(self.restart_identity) << 1);
        for relation in &self.relations {
            out.put_u32(*relation);
        }
    }
}

/// `M`: what `pg_logical_emit_message` wrote.
///
/// One that is transactional comes with its transaction. One that is not comes by itself, outside of any, whatever became of the
/// transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Whether it is part of a transaction.
    pub transactional: bool,
    /// The position behind its record.
    pub lsn: Lsn,
    /// Who it is for.
    pub prefix: String,
    /// What it says.
    pub content: Bytes,
}

impl LogicalMessage {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let transactional = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return Err(fields.malformed("flags that no version has are set")),
        };
        let (lsn, prefix) = (fields.lsn()?, fields.text("bytes of a prefix", usize::MAX)?);
        let length = fields.length()?;
        let start = fields.left();
        fields.bytes(length)?;
        Ok(Self { transactional, lsn, prefix, content: fields.since(start) })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(u8::from(self.transactional));
        out.put_u64(self.lsn.0);
        put_text(out, &self.prefix);
        put_length(out, self.content.len());
        out.put_slice(&self.content);
    }
}
