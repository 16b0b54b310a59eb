//! The hot path: take what has arrived, write it, say so, make it durable, say so.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use walbus::Lsn;
use walbus::disk::{self, OsDisk};
use walbus::proto::replication::StandbyStatus;
use walbus::receive::{Blocked, Receiver, Server, Taken};
use walbus::source::{CopyStream, Event, SourceError};

use super::linger::Linger;
use super::{Fatal, SILENCE_MAX, SessionEnd, Settings, Stream, stopped};
use crate::api::State;

/// How much is taken before it is made durable, however much more waits: bounds what a failure takes back, and the memory that the kernel
/// holds as dirty pages.
const BATCH_BYTES: usize = 4 << 20;
/// How often room on the disk is looked for.
const ROOM_RETRY: Duration = Duration::from_millis(500);
/// The longest time without a report while nothing is read: requests for one are not seen then, and the primary would cut the connection.
const WAITING_STATUS: Duration = Duration::from_secs(1);

/// How old what is published of the segment being received may be: its commit times, restore points.
const FACTS_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a report it is said once more, step by step, while nothing comes.
///
/// A walsender of 16 and later can miss WAL that is flushed between its look for some and its going to sleep
/// (`WalSndWait` joins the condition variable only then), and sleeps on until something wakes it: each report of ours can put it to
/// sleep at just that moment, and commits waited for the status interval, 10 s. Any message wakes it.
const NUDGES: [Duration; 3] = [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(500)];

/// How long what is written may wait for its fsync while more keeps coming, where commits wait for write alone: one fsync then covers what came
/// in that time. Commits that wait for flush wait so much longer.
const FLUSH_DELAY_MAX: Duration = Duration::from_millis(1);

/// WAL that has arrived and can't be written yet.
struct Waiting {
    at: Lsn,
    data: Bytes,
}

/// What the pump knows besides the receiver.
struct Pump {
    /// Where the server's WAL ended when it was asked.
    server_end: Lsn,
    /// Where the slot was then.
    slot: Lsn,
    waiting: Option<Waiting>,
    /// What came while it was polled for.
    arrived: Option<Event>,
    linger: Linger,
    /// Since when it is waited for what comes next.
    waits_since: Option<Instant>,
    /// When what is written is flushed at the latest, where it need not be at once.
    flush_by: Option<Instant>,
    reply_wanted: bool,
    next_status: Instant,
    /// How many of [`NUDGES`] were given since something moved.
    nudges: usize,
    /// When what was found in the WAL is next published.
    next_facts: Instant,
    nudge_at: Option<Instant>,
    /// When something came last.
    heard: Instant,
    /// The primary was asked to answer, and nothing has come since.
    asked: bool,
    retry_spare_at: Option<Instant>,
    disk_full: bool,
    /// Whether it was said that this streams. A primary that no longer has the WAL asked for starts a stream all the same, and ends it by an
    /// error: only what has arrived shows that it has it.
    streaming: bool,
}

impl Pump {
    fn new(server: &Server, settings: &Settings) -> Self {
        // A server that was set back may have a slot from ahead of its own WAL.
        let slot = server.reserved.map_or(Lsn::INVALID, |(at, _)| at.min(server.flushed));
        Self {
            server_end: server.flushed,
            slot,
            waiting: None,
            arrived: None,
            linger: Linger::new(settings.busy_poll),
            waits_since: None,
            flush_by: None,
            reply_wanted: false,
            next_status: now() + settings.status_interval,
            nudges: 0,
            next_facts: now(),
            nudge_at: None,
            heard: now(),
            asked: false,
            retry_spare_at: None,
            disk_full: false,
            streaming: false,
        }
    }

    /// What may be reported as durable. From before the slot, nothing: that would take it back to WAL which it does not keep, and a checkpoint
    /// under way would invalidate it.
    fn reportable(&self, at: Lsn) -> Lsn {
        if at < self.slot { Lsn::INVALID } else { at }
    }
}

