//! Writes what a cursor finds to a subscription's stream, at the pace at which the client takes it.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use walbus::Position;
use walbus::disk::Disk;

use super::limits::GATHERED_BYTES;
use crate::fanout::class::Frame;
use crate::fanout::cursor::{Cursor, CursorError, Next, Progress};

/// Why a pump has stopped.
#[derive(Debug)]
pub(super) enum End {
    /// The server's own fault.
    Broken,
    /// The log or the disk.
    Failed(CursorError),
    /// The connection or the stream.
    Gone,
    /// It was asked to.
    Stopped,
    /// Another session has the consumer's name.
    TakenOver,
}

/// One subscription's way out.
#[derive(Debug)]
pub(super) struct Pump<D: Disk> {
    pub(super) connection: Connection,
    pub(super) subscription: u32,
    pub(super) cursor: Cursor<D>,
    pub(super) head: watch::Receiver<Position>,
    pub(super) progress: Arc<Progress>,
    /// Who may read files.
    pub(super) files: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    pub(super) taken_over: CancellationToken,
}

/// What was gathered to be written at once.
#[derive(Debug, Default)]
struct Gathered {
    chunks: Vec<Bytes>,
    bytes: usize,
    last: Option<Position>,
    /// Why nothing can follow.
    failed: Option<CursorError>,
}

impl Gathered {
    fn push(&mut self, frames: Vec<Frame>, last: Position) {
        for chunk in frames.into_iter().flatten().filter(|chunk| !chunk.is_empty()) {
            self.bytes += chunk.len();
            self.chunks.push(chunk);
        }
        self.last = Some(last);
    }

    const fn is_enough(&self) -> bool {
        self.bytes >= GATHERED_BYTES
    }
}

impl<D: Disk> Pump<D> {
    /// Runs until it has to stop. Its stream is finished then, or, where the client wants no more of it, reset.
    pub(super) async fn run(self) -> End {
        let (stop, taken_over) = (self.stop.clone(), self.taken_over.clone());
        let opened = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            () = taken_over.cancelled() => return End::TakenOver,
            // Waits where the client allows for no further stream.
            opened = self.connection.open_uni() => opened,
        };
        let Ok(mut stream) = opened else { return End::Gone };
        let end = tokio::select! {
            () = stop.cancelled() => End::Stopped,
            () = taken_over.cancelled() => End::TakenOver,
            end = self.feed(&mut stream) => end,
        };
        match end {
            // What was written before still arrives. A stream that the client has stopped can be neither finished nor reset.
            End::Broken | End::Failed(_) => stream.finish().ok(),
            End::Gone => None,
            // What waits to be sent is dropped at once, also for a client that takes nothing.
            End::Stopped | End::TakenOver => stream.reset(VarInt::from_u32(0)).ok(),
        };
        end
    }

    async fn feed(mut self, stream: &mut SendStream) -> End {
        if stream.write_all(&self.subscription.to_be_bytes()).await.is_err() {
            return End::Gone;
        }
        loop {
            // Seen before the log is asked: a head that moves in between is noticed.
            self.head.borrow_and_update();
            let mut gathered = Gathered::default();
            if gather(&mut gathered, || self.cursor.try_next()) && gathered.last.is_none() {
                match self.read_files().await {
                    Ok((pump, found)) => (self, gathered) = (pump, found),
                    Err(end) => return end,
                }
            }
            match gathered.last {
                Some(last) => {
                    self.progress.set_sent(last);
                    if stream.write_all_chunks(&mut gathered.chunks).await.is_err() {
                        return End::Gone;
                    }
                }
                None if gathered.failed.is_some() => {}
                None => {
                    if self.head.changed().await.is_err() {
                        // Without a log there is nothing to come.
                        return End::Broken;
                    }
                }
            }
            // What was found before it has gone out; what is behind it must not.
            if let Some(error) = gathered.failed {
                return End::Failed(error);
            }
        }
    }

    /// Reads on from the files, when it is its turn.
    async fn read_files(mut self) -> Result<(Self, Gathered), End> {
        let Ok(turn) = Arc::clone(&self.files).acquire_owned().await else { return Err(End::Broken) };
        let read = tokio::task::spawn_blocking(move || {
            let mut gathered = Gathered::default();
            gather(&mut gathered, || self.cursor.next_from_files());
            drop(turn);
            (self, gathered)
        });
        // Otherwise it has panicked; the panic's message was printed.
        read.await.map_err(|_panicked| End::Broken)
    }
}

/// Takes what comes next until it is enough, or there is nothing more where it comes from; says whether it goes on in the files.
fn gather(gathered: &mut Gathered, mut next: impl FnMut() -> Result<Next, CursorError>) -> bool {
    while !gathered.is_enough() {
        match next() {
            Ok(Next::Frames(frames, last)) => gathered.push(frames, last),
            Ok(Next::InFiles) => return true,
            Ok(Next::NotYet) => return false,
            Err(error) => {
                gathered.failed = Some(error);
                return false;
            }
        }
    }
    false
}
