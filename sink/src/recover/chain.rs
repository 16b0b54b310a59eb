//! Following the records, as recovery will.

use std::io;

use walbus::disk::{Disk, DiskFile};
use walbus::proto::wal::{DecodeError, Decoder, PAGE_BYTES, PageHeader, Record, WalEvent};
use walbus::{Lsn, Segment, SegmentSize};

use super::error::RecoverError;
use super::plan::Plan;

/// Files are read in pieces of this size.
const READ_BYTES: usize = 1 << 20;

/// What of the records decides.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Whether the checkpoint that replay starts from is where it should be; `None` before it was reached.
    pub checkpoint: Option<bool>,
    /// Whether anything follows the checkpoint.
    pub after_checkpoint: bool,
    /// Whether a base backup ended.
    pub backup_end: bool,
    /// What lies behind a switch of segments, or is left of a record that was lost: no record, so anything may be there.
    pub unused: Vec<(Lsn, Lsn)>,
}

/// `XLOG_BACKUP_END`, of resource manager `XLOG`.
const BACKUP_END: (u8, u8) = (0, 0x50);

/// A walk along the records.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    decoder: Decoder,
    segment_size: SegmentSize,
    /// Where the checkpoint's record starts, and the redo position that it must name.
    checkpoint: (Lsn, Lsn),
    /// What was seen.
    pub seen: Seen,
    /// Why it ended.
    pub broken: Option<DecodeError>,
}

impl Walk {
    /// From where replay starts.
    ///
    /// # Errors
    /// Where no record can start there: `pg_control` or `backup_label` is damaged.
    pub(super) fn new(plan: &Plan) -> Result<Self, RecoverError> {
        let decoder = Decoder::new(plan.segment_size, plan.redo, plan.timeline)
            .map_err(|error| RecoverError::NotUsable(format!("replay can't start at {}: {error}", plan.redo)))?;
        Ok(Self {
            decoder: decoder.with_system(plan.system_id),
            segment_size: plan.segment_size,
            checkpoint: (plan.checkpoint, plan.redo),
            seen: Seen::default(),
            broken: None,
        })
    }

    /// The end of the last complete record.
    pub(super) fn complete(&self) -> Lsn {
        self.decoder.complete_end()
    }

    /// Where the next byte belongs.
    pub(super) fn position(&self) -> Lsn {
        self.decoder.position()
    }

    /// Takes the next bytes; says whether the records go on.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let (seen, (checkpoint, redo), size) = (&mut self.seen, self.checkpoint, self.segment_size);
        let fed = self.decoder.push(bytes, &mut |record: &Record| {
            if record.lsn == checkpoint {
                seen.checkpoint = Some(match &record.event {
                    Some(WalEvent::CheckpointOnline { redo: said, .. } | WalEvent::CheckpointShutdown { redo: said, .. }) => {
                        *said == redo
                    }
                    _ => false,
                });
            } else if record.lsn > checkpoint {
                seen.checkpoint.get_or_insert(false);
                seen.after_checkpoint = true;
            }
            seen.backup_end |= (record.rmid, record.info & 0xF0) == BACKUP_END;
            match &record.event {
                Some(WalEvent::Switch) => seen.unused.push((record.end, size.ceil(record.end))),
                Some(WalEvent::OverwriteContrecord { overwritten, .. }) => seen.unused.push((*overwritten, record.lsn)),
                _ => {}
            }
        });
        if let Err(error) = fed {
            self.broken = Some(error);
        }
        self.broken.is_none()
    }

    /// Takes what of `bytes`, which start at `at`, lies between here and `end`; says whether the records go on.
    pub(super) fn feed_window(&mut self, bytes: &[u8], at: Lsn, end: Lsn) -> bool {
        let skip = usize::try_from(self.position().bytes_after(at)).unwrap_or(usize::MAX).min(bytes.len());
        let stop = usize::try_from(end.bytes_after(at)).unwrap_or(usize::MAX).min(bytes.len());
        if skip >= stop {
            return self.broken.is_none();
        }
        self.feed(&bytes[skip..stop])
    }

    /// Follows the files in `pg_wal` as far as they go.
    pub(super) fn follow<D: Disk>(&mut self, wal: &D, plan: &Plan) -> Result<(), RecoverError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let segment = plan.segment_at(self.position());
            let name = plan.name(segment);
            let file = match wal.open(name.as_str()) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(RecoverError::folder(format!("open pg_wal/{name}"))(error)),
            };
            if !self
                .follow_file(&file, segment, plan, segment.end(plan.segment_size), &mut buffer)
                .map_err(RecoverError::folder(format!("read pg_wal/{name}")))?
            {
                return Ok(());
            }
        }
    }

    /// Takes a file's bytes from here to `end`; says whether all of them were there and the records go on.
    pub(super) fn follow_file<F: DiskFile>(
        &mut self,
        file: &F,
        segment: Segment,
        plan: &Plan,
        end: Lsn,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let start = segment.start(plan.segment_size);
        while self.position() < end {
            let want = usize::try_from(end.bytes_after(self.position())).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read_at(&mut buffer[..want], self.position().bytes_after(start))?;
            if read == 0 || !self.feed(&buffer[..read]) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a segment's file has a page from `from` on that is at home there: not a recycled segment's old content, so it could be taken for
/// WAL that goes on.
pub(super) fn has_pages_from<D: Disk>(wal: &D, plan: &Plan, segment: Segment, from: Lsn) -> Result<bool, RecoverError> {
    let name = plan.name(segment);
    let doing = || RecoverError::folder(format!("read pg_wal/{name}"));
    let file = match wal.open(name.as_str()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(doing()(error)),
    };
    let start = segment.start(plan.segment_size);
    let page_bytes = u64::from(PAGE_BYTES);
    let mut offset = from.bytes_after(start).next_multiple_of(page_bytes);
    let mut header = [0; 40];
    while offset < plan.segment_size.bytes() {
        let read = file.read_at(&mut header, offset).map_err(doing())?;
        let page = PageHeader::parse(&header[..read]);
        if page.is_some_and(|page| page.version().is_some() && page.address.0 == start.0 + offset) {
            return Ok(true);
        }
        offset += page_bytes;
    }
    Ok(false)
}
