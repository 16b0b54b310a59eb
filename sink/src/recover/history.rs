//! Where a timeline comes from.

use walbus::Timeline;
use walbus::proto::history::{History, HistoryError};

use super::plan::Ancestors;

/// The ancestors in a history file, oldest first.
pub(super) fn ancestors(timeline: Timeline, text: &[u8]) -> Result<Ancestors, HistoryError> {
    let history = History::parse(timeline, text)?;
    Ok(history.ancestors().iter().map(|ancestor| (ancestor.timeline, ancestor.end)).collect())
}
