//! Drives what [`Uploads`] and [`Prefetch`] decide: one task that owns both; all else are pieces of work that it starts and waits for.
//!
//! ```text
//!   listen ── Command ──▶ Engine ── Uploads, Prefetch ──▶ work: scan, upload, fetch ──▶ Engine ── Answer ──▶ listen
//! ```

use std::collections::HashMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};
use walbus::archive::store::{Archive, StoreError};
use walbus::clock::{Clock, SystemClock};
use walbus::{Segment, SystemId};

use super::metrics::{Figures, Metrics};
use super::outage::{Notice, Outage};
use super::prefetch::{Fetched, Given, Prefetch};
use super::ready::{self, Ready};
use super::spool::Spool;
use super::uploads::{Uploaded, Uploads};
use super::work::{self, Cluster, Done};
use crate::daemon::line::{Answer, FileIdentity};

/// How long after a look for what is ready the next one comes.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);
/// How many times as long as a look takes the next one is away at least: many marks take long to read.
const SCAN_SHARE: u32 = 10;
/// How long uploads that run at a stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What the engine is asked.
#[derive(Debug)]
pub enum Command {
    /// To have a segment in the spool.
    Fetch {
        /// The number under which is waited.
        id: u64,
        /// The cluster that it is wanted of.
        system: SystemId,
        /// The segment.
        segment: walbus::SegmentName,
        /// Who waits.
        reply: oneshot::Sender<Answer>,
    },
    /// Nothing any more: who waited under this number is gone.
    Gone(u64),
    /// To have a file in the archive.
    Push {
        /// The number under which is waited.
        id: u64,
        /// Its name.
        name: String,
        /// Which file it is.
        identity: FileIdentity,
        /// Who waits.
        reply: oneshot::Sender<Answer>,
    },
}

/// A piece of work that is over.
enum Work {
    Fetched(Segment, Done<Fetched>),
    Probed(Result<(), StoreError>),
    Scanned(std::io::Result<Ready>, Duration),
    Synced(Segment, Result<(), String>),
    Uploaded(String, Done<Uploaded>),
}

/// What opens the archive: again where credentials were refused, so that new ones are read.
pub type Opener = Box<dyn Fn() -> anyhow::Result<Archive> + Send>;

/// What the engine is made of.
pub struct Parts {
    /// What opens the archive.
    pub open: Opener,
    /// Whose WAL it is.
    pub cluster: Cluster,
    /// Where segments are fetched to.
    pub spool: Spool,
    /// The most of them, in bytes.
    pub spool_bytes: u64,
    /// How many uploads run at once, and how many fetches.
    pub jobs: usize,
    /// What is told to whoever asks.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: SystemClock,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// The task's state.
pub struct Engine {
    parts: Parts,
    archive: Archive,
    reopen: bool,
    probed: bool,
    probing: bool,
    uploads: Uploads,
    prefetch: Prefetch,
    outage: Outage,
    work: JoinSet<Work>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    scanning: bool,
    next_scan: Duration,
    /// How long the oldest that is ready has waited when it was last looked, and when that was.
    waits: (Duration, Duration),
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("uploads", &self.uploads).field("prefetch", &self.prefetch).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine at rest.
    ///
    /// # Errors
    /// Where the archive's settings are wrong.
    pub fn new(parts: Parts) -> anyhow::Result<Self> {
        let archive = (parts.open)()?;
        Ok(Self {
            archive,
            reopen: false,
            probed: false,
            probing: false,
            uploads: Uploads::new(parts.jobs),
            prefetch: Prefetch::new(parts.cluster.size, parts.spool_bytes, parts.jobs),
            outage: Outage::default(),
            work: JoinSet::new(),
            waiting: HashMap::new(),
            scanning: false,
            next_scan: Duration::ZERO,
            waits: (Duration::ZERO, Duration::ZERO),
            parts,
        })
    }

