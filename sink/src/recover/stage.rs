//! One segment from the sink, laid beside the one it is to replace.

use walbus::disk::{Disk, DiskFile};
use walbus::{Lsn, Segment};

use super::error::RecoverError;
use super::plan::{Piece, Plan, Refusal};

/// Postgres itself removes files of this prefix from `pg_wal` when it starts after a crash, so that nothing is left behind for ever where
/// a recovery is given up.
const TEMPORARY: &str = "xlogtemp.beyond-recover.";

/// What a segment's bytes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The folder has it as the sink has it.
    Identical,
    /// The sink has it not; the folder's is taken.
    Kept,
    /// The folder had no such file.
    New,
    /// The folder's file is to be replaced.
    Overwritten,
}

/// A segment that waits for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Staged {
    /// The segment.
    pub piece: Piece,
    /// What is to become of it.
    pub outcome: Outcome,
    /// The first byte in which the folder's file differs, where it does.
    pub differs_at: Option<Lsn>,
}

/// What the folder's own records prove.
#[derive(Debug)]
pub(super) struct Proven<'a> {
    /// Up to here both have complete records: they must be the same.
    pub end: Lsn,
    /// The end of the folder's complete records.
    pub local: Lsn,
    /// Ranges without records.
    pub unused: &'a [(Lsn, Lsn)],
}

/// The name under which a segment waits.
pub(super) fn temporary_name(plan: &Plan, segment: Segment) -> String {
    format!("{TEMPORARY}{}", plan.name(segment))
}

/// Removes what an earlier run left.
pub(super) fn remove_leftovers<D: Disk>(wal: &D) -> Result<(), RecoverError> {
    for (name, _) in wal.list().map_err(RecoverError::folder("list pg_wal"))? {
        if name.starts_with(TEMPORARY) {
            wal.remove(&name).map_err(RecoverError::folder(format!("remove pg_wal/{name}")))?;
        }
    }
    Ok(())
}

/// A segment on its way. Calls: [`Stage::take`] for each piece of its bytes, in order, then [`Stage::finish`].
#[derive(Debug)]
pub(super) struct Stage<'a, D: Disk> {
    wal: &'a D,
    plan: &'a Plan,
    proven: &'a Proven<'a>,
    piece: Piece,
    /// Whether files are written.
    write: bool,
    offset: u64,
    local: Option<D::File>,
    temporary: Option<D::File>,
    differs_at: Option<Lsn>,
    buffer: Vec<u8>,
}

impl<'a, D: Disk> Stage<'a, D> {
    pub(super) fn new(wal: &'a D, plan: &'a Plan, proven: &'a Proven<'a>, piece: Piece, write: bool) -> Result<Self, RecoverError> {
        let name = plan.name(piece.segment);
        let local = match piece.local_len {
            Some(_) => Some(wal.open(name.as_str()).map_err(RecoverError::folder(format!("open pg_wal/{name}")))?),
            None => None,
        };
        Ok(Self { wal, plan, proven, piece, write, offset: 0, local, temporary: None, differs_at: None, buffer: Vec::new() })
    }

    /// Takes the next bytes of the segment.
    ///
    /// # Errors
    /// [`Refusal::Contradicts`] where both have complete records and they differ; of the folder.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), RecoverError> {
        let at = self.position();
        let mut padded = Vec::new();
        // What has become durable at the sink since the plan was made is no part of it: the end is the same, whenever it is looked at.
        let wal_bytes = usize::try_from(self.plan.flushed.bytes_after(at)).unwrap_or(usize::MAX);
        let bytes = if wal_bytes < bytes.len() {
            padded.extend_from_slice(&bytes[..wal_bytes]);
            padded.resize(bytes.len(), 0);
            padded.as_slice()
        } else {
            bytes
        };
        self.compare(at, bytes)?;
        if self.differs_at.is_some() {
            self.begin_writing()?;
        }
        if let Some(file) = &self.temporary {
            file.write_at(bytes, self.offset).map_err(RecoverError::folder("write to pg_wal"))?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable under its temporary name.
    ///
    /// # Errors
    /// Where bytes are missing; of the folder.
    pub(super) fn finish(self) -> Result<Staged, RecoverError> {
        let name = self.plan.name(self.piece.segment);
        if self.offset != self.plan.segment_size.bytes() {
            return Err(Refusal::SinkUnreadable { what: format!("{} bytes of segment {name}", self.offset) }.into());
        }
        let file = match self.differs_at {
            None => &self.local,
            Some(_) => &self.temporary,
        };
        if let (Some(file), true) = (file, self.write) {
            file.sync().map_err(RecoverError::folder(format!("sync pg_wal/{name}")))?;
        }
        let outcome = match (self.differs_at, &self.local) {
            (None, _) => Outcome::Identical,
            (Some(_), None) => Outcome::New,
            (Some(_), Some(_)) => Outcome::Overwritten,
        };
        Ok(Staged { piece: self.piece, outcome, differs_at: self.differs_at })
    }

    fn position(&self) -> Lsn {
        Lsn(self.piece.segment.start(self.plan.segment_size).0 + self.offset)
    }

    fn compare(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), RecoverError> {
        let Some(local) = &self.local else {
            self.differs_at.get_or_insert(at);
            return Ok(());
        };
        self.buffer.resize(bytes.len(), 0);
        let read = local.read_at(&mut self.buffer, self.offset).map_err(RecoverError::folder("read pg_wal"))?;
        if self.buffer[..read] == *bytes {
            return Ok(());
        }
        let ours = &self.buffer[..read];
        let differs = |index: &usize| ours.get(*index) != bytes.get(*index);
        let lsn_of = |index: usize| Lsn(at.0 + index as u64);
        if let Some(index) = (0..bytes.len()).find(differs) {
            self.differs_at.get_or_insert_with(|| lsn_of(index));
        }
        // Only where both have records must they be the same.
        let records = |lsn: &Lsn| {
            *lsn >= self.plan.redo && *lsn < self.proven.end && !self.proven.unused.iter().any(|(from, to)| from <= lsn && lsn < to)
        };
        match (0..bytes.len()).filter(differs).map(lsn_of).find(records) {
            None => Ok(()),
            Some(at) => Err(Refusal::Contradicts { at, folder: self.proven.local, sink: self.plan.complete }.into()),
        }
    }

    /// From here on bytes are written: those before are the folder's own.
    fn begin_writing(&mut self) -> Result<(), RecoverError> {
        if !self.write || self.temporary.is_some() {
            return Ok(());
        }
        let name = temporary_name(self.plan, self.piece.segment);
        let doing = || RecoverError::folder(format!("write pg_wal/{name}"));
        let file = self.wal.create_zeroed(&name, 0).map_err(doing())?;
        if let Some(local) = &self.local {
            copy(local, &file, 0, self.offset).map_err(doing())?;
        }
        self.temporary = Some(file);
        Ok(())
    }
}

/// Copies the bytes from `from` to `to` of one file to the same place in another.
pub(super) fn copy<F: DiskFile>(source: &F, target: &F, from: u64, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = source.read_at(&mut buffer[..want], at)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        target.write_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
