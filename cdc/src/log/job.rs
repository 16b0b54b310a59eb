//! What a writer has to have done beside it: zeroed files, and indexes of sealed segments.

use std::io;
use std::sync::Arc;

use walbus::disk::{Disk, write_whole};

use super::index::SegmentIndex;
use super::names::index_of;

/// Something slow that the writer needs before long, and that needs no writer: run it on another thread.
#[derive(Debug)]
pub struct Job<D: Disk> {
    pub(super) disk: Arc<D>,
    pub(super) task: Task,
}

#[derive(Debug)]
pub(super) enum Task {
    Index { number: u64, index: Arc<SegmentIndex> },
    Spare { name: String, len: u64 },
}

/// What a job has done: give it back to the writer.
#[derive(Debug)]
pub struct Done<D: Disk>(pub(super) Made<D>);

#[derive(Debug)]
pub(super) enum Made<D: Disk> {
    Index { number: u64 },
    Spare { name: String, file: D::File },
}

impl<D: Disk> Job<D> {
    /// Does it.
    ///
    /// # Errors
    /// Of the operating system; [`io::ErrorKind::StorageFull`] where there is no room. Nothing is lost by that: a writer without a spare makes
    /// one when it needs it, and an index that does not lie beside its segment is held in memory.
    pub fn run(self) -> io::Result<Done<D>> {
        match self.task {
            Task::Index { number, index } => {
                write_whole(&*self.disk, &index_of(number), &index.encode())?;
                Ok(Done(Made::Index { number }))
            }
            // Its name is synced when it becomes that of a segment.
            Task::Spare { name, len } => {
                let file = self.disk.create_zeroed(&name, len)?;
                Ok(Done(Made::Spare { name, file }))
            }
        }
    }
}
