//! `global/pg_control`: what a data folder says of itself. Source: `catalog/pg_control.h` of Postgres 15 to 18, as laid out on
//! x86-64 and aarch64; checked against `pg_controldata` of each version.
//!
//! ```text
//!   byte 0 system identifier (8) │ 8 version (4) │ 12 catalog version (4) │ 16 state (4) │ 24 time (8) │ 32 checkpoint (8)
//!   40 copy of the checkpoint's record (88): 40 redo (8) │ 48 timeline (4) │ 52 previous one (4) │ 56 full_page_writes (1)
//!   104 its time (8)
//!   136 minimum recovery point (8) │ 144 its timeline (4) │ 152 backup start (8) │ 160 backup end (8) │ 168 end required (1)
//!   172 wal_level (4) │ 180 max_connections, max_worker_processes, max_wal_senders, max_prepared_transactions, max_locks_per_transaction
//!   (4 each) │ 216 block size (4) │ 224 WAL page size (4) │ 228 segment size (4) │ 252 checksums (4)
//!   288 CRC-32C of all before it (4); from Postgres 18 on at 292
//! ```

#![cfg_attr(not(test), deny(clippy::as_conversions, clippy::cast_possible_truncation, clippy::indexing_slicing))]

use std::fmt;

use super::wal::{Parameters, WalVersion};
use super::wal::{i64_at, u8_at, u32_at, u64_at};
use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::segment::{SegmentSize, SegmentSizeError};

/// The length of the file in bytes, `PG_CONTROL_FILE_SIZE`.
pub const CONTROL_FILE_BYTES: usize = 8192;

/// How many bytes of it mean something.
const USED_BYTES: usize = 296;

/// What a data folder says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The cluster.
    pub system: SystemId,
    /// The version of Postgres that it is of.
    pub version: WalVersion,
    /// `pg_control_version`.
    pub control_version: u32,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// Whether it runs, was shut down, or is in recovery.
    pub state: DbState,
    /// When the file was last written, in seconds since 1970-01-01 UTC.
    pub time_unix_s: i64,
    /// Where the last checkpoint's record starts.
    pub checkpoint: Lsn,
    /// Where replay starts: the last checkpoint's redo point.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// The timeline before it where that checkpoint began one, otherwise the same.
    pub previous_timeline: Timeline,
    /// When the last checkpoint was made, in seconds since 1970-01-01 UTC.
    pub checkpoint_time_unix_s: i64,
    /// `full_page_writes` at the last checkpoint.
    pub full_page_writes: bool,
    /// Replay must reach this position before the data is consistent; `0/0` where archive recovery is not under way.
    pub min_recovery_point: Lsn,
    /// The timeline of that position, `None` where there is none.
    pub min_recovery_timeline: Option<Timeline>,
    /// The redo point of the backup that is being restored, `0/0` where none is.
    pub backup_start: Lsn,
    /// Where the restored backup of a standby ends, `0/0` where there is none.
    pub backup_end: Lsn,
    /// Whether a record that ends the backup must be seen before the data is consistent.
    pub backup_end_required: bool,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// What the server that wrote the WAL ran with, as of the last record replayed.
    pub parameters: Parameters,
    /// The size of data pages in bytes.
    pub block_bytes: u32,
    /// The size of WAL pages in bytes.
    pub wal_page_bytes: u32,
    /// `wal_segment_size`.
    pub segment: SegmentSize,
    /// The version of data checksums, 0 where they are off.
    pub checksum_version: u32,
}

/// `DBState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DbState {
    /// Starting up.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down cleanly while in recovery, as a standby is.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Replaying WAL after a crash.
    CrashRecovery,
    /// Replaying WAL from an archive or a primary.
    ArchiveRecovery,
    /// Running, or crashed while it did.
    InProduction,
}

