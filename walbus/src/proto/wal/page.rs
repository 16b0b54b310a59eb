//! The header of a WAL page (`XLogPageHeaderData`, `XLogLongPageHeaderData`).

use super::field::{u32_at, u64_at};
use crate::ident::SystemId;
use crate::lsn::Lsn;

/// The size of a WAL page, `XLOG_BLCKSZ`, in bytes. A Postgres built with another one (`--with-wal-blocksize`) is refused.
pub const PAGE_BYTES: u32 = 8192;
/// The length of a short header, padding included.
pub(super) const SHORT_BYTES: usize = 24;
/// The length of a long header.
pub(super) const LONG_BYTES: usize = 40;

/// `XLP_FIRST_IS_CONTRECORD`: the page starts with the rest of a record from the page before.
pub(super) const FLAG_CONTRECORD: u16 = 0x1;
/// `XLP_LONG_HEADER`: the fields of [`LongHeader`] follow.
pub(super) const FLAG_LONG: u16 = 0x2;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the rest of the record from the page before was lost; another record is in its place.
/// (Postgres 19 moves it to 0x4, which to 18 is `XLP_BKP_REMOVABLE`, a hint to compressors.)
pub(super) const FLAG_OVERWRITE_CONTRECORD: u16 = 0x8;
/// All flags of 15 to 18.
const FLAGS: u16 = 0xF;

/// Which Postgres wrote a page, by its magic number (`XLOG_PAGE_MAGIC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    /// Postgres 15.
    V15,
    /// Postgres 16.
    V16,
    /// Postgres 17.
    V17,
    /// Postgres 18.
    V18,
}

impl WalVersion {
    /// The version of that magic number, `None` for every other.
    #[must_use]
    pub const fn from_magic(magic: u16) -> Option<Self> {
        match magic {
            0xD110 => Some(Self::V15),
            0xD113 => Some(Self::V16),
            0xD116 => Some(Self::V17),
            0xD118 => Some(Self::V18),
            _ => None,
        }
    }

    /// The magic number of that version.
    #[must_use]
    pub const fn magic(self) -> u16 {
        match self {
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The major version, as in `server_version_num / 10000`.
    #[must_use]
    pub const fn major(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }
}

/// The header of a WAL page, as it is: nothing about it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`: see [`WalVersion`].
    pub magic: u16,
    /// `xlp_info`: flags.
    pub flags: u16,
    /// `xlp_tli`: the timeline of the first record on the page; 0 in no page that Postgres wrote.
    pub timeline: u32,
    /// `xlp_pageaddr`: where in the WAL the page lies.
    pub address: Lsn,
    /// `xlp_rem_len`: bytes left of the record that runs on from the page before, those on later pages included.
    pub remaining: u32,
    /// What the first page of a segment has besides; `None` where the flag for it is not set.
    pub long: Option<LongHeader>,
}

/// What the header of a segment's first page says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// `xlp_sysid`: whose WAL it is.
    pub system: SystemId,
    /// `xlp_seg_size`, in bytes.
    pub segment_bytes: u32,
    /// `xlp_xlog_blcksz`, in bytes.
    pub page_bytes: u32,
}

impl PageHeader {
    /// Reads the header at the start of a page; `None` where there are too few bytes: 24 are needed, or 40 where they say so.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::parse_short(bytes.first_chunk()?);
        if header.is_long() {
            header.long = Some(LongHeader::parse(bytes)?);
        }
        Some(header)
    }

    /// The first 24 bytes, without what a long header has besides.
    pub(super) const fn parse_short(bytes: &[u8; SHORT_BYTES]) -> Self {
        let [m0, m1, f0, f1, t0, t1, t2, t3, a0, a1, a2, a3, a4, a5, a6, a7, r0, r1, r2, r3, ..] = *bytes;
        Self {
            magic: u16::from_le_bytes([m0, m1]),
            flags: u16::from_le_bytes([f0, f1]),
            timeline: u32::from_le_bytes([t0, t1, t2, t3]),
            address: Lsn(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            remaining: u32::from_le_bytes([r0, r1, r2, r3]),
            long: None,
        }
    }

    /// The version that wrote the page, `None` where the magic number is of none that is known.
    #[must_use]
    pub const fn version(&self) -> Option<WalVersion> {
        WalVersion::from_magic(self.magic)
    }

    /// Whether the flags say that [`LongHeader`] follows.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.flags & FLAG_LONG != 0
    }

    /// Whether the page starts with the rest of a record.
    #[must_use]
    pub const fn is_contrecord(&self) -> bool {
        self.flags & FLAG_CONTRECORD != 0
    }

    /// Whether the page replaces the rest of a record that was lost.
    #[must_use]
    pub const fn is_overwrite_contrecord(&self) -> bool {
        self.flags & FLAG_OVERWRITE_CONTRECORD != 0
    }

    /// Whether there are no flags but known ones.
    pub(super) const fn flags_are_known(&self) -> bool {
        self.flags & !FLAGS == 0
    }
}

impl LongHeader {
    /// Reads what follows the first 24 bytes of a page.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self { system: SystemId(u64_at(bytes, 24)?), segment_bytes: u32_at(bytes, 32)?, page_bytes: u32_at(bytes, 36)? })
    }
}
