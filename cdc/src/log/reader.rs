//! A reader's place in the log: in the ring while it keeps up, in the files while it does not.

use std::io;
use std::sync::Arc;

use walbus::Position;
use walbus::disk::{Disk, DiskFile};

use super::index::SegmentIndex;
use super::layout::{RecordKind, SegmentHeader};
use super::names::{file_of, index_of};
use super::ring::{Entry, Recent};
use super::scan::{NoRecord, Records, add_schemas, base_schemas, read_header, scan};
use super::schemas::SchemaSet;
use super::state::Place;
use super::{Damage, OpenError, Shared};

/// How much a reader of files reads at once, and holds between two reads.
const WINDOW_BYTES: usize = 64 << 10;

/// Why a reader gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The position is ahead of the log.
    #[error("the position is ahead of the log, which ends at {head}")]
    Ahead {
        /// The end of the last transaction.
        head: Position,
    },
    /// What is held is not as it was written.
    #[error("the event log is damaged")]
    Damaged(#[from] Damage),
    /// The operating system refuses.
    #[error("{context}")]
    Io {
        /// What was tried.
        context: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// What comes next was removed.
    #[error("the position is older than what the log holds, which is what is behind {earliest}")]
    TooFarBehind {
        /// Whole transactions are held behind this position.
        earliest: Position,
    },
}

/// Reads batches in their order, each once.
///
/// Ask [`Reader::try_next_recent`] first: it never blocks. Where that says [`Recent::Past`], [`Reader::next_from_files`] goes on, on a
/// thread that may wait for a disk; ask the ring again after each batch, or after some. At rest a reader holds its position, and, while it
/// reads files, one open file and 64 KiB.
///
/// The first batch may begin at or before the position that the reader was made with: it is given whole.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    shared: Arc<Shared<D>>,
    after: Position,
    /// The end of the batch that was given last.
    given: Option<Position>,
    cursor: Option<Cursor<D>>,
}

/// A place in the files.
#[derive(Debug)]
struct Cursor<D: Disk> {
    header: SegmentHeader,
    records: Records<D::File>,
    offset: u64,
    /// The end of the batch before the offset, once one was read.
    last: Option<Position>,
    schemas: Arc<SchemaSet>,
}

impl<D: Disk> Reader<D> {
    pub(super) fn new(shared: Arc<Shared<D>>, after: Position) -> Result<Self, ReadError> {
        {
            let state = shared.state();
            let (head, earliest) = (state.head, state.earliest());
            if after > head {
                return Err(ReadError::Ahead { head });
            }
            if after < earliest {
                return Err(ReadError::TooFarBehind { earliest });
            }
        }
        Ok(Self { shared, after, given: None, cursor: None })
    }

    /// The position up to which everything was given.
    #[must_use]
    pub const fn after(&self) -> Position {
        self.after
    }

    /// The next batch, if it is in memory. Never blocks.
    pub fn try_next_recent(&mut self) -> Recent {
        let recent = {
            let state = self.shared.state();
            let recent = state.ring.next(self.after, state.head);
            if let Recent::Entry(entry) = &recent {
                assert!(entry.meta.last <= state.head, "nobody is given what is not durable");
            }
            recent
        };
        if let Recent::Entry(entry) = &recent {
            assert!(self.given.is_none_or(|given| given < entry.meta.first), "positions rise");
            self.cursor = None;
            self.moved_to(entry.meta.last);
        }
        recent
    }

    /// The next batch from the files, `None` where the reader has everything. Blocks on files.
    ///
    /// # Errors
    /// See [`ReadError`]; never [`ReadError::Ahead`].
    pub fn next_from_files(&mut self) -> Result<Option<Arc<Entry>>, ReadError> {
        let (head, visible) = {
            let state = self.shared.state();
            (state.head, state.visible)
        };
        if self.after >= head {
            self.cursor = None;
            return Ok(None);
        }
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => Cursor::find(&self.shared, self.after)?,
        };
        loop {
            let damage = |cursor: &Cursor<D>, reason: &str| Damage::new(&file_of(cursor.header.number), cursor.offset, reason);
            if cursor.place() >= visible {
                return Err(damage(&cursor, "it ends before the head").into());
            }
            let Some(entry) = cursor.next()? else {
                if cursor.header.number >= visible.segment {
                    return Err(damage(&cursor, "a record that was durable is missing").into());
                }
                cursor = cursor.into_next_segment(&self.shared)?;
                continue;
            };
            if entry.meta.last <= self.after {
                continue;
            }
            if self.given.is_some_and(|given| entry.meta.first <= given) || entry.meta.last > head {
                return Err(damage(&cursor, "the record before it is out of order").into());
            }
            self.moved_to(entry.meta.last);
            self.cursor = Some(cursor);
            return Ok(Some(Arc::new(entry)));
        }
    }

    fn moved_to(&mut self, last: Position) {
        (self.after, self.given) = (last, Some(last));
    }
}

