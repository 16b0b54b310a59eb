//! What may go.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use walbus::disk::Disk;

use super::Shared;
use super::names::{file_of, index_of};

/// How much is kept. Nothing set: everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The oldest segments go while there are more bytes of files than this.
    pub keep_bytes: Option<u64>,
    /// A segment goes when its last commit is longer ago than this.
    pub keep_age: Option<Duration>,
}

/// What has gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many segments.
    pub segments: usize,
    /// How many bytes of files.
    pub bytes: u64,
}

pub(super) fn retain<D: Disk>(shared: &Shared<D>, policy: Policy, now: i64) -> io::Result<Removed> {
    let _one_at_a_time = shared.retaining.lock().unwrap_or_else(PoisonError::into_inner);
    let mut removed = Removed::default();
    while let Some((number, bytes)) = take_oldest(shared, policy, now) {
        match shared.disk.remove(&index_of(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        shared.disk.remove(&file_of(number))?;
        // One by one: a folder may keep changes in any order, and a gap between segments would be damage.
        shared.disk.sync_dir()?;
        removed.segments += 1;
        removed.bytes += bytes;
    }
    Ok(removed)
}

/// Takes the oldest segment out of what readers are offered, if it is to go. Its file is removed after that: a reader that looks for it finds that
/// it is gone, and why.
fn take_oldest<D: Disk>(shared: &Shared<D>, policy: Policy, now: i64) -> Option<(u64, u64)> {
    let mut state = shared.state_mut();
    let too_large = policy.keep_bytes.is_some_and(|keep| state.size_bytes() > keep);
    let oldest = state.sealed.front()?;
    let age = policy.keep_age.map(|keep| i64::try_from(keep.as_micros()).unwrap_or(i64::MAX));
    let too_old = age.is_some_and(|keep| oldest.summary.time_max < now.saturating_sub(keep));
    // From the one with the head on everything is needed: there may be a transaction behind it that is not whole.
    let needed = oldest.summary.header.number >= state.visible.segment;
    if needed || !(too_large || too_old) {
        return None;
    }
    let sealed = state.sealed.pop_front()?;
    Some((sealed.summary.header.number, sealed.file_bytes))
}
