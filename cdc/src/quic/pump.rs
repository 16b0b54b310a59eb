//! Writes what a feed finds to a subscription's stream, at the pace at which the client takes it.

use std::sync::Arc;

use quinn::{Connection, SendStream, VarInt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walbus::disk::Disk;

use super::feed::{Feed, Step};
use crate::fanout::cursor::CursorError;

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
    pub(super) feed: Feed<D>,
    /// Who may read files.
    pub(super) files: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    pub(super) taken_over: CancellationToken,
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
            end = self.write(&mut stream) => end,
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

    async fn write(self, stream: &mut SendStream) -> End {
        let Self { mut feed, files, subscription, .. } = self;
        if stream.write_all(&subscription.to_be_bytes()).await.is_err() {
            return End::Gone;
        }
        loop {
            let mut step = feed.poll();
            if matches!(step, Step::InFiles) {
                let Ok(turn) = Arc::clone(&files).acquire_owned().await else { return End::Broken };
                let read = tokio::task::spawn_blocking(move || {
                    let step = feed.poll_files();
                    drop(turn);
                    (feed, step)
                });
                // Otherwise it has panicked; the panic's message was printed.
                let Ok(found) = read.await else { return End::Broken };
                (feed, step) = found;
            }
            match step {
                Step::Failed(error) => return End::Failed(error),
                Step::InFiles => {}
                Step::Wait => {
                    if !feed.changed().await {
                        // Without a log there is nothing to come.
                        return End::Broken;
                    }
                }
                Step::Write(mut chunks) => {
                    if stream.write_all_chunks(&mut chunks).await.is_err() {
                        return End::Gone;
                    }
                }
            }
        }
    }
}
