//! The durable log: segment files as Postgres names them.
//!
//! ```text
//!   spare.0, spare.1    zeros, synced, waiting
//!        │ first byte of a segment
//!        ▼
//!   SEG.partial         being written; may be unsynced
//!        │ flush that reaches the segment's end: fdatasync, rename, fsync of the folder
//!        ▼
//!   SEG                 whole and durable
//! ```
//!
//! [`Log::write`] puts bytes into files, [`Log::begin_flush`] says what has to be synced, [`FlushJob::run`] does it (on whichever thread),
//! and what it has done is durable. Writing may go on while a job runs. The log knows nothing of records, sessions or primaries.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::disk::{self, Disk, DiskFile};
use crate::ident::Timeline;
use crate::lsn::Lsn;
use crate::segment::{Segment, SegmentSize, WalFile};

/// How many zeroed files wait for their turn. Two, so that a burst of switches does not outrun their making.
pub const SPARES_WANTED: usize = 2;
const SPARE_PREFIX: &str = "spare.";
/// The unit in which zeros at the end of a piece are left out.
const ZERO_BLOCK: usize = 8192;

/// Why [`Log::write`] stopped.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no room on the disk. Nothing is lost: the same bytes can be written again when there is.
    #[error("the disk is full")]
    Full(#[source] io::Error),
    /// A file can't be written or named. The process should end: what the kernel holds is in doubt.
    #[error("write segment {name}")]
    Io {
        /// The file.
        name: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The next segment has no file yet: make a spare with [`Log::spare_job`] and write the same bytes again.
    #[error("no zeroed file is ready for the next segment")]
    NoSpare,
}

/// The segment files of one folder, written by one owner.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: Arc<D>,
    size: SegmentSize,
    open: Option<OpenSegment<D::File>>,
    /// Left behind since the last flush: to be synced, the whole ones to be given their final name.
    left: Vec<LeftSegment<D::File>>,
    spares: VecDeque<Spare<D::File>>,
    spares_made: u64,
    /// Whether a file was named since the folder was last synced.
    names_unsynced: bool,
}

#[derive(Debug)]
struct OpenSegment<F> {
    segment: Segment,
    file: Arc<F>,
    /// From here on the file is known to hold zeros.
    zero_from: Lsn,
    unsynced: bool,
}

#[derive(Debug)]
struct LeftSegment<F> {
    segment: Segment,
    file: Arc<F>,
    whole: bool,
}

/// A zeroed file that waits to become a segment.
#[derive(Debug)]
pub struct Spare<F> {
    name: String,
    file: F,
}

/// The making of one spare: slow, and free of the log, so that it can run beside it.
#[derive(Debug)]
pub struct SpareJob<D: Disk> {
    disk: Arc<D>,
    name: String,
    len: u64,
}

impl<D: Disk> SpareJob<D> {
    /// Makes the file. Its name is synced with the flush that first needs it.
    ///
    /// # Errors
    /// Of the operating system; [`io::ErrorKind::StorageFull`] where there is no room.
    pub fn run(self) -> io::Result<Spare<D::File>> {
        let file = self.disk.create_zeroed(&self.name, self.len)?;
        Ok(Spare { name: self.name, file })
    }
}

/// What one flush has to sync.
#[derive(Debug)]
pub struct FlushJob<D: Disk> {
    disk: Arc<D>,
    files: Vec<Arc<D::File>>,
    /// Whole segments: `SEG.partial` becomes `SEG`.
    seals: Vec<(Segment, String, String)>,
    sync_names: bool,
}

/// What one flush has done.
#[derive(Debug)]
pub struct FlushDone {
    /// The segments that have their final name since.
    pub sealed: Vec<Segment>,
}

impl<D: Disk> FlushJob<D> {
    /// Syncs files first, then names them, then syncs the names: a final name never stands for content that can still be lost.
    ///
    /// # Errors
    /// Of the operating system. The process must end then, and acknowledge nothing more: a second fsync after a failed one answers
    /// that all is well.
    pub fn run(self) -> io::Result<FlushDone> {
        for file in &self.files {
            file.sync()?;
        }
        if self.seals.is_empty() && self.sync_names {
            self.disk.sync_dir()?;
        }
        for (_, partial, name) in &self.seals {
            self.disk.rename(partial, name)?;
            // One by one: see `rename_in_order`.
            self.disk.sync_dir()?;
        }
        Ok(FlushDone { sealed: self.seals.into_iter().map(|(segment, ..)| segment).collect() })
    }
}

impl<D: Disk> Log<D> {
    /// A log of segments of `size` in the folder. Spares of an earlier life are removed, as it is not known whether their zeros are
    /// durable.
    ///
    /// # Errors
    /// Where the folder can't be read or changed.
    pub fn open(disk: Arc<D>, size: SegmentSize) -> io::Result<Self> {
        for (name, _) in disk.list()? {
            if name.starts_with(SPARE_PREFIX) {
                disk.remove(&name)?;
            }
        }
        Ok(Self { disk, size, open: None, left: Vec::new(), spares: VecDeque::new(), spares_made: 0, names_unsynced: false })
    }

    /// The folder.
    #[must_use]
    pub const fn disk(&self) -> &Arc<D> {
        &self.disk
    }

    /// The size of its segments.
    #[must_use]
    pub const fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// How many spares are to be made. Make them one after another with [`Log::spare_job`].
    #[must_use]
    pub fn spares_missing(&self) -> usize {
        SPARES_WANTED.saturating_sub(self.spares.len())
    }

