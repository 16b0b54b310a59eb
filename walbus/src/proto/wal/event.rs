//! What a stream's keeper wants to know of its records: when transactions ended, where timelines and segments did.
//! Source: `access/xact.h`, `access/xlog_internal.h` and `catalog/pg_control.h` of Postgres 15 to 18.

use super::body::Body;
use super::error::Reason;
use super::field::{array_at, i64_at, length, u32_at, u64_at};
use super::page::WalVersion;
use super::record::{RM_XACT, RM_XLOG, RMGR_INFO, RecordHeader};
use crate::ident::{PgTime, Timeline};
use crate::lsn::Lsn;

/// How much of a record is enough to read its event: header, origin, top-level transaction, and of the main data what is read of
/// it, the most for a restore point.
pub(super) const EVENT_BYTES: usize = 256;

/// `XLOG_XACT_OPMASK`.
const XACT_OP: u8 = 0x70;
/// `XLOG_XACT_HAS_INFO`: flags of what else the record has follow the time.
const XACT_HAS_INFO: u8 = 0x80;
/// `WAL_LEVEL_MINIMAL`.
pub(in crate::proto) const WAL_LEVEL_MINIMAL: u32 = 0;
/// `XACT_XINFO_HAS_TWOPHASE`.
const XINFO_TWOPHASE: u32 = 0x10;

/// What a record says, where it is one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction was rolled back.
    Abort {
        /// When, by the primary's clock.
        time: PgTime,
    },
    /// A prepared transaction was rolled back.
    AbortPrepared {
        /// When, by the primary's clock.
        time: PgTime,
        /// The transaction that was prepared: the record's own is another one's, or none. `None` where lists of subtransactions or
        /// dropped files lie before it that are longer than what is kept of a record.
        xid: Option<u32>,
    },
    /// A base backup's end: from here on, a copy that was begun at `start` is consistent.
    BackupEnd {
        /// The redo point from which that copy's replay starts.
        start: Lsn,
    },
    /// A checkpoint's end.
    CheckpointOnline {
        /// Where replay starts after a crash.
        redo: Lsn,
        /// The timeline it is of.
        timeline: Timeline,
    },
    /// A checkpoint's start (Postgres 17 and later): where a later [`Self::CheckpointOnline`]'s `redo` leads.
    CheckpointRedo,
    /// The server was shut down, or recovery has ended with a checkpoint.
    CheckpointShutdown {
        /// Where replay starts after a crash: the record itself.
        redo: Lsn,
        /// The timeline it is of.
        timeline: Timeline,
        /// The timeline before it where this record begins one, otherwise the same.
        previous: Timeline,
    },
    /// A transaction was committed.
    Commit {
        /// When, by the primary's clock. Not monotonic from record to record.
        time: PgTime,
    },
    /// A prepared transaction was committed.
    CommitPrepared {
        /// When, by the primary's clock.
        time: PgTime,
        /// The transaction that was prepared: the record's own is another one's, or none. `None` where lists of subtransactions or
        /// dropped files lie before it that are longer than what is kept of a record.
        xid: Option<u32>,
    },
    /// Recovery has ended, and a timeline begun, without a checkpoint.
    EndOfRecovery {
        /// When, by the primary's clock.
        time: PgTime,
        /// The timeline that begins.
        timeline: Timeline,
        /// The timeline it comes from.
        previous: Timeline,
    },
    /// The record that began before this one was lost when the server crashed.
    OverwriteContrecord {
        /// Where that record starts.
        overwritten: Lsn,
        /// When the server found it, by its clock.
        time: PgTime,
    },
    /// The server was started with other settings than before, that a server which recovers this must keep up with.
    ParameterChange {
        /// These settings.
        parameters: Parameters,
        /// Whether `wal_level` is `minimal`: what is written so can't be recovered from.
        is_minimal: bool,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// When, by the primary's clock.
        time: PgTime,
        /// Its name, at most 63 bytes; where they are no UTF-8, with replacement characters.
        name: String,
    },
    /// The rest of the segment is unused (`pg_switch_wal`, `archive_timeout`).
    Switch,
}

