//! Transactions that are sent while they run.

use bytes::BufMut;

use super::PgoutputError;
use super::field::Fields;
use super::transaction::Commit;
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// `S`: a part of a running transaction follows. Parts of several transactions come by turns, whole transactions between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStart {
    /// The top transaction.
    pub xid: u32,
    /// Whether this is its first part in this session.
    pub first_segment: bool,
}

impl StreamStart {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let xid = fields.xid()?;
        match fields.u8()? {
            first @ 0..=1 => Ok(Self { xid, first_segment: first == 1 }),
            _ => Err(fields.malformed("it is neither a first part nor a further one")),
        }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.xid);
        out.put_u8(u8::from(self.first_segment));
    }
}

/// `c`: a streamed transaction was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCommit {
    /// The top transaction.
    pub xid: u32,
    /// Where and when.
    pub commit: Commit,
}

impl StreamCommit {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        Ok(Self { xid: fields.xid()?, commit: Commit::parse(fields)? })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.xid);
        self.commit.encode(out);
    }
}

/// `A`: a streamed transaction was rolled back, or one subtransaction of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top transaction.
    pub xid: u32,
    /// The subtransaction; the top transaction's own xid where all of it was rolled back.
    pub subxid: u32,
    /// Where and when, with `streaming 'parallel'`.
    pub aborted: Option<AbortedAt>,
}

/// Where and when a transaction was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedAt {
    /// The position behind the abort record, `0/0` where a crash rolled it back and wrote none.
    pub lsn: Lsn,
    /// When; 2000-01-01 where a crash did.
    pub time: PgTime,
}

impl StreamAbort {
    pub(super) fn parse(fields: &mut Fields<'_>, abort_info: bool) -> Result<Self, PgoutputError> {
        let (xid, subxid) = (fields.xid()?, fields.xid()?);
        let aborted = if abort_info { Some(AbortedAt { lsn: fields.lsn_or_none()?, time: fields.time()? }) } else { None };
        Ok(Self { xid, subxid, aborted })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.xid);
        out.put_u32(self.subxid);
        if let Some(aborted) = self.aborted {
            out.put_u64(aborted.lsn.0);
            out.put_i64(aborted.time.0);
        }
    }
}