impl<D: Disk> Cursor<D> {
    /// A place at or before what comes next behind `after`.
    fn find(shared: &Shared<D>, after: Position) -> Result<Self, ReadError> {
        let (number, index) = {
            let state = shared.state();
            let earliest = state.earliest();
            if after < earliest {
                return Err(ReadError::TooFarBehind { earliest });
            }
            let at = state.sealed.partition_point(|sealed| sealed.summary.last <= after);
            match state.sealed.get(at) {
                Some(sealed) => (sealed.summary.header.number, sealed.index.clone()),
                None => (state.current.summary.header.number, Some(Arc::new(state.current.clone()))),
            }
        };
        let (file, header) = open_segment(shared, number)?;
        let index = match index {
            Some(index) => index,
            None => Arc::new(load_index(shared, &file, &header)?),
        };
        let mut records = Records::new(file, number, WINDOW_BYTES).sharing(&shared.large);
        let mut schemas = base_schemas(&mut records, &header).map_err(ReadError::from)?;
        let offset = index.offset_for(after);
        for at in index.schemas_below(offset) {
            let found = records.record_at(at).map_err(|why| read_error(number, at, why))?;
            let damage = |reason: String| Damage::new(&file_of(number), at, reason);
            let (_, payload) = found.ok_or_else(|| damage("a record with definitions is missing".into()))?;
            add_schemas(&mut schemas, &payload).map_err(damage)?;
        }
        Ok(Self { header, records, offset, last: None, schemas: Arc::new(schemas) })
    }

    const fn place(&self) -> Place {
        Place { segment: self.header.number, offset: self.offset }
    }

    /// The batch at the cursor, `None` at the segment's end; moves behind it.
    fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        let number = self.header.number;
        let found = match self.records.record_at(self.offset) {
            Ok(found) => found,
            // The window may be older than the record.
            Err(NoRecord::Bad(_)) => self.fresh_record()?,
            Err(why) => return Err(read_error(number, self.offset, why)),
        };
        let found = if found.is_none() { self.fresh_record()? } else { found };
        let Some((record, payload)) = found else { return Ok(None) };
        if record.kind != RecordKind::Batch {
            return Err(Damage::new(&file_of(number), self.offset, "definitions behind the first batch").into());
        }
        let schemas = Arc::clone(&self.schemas);
        if record.meta.schemas {
            let mut with = SchemaSet::clone(&schemas);
            add_schemas(&mut with, &payload).map_err(|reason| Damage::new(&file_of(number), self.offset, reason))?;
            self.schemas = Arc::new(with);
        }
        self.offset += record.record_bytes();
        self.last = Some(record.meta.last);
        Ok(Some(Entry { meta: record.meta, payload, schemas }))
    }

    fn fresh_record(&mut self) -> Result<Option<(super::layout::RecordHeader, bytes::Bytes)>, ReadError> {
        self.records.forget();
        self.records.record_at(self.offset).map_err(|why| read_error(self.header.number, self.offset, why))
    }

    fn into_next_segment(self, shared: &Shared<D>) -> Result<Self, ReadError> {
        let (file, header) = open_segment(shared, self.header.number + 1)?;
        if self.last != Some(header.before) {
            let reason = format!("records are missing: the segment behind it begins at {}", header.before);
            return Err(Damage::new(&file_of(self.header.number), self.offset, reason).into());
        }
        let records = Records::new(file, header.number, WINDOW_BYTES).sharing(&shared.large);
        // It begins with the definitions that are known here already.
        Ok(Self { header, records, offset: header.batches_at, last: None, schemas: self.schemas })
    }
}

/// Opens a segment, which retention may have removed meanwhile.
pub(super) fn open_segment<D: Disk>(shared: &Shared<D>, number: u64) -> Result<(Arc<D::File>, SegmentHeader), ReadError> {
    let gone = || {
        let state = shared.state();
        (state.first().header.number > number).then(|| state.earliest())
    };
    if let Some(earliest) = gone() {
        return Err(ReadError::TooFarBehind { earliest });
    }
    let (file, header) = match read_header(&*shared.disk, number) {
        Ok(opened) => opened,
        Err(error) => return Err(gone().map_or_else(|| error.into(), |earliest| ReadError::TooFarBehind { earliest })),
    };
    if header.epoch != shared.epoch {
        return Err(Damage::new(&file_of(number), 0, format!("it is of epoch {}", header.epoch)).into());
    }
    Ok((file, header))
}

/// The index that lies beside a segment, or one made from the segment itself.
pub(super) fn load_index<D: Disk>(
    shared: &Shared<D>,
    file: &Arc<D::File>,
    header: &SegmentHeader,
) -> Result<SegmentIndex, ReadError> {
    let beside = read_index(&*shared.disk, header.number).map_err(ReadError::from)?;
    if let Some(index) = beside.and_then(|bytes| SegmentIndex::parse(&bytes, header)) {
        return Ok(index);
    }
    let scanned = scan(file, header, shared.settings.index_every_bytes, u64::MAX, |_, _, _, _| Ok(())).map_err(ReadError::from)?;
    match scanned.stopped_by {
        Some(error) => Err(Damage::new(&file_of(header.number), scanned.end(), error).into()),
        None => Ok(scanned.index),
    }
}

/// The bytes of the index beside a segment, `None` where there is none.
pub(super) fn read_index<D: Disk>(disk: &D, number: u64) -> Result<Option<Vec<u8>>, OpenError> {
    let name = index_of(number);
    let file = match disk.open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("open", &name)(error)),
    };
    let failed = OpenError::io("read", &name);
    let len = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
    // What is larger than any index is none.
    let mut bytes = vec![0; len.min(INDEX_BYTES_MAX)];
    let read = file.read_at(&mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Far above what the index of the largest segment has.
const INDEX_BYTES_MAX: usize = 64 << 20;

pub(super) fn read_error(number: u64, offset: u64, why: NoRecord) -> ReadError {
    match why {
        NoRecord::Bad(error) => Damage::new(&file_of(number), offset, error).into(),
        NoRecord::Io(source) => ReadError::Io { context: format!("read {}", file_of(number)), source },
    }
}

impl From<OpenError> for ReadError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged(damage) => Self::Damaged(damage),
            OpenError::Io { context, source } => Self::Io { context, source },
            other => Self::Io { context: "open the log".to_owned(), source: io::Error::other(other) },
        }
    }
}
