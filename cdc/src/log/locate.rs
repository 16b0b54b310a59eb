//! A position by commit time.

use std::sync::Arc;

use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::disk::Disk;
use walbus::{Lsn, Position};

use super::index::SegmentIndex;
use super::layout::NO_TIME;
use super::names::file_of;
use super::reader::{ReadError, load_index, open_segment, read_error};
use super::scan::{Records, SCAN_BYTES};
use super::state::Place;
use super::{Damage, Shared};

/// Before the first transaction that was committed at `time` or later; the head where there is none.
pub(super) fn locate_time<D: Disk>(shared: &Shared<D>, time: i64) -> Result<Position, ReadError> {
    let (head, visible, segments) = {
        let state = shared.state();
        let first = state.first().header;
        // Something was removed that is as late as that.
        if first.time_max != NO_TIME && first.time_max >= time {
            return Err(ReadError::TooFarBehind { earliest: state.earliest() });
        }
        let sealed = state.sealed.iter().filter(|sealed| sealed.summary.time_max >= time);
        let mut segments: Vec<_> = sealed.map(|sealed| (sealed.summary.header.number, sealed.index.clone())).collect();
        segments.push((state.current.summary.header.number, Some(Arc::new(state.current.clone()))));
        (state.head, state.visible, segments)
    };
    for (number, index) in segments {
        if let Some(found) = locate_in(shared, time, number, index, visible)? {
            // Of a transaction that is not whole there is nothing to be found.
            return Ok(found.min(head));
        }
    }
    Ok(head)
}

fn locate_in<D: Disk>(
    shared: &Shared<D>,
    time: i64,
    number: u64,
    index: Option<Arc<SegmentIndex>>,
    visible: Place,
) -> Result<Option<Position>, ReadError> {
    let (file, header) = open_segment(shared, number)?;
    let index = match index {
        Some(index) => index,
        None => Arc::new(load_index(shared, &file, &header)?),
    };
    let Some(mut offset) = index.offset_for_time(time) else { return Ok(None) };
    let mut records = Records::new(file, number, SCAN_BYTES);
    while (Place { segment: number, offset }) < visible {
        let found = records.record_at(offset).map_err(|why| read_error(number, offset, why))?;
        let Some((record, payload)) = found else { break };
        if record.meta.time_max >= time {
            let found = before_time(&payload, time).map_err(|reason| Damage::new(&file_of(number), offset, reason))?;
            return Ok(Some(found));
        }
        offset += record.record_bytes();
    }
    Ok(None)
}

/// Before the first transaction of a batch with this commit time or a later one.
fn before_time(payload: &Bytes, time: i64) -> Result<Position, String> {
    let batch = v1::Batch::decode(payload.clone()).map_err(|error| format!("it is no batch: {error}"))?;
    let found = batch.transactions.iter().find(|transaction| transaction.commit_time >= time);
    let found = found.ok_or("it has no transaction of the time that its header says")?;
    Ok(Position { commit_lsn: Lsn(found.commit_lsn), ordinal: 0 })
}
