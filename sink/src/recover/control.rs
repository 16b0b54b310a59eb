//! `global/pg_control`, as a recovery reads and, in one case, writes it.

use std::ops::Range;

use walbus::proto::control::{Control as File, ControlError, DbState};

use super::plan::Control;

/// Where the state stands, in all versions (`ControlFileData` in Postgres' pg_control.h).
const STATE: Range<usize> = 16..20;

/// `DB_IN_PRODUCTION`.
const IN_PRODUCTION: u32 = 6;

/// Where a CRC may stand: behind the last field, which later versions moved back.
const CRC_PLACES: Range<usize> = 256..512;

/// Reads what decides.
pub(super) fn read(bytes: &[u8]) -> Result<Control, ControlError> {
    let file = File::parse(bytes)?;
    Ok(Control {
        system_id: file.system,
        segment_size: file.segment,
        shut_down: file.state == DbState::ShutDown,
        checkpoint: file.checkpoint,
        redo: file.redo,
        checkpoint_timeline: file.timeline,
        min_recovery_timeline: file.min_recovery_timeline,
    })
}

/// The same file as it was when the server was started after that shutdown: in production. A crash then is what Postgres recovers from.
pub(super) fn in_production(bytes: &[u8]) -> Result<Vec<u8>, ControlError> {
    File::parse(bytes)?;
    // The place that holds the right CRC of all before it is the CRC's.
    let is_crc = |at: &usize| crc_field(bytes, *at) == Some(crc_fast::crc32_iscsi(&bytes[..*at]));
    let at = CRC_PLACES.step_by(4).find(is_crc).ok_or(ControlError::Field("place of its CRC"))?;
    let mut new = bytes.to_vec();
    new[STATE].copy_from_slice(&IN_PRODUCTION.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&new[..at]);
    new[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    File::parse(&new)?;
    Ok(new)
}

fn crc_field(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|field| u32::from_le_bytes(*field))
}