/// Settings of the server that writes WAL, which one that recovers from it must have at least as much of: otherwise it pauses, or ends
/// (`CheckRequiredParameterValues` in xlogrecovery.c).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
}

impl Parameters {
    /// Each by its name.
    #[must_use]
    pub const fn named(self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_wal_senders", self.max_wal_senders),
            ("max_worker_processes", self.max_worker_processes),
        ]
    }

    /// The greater of each.
    #[must_use]
    pub fn greatest(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.max(other.max_connections),
            max_locks_per_transaction: self.max_locks_per_transaction.max(other.max_locks_per_transaction),
            max_prepared_transactions: self.max_prepared_transactions.max(other.max_prepared_transactions),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
        }
    }

    /// As they stand one behind the other in `xl_parameter_change` and in `pg_control`.
    pub(in crate::proto) fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let number = |place: usize| u32_at(bytes, at.checked_add(place)?);
        Some(Self {
            max_connections: number(0)?,
            max_worker_processes: number(4)?,
            max_wal_senders: number(8)?,
            max_prepared_transactions: number(12)?,
            max_locks_per_transaction: number(16)?,
        })
    }
}

/// The event of a record that starts with these bytes: all of it, or at least 256. Its CRC is not checked. `version` is that of the page
/// on which it starts, where that is known: without it, some prepared transactions are not named.
///
/// # Errors
/// Where the bytes are no record's, or not what its type says.
pub fn event_of(start: &[u8], version: Option<WalVersion>) -> Result<Option<WalEvent>, Reason> {
    let header = start.first_chunk().map(RecordHeader::parse).ok_or(Reason::RecordLength { found: 0 })?;
    of(&header, start, version)
}

/// The event of a record that starts with `bytes`: all of it, or at least [`EVENT_BYTES`].
/// `version` is that of the page it lies on, where that page's header was read.
pub(super) fn of(header: &RecordHeader, bytes: &[u8], version: Option<WalVersion>) -> Result<Option<WalEvent>, Reason> {
    // No more is looked at of a record that lies whole in memory than of one that does not.
    let bytes = bytes.get(..EVENT_BYTES).unwrap_or(bytes);
    let reader: fn(&[u8]) -> Option<WalEvent> = match (header.rmid, header.info & RMGR_INFO) {
        (RM_XACT, info) => match info & XACT_OP {
            0x00 => |main| Some(WalEvent::Commit { time: time_at(main, 0)? }),
            0x20 => |main| Some(WalEvent::Abort { time: time_at(main, 0)? }),
            0x30 => |main| Some(WalEvent::CommitPrepared { time: time_at(main, 0)?, xid: None }),
            0x40 => |main| Some(WalEvent::AbortPrepared { time: time_at(main, 0)?, xid: None }),
            _ => return Ok(None),
        },
        (RM_XLOG, 0x00) => checkpoint_shutdown,
        (RM_XLOG, 0x10) => |main| Some(WalEvent::CheckpointOnline { redo: lsn_at(main, 0)?, timeline: timeline_at(main, 8)? }),
        (RM_XLOG, 0x40) => |_| Some(WalEvent::Switch),
        (RM_XLOG, 0x50) => |main| Some(WalEvent::BackupEnd { start: lsn_at(main, 0)? }),
        (RM_XLOG, 0x60) => parameter_change,
        (RM_XLOG, 0x70) => restore_point,
        (RM_XLOG, 0x90) => end_of_recovery,
        (RM_XLOG, 0xD0) => |main| Some(WalEvent::OverwriteContrecord { overwritten: lsn_at(main, 0)?, time: time_at(main, 8)? }),
        (RM_XLOG, 0xE0) => |_| Some(WalEvent::CheckpointRedo),
        _ => return Ok(None),
    };
    let problem = |problem| Reason::Content { rmid: header.rmid, info: header.info, problem };
    let body = Body::walk(bytes, header.total_bytes).map_err(|error| problem(error.0))?;
    let main = bytes.get(body.main_at..).unwrap_or_default();
    let mut event = reader(main).ok_or_else(|| problem("its main data is too short, or names timeline 0"))?;
    if let WalEvent::AbortPrepared { xid, .. } | WalEvent::CommitPrepared { xid, .. } = &mut event
        && header.info & XACT_HAS_INFO != 0
    {
        *xid = prepared_xid(main, version);
    }
    Ok(Some(event))
}

