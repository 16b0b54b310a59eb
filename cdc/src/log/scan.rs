//! Segments read from their start: each record checked, up to the first that is none.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::disk::{Disk, DiskFile};

use super::index::SegmentIndex;
use super::layout::{
    ALIGNMENT, RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, parse_record,
};
use super::names::file_of;
use super::schemas::SchemaSet;
use super::{Damage, OpenError};

/// How much is read at once by who reads a whole segment.
pub(super) const SCAN_BYTES: usize = 1 << 20;

/// The records of one file, read through a window.
#[derive(Debug)]
pub(super) struct Records<F> {
    file: Arc<F>,
    number: u64,
    window: Vec<u8>,
    window_at: u64,
    window_bytes: usize,
    large: Option<Arc<LargeRecords>>,
}

/// Records that readers hold: a large one is in memory once, however many of them hold it at the same time.
#[derive(Debug, Default)]
pub(super) struct LargeRecords {
    held: Mutex<Vec<LargeRecord>>,
}

#[derive(Debug)]
struct LargeRecord {
    number: u64,
    offset: u64,
    bytes: Weak<Vec<u8>>,
}

/// A share in one.
struct Share(Arc<Vec<u8>>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl LargeRecords {
    /// Records below this, with their header, are not worth it.
    const BYTES_MIN: usize = 1 << 20;

    /// The one at this place, if somebody holds it.
    pub(super) fn find(&self, number: u64, offset: u64) -> Option<Arc<Vec<u8>>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|record| (record.number, record.offset) == (number, offset)).and_then(|record| record.bytes.upgrade())
    }

    fn hold(&self, number: u64, offset: u64, bytes: &Arc<Vec<u8>>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|record| record.bytes.strong_count() > 0);
        held.push(LargeRecord { number, offset, bytes: Arc::downgrade(bytes) });
    }
}

/// Why there is no record.
#[derive(Debug)]
pub(super) enum NoRecord {
    Bad(RecordError),
    Io(io::Error),
}

impl From<io::Error> for NoRecord {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RecordError> for NoRecord {
    fn from(error: RecordError) -> Self {
        Self::Bad(error)
    }
}

impl<F: DiskFile> Records<F> {
    /// The records of a segment, of which `window_bytes` are read at once.
    pub(super) const fn new(file: Arc<F>, number: u64, window_bytes: usize) -> Self {
        Self { file, number, window: Vec::new(), window_at: 0, window_bytes, large: None }
    }

    /// As those of others who have the same `large`.
    pub(super) fn sharing(self, large: &Arc<LargeRecords>) -> Self {
        Self { large: Some(Arc::clone(large)), ..self }
    }

    /// The record at an offset, proved; `None` where there are zeros, or the file ends.
    pub(super) fn record_at(&mut self, offset: u64) -> Result<Option<(RecordHeader, Bytes)>, NoRecord> {
        let Some(header) = self.header_at(offset)? else { return Ok(None) };
        let len = usize::try_from(header.record_bytes()).unwrap_or(usize::MAX);
        if len <= self.window_bytes {
            let number = self.number;
            return Ok(parse_record(self.bytes_at(offset, len)?, number)?);
        }
        // Larger than the window: read by itself, so that a reader at rest holds no more than a window.
        let left = self.file.len()?.saturating_sub(offset);
        if header.record_bytes() > left {
            return Err(RecordError::Length(header.payload_bytes).into());
        }
        let large = self.large.as_deref().filter(|_| len >= LargeRecords::BYTES_MIN);
        let record = match large.and_then(|large| large.find(self.number, offset)) {
            Some(record) => record,
            None => {
                let mut record = vec![0; len];
                let read = self.file.read_at(&mut record, offset)?;
                header.verify(&record[..read])?;
                record.truncate(RECORD_HEADER_BYTES + usize::try_from(header.payload_bytes).unwrap_or(usize::MAX));
                let record = Arc::new(record);
                if let Some(large) = large {
                    large.hold(self.number, offset, &record);
                }
                record
            }
        };
        Ok(Some((header, Bytes::from_owner(Share(record)).slice(RECORD_HEADER_BYTES..))))
    }

    /// The header of the record at an offset, not proved.
    pub(super) fn header_at(&mut self, offset: u64) -> Result<Option<RecordHeader>, NoRecord> {
        let number = self.number;
        let bytes = self.bytes_at(offset, RECORD_HEADER_BYTES)?;
        Ok(bytes.first_chunk().map_or(Ok(None), |header| RecordHeader::parse(header, number))?)
    }

    /// Some bytes of the file, fewer only at its end.
    fn bytes_at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let held = offset.checked_sub(self.window_at).and_then(|start| usize::try_from(start).ok());
        if held.is_none_or(|start| start + len > self.window.len()) {
            self.window.resize(self.window_bytes.max(len), 0);
            let read = self.file.read_at(&mut self.window, offset)?;
            self.window.truncate(read);
            self.window_at = offset;
        }
        let start = usize::try_from(offset - self.window_at).unwrap_or(usize::MAX);
        let end = start.saturating_add(len).min(self.window.len());
        Ok(self.window.get(start..end).unwrap_or_default())
    }

    /// Forgets what was read, since it may have been written meanwhile.
    pub(super) fn forget(&mut self) {
        self.window = Vec::new();
    }
}

/// A segment as its records say.
#[derive(Debug)]
pub(super) struct Scanned {
    /// What it holds up to where it was read.
    pub(super) index: SegmentIndex,
    /// The definitions known at that place.
    pub(super) schemas: SchemaSet,
    /// What is there instead of a record, if it is not zeros or the file's end.
    pub(super) stopped_by: Option<RecordError>,
    /// Up to where the segment was durable, as the records themselves say.
    pub(super) durable: u64,
}

