//! What an object says of itself, without its content.

use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Listed, StoreError};
use walbus::pgdata::BackupHistory;

use crate::holdings::Holdings;

/// What was found of one object.
#[derive(Debug)]
pub(super) struct Fact {
    /// Its path.
    pub object: String,
    /// What is wrong with it, `None` for nothing; an error where that could not be found out.
    pub found: Result<Option<String>, StoreError>,
}

pub(super) async fn of(holdings: &Holdings, listed: &Listed) -> Fact {
    let found = match problem(holdings, &listed.name).await {
        // What is damaged is an answer.
        Err(StoreError::Damaged { problem, .. }) => Ok(Some(problem)),
        other => other,
    };
    Fact { object: listed.name.to_string(), found }
}

async fn problem(holdings: &Holdings, name: &ObjectName) -> Result<Option<String>, StoreError> {
    let inventory = holdings.inventory();
    let size = inventory.size;
    let expected = match name {
        ObjectName::Backup { .. } => {
            let text = holdings.archive().get(name).await?;
            let read = text.map(|text| BackupHistory::parse(&String::from_utf8_lossy(&text)));
            return Ok(read.and_then(Result::err).map(|error| error.to_string()));
        }
        // A history was read when the archive was opened, an index is looked at beside its segment.
        ObjectName::History { .. } | ObjectName::Index { .. } | ObjectName::Marker => return Ok(None),
        ObjectName::Partial { .. } | ObjectName::Segment { .. } => size.bytes(),
        ObjectName::Tail { segment, end, .. } => match segment.segment(size) {
            Some(segment) => end.bytes_after(segment.start(size)),
            None => return Ok(None),
        },
    };
    // Gone since it was listed: pruned, or a tail that was superseded.
    let Some(header) = holdings.archive().header(name).await? else { return Ok(None) };
    Ok((header.plain_bytes != expected).then(|| format!("it holds {} bytes, expected {expected}", header.plain_bytes)))
}
