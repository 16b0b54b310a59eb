//! Two-phase commit: transactions are sent at `PREPARE TRANSACTION`, what became of them later.

use bytes::BufMut;

use super::PgoutputError;
use super::field::{Fields, put_text};
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// `b`: a prepared transaction follows, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginPrepare {
    /// The position of the prepare record's first byte.
    pub prepare_lsn: Lsn,
    /// The position behind the prepare record.
    pub end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTime,
    /// The top transaction.
    pub xid: u32,
    /// The name given to it, which is free again after its end.
    pub gid: String,
}

impl BeginPrepare {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Ok(Self {
            prepare_lsn: fields.lsn()?,
            end_lsn: fields.lsn()?,
            prepare_time: fields.time()?,
            xid: fields.xid()?,
            gid: fields.gid()?,
        })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.prepare_lsn.0);
        out.put_u64(self.end_lsn.0);
        out.put_i64(self.prepare_time.0);
        out.put_u32(self.xid);
        put_text(out, &self.gid);
    }
}

/// `P`: the end of what [`BeginPrepare`] began. The fields are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The position of the prepare record's first byte.
    pub prepare_lsn: Lsn,
    /// The position behind the prepare record.
    pub end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTime,
    /// The top transaction.
    pub xid: u32,
    /// The name given to it.
    pub gid: String,
}

impl Prepare {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        fields.no_flags()?;
        let BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid } = BeginPrepare::parse(fields)?;
        Ok(Self { prepare_lsn, end_lsn, prepare_time, xid, gid })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        let Self { prepare_lsn, end_lsn, prepare_time, xid, gid } = self.clone();
        out.put_u8(0);
        BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid }.encode(out);
    }
}

/// `p`: a streamed transaction was prepared. It is laid out as [`Prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPrepare(pub Prepare);

impl StreamPrepare {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Prepare::parse(fields).map(Self)
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        self.0.encode(out);
    }
}

/// `K`: a prepared transaction was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPrepared {
    /// The position of the first byte of the record that committed it.
    pub commit_lsn: Lsn,
    /// The position behind that record.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
    /// The top transaction.
    pub xid: u32,
    /// The name given to it.
    pub gid: String,
}

impl CommitPrepared {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        fields.no_flags()?;
        Ok(Self {
            commit_lsn: fields.lsn()?,
            end_lsn: fields.lsn()?,
            commit_time: fields.time()?,
            xid: fields.xid()?,
            gid: fields.gid()?,
        })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(0);
        out.put_u64(self.commit_lsn.0);
        out.put_u64(self.end_lsn.0);
        out.put_i64(self.commit_time.0);
        out.put_u32(self.xid);
        put_text(out, &self.gid);
    }
}

/// `r`: a prepared transaction was rolled back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackPrepared {
    /// The position behind the prepare record.
    pub prepare_end_lsn: Lsn,
    /// The position behind the record that rolled it back.
    pub rollback_end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTime,
    /// When it was rolled back.
    pub rollback_time: PgTime,
    /// The top transaction.
    pub xid: u32,
    /// The name given to it.
    pub gid: String,
}

impl RollbackPrepared {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        fields.no_flags()?;
        Ok(Self {
            prepare_end_lsn: fields.lsn()?,
            rollback_end_lsn: fields.lsn()?,
            prepare_time: fields.time()?,
            rollback_time: fields.time()?,
            xid: fields.xid()?,
            gid: fields.gid()?,
        })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(0);
        out.put_u64(self.prepare_end_lsn.0);
        out.put_u64(self.rollback_end_lsn.0);
        out.put_i64(self.prepare_time.0);
        out.put_i64(self.rollback_time.0);
        out.put_u32(self.xid);
        put_text(out, &self.gid);
    }
}
