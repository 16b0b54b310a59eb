//! The thread that writes the event log: batches in, what is durable out.
//!
//! It blocks on purpose: it runs nothing but this. What arrives during an fsync goes into the next one.

use std::io;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};
use walbus::disk::{OsDisk, is_full};

use super::Fatal;
use super::sparse::Sparse;
use crate::encode::EncodedBatch;
use crate::log::{Done, Job, Writer};
use crate::state::ServerState;

/// The shortest time from one fsync to the next: what comes in between shares one. The first batch after a pause never waits.
pub(super) const GROUP_COMMIT_INTERVAL: Duration = Duration::from_millis(1);
/// How many batches may wait. While they do, more is put into the next one, and then the primary waits.
const BATCHES_WAITING: usize = 2;
/// A batch with more bytes is not followed by another one before it, or the one before it, is durable: rows may be as large as a gigabyte.
const LARGE_BYTES: usize = 4 << 20;
/// How many bytes one fsync may cover.
const SYNC_BYTES: usize = 8 << 20;
/// How often room on the disk is looked for.
const ROOM_RETRY: Duration = Duration::from_millis(500);

/// The log's thread, from the outside.
#[derive(Debug)]
pub(super) struct Journal {
    batches: mpsc::Sender<EncodedBatch>,
    /// Whether a large one was given, and nothing has become durable since.
    large: bool,
    /// Changes with each fsync that has made something durable.
    synced: watch::Receiver<()>,
    /// Since when the disk is full.
    full: watch::Receiver<Option<Instant>>,
    /// How long that may last before it is told once more.
    full_max: Duration,
    ended: tokio::sync::oneshot::Receiver<Fatal>,
}

/// What the log's thread says.
#[derive(Debug)]
pub(super) enum Word {
    /// It has failed.
    Ended(Fatal),
    /// The disk is full since then: told at once, and again after [`Journal::full_max`].
    Full(Instant),
    /// A batch may be given.
    Room,
    /// Something has become durable.
    Synced,
}

impl Journal {
    pub(super) fn start(writer: Writer<OsDisk>, state: Arc<ServerState>, full_max: Duration) -> io::Result<Self> {
        let (batches, arriving) = mpsc::channel(BATCHES_WAITING);
        let (tell, synced) = watch::channel(());
        let (tell_full, full) = watch::channel(None);
        let (end, ended) = tokio::sync::oneshot::channel();
        let jobs = Jobs::start()?;
        let mut work = Work {
            writer,
            arriving,
            jobs,
            tell,
            full: tell_full,
            state,
            full_lines: Sparse::default(),
            ahead_lines: Sparse::default(),
            told_full: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("log".into()).spawn(move || {
            if let Err(fatal) = runtime.block_on(work.run()) {
                drop(end.send(fatal));
            }
        })?;
        Ok(Self { batches, large: false, synced, full, full_max, ended })
    }

    /// The next word of the thread; of room only where that is wanted. Cancellation-safe.
    pub(super) async fn next(&mut self, wants_room: bool) -> Word {
        let Self { batches, large, synced, full, full_max, ended } = self;
        let too_long = full.borrow().map(|since| since + *full_max);
        loop {
            return tokio::select! {
                biased;
                fatal = &mut *ended => Word::Ended(fatal.unwrap_or(Fatal::Died)),
                Ok(()) = synced.changed() => {
                    *large = false;
                    Word::Synced
                }
                room = batches.reserve(), if wants_room && !*large => match room {
                    Ok(_) => Word::Room,
                    Err(_) => Word::Ended(Fatal::Died),
                },
                Ok(()) = full.changed() => match *full.borrow_and_update() {
                    Some(since) => Word::Full(since),
                    None => continue,
                },
                () = sleep_until(too_long.unwrap_or_else(Instant::now)), if too_long.is_some() => match *full.borrow() {
                    Some(since) => Word::Full(since),
                    None => continue,
                },
            };
        }
    }

    /// Since when the disk is full; `None` where it is not.
    pub(super) fn full_since(&self) -> Option<Instant> {
        *self.full.borrow()
    }

    /// Whether the disk is full for too long.
    pub(super) fn is_full_too_long(&self) -> bool {
        self.full_since().is_some_and(|since| Instant::now() >= since + self.full_max)
    }

    /// Waits until there is room on the disk. Cancellation-safe.
    pub(super) async fn room(&mut self) -> Result<(), Fatal> {
        tokio::select! {
            biased;
            fatal = &mut self.ended => Err(fatal.unwrap_or(Fatal::Died)),
            room = self.full.wait_for(Option::is_none) => room.map(drop).map_err(|_gone| Fatal::Died),
        }
    }

    /// Gives a batch for which there is room: [`Word::Room`] has come, and none was given since.
    pub(super) fn give(&mut self, batch: EncodedBatch) -> Result<(), Fatal> {
        self.large = batch.payload.len() > LARGE_BYTES;
        self.batches.try_send(batch).map_err(|_| Fatal::Died)
    }

    /// Lets the thread finish what it was given, as far as there is room for it, and waits for that.
    pub(super) async fn finish(self) -> Result<(), Fatal> {
        let Self { batches, ended, .. } = self;
        drop(batches);
        match ended.await {
            Ok(fatal) => Err(fatal),
            // It has nothing to tell: it is done.
            Err(_) => Ok(()),
        }
    }
}

struct Work {
    writer: Writer<OsDisk>,
    arriving: mpsc::Receiver<EncodedBatch>,
    jobs: Jobs,
    tell: watch::Sender<()>,
    full: watch::Sender<Option<Instant>>,
    state: Arc<ServerState>,
    /// Lines about a full disk, and about files that can't be made ahead.
    full_lines: Sparse,
    ahead_lines: Sparse,
    /// Whether the log says that it is full.
    told_full: bool,
}

impl Work {
    async fn run(&mut self) -> Result<(), Fatal> {
        let mut next_sync = Instant::now();
        loop {
            self.beside();
            let Some(first) = self.arriving.recv().await else { return Ok(()) };
            let Some(mut bytes) = self.append(first).await? else { return Ok(()) };
            // The rest of the interval is for what else comes.
            while bytes < SYNC_BYTES {
                let next = match self.arriving.try_recv() {
                    Ok(batch) => Some(batch),
                    Err(_) if Instant::now() < next_sync => timeout_at(next_sync, self.arriving.recv()).await.ok().flatten(),
                    Err(_) => None,
                };
                let Some(batch) = next else { break };
                match self.append(batch).await? {
                    Some(more) => bytes += more,
                    None => break,
                }
            }
            next_sync = Instant::now() + GROUP_COMMIT_INTERVAL;
            self.writer.sync().map_err(Fatal::Fsync)?;
            self.tell.send_replace(());
        }
    }

