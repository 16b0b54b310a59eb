//! The header of a WAL record (`XLogRecord`), and a record as the decoder reports it.

use super::event::WalEvent;
use crate::ident::Timeline;
use crate::lsn::Lsn;

/// The length of a record's header in bytes, `SizeOfXLogRecord`.
pub const RECORD_HEADER_BYTES: u32 = 24;

/// The longest record that Postgres can read back, in bytes: `MaxAllocSize`, 1 GB - 1. Postgres 16 and later write none above
/// `XLogRecordMaxSize`, 1020 MB; 15 knows this limit alone.
pub const MAX_RECORD_BYTES: u32 = 0x3FFF_FFFF;

/// `RM_XLOG_ID`.
pub(crate) const RM_XLOG: u8 = 0;
/// `RM_XACT_ID`.
pub(super) const RM_XACT: u8 = 1;
/// The greatest resource manager of Postgres' own, `RM_LOGICALMSG_ID`.
const RM_LAST_BUILTIN: u8 = 21;
/// The first one that an extension may register, `RM_MIN_CUSTOM_ID`.
const RM_FIRST_CUSTOM: u8 = 128;

/// `XLOG_SWITCH`, of `RM_XLOG_ID`: the rest of the segment is unused.
pub(crate) const XLOG_SWITCH: u8 = 0x40;
/// The bits of `xl_info` that belong to the resource manager.
pub(super) const RMGR_INFO: u8 = 0xF0;

/// The header of a WAL record, as it is: nothing about it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`: the whole record's length in bytes, the header included, page headers and padding not.
    pub total_bytes: u32,
    /// `xl_xid`: the transaction, 0 for none.
    pub xid: u32,
    /// `xl_prev`: where the record before starts.
    pub prev: Lsn,
    /// `xl_info`: the upper half is the resource manager's.
    pub info: u8,
    /// `xl_rmid`: the resource manager.
    pub rmid: u8,
    /// `xl_crc`: CRC-32C of the bytes behind the header, then of the header before this field.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a record's first 24 bytes.
    #[must_use]
    #[inline]
    pub const fn parse(bytes: &[u8; 24]) -> Self {
        let [l0, l1, l2, l3, x0, x1, x2, x3, p0, p1, p2, p3, p4, p5, p6, p7, info, rmid, _, _, c0, c1, c2, c3] = *bytes;
        Self {
            total_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            xid: u32::from_le_bytes([x0, x1, x2, x3]),
            prev: Lsn(u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
            info,
            rmid,
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }

    /// Whether there is such a resource manager, Postgres' own or one for extensions.
    #[inline]
    pub(super) const fn rmid_is_known(&self) -> bool {
        self.rmid <= RM_LAST_BUILTIN || self.rmid >= RM_FIRST_CUSTOM
    }

    /// Whether records of its resource manager may be events.
    #[inline]
    pub(super) const fn has_event(&self) -> bool {
        matches!(self.rmid, RM_XLOG | RM_XACT)
    }

    /// Whether nothing of use follows up to the segment's end.
    #[inline]
    pub(super) const fn is_switch(&self) -> bool {
        self.rmid == RM_XLOG && self.info & RMGR_INFO == XLOG_SWITCH
    }
}

/// A complete record whose CRC is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it starts: its address.
    pub lsn: Lsn,
    /// Its end, at which or behind which the next one starts: a multiple of 8. Behind [`WalEvent::Switch`] the next one starts in
    /// the next segment.
    pub end: Lsn,
    /// Where the record before starts (`xl_prev`).
    pub prev: Lsn,
    /// Its length in bytes without page headers and padding (`xl_tot_len`).
    pub total_bytes: u32,
    /// The transaction, 0 for none.
    pub xid: u32,
    /// The resource manager.
    pub rmid: u8,
    /// The flags, the upper half of which is the resource manager's.
    pub info: u8,
    /// The timeline on the header of the page on which it ends; `None` where the decoder was started behind that header.
    pub timeline: Option<Timeline>,
    /// What it says, where it is one that the decoder reads.
    pub event: Option<WalEvent>,
}

/// The name of a resource manager as `pg_waldump` prints it, `None` for an extension's or an unknown one.
#[must_use]
pub fn rmgr_name(rmid: u8) -> Option<&'static str> {
    const NAMES: [&str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];
    NAMES.get(usize::from(rmid)).copied()
}
