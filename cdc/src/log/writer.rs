//! The one that appends.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::disk::{Disk, DiskFile, is_full};
use walbus::{Lsn, Position};

use super::Shared;
use super::index::SegmentIndex;
use super::job::{Done, Job, Made, Task};
use super::layout::{
    BatchMeta, NO_TIME, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
    low_half, record_bytes,
};
use super::names::{SPARE_PREFIX, file_of};
use super::ring::Entry;
use super::schemas::SchemaSet;
use super::state::{Place, Sealed};

/// How large a record of definitions gets at the start of a segment, in bytes, before another one is begun.
const SCHEMAS_BYTES: usize = 1 << 20;

/// The largest payload that is copied together with its header, so that one write is enough.
const COPIED_BYTES_MAX: usize = 1 << 20;

/// Appends to the log, and makes durable what was appended. There is one of it.
///
/// Call [`Writer::append`] as often as there is something, then [`Writer::sync`] once for all of it. Beside that, run what
/// [`Writer::job`] gives on another thread, and hand back what it has done: else the making of a segment's file is waited for by an append.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    shared: Arc<Shared<D>>,
    file: Arc<D::File>,
    number: u64,
    /// Where the next record goes.
    offset: u64,
    /// Up to where the segment is durable.
    durable: u64,
    /// The last position that was appended.
    last: Position,
    complete: Complete,
    /// The latest commit time so far.
    time_max: i64,
    schemas: Arc<SchemaSet>,
    spares: VecDeque<Spare<D::File>>,
    spares_made: u64,
    spares_under_way: usize,
    indexes: VecDeque<(u64, Arc<SegmentIndex>)>,
    buffer: Vec<u8>,
    /// Something failed whose outcome is not known: nothing is done any more.
    failed: bool,
}

/// The end of the last whole transaction that was appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Complete {
    pub(super) position: Position,
    pub(super) end_lsn: Lsn,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct Spare<F> {
    pub(super) name: String,
    pub(super) file: F,
}

/// A segment to go on in.
#[derive(Debug)]
pub(super) struct Tail<D: Disk> {
    pub(super) file: Arc<D::File>,
    pub(super) index: SegmentIndex,
    pub(super) schemas: SchemaSet,
    pub(super) complete: Complete,
}

impl<D: Disk> Writer<D> {
    /// A writer that goes on where recovery has ended: everything up to there is durable.
    pub(super) fn new(shared: Arc<Shared<D>>, tail: Tail<D>) -> Self {
        let Tail { file, index, schemas, complete } = tail;
        let summary = index.summary;
        assert_eq!(summary.last, complete.position, "an incomplete transaction is cut off");
        Self {
            shared,
            file,
            number: summary.header.number,
            offset: summary.end,
            durable: summary.end,
            last: summary.last,
            complete,
            time_max: summary.header.time_max.max(summary.time_max),
            schemas: Arc::new(schemas),
            spares: VecDeque::new(),
            spares_made: 0,
            spares_under_way: 0,
            indexes: VecDeque::new(),
            buffer: Vec::new(),
            failed: false,
        }
    }

    /// The last position that was appended, durable or not.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// The definitions that are known.
    #[must_use]
    pub const fn schemas(&self) -> &Arc<SchemaSet> {
        &self.schemas
    }

    /// Writes a batch. It is not durable, and nobody is given it, before the next [`Writer::sync`].
    ///
    /// `new_schemas` are those that the batch defines, as they stand in its payload.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] from the making of a new segment: nothing has changed, and the same can be tried again. After any other
    /// error the process should end: nothing more is written or synced.
    ///
    /// # Panics
    /// Where an invariant would be broken: positions that do not rise, another transaction within one that has not ended, a definition that
    /// contradicts an earlier one, a payload above [`PAYLOAD_BYTES_MAX`].
    pub fn append(&mut self, meta: BatchMeta, payload: Bytes, new_schemas: &[v1::Schema]) -> io::Result<()> {
        self.usable()?;
        self.check(&meta, &payload, new_schemas);
        let payload_bytes = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let begun = self.shared.state().current.summary.batches > 0;
        if begun && self.offset + record_bytes(payload_bytes) > self.shared.settings.segment_bytes {
            self.next_segment()?;
        }
        let segment = low_half(self.number);
        let record = RecordHeader { kind: RecordKind::Batch, meta, payload_bytes, segment, durable: self.durable };
        self.write(&record, &payload)?;

        self.offset += record.record_bytes();
        self.last = meta.last;
        self.time_max = self.time_max.max(meta.time_max);
        if meta.ends {
            let place = Place { segment: self.number, offset: self.offset };
            self.complete = Complete { position: meta.last, end_lsn: meta.end_lsn, place };
        }
        let entry = Entry { meta, payload, schemas: Arc::clone(&self.schemas) };
        if !new_schemas.is_empty() {
            self.define(new_schemas);
        }
        let mut state = self.shared.state_mut();
        state.current.add(&record, self.shared.settings.index_every_bytes);
        state.current_bytes = state.current_bytes.max(self.offset);
        state.ring.push(Arc::new(entry));
        Ok(())
    }

