//! What a stream's keeper wants to know of its records: when transactions ended, where timelines and segments did.
//! Source: `access/xact.h`, `access/xlog_internal.h` and `catalog/pg_control.h` of Postgres 15 to 18.

use super::body::Body;
use super::error::Reason;
use super::field::{array_at, i64_at, u32_at, u64_at};
use super::record::{RM_XACT, RM_XLOG, RMGR_INFO, RecordHeader};
use crate::ident::{PgTime, Timeline};
use crate::lsn::Lsn;

/// How much of a record is enough to read its event: header, origin, top-level transaction, and of the main data what is read of
/// it, the most for a restore point.
pub(super) const EVENT_BYTES: usize = 256;

/// `XLOG_XACT_OPMASK`.
const XACT_OP: u8 = 0x70;

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

/// The event of a record that starts with `bytes`: all of it, or at least [`EVENT_BYTES`].
pub(super) fn of(header: &RecordHeader, bytes: &[u8]) -> Result<Option<WalEvent>, Reason> {
    // No more is looked at of a record that lies whole in memory than of one that does not.
    let bytes = bytes.get(..EVENT_BYTES).unwrap_or(bytes);
    let reader: fn(&[u8]) -> Option<WalEvent> = match (header.rmid, header.info & RMGR_INFO) {
        (RM_XACT, info) => match info & XACT_OP {
            0x00 => |main| Some(WalEvent::Commit { time: time_at(main, 0)? }),
            0x20 => |main| Some(WalEvent::Abort { time: time_at(main, 0)? }),
            0x30 => |main| Some(WalEvent::CommitPrepared { time: time_at(main, 0)? }),
            0x40 => |main| Some(WalEvent::AbortPrepared { time: time_at(main, 0)? }),
            _ => return Ok(None),
        },
        (RM_XLOG, 0x00) => checkpoint_shutdown,
        (RM_XLOG, 0x10) => |main| Some(WalEvent::CheckpointOnline { redo: lsn_at(main, 0)?, timeline: timeline_at(main, 8)? }),
        (RM_XLOG, 0x40) => |_| Some(WalEvent::Switch),
        (RM_XLOG, 0x70) => restore_point,
        (RM_XLOG, 0x90) => end_of_recovery,
        (RM_XLOG, 0xD0) => |main| Some(WalEvent::OverwriteContrecord { overwritten: lsn_at(main, 0)?, time: time_at(main, 8)? }),
        (RM_XLOG, 0xE0) => |_| Some(WalEvent::CheckpointRedo),
        _ => return Ok(None),
    };
    let problem = |problem| Reason::Content { rmid: header.rmid, info: header.info, problem };
    let body = Body::walk(bytes, header.total_bytes).map_err(|error| problem(error.0))?;
    let main = bytes.get(body.main_at..).unwrap_or_default();
    reader(main).ok_or_else(|| problem("its main data is too short, or names timeline 0")).map(Some)
}

fn checkpoint_shutdown(main: &[u8]) -> Option<WalEvent> {
    Some(WalEvent::CheckpointShutdown { redo: lsn_at(main, 0)?, timeline: timeline_at(main, 8)?, previous: timeline_at(main, 12)? })
}

fn end_of_recovery(main: &[u8]) -> Option<WalEvent> {
    Some(WalEvent::EndOfRecovery { time: time_at(main, 0)?, timeline: timeline_at(main, 8)?, previous: timeline_at(main, 12)? })
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
