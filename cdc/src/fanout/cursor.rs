//! A subscriber's place: in the ring while it keeps up, in the files while it does not. It is all that a subscriber holds.

use std::sync::{Arc, Mutex, PoisonError};

use walbus::Position;
use walbus::disk::Disk;

use super::class::{Class, EncodeError, Frame};
use crate::log::{Entry, EventLog, ReadError, Reader, Recent};

/// A reader and what becomes of what it reads.
///
/// Ask [`Cursor::try_next`]; where that says [`Next::InFiles`], [`Cursor::next_from_files`] goes on, on a thread that may wait for a disk.
#[derive(Debug)]
pub struct Cursor<D: Disk> {
    reader: Reader<D>,
    class: Arc<Class>,
    /// Where it was started, until something behind it was given out.
    start: Option<Position>,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Frames to write, and the position behind them.
    Frames(Vec<Frame>, Position),
    /// It is only in the files.
    InFiles,
    /// Nothing yet: the head has to move first.
    NotYet,
}

/// Why a cursor can't go on.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// A batch can't be given out.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The log can't be read there.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl<D: Disk> Cursor<D> {
    /// A cursor behind `after`.
    ///
    /// # Errors
    /// Where the log does not hold what is there, or not yet.
    pub fn new(log: &EventLog<D>, after: Position, class: Arc<Class>) -> Result<Self, ReadError> {
        Ok(Self { reader: log.reader(after)?, class, start: Some(after) })
    }

    /// What comes next, if it is in memory. Never blocks.
    ///
    /// # Errors
    /// Where a batch can't be given out.
    pub fn try_next(&mut self) -> Result<Next, CursorError> {
        match self.reader.try_next_recent() {
            Recent::Entry(entry) => Ok(self.frames(&entry, true)?),
            Recent::NotYet => Ok(Next::NotYet),
            Recent::Past => Ok(Next::InFiles),
        }
    }

    /// What comes next, from the files. Blocks.
    ///
    /// # Errors
    /// See [`CursorError`].
    pub fn next_from_files(&mut self) -> Result<Next, CursorError> {
        match self.reader.next_from_files()? {
            Some(entry) => Ok(self.frames(&entry, false)?),
            None => Ok(Next::NotYet),
        }
    }

    fn frames(&mut self, entry: &Entry, shared: bool) -> Result<Next, EncodeError> {
        let last = entry.meta.last;
        let frames = match self.start.take() {
            None => vec![self.class.frame(entry, shared)?],
            Some(start) => {
                let mut frames = self.class.definitions(&entry.schemas);
                let first = if entry.meta.first <= start {
                    self.class.frame_after(entry, start)?
                } else {
                    self.class.frame(entry, shared)?
                };
                frames.push(first);
                frames
            }
        };
        Ok(Next::Frames(frames, last))
    }
}

/// How far a subscription is, for those who ask while it is being written to.
#[derive(Debug, Default)]
pub struct Progress {
    sent: Mutex<Position>,
}

impl Progress {
    /// Everything up to here has been handed to the connection.
    #[must_use]
    pub fn sent(&self) -> Position {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on. Told before the bytes go out, so that who has them is never ahead of it.
    ///
    /// # Panics
    /// Where it would go back.
    pub fn set_sent(&self, position: Position) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(position >= *sent, "positions rise");
        *sent = position;
    }
}