    /// Leaves definitions out of the segments to come: nothing that the log holds uses them, and nothing that is appended from now on.
    pub fn forget(&mut self, ids: &[u32]) {
        if !ids.is_empty() {
            let mut schemas = SchemaSet::clone(&self.schemas);
            ids.iter().for_each(|id| schemas.remove(*id));
            self.schemas = Arc::new(schemas);
        }
    }

    /// Makes durable what was appended; then moves the head to the end of the last whole transaction and wakes who waits for it. Gives the head.
    ///
    /// # Errors
    /// Of the operating system. Fatal: the process must end, and acknowledge nothing more. Another sync could answer that all is well about
    /// what the kernel has dropped, so this one is never tried again.
    pub fn sync(&mut self) -> io::Result<Position> {
        self.usable()?;
        self.sync_file()?;
        let Complete { position, end_lsn, place } = self.complete;
        // What is made visible is in a segment that was synced when it was left, or below what is durable of this one.
        assert!(place.segment < self.number || place.offset <= self.durable, "the head moves only after a sync");
        let moved = {
            let mut state = self.shared.state_mut();
            let moved = state.head != position;
            state.publish(position, end_lsn, place);
            moved
        };
        if moved {
            self.shared.head.send_replace(position);
        }
        Ok(position)
    }

    /// Whether something was appended that is not durable.
    #[must_use]
    pub const fn needs_sync(&self) -> bool {
        self.durable < self.offset
    }

    /// The next thing to have done beside the writer, `None` where there is nothing to do. Give what it has done to [`Writer::finish`]; and what
    /// has failed to [`Writer::job_failed`].
    pub fn job(&mut self) -> Option<Job<D>> {
        let disk = Arc::clone(&self.shared.disk);
        let wanted = self.shared.settings.spares;
        if self.spares.len() + self.spares_under_way < wanted {
            self.spares_under_way += 1;
            let (name, len) = self.next_spare();
            return Some(Job { disk, task: Task::Spare { name, len } });
        }
        let (number, index) = self.indexes.pop_front()?;
        Some(Job { disk, task: Task::Index { number, index } })
    }

    /// Takes in what a job has done.
    pub fn finish(&mut self, done: Done<D>) {
        match done.0 {
            Made::Index { number } => {
                let mut state = self.shared.state_mut();
                if let Some(sealed) = state.sealed.iter_mut().find(|sealed| sealed.summary.header.number == number) {
                    sealed.index = None;
                }
            }
            Made::Spare { name, file } => {
                self.spares_under_way = self.spares_under_way.saturating_sub(1);
                self.spares.push_back(Spare { name, file });
            }
        }
    }

    /// Takes note that the job under way has failed, as with a full disk: a spare is asked for again.
    pub const fn job_failed(&mut self) {
        self.spares_under_way = 0;
    }

    /// Writes a record at the log's end. Where there is no room for it, the end stays where it is, and the same bytes can be written there again.
    fn write(&mut self, record: &RecordHeader, payload: &[u8]) -> io::Result<()> {
        self.failed = true;
        let written = self.write_record(record, payload);
        self.failed = written.as_ref().is_err_and(|error| !is_full(error));
        written
    }

    fn write_record(&mut self, record: &RecordHeader, payload: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        if payload.len() <= COPIED_BYTES_MAX {
            record.write(payload, &mut self.buffer);
            self.file.write_at(&self.buffer, self.offset)?;
        } else {
            let payload_at = self.offset + RECORD_HEADER_BYTES as u64;
            let end = payload_at + payload.len() as u64;
            let padding = usize::try_from(self.offset + record.record_bytes() - end).unwrap_or_default();
            self.file.write_at(&record.encode(payload), self.offset)?;
            self.file.write_at(payload, payload_at)?;
            self.file.write_at(&[0; 8][..padding], end)?;
        }
        Ok(())
    }

    fn check(&self, meta: &BatchMeta, payload: &Bytes, new_schemas: &[v1::Schema]) {
        assert!(
            self.last < meta.first && meta.first <= meta.last,
            "positions rise: {} to {} is behind {}",
            meta.first,
            meta.last,
            self.last
        );
        if self.last != self.complete.position {
            assert_eq!(meta.first.commit_lsn, self.last.commit_lsn, "a transaction goes on until it ends");
        }
        assert!(meta.ends || meta.first.commit_lsn == meta.last.commit_lsn, "a part is of one transaction");
        assert!(meta.end_lsn >= meta.last.commit_lsn && meta.end_lsn >= self.complete.end_lsn, "end LSNs rise: {}", meta.end_lsn);
        assert!(NO_TIME < meta.time_min && meta.time_min <= meta.time_max, "a batch has times");
        assert_eq!(meta.schemas, !new_schemas.is_empty(), "a batch says whether it defines something");
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
    }

