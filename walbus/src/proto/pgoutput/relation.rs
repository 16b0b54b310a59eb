//! How relations and types look.

use bytes::BufMut;

use super::field::{Fields, put_schema, put_text};
use super::{COLUMNS_MAX, PgoutputError};

/// `R`: a relation, as the rows that follow have it. Sent before its first use in a session and after each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// What changes name it by.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What is sent of old rows.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the tuples.
    pub columns: Vec<Column>,
}

impl Relation {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let (oid, schema, name) = (fields.u32()?, fields.schema()?, fields.name()?);
        let replica_identity = match fields.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            b'n' => ReplicaIdentity::Nothing,
            _ => return Err(fields.malformed("the replica identity is none of d, f, i, n")),
        };
        let count = fields.u16()?;
        if count > COLUMNS_MAX {
            return Err(fields.too_many("columns", usize::from(count), usize::from(COLUMNS_MAX)));
        }
        let columns = (0..count).map(|_| Column::parse(fields)).collect::<Result<_, _>>()?;
        Ok(Self { oid, schema, name, replica_identity, columns })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.oid);
        put_schema(out, &self.schema);
        put_text(out, &self.name);
        out.put_u8(match self.replica_identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
            ReplicaIdentity::Nothing => b'n',
        });
        out.put_u16(u16::try_from(self.columns.len()).expect("the number of columns fits 16 bits"));
        for column in &self.columns {
            column.encode(out);
        }
    }
}

/// What is sent of the old row of an update or delete: `pg_class.relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of an index.
    Index,
    /// `n`: nothing; updates and deletes are refused where they are published.
    Nothing,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// Its type, which a [`Type`] message has named where it is not built in.
    pub type_oid: u32,
    /// Its type's modifier (`atttypmod`), -1 for none.
    pub type_modifier: i32,
}

impl Column {
    fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let key = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return Err(fields.malformed("a column has flags that no version has")),
        };
        Ok(Self { key, name: fields.name()?, type_oid: fields.u32()?, type_modifier: fields.i32()? })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(u8::from(self.key));
        put_text(out, &self.name);
        out.put_u32(self.type_oid);
        out.put_i32(self.type_modifier);
    }
}

/// `Y`: the name of a type that is not built in, before the [`Relation`] that has it.
///
/// A domain comes with its own OID and the name of the type below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// What columns name it by.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl Type {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Ok(Self { oid: fields.u32()?, schema: fields.schema()?, name: fields.name()? })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.oid);
        put_schema(out, &self.schema);
        put_text(out, &self.name);
    }
}
