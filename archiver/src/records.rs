//! Records, read segment by segment.

use std::ops::ControlFlow;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use walbus::proto::wal::{DecodeError, Decoder, PAGE_BYTES, PageHeader, Record, WalEvent, prepared_xid_of};
use walbus::{Lsn, SegmentSize, Timeline};

use crate::holdings::Holdings;
use crate::plan::Link;

/// How much of a segment is decoded between two looks at whether that is enough, in bytes.
const PIECE: usize = 1 << 20;

/// How many segments are asked for at once: the next is on its way while one is read.
const AHEAD: usize = 2;

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The end of the last complete record.
    pub complete: Lsn,
    /// Where that starts.
    pub last: Option<Lsn>,
    /// Why it ended before the bytes did; `None` where they did, or the visitor had enough.
    pub broken: Option<DecodeError>,
}

/// Reads all records of `links`, which follow each other, in order, and hands them to `visit` with the transaction that each ends, 0 for
/// none and `None` where it can't be told. Starts at `start` where that is given, a record's start in the first segment; otherwise behind
/// the record that comes in over the first segment's start.
///
/// # Errors
/// Where a segment can't be had, or a whole one is damaged. That the WAL ends within one that is not whole is no error.
pub async fn read(
    holdings: &Holdings,
    links: &[Link],
    timeline: Timeline,
    start: Option<Lsn>,
    visit: &mut impl FnMut(&Record, Option<u32>) -> ControlFlow<()>,
) -> anyhow::Result<End> {
    let inventory = holdings.inventory();
    let size = inventory.size;
    let Some(first) = links.first() else { return Ok(End { complete: start.unwrap_or_default(), last: None, broken: None }) };
    let begin = start.unwrap_or_else(|| first.segment.start(size));
    let mut decoder = Decoder::new(size, begin, timeline)?.with_system(inventory.system);
    let mut before: Option<(Lsn, Bytes)> = None;
    let mut contents = std::pin::pin!(stream::iter(links).map(|link| holdings.bytes(link)).buffered(AHEAD));
    for link in links {
        let at = link.segment.start(size);
        let Some(bytes) = contents.next().await.transpose()? else { break };
        let skip = usize::try_from(decoder.position().bytes_after(at)).unwrap_or(usize::MAX).min(bytes.len());
        for piece in bytes[skip..].chunks(PIECE) {
            let mut flow = ControlFlow::Continue(());
            let pages = Pages { before: before.as_ref(), here: (at, &bytes), size };
            let mut ends = Vec::new();
            let pushed = decoder.push(piece, &mut |record| ends.push(record.clone()));
            for record in &ends {
                if flow.is_continue() {
                    flow = visit(record, transaction(record, &pages));
                }
            }
            let end = |broken| Ok(End { complete: decoder.complete_end(), last: decoder.last_record(), broken });
            match pushed {
                _ if flow.is_break() => return end(None),
                Ok(()) => {}
                Err(error) if matches!(link.held, crate::plan::Held::Whole) => {
                    let name = inventory.name(link.segment);
                    return Err(
                        anyhow::Error::new(error).context(format!("segment {name} is damaged in the archive: run verify --full"))
                    );
                }
                Err(error) => return end(Some(error)),
            }
        }
        before = Some((at, bytes));
    }
    Ok(End { complete: decoder.complete_end(), last: decoder.last_record(), broken: None })
}

/// The transaction that a record ends or belongs to.
fn transaction(record: &Record, pages: &Pages<'_>) -> Option<u32> {
    match &record.event {
        Some(WalEvent::AbortPrepared { xid, .. } | WalEvent::CommitPrepared { xid, .. }) => {
            xid.or_else(|| prepared_xid_of(&pages.record(record)?, PageHeader::parse(pages.here.1)?.version()?))
        }
        _ => Some(record.xid),
    }
}

/// The bytes of one or two segments.
struct Pages<'a> {
    before: Option<&'a (Lsn, Bytes)>,
    here: (Lsn, &'a Bytes),
    size: SegmentSize,
}

impl Pages<'_> {
    /// A record's bytes without page headers; `None` where it does not lie within.
    fn record(&self, record: &Record) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let total = usize::try_from(record.total_bytes).ok()?;
        let mut at = record.lsn;
        while bytes.len() < total {
            if at.0.is_multiple_of(PAGE_BYTES.into()) {
                at = Lsn(at.0 + if self.size.offset(at) == 0 { 40 } else { 24 });
            }
            let here = if at >= self.here.0 { self.here } else { self.before.map(|(start, bytes)| (*start, bytes))? };
            let offset = usize::try_from(at.checked_sub(here.0)?).ok()?;
            let left = usize::try_from(u64::from(PAGE_BYTES) - at.0 % u64::from(PAGE_BYTES)).ok()?.min(total - bytes.len());
            bytes.extend(here.1.get(offset..offset.checked_add(left)?)?);
            at = Lsn(at.0 + left as u64);
        }
        Some(bytes)
    }
}