impl Stream {
    /// Receives until the timeline ends; gives the stream back for what comes then.
    pub(super) async fn pump(&mut self, mut stream: CopyStream, server: &Server) -> Result<CopyStream, SessionEnd> {
        let mut pump = Pump::new(server, &self.settings);
        if self.receiver().ledger().is_some_and(|ledger| ledger.received() >= server.flushed) {
            // There is nothing to be sent, and silence may last.
            self.streams(&mut pump);
        }
        let mut shutdown = self.shutdown.clone();
        loop {
            self.order_spares(&pump);
            self.linger(&mut pump, &mut stream).await?;
            tokio::select! {
                // In order: what must not starve comes before what can be ready for ever.
                biased;
                () = stopped(&mut shutdown) => {
                    self.publisher.condition(State::Stopping, None);
                    self.flush(&mut pump, &mut stream).await?;
                    return Err(SessionEnd::Shutdown);
                }
                made = self.spares.made() => self.spare_made(&mut pump, made)?,
                () = sleep_until(pump.retry_spare_at.unwrap_or(pump.next_status)), if pump.retry_spare_at.is_some() => {
                    pump.retry_spare_at = None;
                    self.take_waiting(&mut pump)?;
                }
                event = next_event(&mut pump.arrived, &mut stream), if pump.waiting.is_none() => {
                    (pump.heard, pump.asked) = (now(), false);
                    if let Some(since) = pump.waits_since.take() {
                        pump.linger.handle_wait(pump.heard - since);
                    }
                    if self.take_batch(&mut pump, &mut stream, event?)? {
                        self.flush(&mut pump, &mut stream).await?;
                        return Ok(stream);
                    }
                }
                () = sleep_until(pump.nudge_at.unwrap_or(pump.next_status)), if pump.nudge_at.is_some() => {
                    pump.nudge_at = None;
                    pump.nudges += 1;
                    pump.reply_wanted = true;
                }
                () = sleep_until(pump.next_status) => {
                    if pump.asked && pump.waiting.is_none() && now() > pump.heard + SILENCE_MAX {
                        return Err(SessionEnd::Silent);
                    }
                    pump.reply_wanted = true;
                }
            }
            self.report(&mut pump, &mut stream).await?;
            match pump.flush_by {
                None if self.waits_for_write && self.receiver().needs_flush() => pump.flush_by = Some(now() + FLUSH_DELAY_MAX),
                Some(by) if now() < by => {}
                _ => self.flush(&mut pump, &mut stream).await?,
            }
            pump.waits_since.get_or_insert_with(now);
        }
    }