/// The transaction that a record about a prepared one names; `record` is all of it. For where it lies behind what is kept of a record
/// that is decoded; see [`WalEvent::CommitPrepared`].
#[must_use]
pub fn prepared_xid_of(record: &[u8], version: WalVersion) -> Option<u32> {
    let header = RecordHeader::parse(record.first_chunk()?);
    let ends_prepared = header.rmid == RM_XACT && matches!(header.info & XACT_OP, 0x30 | 0x40);
    let body = Body::walk(record, header.total_bytes).ok()?;
    let main = record.get(body.main_at..).filter(|_| ends_prepared && header.info & XACT_HAS_INFO != 0)?;
    prepared_xid(main, Some(version))
}

/// The transaction that a record about a prepared one names, behind what it may have before that (`ParseCommitRecord`).
fn prepared_xid(main: &[u8], version: Option<WalVersion>) -> Option<u32> {
    // What is dropped with its statistics: 12 bytes each, 16 since identifiers have 64 bits.
    let statistics = if version? >= WalVersion::V18 { 16 } else { 12 };
    let flags = u32_at(main, 8)?;
    let mut at: usize = 12;
    if flags & 0x1 != 0 {
        at += 8; // database and tablespace
    }
    // Lists, each with its length first: subtransactions, dropped files, dropped statistics, invalidations.
    for (flag, bytes) in [(0x2, 4), (0x4, 12), (0x100, statistics), (0x8, 16)] {
        if flags & flag != 0 {
            let list = length(u32_at(main, at)?).checked_mul(bytes)?;
            at = at.checked_add(list)?.checked_add(4)?;
        }
    }
    if flags & XINFO_TWOPHASE != 0 { u32_at(main, at) } else { None }
}

fn checkpoint_shutdown(main: &[u8]) -> Option<WalEvent> {
    Some(WalEvent::CheckpointShutdown { redo: lsn_at(main, 0)?, timeline: timeline_at(main, 8)?, previous: timeline_at(main, 12)? })
}

fn end_of_recovery(main: &[u8]) -> Option<WalEvent> {
    Some(WalEvent::EndOfRecovery { time: time_at(main, 0)?, timeline: timeline_at(main, 8)?, previous: timeline_at(main, 12)? })
}

fn parameter_change(main: &[u8]) -> Option<WalEvent> {
    Some(WalEvent::ParameterChange { parameters: Parameters::at(main, 0)?, is_minimal: u32_at(main, 20)? == WAL_LEVEL_MINIMAL })
}

fn restore_point(main: &[u8]) -> Option<WalEvent> {
    let name: [u8; 64] = array_at(main, 8)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(WalEvent::RestorePoint { time: time_at(main, 0)?, name: String::from_utf8_lossy(name).into_owned() })
}

fn time_at(main: &[u8], at: usize) -> Option<PgTime> {
    i64_at(main, at).map(PgTime)
}

fn lsn_at(main: &[u8], at: usize) -> Option<Lsn> {
    u64_at(main, at).map(Lsn)
}

fn timeline_at(main: &[u8], at: usize) -> Option<Timeline> {
    Timeline::new(u32_at(main, at)?)
}
