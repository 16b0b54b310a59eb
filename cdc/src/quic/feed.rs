//! What a subscription's stream carries next. No socket, no task: [`super::pump`] writes what is found here.
//!
//! Call order: [`Feed::poll`]; where it says [`Step::InFiles`], [`Feed::poll_files`], on a thread that may wait for a disk; where either says
//! [`Step::Wait`], [`Feed::changed`] first. Each again once what was found before has been written.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use walbus::Position;
use walbus::disk::Disk;

use crate::fanout::class::Frame;
use crate::fanout::cursor::{Cursor, CursorError, Next, Progress};

/// One subscription's way through the log.
#[derive(Debug)]
pub(super) struct Feed<D: Disk> {
    cursor: Cursor<D>,
    head: watch::Receiver<Position>,
    progress: Arc<Progress>,
    /// How many bytes are gathered to be written at once; with one batch more, that is all it ever holds.
    gathered_bytes: usize,
    /// Why nothing can follow what was found last.
    failed: Option<CursorError>,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing more can follow.
    Failed(CursorError),
    /// What comes next is in the files alone.
    InFiles,
    /// The subscription has everything: the head has to move first.
    Wait,
    /// This is to be written.
    Write(Vec<Bytes>),
}

/// What was gathered to be written at once.
#[derive(Debug, Default)]
struct Gathered {
    chunks: Vec<Bytes>,
    bytes: usize,
    last: Option<Position>,
    failed: Option<CursorError>,
}

impl<D: Disk> Feed<D> {
    /// A feed of what the cursor finds. `head` was asked for before the cursor was made, so that no change of it is missed.
    pub(super) const fn new(
        cursor: Cursor<D>,
        head: watch::Receiver<Position>,
        progress: Arc<Progress>,
        gathered_bytes: usize,
    ) -> Self {
        Self { cursor, head, progress, gathered_bytes, failed: None }
    }

    /// What comes next, of what is in memory. Never blocks.
    pub(super) fn poll(&mut self) -> Step {
        // Seen before the log is asked: a head that moves in between is noticed.
        self.head.borrow_and_update();
        self.gather(Cursor::try_next)
    }

    /// What comes next, from the files. Blocks.
    pub(super) fn poll_files(&mut self) -> Step {
        self.gather(Cursor::next_from_files)
    }

    /// Waits until the head has moved; says no where it never will, since the log is gone. Cancellation-safe.
    pub(super) async fn changed(&mut self) -> bool {
        self.head.changed().await.is_ok()
    }

    /// Whether [`Feed::changed`] would wait no longer.
    #[cfg(test)]
    pub(super) fn has_changed(&self) -> bool {
        self.head.has_changed().unwrap_or(true)
    }

    /// Takes what comes next until it is enough, or there is nothing more where it comes from.
    fn gather(&mut self, next: impl Fn(&mut Cursor<D>) -> Result<Next, CursorError>) -> Step {
        let mut gathered = Gathered { failed: self.failed.take(), ..Gathered::default() };
        let mut in_files = false;
        while gathered.failed.is_none() && gathered.bytes < self.gathered_bytes {
            match next(&mut self.cursor) {
                Ok(Next::Frames(frames, last)) => gathered.push(frames, last),
                Ok(Next::InFiles) => {
                    in_files = true;
                    break;
                }
                Ok(Next::NotYet) => break,
                Err(error) => gathered.failed = Some(error),
            }
        }
        match (gathered.last, gathered.failed) {
            // What was found before goes out first.
            (Some(last), failed) => {
                self.failed = failed;
                self.progress.set_sent(last);
                Step::Write(gathered.chunks)
            }
            (None, Some(error)) => Step::Failed(error),
            (None, None) if in_files => Step::InFiles,
            (None, None) => Step::Wait,
        }
    }
}

impl Gathered {
    fn push(&mut self, frames: Vec<Frame>, last: Position) {
        for chunk in frames.into_iter().flatten().filter(|chunk| !chunk.is_empty()) {
            self.bytes += chunk.len();
            self.chunks.push(chunk);
        }
        self.last = Some(last);
    }
}