    /// Polls for what comes next as long as it is likely to come soon, and leaves nothing unflushed where it has not come.
    async fn linger(&mut self, pump: &mut Pump, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        let until = pump.waits_since.map(|since| since + pump.linger.window());
        while pump.arrived.is_none() && pump.waiting.is_none() && until.is_some_and(|until| now() < until) {
            pump.arrived = stream.try_next()?;
            if pump.arrived.is_none() {
                // The runtime asks the socket, and whoever else has work on this processor gets it.
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        }
        if pump.arrived.is_none() && pump.flush_by.is_some() {
            self.flush(pump, stream).await?;
        }
        Ok(())
    }

    fn receiver(&mut self) -> &mut Receiver<OsDisk> {
        self.receiver.as_mut().expect("a stream has a receiver")
    }

    /// Takes an event and all that has arrived behind it. Says whether the timeline has ended.
    fn take_batch(&mut self, pump: &mut Pump, stream: &mut CopyStream, first: Event) -> Result<bool, SessionEnd> {
        if !matches!(first, Event::End) {
            self.streams(pump);
        }
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(event) = next {
            match event {
                Event::End => return Ok(true),
                Event::Keepalive(keepalive) => {
                    pump.server_end = pump.server_end.max(keepalive.server_end);
                    pump.reply_wanted |= keepalive.reply_requested;
                }
                Event::Wal(wal) => {
                    pump.server_end = pump.server_end.max(wal.server_end);
                    bytes += wal.data.len();
                    self.take(pump, wal.start, wal.data)?;
                }
            }
            if bytes >= BATCH_BYTES || pump.waiting.is_some() {
                break;
            }
            next = stream.try_next()?;
        }
        Ok(false)
    }

    fn streams(&self, pump: &mut Pump) {
        if !pump.streaming {
            pump.streaming = true;
            self.publisher.condition(State::Streaming, None);
        }
    }

    fn take(&mut self, pump: &mut Pump, at: Lsn, data: Bytes) -> Result<(), SessionEnd> {
        let Taken::UpTo(taken, blocked) = self.receiver().handle_wal(at, &data)? else { return Ok(()) };
        pump.waiting = Some(Waiting { at: Lsn(at.0 + taken as u64), data: data.slice(taken..) });
        pump.next_status = pump.next_status.min(now() + WAITING_STATUS);
        if let Blocked::Full(error) = blocked {
            self.no_room(pump, &error);
        }
        Ok(())
    }

    fn take_waiting(&mut self, pump: &mut Pump) -> Result<(), SessionEnd> {
        let Some(waiting) = pump.waiting.take() else { return Ok(()) };
        self.take(pump, waiting.at, waiting.data)?;
        (pump.heard, pump.asked) = (now(), false);
        if pump.waiting.is_none() && pump.disk_full {
            pump.disk_full = false;
            info!("there is room on the disk again; receiving and acknowledging");
            self.publisher.condition(State::Streaming, None);
        }
        Ok(())
    }

    fn order_spares(&mut self, pump: &Pump) {
        if pump.retry_spare_at.is_none()
            && let Some(receiver) = &mut self.receiver
        {
            self.spares.order(receiver.log_mut());
        }
    }

    fn spare_made(&mut self, pump: &mut Pump, made: std::io::Result<super::spares::MadeSpare>) -> Result<(), SessionEnd> {
        match made {
            Ok(spare) => {
                self.receiver().log_mut().add_spare(spare);
                self.take_waiting(pump)
            }
            Err(error) if disk::is_full(&error) => {
                self.no_room(pump, &error);
                Ok(())
            }
            Err(error) => Err(Fatal::Folder(error).into()),
        }
    }

    /// There is no room. While the segment being received has some of its own, that is a warning; then nothing more is acknowledged.
    fn no_room(&mut self, pump: &mut Pump, error: &std::io::Error) {
        pump.retry_spare_at = Some(now() + ROOM_RETRY);
        if pump.waiting.is_some() && !pump.disk_full {
            pump.disk_full = true;
            warn!(%error, "the disk of --data-dir is full: nothing more is acknowledged until there is room");
        }
        if pump.disk_full {
            let problem = format!(
                "the disk of --data-dir is full ({error}): nothing more is acknowledged, and synchronous commits on the primary wait. Make room there, or \
                 set --keep-size; receiving goes on by itself"
            );
            self.publisher.condition(State::DiskFull, Some(problem));
        }
    }

    /// Tells the primary what is written and what is durable, if that has moved or it asked. Before an fsync too: commits under `remote_write`
    /// wait for no more.
    async fn report(&mut self, pump: &mut Pump, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        let ledger = self.receiver().ledger_mut().expect("a pump has a session");
        let moved = ledger.poll_report();
        if let Some(report) = moved.or_else(|| pump.reply_wanted.then(|| ledger.report())) {
            pump.reply_wanted = false;
            if moved.is_some() {
                pump.nudges = 0;
            }
            pump.nudge_at = NUDGES.get(pump.nudges).map(|after| now() + *after);
            // While nothing is read, no answer is awaited either.
            let (interval, ask) = match pump.waiting {
                Some(_) => (self.settings.status_interval.min(WAITING_STATUS), false),
                None => (self.settings.status_interval, now() >= pump.heard + self.settings.status_interval),
            };
            pump.asked |= ask;
            pump.next_status = now() + interval;
            let status = StandbyStatus {
                write: report.write,
                flush: pump.reportable(report.flush),
                apply: pump.reportable(report.apply),
                time: self.publisher.now(),
                reply_requested: ask,
            };
            stream.send_status(&status).await;
        }
        Ok(())
    }

    /// Makes durable what was taken, and tells the primary.
    async fn flush(&mut self, pump: &mut Pump, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        pump.flush_by = None;
        if self.receiver().needs_flush() {
            let job = self.receiver().begin_flush();
            let done = self.publisher.timed_flush(job).map_err(Fatal::Fsync)?;
            self.receiver().finish_flush(&done);
            self.report(pump, stream).await?;
            self.publisher.sealed(&done.sealed);
            if !done.sealed.is_empty() || now() >= pump.next_facts {
                pump.next_facts = now() + FACTS_INTERVAL;
                let facts = self.receiver().take_facts();
                self.publisher.facts(facts);
            }
            self.publisher.keep_index(&done.sealed);
        }
        if let Some(receiver) = &self.receiver {
            self.publisher.publish(receiver, pump.server_end);
        }
        Ok(())
    }
}

/// What was polled for, or else what comes next. Cancellation-safe: it is not taken before it is given.
async fn next_event(arrived: &mut Option<Event>, stream: &mut CopyStream) -> Result<Event, SourceError> {
    match arrived.take() {
        Some(event) => Ok(event),
        None => stream.next().await,
    }
}

fn now() -> Instant {
    Instant::now()
}