    /// Runs until told to stop. Not cancellation-safe: what runs is abandoned.
    ///
    /// # Errors
    /// Where the store can hold no archive, or its settings are wrong: found before anything was archived.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        loop {
            self.turn();
            let wake = self.wake_in();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                done = join(&mut self.work) => self.handle_work(done)?,
                () = tokio::time::sleep(wake) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.finish().await;
        Ok(())
    }

    fn now(&self) -> Duration {
        self.parts.clock.monotonic()
    }

    /// Starts what is to be started, and says what is to be said.
    fn turn(&mut self) {
        let now = self.now();
        while let Some(notice) = self.outage.poll_notice(now) {
            self.tell(&notice);
        }
        while let Some(segment) = self.prefetch.poll_evict(now) {
            let name = segment.name(self.parts.cluster.size);
            if let Err(error) = self.parts.spool.remove(&name) {
                warn!(%name, %error, "a fetched segment can't be removed from the spool");
            }
        }
        self.reopen();
        if !self.scanning && now >= self.next_scan {
            self.start_scan();
        }
        if self.probed {
            while let Some(name) = self.uploads.poll_upload(now, &self.outage) {
                self.start_upload(name);
            }
        }
        if self.wants_probe(now) {
            self.probing = true;
            let archive = self.archive.clone();
            self.work.spawn(async move { Work::Probed(archive.probe().await.map(drop)) });
        }
        while let Some(segment) = self.prefetch.poll_fetch(now, &self.outage) {
            self.start_fetch(segment);
        }
        while let Some(segment) = self.prefetch.poll_sync() {
            self.start_sync(segment);
        }
        self.answer();
        self.publish(now);
    }

    /// Whether the store is to be asked for its own sake: before anything is trusted to it, and while it is away with nothing left to try
    /// it by. Postgres may have archived all by `push` alone meanwhile, and nobody else would notice that the store is back.
    fn wants_probe(&self, now: Duration) -> bool {
        let idle = self.uploads.running() == 0;
        !self.probing && self.outage.may_try(now) && (!self.probed || (idle && self.outage.reason().is_some()))
    }

    fn tell(&self, notice: &Notice) {
        let lagging = self.uploads.lagging().count();
        match notice {
            Notice::Began(reason) => {
                warn!(reason, "the store does not answer as it should; uploads wait, and Postgres keeps its WAL")
            }
            Notice::Ended(after) => info!(after_s = after.as_secs(), lagging, "the store answers again"),
            Notice::Lasts(time, reason) => {
                error!(
                    for_s = time.as_secs(),
                    lagging, reason, "the store still does not answer as it should; Postgres keeps its WAL"
                );
            }
        }
    }

    /// Opens the archive anew where credentials were refused: they may have been renewed.
    fn reopen(&mut self) {
        if !std::mem::take(&mut self.reopen) {
            return;
        }
        match (self.parts.open)() {
            Ok(archive) => self.archive = archive,
            Err(error) => warn!("the archive's settings can't be read again: {error:#}"),
        }
    }

    fn start_scan(&mut self) {
        self.scanning = true;
        let (pg_wal, clock) = (self.parts.cluster.pg_wal.clone(), self.parts.clock);
        self.work.spawn(async move {
            let from = clock.monotonic();
            let since_1970 = u64::try_from(clock.now().to_unix_micros()).map(Duration::from_micros).unwrap_or_default();
            let scanned = tokio::task::spawn_blocking(move || ready::scan(&pg_wal, since_1970)).await;
            Work::Scanned(scanned.map_err(std::io::Error::other).flatten(), clock.monotonic() - from)
        });
    }

    fn start_upload(&mut self, name: String) {
        let (archive, cluster) = (self.archive.clone(), self.parts.cluster.clone());
        self.work.spawn(async move {
            let done = work::upload(&archive, &cluster, &name).await;
            Work::Uploaded(name, done)
        });
    }

    fn start_fetch(&mut self, segment: Segment) {
        let (archive, cluster, spool) = (self.archive.clone(), self.parts.cluster.clone(), self.parts.spool.clone());
        self.work.spawn(async move { Work::Fetched(segment, work::fetch(&archive, &cluster, &spool, segment).await) });
    }