    fn usable(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("the event log has failed before and is not written any more")) } else { Ok(()) }
    }

    fn sync_file(&mut self) -> io::Result<()> {
        if self.durable < self.offset {
            self.failed = true;
            self.file.sync()?;
            self.failed = false;
            self.durable = self.offset;
        }
        Ok(())
    }

    fn define(&mut self, new_schemas: &[v1::Schema]) {
        let mut schemas = SchemaSet::clone(&self.schemas);
        for schema in new_schemas {
            let added = schemas.add(schema.clone());
            assert_eq!(added, Ok(()), "an id means one definition for the whole epoch");
        }
        self.schemas = Arc::new(schemas);
    }

    fn next_spare(&mut self) -> (String, u64) {
        self.spares_made += 1;
        (format!("{SPARE_PREFIX}{}", self.spares_made), self.shared.settings.segment_bytes)
    }

    /// Seals the segment and begins the next one. In this order nothing but the end of the last segment can be torn: it has its name only when
    /// all before it and its own start are durable.
    fn next_segment(&mut self) -> io::Result<()> {
        let spare = if let Some(spare) = self.spares.pop_front() {
            spare
        } else {
            let (name, len) = self.next_spare();
            let file = self.shared.disk.create_zeroed(&name, len)?;
            Spare { name, file }
        };
        self.sync_file()?;
        let header = SegmentHeader {
            epoch: self.shared.epoch,
            system_id: self.shared.system_id,
            number: self.number + 1,
            before: self.last,
            complete: self.complete.position,
            complete_end_lsn: self.complete.end_lsn,
            time_max: self.time_max,
            batches_at: 0,
        };
        self.failed = true;
        let (file, header, file_bytes) = begin_segment(&*self.shared.disk, spare, header, &self.schemas)?;
        self.failed = false;
        let mut state = self.shared.state_mut();
        let current_bytes = std::mem::replace(&mut state.current_bytes, file_bytes);
        let index = Arc::new(std::mem::replace(&mut state.current, SegmentIndex::new(header)));
        state.sealed.push_back(Sealed { summary: index.summary, file_bytes: current_bytes, index: Some(Arc::clone(&index)) });
        drop(state);
        self.indexes.push_back((self.number, index));
        (self.file, self.number) = (file, header.number);
        (self.offset, self.durable) = (header.batches_at, header.batches_at);
        Ok(())
    }
}

/// Turns a zeroed file into a segment with this header, but for where its batches begin, and these definitions. Durable on return, its name
/// included. Gives the file, its header and its length.
pub(super) fn begin_segment<D: Disk>(
    disk: &D,
    spare: Spare<D::File>,
    header: SegmentHeader,
    schemas: &SchemaSet,
) -> io::Result<(Arc<D::File>, SegmentHeader, u64)> {
    let mut content = vec![0; SEGMENT_HEADER_BYTES];
    let mut part = v1::Batch::default();
    let mut part_bytes = 0;
    for schema in schemas.iter() {
        part_bytes += schema.encoded_len();
        part.schemas.push(v1::Schema::clone(schema));
        if part_bytes >= SCHEMAS_BYTES {
            write_schemas(&header, &std::mem::take(&mut part), &mut content);
            part_bytes = 0;
        }
    }
    if !part.schemas.is_empty() {
        write_schemas(&header, &part, &mut content);
    }
    let header = SegmentHeader { batches_at: content.len() as u64, ..header };
    content[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
    spare.file.write_at(&content, 0)?;
    spare.file.sync()?;
    disk.rename(&spare.name, &file_of(header.number))?;
    disk.sync_dir()?;
    let len = spare.file.len()?;
    Ok((Arc::new(spare.file), header, len))
}

fn write_schemas(header: &SegmentHeader, part: &v1::Batch, to: &mut Vec<u8>) {
    let payload = part.encode_to_vec();
    let (first, last) = (header.before, header.before);
    let meta = BatchMeta {
        first,
        last,
        end_lsn: header.complete_end_lsn,
        time_min: NO_TIME,
        time_max: NO_TIME,
        ends: false,
        schemas: true,
    };
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let record = RecordHeader { kind: RecordKind::Schemas, meta, payload_bytes, segment: low_half(header.number), durable: 0 };
    record.write(&payload, to);
}