impl Scanned {
    /// Where reading stopped.
    pub(super) const fn end(&self) -> u64 {
        self.index.summary.end
    }
}

/// Opens a segment and reads its header.
pub(super) fn read_header<D: Disk>(disk: &D, number: u64) -> Result<(Arc<D::File>, SegmentHeader), OpenError> {
    let name = file_of(number);
    let file = disk.open(&name).map_err(OpenError::io("open", &name))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(OpenError::io("read", &name))?;
    if read < SEGMENT_HEADER_BYTES {
        return Err(Damage::new(&name, 0, "it is shorter than a header").into());
    }
    let header = SegmentHeader::parse(&bytes).map_err(|error| Damage::new(&name, 0, error))?;
    if header.number != number {
        return Err(Damage::new(&name, 0, format!("it is segment {}", header.number)).into());
    }
    Ok((Arc::new(file), header))
}

/// Reads a segment up to `limit`, or up to the first place that holds no record, and shows `each` batch with its offset and the definitions
/// known before it.
pub(super) fn scan<F: DiskFile>(
    file: &Arc<F>,
    header: &SegmentHeader,
    index_every: u64,
    limit: u64,
    mut each: impl FnMut(u64, &RecordHeader, &Bytes, &SchemaSet) -> Result<(), String>,
) -> Result<Scanned, OpenError> {
    let name = file_of(header.number);
    let mut records = Records::new(Arc::clone(file), header.number, SCAN_BYTES);
    let mut schemas = base_schemas(&mut records, header)?;
    let mut index = SegmentIndex::new(*header);
    let (mut durable, mut stopped_by) = (header.batches_at, None);
    while index.summary.end < limit {
        let offset = index.summary.end;
        let damage = |reason: String| OpenError::from(Damage::new(&name, offset, reason));
        let (record, payload) = match records.record_at(offset) {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(NoRecord::Bad(error)) => {
                stopped_by = Some(error);
                break;
            }
            Err(NoRecord::Io(error)) => return Err(OpenError::io("read", &name)(error)),
        };
        // From here on the record is proved to be as it was written: what is wrong with it now was written wrong.
        if record.kind != RecordKind::Batch {
            return Err(damage("definitions behind the first batch".into()));
        }
        if record.meta.first <= index.summary.last {
            return Err(damage(format!("its positions do not rise: {} is behind {}", record.meta.first, index.summary.last)));
        }
        each(offset, &record, &payload, &schemas).map_err(&damage)?;
        if record.meta.schemas {
            add_schemas(&mut schemas, &payload).map_err(&damage)?;
        }
        durable = durable.max(record.durable);
        index.add(&record, index_every);
    }
    Ok(Scanned { index, schemas, stopped_by, durable })
}

/// The definitions that were known when a segment began. Durable before the segment had its name: all of them are there, or it is damage.
pub(super) fn base_schemas<F: DiskFile>(records: &mut Records<F>, header: &SegmentHeader) -> Result<SchemaSet, OpenError> {
    let name = file_of(header.number);
    let mut schemas = SchemaSet::default();
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    while offset < header.batches_at {
        let damage = |reason: String| OpenError::from(Damage::new(&name, offset, reason));
        let (record, payload) = match records.record_at(offset) {
            Ok(Some(found)) if found.0.kind == RecordKind::Schemas => found,
            Ok(_) => return Err(damage("definitions are missing".into())),
            Err(NoRecord::Bad(error)) => return Err(damage(error.to_string())),
            Err(NoRecord::Io(error)) => return Err(OpenError::io("read", &name)(error)),
        };
        add_schemas(&mut schemas, &payload).map_err(damage)?;
        offset += record.record_bytes();
    }
    Ok(schemas)
}

/// Adds what a batch defines.
pub(super) fn add_schemas(schemas: &mut SchemaSet, payload: &Bytes) -> Result<(), String> {
    let batch = v1::Batch::decode(payload.clone()).map_err(|error| format!("it is no batch: {error}"))?;
    batch.schemas.into_iter().try_for_each(|schema| schemas.add(schema)).map_err(|error| error.to_string())
}

/// What lies behind the last record of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// A record at this offset proves that what is missing before it was durable.
    Damage(u64),
    /// Nothing.
    Zeros,
    /// What was written and not synced when the power went.
    Torn,
}

/// Looks at what lies from `from` on, where there is no record.
///
/// Of writes that were not synced any may be lost, so that a whole record behind a torn one proves nothing by itself. But each says up to
/// where its segment was durable when it was written.
pub(super) fn rest_of<F: DiskFile>(file: &Arc<F>, number: u64, from: u64) -> io::Result<Rest> {
    let mut records = Records::new(Arc::clone(file), number, SCAN_BYTES);
    let zeros = vec![0; SCAN_BYTES];
    let mut buffer = zeros.clone();
    let mut rest = Rest::Zeros;
    let mut at = from;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(rest);
        }
        if buffer[..read] == zeros[..read] {
            at += read as u64;
            continue;
        }
        for (n, unit) in buffer[..read].chunks(ALIGNMENT).enumerate() {
            if unit.iter().all(|byte| *byte == 0) {
                continue;
            }
            rest = Rest::Torn;
            let offset = at + (n * ALIGNMENT) as u64;
            match records.record_at(offset) {
                Ok(Some((record, _))) if record.durable > from => return Ok(Rest::Damage(offset)),
                Err(NoRecord::Io(error)) => return Err(error),
                _ => {}
            }
        }
        at += read as u64;
    }
}