    fn start_sync(&mut self, segment: Segment) {
        let (spool, name) = (self.parts.spool.clone(), segment.name(self.parts.cluster.size));
        self.work.spawn(async move {
            let synced = tokio::task::spawn_blocking(move || spool.sync(&name)).await;
            let synced = synced.map_err(std::io::Error::other).flatten();
            Work::Synced(segment, synced.map_err(|error| format!("the spool (--spool) can't be synced: {error}")))
        });
    }

    fn handle_command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Fetch { id, system, segment, reply } => {
                let cluster = &self.parts.cluster;
                match segment.segment(cluster.size).filter(|_| system == cluster.system) {
                    Some(segment) => {
                        self.waiting.insert(id, reply);
                        self.prefetch.handle_fetch(id, segment, now, &self.outage);
                    }
                    None => {
                        let ours = cluster.system;
                        // Who is gone needs no answer.
                        drop(
                            reply
                                .send(Answer::Yourself(format!("{segment} of {system} is none of this one's, which is of {ours}"))),
                        );
                    }
                }
            }
            Command::Gone(id) => {
                self.waiting.remove(&id);
                self.uploads.handle_gone(id);
                self.prefetch.handle_gone(id);
            }
            Command::Push { id, name, identity, reply } => {
                self.waiting.insert(id, reply);
                self.uploads.handle_push(id, name, identity, &self.outage);
                self.next_scan = now;
            }
        }
    }

    fn handle_work(&mut self, work: Work) -> anyhow::Result<()> {
        let now = self.now();
        match work {
            Work::Fetched(segment, done) => {
                self.hear(done.store);
                self.parts.metrics.fetched(&done.outcome, done.bytes);
                debug!(segment = %segment.name(self.parts.cluster.size), outcome = ?done.outcome, "fetched");
                self.prefetch.handle_fetched(segment, done.outcome, now);
            }
            Work::Probed(probed) => {
                self.probing = false;
                match &probed {
                    // Only at the start: one that has archived already goes on trying.
                    Err(StoreError::Settings { .. } | StoreError::Unsupported { .. }) if !self.probed => probed?,
                    _ => {
                        self.probed |= probed.is_ok();
                        self.hear(Some(probed));
                    }
                }
            }
            Work::Scanned(scanned, took) => {
                self.scanning = false;
                self.next_scan = now + SCAN_INTERVAL.max(took * SCAN_SHARE);
                match scanned {
                    Ok(Ready { names, waits }) => {
                        self.uploads.handle_scan(names);
                        self.waits = (waits, now);
                    }
                    Err(error) => warn!(%error, "what is ready to be archived can't be listed"),
                }
            }
            Work::Synced(segment, synced) => {
                if let Err(reason) = &synced {
                    warn!(segment = %segment.name(self.parts.cluster.size), reason, "a fetched segment is thrown away");
                }
                self.prefetch.handle_synced(segment, synced, now);
            }
            Work::Uploaded(name, done) => {
                self.hear(done.store);
                self.parts.metrics.uploaded(&done.outcome, done.bytes);
                if let Uploaded::Refused(reason) = &done.outcome {
                    error!(name, reason, "can't be archived: Postgres keeps it, and all that comes after it");
                } else {
                    debug!(name, outcome = ?done.outcome, "uploaded");
                }
                self.uploads.handle_uploaded(&name, done.outcome, now);
            }
        }
        Ok(())
    }

    /// Takes note of what the store has said.
    fn hear(&mut self, said: Option<Result<(), StoreError>>) {
        let now = self.now();
        match said {
            None => {}
            // It has looked at what is there, and said so.
            Some(Ok(()) | Err(StoreError::Conflict { .. } | StoreError::Damaged { .. })) => self.outage.handle_answer(now),
            Some(Err(error)) => {
                self.reopen |= !error.is_retry();
                self.parts.metrics.failed(&error);
                self.outage.handle_failure(now, &error.to_string(), super::chance());
            }
        }
    }

    /// Answers those who wait.
    fn answer(&mut self) {
        while let Some((id, answer)) = self.uploads.poll_answer() {
            self.reply(id, answer);
        }
        while let Some((id, given)) = self.prefetch.poll_answer() {
            let answer = match given {
                Given::Here(segment) => self.take(segment, id),
                Given::Yourself(reason) => Answer::Yourself(reason),
            };
            self.reply(id, answer);
        }
    }

    fn take(&self, segment: Segment, id: u64) -> Answer {
        match self.parts.spool.take(&segment.name(self.parts.cluster.size), id) {
            Ok(path) => Answer::Here(path.display().to_string()),
            Err(error) => Answer::Yourself(format!("the spool (--spool): {error}")),
        }
    }

    fn reply(&mut self, id: u64, answer: Answer) {
        let Some(reply) = self.waiting.remove(&id) else {
            return self.forsaken(&answer);
        };
        if let Err(answer) = reply.send(answer) {
            self.forsaken(&answer);
        }
    }

    /// An answer that nobody waits for any more.
    fn forsaken(&self, answer: &Answer) {
        if let Answer::Here(path) = answer
            && let Err(error) = std::fs::remove_file(PathBuf::from(path))
        {
            warn!(path, %error, "a fetched segment that nobody took can't be removed");
        }
    }

    fn publish(&self, now: Duration) {
        let mut lagging = 0_u64;
        let mut lag_bytes = 0;
        for name in self.uploads.lagging() {
            lagging += 1;
            // Histories and labels are a few hundred bytes.
            lag_bytes += if name.len() == 24 { self.parts.cluster.size.bytes() } else { 0 };
        }
        let (waits, looked) = self.waits;
        let (hits, misses) = self.prefetch.hits_and_misses();
        self.parts.metrics.set(&Figures {
            ready: self.uploads.ready() as u64,
            lagging,
            lag_bytes,
            lag: if self.uploads.ready() == 0 { Duration::ZERO } else { waits + now.saturating_sub(looked) },
            running: self.uploads.running() as u64,
            refused: self.uploads.refused() as u64,
            spooled: self.prefetch.held() as u64,
            hits,
            misses,
            answered: self.outage.since_answer(now).map(|since| now - since),
            problem: match self.outage.reason() {
                Some(reason) => Some(reason.to_owned()),
                None => (!self.probed).then(|| "the store was not reached yet".to_owned()),
            },
        });
    }

    /// How long there is nothing to do unless something happens.
    fn wake_in(&self) -> Duration {
        let now = self.now();
        let scan = if self.scanning { None } else { Some(self.next_scan) };
        let next = [scan, self.outage.poll_timeout(now)].into_iter().flatten().min();
        // A time that has come and starts nothing must not make this task spin.
        next.map_or(SCAN_INTERVAL, |next| next.saturating_sub(now).max(Duration::from_millis(5)))
    }

    /// Sends those who wait away, and gives what runs a while.
    async fn finish(&mut self) {
        self.uploads.handle_stop();
        self.prefetch.handle_stop();
        self.answer();
        let running = self.uploads.running();
        info!(running, "stopping");
        let rest = async {
            while let Some(done) = self.work.join_next().await {
                if let Ok(Work::Uploaded(name, done)) = done {
                    debug!(name, outcome = ?done.outcome, "uploaded");
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, rest).await.is_err() {
            // Put-if-absent: what was under way is there whole, or not at all.
            warn!(after_s = STOP_DEADLINE.as_secs(), "uploads that still run are abandoned; they will be done again");
            self.work.abort_all();
        }
    }
}

/// The next piece of work that is over; never, while there is none.
async fn join(work: &mut JoinSet<Work>) -> Work {
    match work.join_next().await {
        None => pending().await,
        Some(Ok(done)) => done,
        // A defect of this program: to go on would leave an upload marked as running for ever.
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}
