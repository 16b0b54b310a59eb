//! Makes zeroed files beside the stream, so that no commit waits for one.

use std::io;
use std::sync::mpsc as blocking;

use tokio::sync::mpsc;
use walbus::disk::{Disk, OsDisk};
use walbus::log::{Log, Spare, SpareJob};

pub(super) type MadeSpare = Spare<<OsDisk as Disk>::File>;

/// A thread that makes one spare at a time.
#[derive(Debug)]
pub(super) struct SpareMaker {
    jobs: blocking::Sender<SpareJob<OsDisk>>,
    made: mpsc::UnboundedReceiver<io::Result<MadeSpare>>,
    under_way: bool,
}

impl SpareMaker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, todo) = blocking::channel::<SpareJob<OsDisk>>();
        let (done, made) = mpsc::unbounded_channel();
        let work = move || {
            for job in todo {
                if done.send(job.run()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("spares".into()).spawn(work)?;
        Ok(Self { jobs, made, under_way: false })
    }

    /// Orders a spare if the log misses one and none is being made.
    pub(super) fn order(&mut self, log: &mut Log<OsDisk>) {
        if !self.under_way && log.spares_missing() > 0 {
            // Where the thread is gone, `made` says so.
            self.under_way = self.jobs.send(log.spare_job()).is_ok();
        }
    }

    /// The next one, or why it could not be made; also that none can be made any more. Cancellation-safe. Pends while none is ordered.
    pub(super) async fn made(&mut self) -> io::Result<MadeSpare> {
        match self.made.recv().await {
            Some(made) => {
                self.under_way = false;
                made
            }
            None => Err(io::Error::other("the thread that makes zeroed files died; see above")),
        }
    }
}
