//! WAL files read to where valid WAL ends.

use super::decoder::Decoder;
use super::error::DecodeError;
use super::record::Record;
use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::segment::SegmentSize;

/// Reads the bytes of consecutive segments up to where valid WAL ends, as Postgres does when it recovers: whatever is no valid WAL
/// is the end, and the reason is kept.
#[derive(Debug, Clone)]
pub struct Scan {
    decoder: Decoder,
    stopped: Option<DecodeError>,
}

/// Where valid WAL ends in the bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanEnd {
    /// The end of the last complete record; see [`Decoder::complete_end`].
    pub complete_end: Lsn,
    /// Where the last complete record starts.
    pub last_record: Option<Lsn>,
    /// The end of the bytes that were read and are no invalid WAL: `complete_end` where something stopped the scan.
    pub position: Lsn,
    /// Where a record starts that was not complete when the bytes ended.
    pub pending_record: Option<Lsn>,
    /// Up to where bytes at the start were passed over; see [`Decoder::unverified_end`].
    pub unverified_end: Option<Lsn>,
    /// The cluster, where a segment's first page was read.
    pub system: Option<SystemId>,
    /// The timeline of the last page read.
    pub timeline: Option<Timeline>,
    /// Why WAL ends there; `None` where the bytes did.
    pub reason: Option<DecodeError>,
}

impl Scan {
    /// Reads `timeline`'s WAL from `start` on; see [`Decoder::new`].
    ///
    /// # Errors
    /// As of [`Decoder::new`].
    pub fn new(segment: SegmentSize, start: Lsn, timeline: Timeline) -> Result<Self, DecodeError> {
        Decoder::new(segment, start, timeline).map(Self::from)
    }

    /// Reads on, and says whether more bytes are of use: not once valid WAL has ended.
    pub fn feed(&mut self, data: &[u8], sink: &mut impl FnMut(&Record)) -> bool {
        if self.stopped.is_none() {
            self.stopped = self.decoder.push(data, sink).err();
        }
        self.stopped.is_none()
    }

    /// Where valid WAL ends.
    #[must_use]
    pub fn finish(self) -> ScanEnd {
        let decoder = &self.decoder;
        ScanEnd {
            complete_end: decoder.complete_end(),
            last_record: decoder.last_record(),
            position: decoder.position(),
            pending_record: decoder.pending_record(),
            unverified_end: decoder.unverified_end(),
            system: decoder.system(),
            timeline: decoder.page_timeline(),
            reason: self.stopped,
        }
    }

    /// The decoder, to go on with where the scan has ended: at [`ScanEnd::position`].
    #[must_use]
    pub fn into_decoder(self) -> Decoder {
        self.decoder
    }
}

impl From<Decoder> for Scan {
    fn from(decoder: Decoder) -> Self {
        Self { decoder, stopped: None }
    }
}