    /// The making of the next spare; give what it makes to [`Log::add_spare`].
    pub fn spare_job(&mut self) -> SpareJob<D> {
        self.spares_made += 1;
        let name = format!("{SPARE_PREFIX}{}", self.spares_made);
        SpareJob { disk: Arc::clone(&self.disk), name, len: self.size.bytes() }
    }

    /// Keeps a spare for a segment to come.
    pub fn add_spare(&mut self, spare: Spare<D::File>) {
        self.spares.push_back(spare);
    }

    /// Writes the start of `data` at `lsn` of `timeline`, up to the end of the segment that holds `lsn`, and says how many bytes that
    /// was. They are durable after the next flush.
    ///
    /// # Errors
    /// See [`WriteError`]: each says whether the same call can be made again.
    pub fn write(&mut self, timeline: Timeline, lsn: Lsn, data: &[u8]) -> Result<usize, WriteError> {
        let segment = Segment::containing(timeline, lsn, self.size);
        let size = self.size;
        let open = self.open_segment(segment)?;
        let room = segment.end(size).bytes_after(lsn);
        let len = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
        let piece = &data[..len];
        let end = Lsn(lsn.0 + len as u64);
        // What is zero already needs no writing: after a switch Postgres sends the rest of the segment as zeros, up to 1 GB of them.
        let needed = if lsn >= open.zero_from { without_zeros_at_the_end(piece) } else { piece };
        if !needed.is_empty() {
            // Set first: also after an error some of it may have been written.
            open.unsynced = true;
            if let Err(source) = open.file.write_at(needed, size.offset(lsn)) {
                // Some of it may be there now, so nothing above is known to be zero.
                open.zero_from = segment.end(size);
                return Err(if disk::is_full(&source) {
                    WriteError::Full(source)
                } else {
                    WriteError::Io { name: segment.name(size).to_string(), source }
                });
            }
        }
        open.zero_from = open.zero_from.max(end);
        if end == segment.end(size) {
            self.leave(true);
        }
        Ok(len)
    }

    /// Leaves the segment being written, whole or not, for the next flush to sync. A timeline's end, or a session's, is one.
    pub fn leave_segment(&mut self) {
        self.leave(false);
    }

    fn leave(&mut self, whole: bool) {
        if let Some(open) = self.open.take()
            && (open.unsynced || whole)
        {
            self.left.push(LeftSegment { segment: open.segment, file: open.file, whole });
        }
    }

    /// Whether anything was written or named that is not durable.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.names_unsynced || !self.left.is_empty() || self.open.as_ref().is_some_and(|open| open.unsynced)
    }

    /// What makes all durable that was written so far.
    ///
    /// One job at a time: run it before the next is begun.
    pub fn begin_flush(&mut self) -> FlushJob<D> {
        let mut files = Vec::with_capacity(self.left.len() + 1);
        let mut seals = Vec::new();
        for left in self.left.drain(..) {
            files.push(left.file);
            if left.whole {
                let name = left.segment.name(self.size);
                seals.push((left.segment, WalFile::Partial(name.clone()).name(), name.to_string()));
            }
        }
        if let Some(open) = &mut self.open
            && open.unsynced
        {
            open.unsynced = false;
            files.push(Arc::clone(&open.file));
        }
        let sync_names = std::mem::take(&mut self.names_unsynced);
        FlushJob { disk: Arc::clone(&self.disk), files, seals, sync_names }
    }

    fn open_segment(&mut self, segment: Segment) -> Result<&mut OpenSegment<D::File>, WriteError> {
        if self.open.as_ref().is_none_or(|open| open.segment != segment) {
            self.leave(false);
            let opened = self.find_or_make(segment)?;
            return Ok(self.open.insert(opened));
        }
        self.open.as_mut().ok_or(WriteError::NoSpare)
    }

    /// Takes the final name from a whole `SEG` that is to be written again; opens `SEG.partial`; or turns a spare into it.
    fn find_or_make(&mut self, segment: Segment) -> Result<OpenSegment<D::File>, WriteError> {
        let name = segment.name(self.size).to_string();
        let partial = WalFile::Partial(segment.name(self.size)).name();
        let failed = |source| WriteError::Io { name: name.clone(), source };
        let end = segment.end(self.size);
        let existing = |file| OpenSegment { segment, file: Arc::new(file), zero_from: end, unsynced: false };
        // The whole one first: where both are there, it is the one that counts.
        match self.disk.open(&name) {
            Ok(file) => {
                self.rename_in_order(&name, &partial).map_err(failed)?;
                return Ok(existing(file));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        match self.disk.open(&partial) {
            Ok(file) => return Ok(existing(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let spare = self.spares.pop_front().ok_or(WriteError::NoSpare)?;
        self.rename_in_order(&spare.name, &partial).map_err(failed)?;
        Ok(OpenSegment { segment, file: Arc::new(spare.file), zero_from: segment.start(self.size), unsynced: false })
    }

    /// Names a file, and never leaves two such changes unsynced: a folder may keep them in any order, and a segment must prove that those before
    /// it were there.
    fn rename_in_order(&mut self, from: &str, to: &str) -> io::Result<()> {
        if self.names_unsynced {
            self.disk.sync_dir()?;
        }
        self.names_unsynced = true;
        self.disk.rename(from, to)
    }
}

/// `piece` less the blocks of zeros at its end.
fn without_zeros_at_the_end(piece: &[u8]) -> &[u8] {
    const ZEROS: [u8; ZERO_BLOCK] = [0; ZERO_BLOCK];
    let mut rest = piece;
    while !rest.is_empty() {
        let (before, block) = rest.split_at(rest.len().saturating_sub(ZERO_BLOCK));
        if *block != ZEROS[..block.len()] {
            break;
        }
        rest = before;
    }
    rest
}

#[cfg(test)]
mod tests;
