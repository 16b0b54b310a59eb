//! Where a transaction that is sent whole begins and ends.

use bytes::BufMut;

use super::field::{Fields, put_text};
use super::{ORIGIN_BYTES_MAX, PgoutputError};
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// `B`: a transaction follows, whole. Transactions come in the order of their commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// The position of the commit record: [`Commit::commit_lsn`] of the same transaction.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
    /// The top transaction.
    pub xid: u32,
}

impl Begin {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Ok(Self { final_lsn: fields.lsn()?, commit_time: fields.time()?, xid: fields.xid()? })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.final_lsn.0);
        out.put_i64(self.commit_time.0);
        out.put_u32(self.xid);
    }
}

/// `C`: the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The position of the commit record's first byte.
    pub commit_lsn: Lsn,
    /// The position behind the commit record: what is to be acknowledged.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
}

impl Commit {
    /// Flags of which no version has any, then the fields.
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        fields.no_flags()?;
        Ok(Self { commit_lsn: fields.lsn()?, end_lsn: fields.lsn()?, commit_time: fields.time()? })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(0);
        out.put_u64(self.commit_lsn.0);
        out.put_u64(self.end_lsn.0);
        out.put_i64(self.commit_time.0);
    }
}

/// `O`: the transaction was made elsewhere and replicated to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The commit's position over there; `0/0` in a transaction that is streamed.
    pub commit_lsn: Lsn,
    /// The origin's name here (`pg_replication_origin`).
    pub name: String,
}

impl Origin {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Ok(Self { commit_lsn: fields.lsn_or_none()?, name: fields.text("bytes of an origin's name", ORIGIN_BYTES_MAX)? })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.commit_lsn.0);
        put_text(out, &self.name);
    }
}