impl fmt::Display for DbState {
    /// In the words of `pg_controldata`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::CrashRecovery => "in crash recovery",
            Self::ArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// A file that is no `pg_control` of a supported version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Written on a machine of the other byte order.
    #[error("pg_control was written on a big-endian machine, which is not supported")]
    ByteOrder,
    /// It is damaged.
    #[error("pg_control is damaged: its CRC is {found:#010X}, expected {expected:#010X}; restore it from a backup")]
    Crc {
        /// What the file says.
        expected: u32,
        /// What its bytes come to.
        found: u32,
    },
    /// It is damaged, or not what it seems.
    #[error("pg_control has a right CRC but no valid {0}")]
    Field(&'static str),
    /// The segment size is none.
    #[error("pg_control has a right CRC but no valid segment size: {0}")]
    SegmentSize(#[from] SegmentSizeError),
    /// It is cut off.
    #[error("pg_control has {found} bytes, expected {CONTROL_FILE_BYTES}")]
    Size {
        /// In bytes.
        found: usize,
    },
    /// A version that is not supported.
    #[error("pg_control is of version {control}, catalog version {catalog}: expected one of Postgres 15 to 18")]
    Version {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
}

impl Control {
    /// Reads the file's content, and checks its CRC.
    ///
    /// # Errors
    /// Where it is damaged, cut off, or of another version than 15 to 18.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let used = bytes.get(..USED_BYTES).ok_or(ControlError::Size { found: bytes.len() })?;
        let version = version(used)?;
        let crc_at = if version >= WalVersion::V18 { 292 } else { 288 };
        let expected = u32_at(used, crc_at).unwrap_or(0);
        let found = crc_fast::crc32_iscsi(used.get(..crc_at).unwrap_or_default());
        if expected != found {
            return Err(ControlError::Crc { expected, found });
        }
        Self::fields(used, version)
    }

    fn fields(used: &[u8], version: WalVersion) -> Result<Self, ControlError> {
        // `used` is longer than any offset below: what is missing is only what the types can't say.
        let number = |at| u32_at(used, at).ok_or(ControlError::Field("length"));
        let position = |at| u64_at(used, at).map(Lsn).ok_or(ControlError::Field("length"));
        let flag = |at, name| match u8_at(used, at) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => Err(ControlError::Field(name)),
        };
        let timeline = |at, name| number(at).map(Timeline::new)?.ok_or(ControlError::Field(name));
        Ok(Self {
            system: SystemId(u64_at(used, 0).ok_or(ControlError::Field("length"))?),
            version,
            control_version: number(8)?,
            catalog_version: number(12)?,
            state: state(number(16)?)?,
            time_unix_s: i64_at(used, 24).ok_or(ControlError::Field("length"))?,
            checkpoint: position(32)?,
            redo: position(40)?,
            timeline: timeline(48, "timeline")?,
            previous_timeline: timeline(52, "previous timeline")?,
            checkpoint_time_unix_s: i64_at(used, 104).ok_or(ControlError::Field("length"))?,
            full_page_writes: flag(56, "full_page_writes")?,
            min_recovery_point: position(136)?,
            min_recovery_timeline: Timeline::new(number(144)?),
            backup_start: position(152)?,
            backup_end: position(160)?,
            backup_end_required: flag(168, "backup end flag")?,
            wal_level: number(172)?,
            parameters: Parameters::at(used, 180).ok_or(ControlError::Field("length"))?,
            block_bytes: number(216)?,
            wal_page_bytes: number(224)?,
            segment: SegmentSize::new(u64::from(number(228)?))?,
            checksum_version: number(252)?,
        })
    }
}

/// Which Postgres it is of. 13 to 16 have the same layout and version: there the catalog's tells.
fn version(used: &[u8]) -> Result<WalVersion, ControlError> {
    const CATALOG_15: u32 = 202_209_061;
    const CATALOG_16: u32 = 202_307_071;
    let control = u32_at(used, 8).unwrap_or(0);
    let catalog = u32_at(used, 12).unwrap_or(0);
    match (control, catalog) {
        (1300, CATALOG_16..) => Ok(WalVersion::V16),
        (1300, CATALOG_15..) => Ok(WalVersion::V15),
        (1700, _) => Ok(WalVersion::V17),
        (1800, _) => Ok(WalVersion::V18),
        _ if matches!(control.swap_bytes(), 1300 | 1700 | 1800) => Err(ControlError::ByteOrder),
        _ => Err(ControlError::Version { control, catalog }),
    }
}

fn state(number: u32) -> Result<DbState, ControlError> {
    Ok(match number {
        0 => DbState::Startup,
        1 => DbState::ShutDown,
        2 => DbState::ShutDownInRecovery,
        3 => DbState::ShuttingDown,
        4 => DbState::CrashRecovery,
        5 => DbState::ArchiveRecovery,
        6 => DbState::InProduction,
        _ => return Err(ControlError::Field("state")),
    })
}

#[cfg(test)]
mod tests;