    /// Writes a batch; waits for room where there is none. Gives its size; `None` where there was none until the end, which leaves out what is
    /// not written: the slot sends it again.
    async fn append(&mut self, batch: EncodedBatch) -> Result<Option<usize>, Fatal> {
        let EncodedBatch { meta, payload, schemas, forgotten } = batch;
        let bytes = payload.len();
        self.writer.forget(&forgotten);
        loop {
            match self.writer.append(meta, payload.clone(), &schemas) {
                Ok(()) => break,
                Err(error) if is_full(&error) => {
                    if self.full.borrow().is_none() {
                        // What is written needs no room, and nobody should wait for it until there is some.
                        self.writer.sync().map_err(Fatal::Fsync)?;
                        self.tell.send_replace(());
                    }
                    self.no_room(&error);
                }
                Err(error) => return Err(Fatal::Log(error)),
            }
            if self.arriving.is_closed() {
                self.arriving.close();
                while self.arriving.try_recv().is_ok() {}
                return Ok(None);
            }
            tokio::time::sleep(ROOM_RETRY).await;
            self.beside();
        }
        if self.full.borrow().is_some() {
            self.full.send_replace(None);
            self.state.disk_full(None);
        }
        if std::mem::take(&mut self.told_full) {
            info!("there is room on the disk again; going on");
        }
        Ok(Some(bytes))
    }

    fn no_room(&mut self, error: &io::Error) {
        if self.full_lines.is_due(Instant::now()) {
            warn!(%error, "the disk of --data-dir is full: nothing more is taken from the primary until there is room");
            self.told_full = true;
        }
        if self.full.borrow().is_none() {
            self.full.send_replace(Some(Instant::now()));
            self.state.disk_full(Some(format!(
                "the disk of --data-dir is full ({error}): nothing more is taken from the primary, whose slot keeps the WAL meanwhile. Make room \
                 there, or set --keep-size; it goes on by itself"
            )));
        }
    }

    /// Has zeroed files and indexes made beside the stream.
    fn beside(&mut self) {
        while let Some(done) = self.jobs.done() {
            match done {
                Ok(done) => self.writer.finish(done),
                Err(error) => {
                    if self.ahead_lines.is_due(Instant::now()) {
                        warn!(%error, "a file of the event log could not be made ahead");
                    }
                    self.writer.job_failed();
                    self.jobs.rest_until = Instant::now() + ROOM_RETRY;
                }
            }
        }
        if !self.jobs.under_way
            && Instant::now() >= self.jobs.rest_until
            && let Some(job) = self.writer.job()
        {
            self.jobs.order(job);
        }
    }
}

/// A thread that does one job at a time.
struct Jobs {
    todo: blocking::Sender<Job<OsDisk>>,
    done: blocking::Receiver<io::Result<Done<OsDisk>>>,
    under_way: bool,
    /// Not before then: one has failed, and while it tries it takes what room there is.
    rest_until: Instant,
}

impl Jobs {
    fn start() -> io::Result<Self> {
        let (todo, orders) = blocking::channel::<Job<OsDisk>>();
        let (tell, done) = blocking::channel();
        let work = move || {
            for job in orders {
                if tell.send(job.run()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("segments".into()).spawn(work)?;
        Ok(Self { todo, done, under_way: false, rest_until: Instant::now() })
    }

    fn order(&mut self, job: Job<OsDisk>) {
        self.under_way = self.todo.send(job).is_ok();
    }

    fn done(&mut self) -> Option<io::Result<Done<OsDisk>>> {
        let done = self.done.try_recv().ok()?;
        self.under_way = false;
        Some(done)
    }
}
