//! Drives the receiving end: one thread, one connection, one log.
//!
//! ```text
//!   connect ─▶ identify ─▶ slot ─▶ plan ─▶ START_REPLICATION ─▶ pump ──┐
//!      ▲                                                               │ error, timeline's end
//!      └────────────── wait, as long as the error says ◀───────────────┘
//! ```
//!
//! The thread blocks on purpose: it runs nothing but this, and an fsync on it costs no hand-over to another thread and back, which would be
//! paid by each commit. What arrives meanwhile waits in the socket, and goes into the next write and the next fsync together.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};
use walbus::causes::in_one_line;
use walbus::conninfo;
use walbus::disk::OsDisk;
use walbus::ledger::ApplyAs;
use walbus::proto::history::History;
use walbus::receive::{Identity, ReceiveError, Receiver, Refusal, Scan, Server, Start};
use walbus::source::{self, Class, Client, CopyStream, Mode, SourceError};
use walbus::{Lsn, SegmentSize, Timeline, WalFile};

use crate::api::State;

mod linger;
mod publish;
mod pump;
mod spares;
mod way_out;

pub use publish::Publisher;
use spares::SpareMaker;

/// The oldest major version whose WAL and replication commands are known here.
const VERSION_MIN: u32 = 15;
/// The newest one.
const VERSION_MAX: u32 = 18;
/// The wait before the first try again of what passes by itself; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait for what passes by itself: commits on the primary wait as long.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// The wait for what a person has to mend.
const REFUSED_RETRY: Duration = Duration::from_secs(15);
/// How long the primary may be silent though it was asked to answer: as `wal_receiver_timeout` by default. A network that loses everything
/// is told by nothing else for a quarter of an hour, and commits wait for as long.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// What one stream is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the WAL.
    pub data_dir: PathBuf,
    /// The primary.
    pub upstream: conninfo::Config,
    /// The physical slot.
    pub slot: String,
    /// Whether to make the slot where there is none.
    pub create_slot: bool,
    /// What is reported as apply.
    pub apply: ApplyAs,
    /// The longest time without a report.
    pub status_interval: Duration,
    /// How long the link is polled for more WAL before the thread goes to sleep, while it comes that soon.
    pub busy_poll: Duration,
}

/// Why the receiver ended for good: the process must end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// An fsync failed. What the kernel held of it may be lost; a second one would answer that all is well.
    #[error(
        "fsync failed; nothing that was not acknowledged before is acknowledged. Check the disk of --data-dir, then start again: what it \
         holds is read back and checked"
    )]
    Fsync(#[source] std::io::Error),
    /// The folder can't be written or read.
    #[error("the data folder can't be used")]
    Folder(#[source] std::io::Error),
    /// The receiver's thread is gone without a word: a defect of this program.
    #[error("the receiver died; see above")]
    Died,
    /// A file of the log can't be written or read.
    #[error(transparent)]
    Log(ReceiveError),
    /// The thread's event loop can't be set up.
    #[error("the receiver's event loop can't be set up")]
    Runtime(#[source] std::io::Error),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Fatal(#[from] Fatal),
    #[error(transparent)]
    Receive(ReceiveError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Two histories under one name: as [`ReceiveError::Diverged`].
    #[error("{0}")]
    OtherHistory(String),
    #[error("the disk of --data-dir is full: {0} can't be kept. Make room there, or set --keep-size; receiving goes on by itself")]
    NoRoom(String),
    #[error("the upstream has not answered for {SILENCE_MAX:?}: it hangs, or the network to it loses everything")]
    Silent,
    #[error("{0}")]
    Setting(String),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("shutting down")]
    Shutdown,
}

impl From<ReceiveError> for SessionEnd {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Io { .. } => Self::Fatal(Fatal::Log(error)),
            error => Self::Receive(error),
        }
    }
}

/// What follows from the end of a session.
enum Next {
    Stop,
    TryAgain { state: State, wait: Option<Duration> },
    End(Fatal),
    StandStill,
}

impl SessionEnd {
    fn next(self, slot: &str) -> (Next, String) {
        let mut text = in_one_line(&self);
        if let Self::Source(error) = &self
            && let Some(way_out) = way_out::way_out(error, slot)
        {
            text = format!("{text}. {way_out}");
        }
        let next = match self {
            Self::Shutdown => Next::Stop,
            Self::Fatal(fatal) => Next::End(fatal),
            Self::OtherHistory(_) | Self::Receive(ReceiveError::Diverged { .. }) => Next::StandStill,
            Self::Refused(refusal) if refusal.is_divergence() => Next::StandStill,
            Self::Refused(Refusal::Behind { .. }) => Next::TryAgain { state: State::UpstreamBehind, wait: None },
            Self::NoRoom(_) => Next::TryAgain { state: State::DiskFull, wait: None },
            Self::Receive(_) | Self::Silent => Next::TryAgain { state: State::Connecting, wait: None },
            Self::Source(error) if error.is_retryable() => Next::TryAgain { state: State::Connecting, wait: None },
            Self::Refused(_) | Self::Setting(_) | Self::Source(_) => {
                Next::TryAgain { state: State::Refused, wait: Some(REFUSED_RETRY) }
            }
        };
        (next, text)
    }
}

/// Receives until told to stop. Runs on the thread that calls it, and blocks it.
///
/// # Errors
/// See [`Fatal`]: the process must end with a failure.
pub fn run(
    settings: Settings,
    disk: Arc<OsDisk>,
    scan: Option<Scan>,
    publisher: Publisher,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fatal::Runtime)?;
    let receiver = match scan {
        Some(scan) => {
            let identity = scan.identity;
            Some(Receiver::open(Arc::clone(&disk), identity, Some(scan)).map_err(Fatal::Folder)?)
        }
        None => None,
    };
    let mut stream = Stream {
        settings,
        disk,
        receiver,
        publisher,
        spares: SpareMaker::start().map_err(Fatal::Runtime)?,
        shutdown,
        later: None,
        starts_later: false,
        waits_for_write: false,
        differed: None,
    };
    if let Some(receiver) = &stream.receiver {
        stream.publisher.publish(receiver, Lsn::INVALID);
    }
    runtime.block_on(stream.run())
}

/// One stream: what lasts over its sessions.
struct Stream {
    settings: Settings,
    disk: Arc<OsDisk>,
    receiver: Option<Receiver<OsDisk>>,
    publisher: Publisher,
    spares: SpareMaker,
    shutdown: watch::Receiver<bool>,
    /// Where the next session starts at the earliest.
    later: Option<Start>,
    /// The session that has just ended said where the next one starts: to be begun at once.
    starts_later: bool,
    /// Whether the primary's commits wait for write and not for flush.
    waits_for_write: bool,
    /// Where what came last differed from what is held.
    differed: Option<Lsn>,
}

/// A timeline's history as the primary sent it.
struct FetchedHistory {
    parsed: History,
    content: bytes::Bytes,
}

impl Stream {
    async fn run(&mut self) -> Result<(), Fatal> {
        let mut wait = RETRY_FIRST;
        loop {
            let held_before = self.held_end();
            let Err(end) = self.session().await else { continue };
            let proved = self.receiver.as_ref().and_then(Receiver::ledger).is_some_and(|ledger| ledger.report().flush.is_valid());
            self.close_session()?;
            if std::mem::take(&mut self.starts_later) {
                continue;
            }
            // What the same primary sends again and again, and is damaged, is asked for at leisure.
            let made_progress = self.held_end() > held_before || proved && !matches!(end, SessionEnd::Receive(_));
            let may_be_damage = self.may_be_damage(&end);
            let (mut next, mut text) = end.next(&self.settings.slot);
            if may_be_damage {
                text.push_str(". It is asked for once more, as the link may have damaged it");
                next = Next::TryAgain { state: State::Connecting, wait: None };
            }
            match next {
                Next::Stop => return Ok(()),
                Next::End(fatal) => return Err(fatal),
                Next::StandStill => {
                    error!(problem = text, "the stream is stopped for good; what is held stays, and is served");
                    self.publisher.condition(State::Diverged, Some(text));
                    stopped(&mut self.shutdown).await;
                    return Ok(());
                }
                Next::TryAgain { state, wait: fixed } => {
                    wait = if made_progress { RETRY_FIRST } else { wait };
                    let pause = fixed.unwrap_or(wait);
                    warn!(problem = text, again_in_ms = pause.as_millis() as u64, "no WAL is received");
                    self.publisher.condition(state, Some(text));
                    self.publisher.connected_again();
                    if tokio::time::timeout(pause, stopped(&mut self.shutdown)).await.is_ok() {
                        return Ok(());
                    }
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Whether a difference may be the link's fault: a primary that has another history differs at the same place each time.
    fn may_be_damage(&mut self, end: &SessionEnd) -> bool {
        let SessionEnd::Receive(ReceiveError::Diverged { lsn, .. }) = end else { return false };
        self.differed.replace(*lsn) != Some(*lsn)
    }

    fn held_end(&self) -> Option<Lsn> {
        self.receiver.as_ref().and_then(Receiver::held).map(|held| held.end)
    }

    /// Keeps what the session wrote: it may have been reported as written, and the primary may not have it for long.
    fn close_session(&mut self) -> Result<(), Fatal> {
        let Some(receiver) = &mut self.receiver else { return Ok(()) };
        if receiver.ledger().is_some() {
            let done = receiver.begin_flush().run().map_err(Fatal::Fsync)?;
            receiver.finish_flush(&done);
            self.publisher.sealed(&done.sealed);
            self.publisher.publish(receiver, Lsn::INVALID);
            self.publisher.facts(receiver.take_facts());
            receiver.end_session();
        }
        Ok(())
    }

    /// Connects and receives, one timeline after another, until something ends it.
    async fn session(&mut self) -> Result<(), SessionEnd> {
        let mut shutdown = self.shutdown.clone();
        let mut client = tokio::select! {
            () = stopped(&mut shutdown) => return Err(SessionEnd::Shutdown),
            connected = source::connect(&self.settings.upstream, Mode::Physical) => connected?,
        };
        check_version(&client)?;
        let server = answered(&mut shutdown, self.identify(&mut client)).await?;
        self.waits_for_write =
            answered(&mut shutdown, async { Ok(client.show("synchronous_commit").await? == "remote_write") }).await?;
        let history = answered(&mut shutdown, fetch_history(&mut client, server.timeline)).await?;
        let identity = Identity { system_id: server.system_id, segment_size: server.segment_size };
        if self.receiver.is_none() {
            self.receiver = Some(Receiver::open(Arc::clone(&self.disk), identity, None).map_err(Fatal::Folder)?);
            self.publisher.identity(identity);
        }
        let Some(receiver) = &self.receiver else { unreachable!("made above") };
        let mut start = receiver.plan(&server, history.as_ref().map(|history| &history.parsed))?;
        self.keep_history(history)?;
        if let Some(later) = self.later.take().filter(|later| later.timeline == start.timeline && later.at > start.at) {
            info!(wanted = %start.at, from = %later.at, "the primary no longer has the first WAL wanted; going on from what is held");
            start = later;
        }
        loop {
            let starting = client.start_physical(Some(&self.settings.slot), start.at, start.timeline);
            let stream = answered(&mut shutdown, async { Ok(starting.await?) }).await?;
            info!(slot = self.settings.slot, timeline = start.timeline.get(), at = %start.at, "streaming");
            let Some(receiver) = &mut self.receiver else { unreachable!("made above") };
            receiver.begin(start, self.settings.apply);
            let stream = self.pump(stream, &server).await.inspect_err(|end| {
                self.later = self.start_later(start, end);
                self.starts_later = self.later.is_some();
            })?;
            (client, start) = self.next_timeline(stream, &mut shutdown).await?;
        }
    }

    /// Where to start again when the primary no longer has the WAL that was asked for, if what is between is held. It says so in the stream's
    /// first message.
    fn start_later(&self, start: Start, end: &SessionEnd) -> Option<Start> {
        let removed = matches!(end, SessionEnd::Source(error) if error.class() == Class::WalRemoved);
        let receiver = self.receiver.as_ref().filter(|_| removed)?;
        receiver.ledger().is_some_and(|ledger| ledger.received() == start.at).then(|| receiver.fallback(start)).flatten()
    }

    async fn next_timeline(
        &mut self,
        stream: CopyStream,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(Client, Start), SessionEnd> {
        let (mut client, next) = answered(shutdown, async { Ok(stream.finish().await?) }).await?;
        let next = next.ok_or_else(|| {
            SessionEnd::Setting("the primary ended the stream without a next timeline: it is shutting down".into())
        })?;
        let history = answered(shutdown, fetch_history(&mut client, next.timeline)).await?;
        let Some(receiver) = &mut self.receiver else { unreachable!("a stream has a receiver") };
        let ended = receiver.held().map(|held| (held.timeline, held.end));
        let start = receiver.end_timeline(next.timeline, next.start)?;
        self.keep_history(history)?;
        info!(timeline = next.timeline.get(), switchpoint = %next.start, "the primary's timeline ended; following the next");
        if let Some((timeline, end)) = ended {
            self.publisher.timeline_ended(timeline, end.min(next.start));
        }
        Ok((client, start))
    }

    /// What the primary says of itself; makes the slot if there is none.
    async fn identify(&self, client: &mut Client) -> Result<Server, SessionEnd> {
        let system = client.identify_system().await?;
        let size = client.show("wal_segment_size").await?;
        let segment_size = parse_segment_size(&size)
            .ok_or_else(|| SessionEnd::Setting(format!("the upstream's wal_segment_size is {size:?}: no size known here")))?;
        let slot = &self.settings.slot;
        if client.read_slot(slot).await?.is_none() {
            if !self.settings.create_slot {
                return Err(SessionEnd::Setting(format!(
                    "the upstream has no physical replication slot {slot:?} (--slot). Create it with SELECT pg_create_physical_replication_slot('{slot}', true), \
                     or leave out --no-create-slot"
                )));
            }
            client.create_physical_slot(slot, true).await?;
            info!(slot, "created the replication slot");
        }
        let reserved = client.read_slot(slot).await?.and_then(|slot| Some((slot.restart_lsn?, slot.restart_timeline?)));
        Ok(Server { system_id: system.system_id, segment_size, timeline: system.timeline, flushed: system.flushed, reserved })
    }

    /// Keeps a timeline's history file. To be called when the timeline is known to continue what is held, and before any of its WAL is: another
    /// cluster's file under that name would make the right one a divergence.
    fn keep_history(&self, history: Option<FetchedHistory>) -> Result<(), SessionEnd> {
        let Some(FetchedHistory { parsed, content }) = history else { return Ok(()) };
        let timeline = parsed.timeline();
        let name = WalFile::History(timeline).name();
        match std::fs::read(self.settings.data_dir.join(&name)) {
            Ok(held) if held == content => {}
            Ok(_) => {
                return Err(SessionEnd::OtherHistory(format!(
                    "divergence: the upstream's {name} differs from the one held: its timeline {timeline} is another one. Both are kept, nothing is received \
                     from it. To follow it all the same, start with an empty data folder and keep this one"
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                walbus::disk::write_whole(&*self.disk, &name, &content).map_err(|error| {
                    if walbus::disk::is_full(&error) { SessionEnd::NoRoom(name.clone()) } else { Fatal::Folder(error).into() }
                })?;
            }
            Err(error) => return Err(Fatal::Folder(error).into()),
        }
        self.publisher.history(timeline);
        Ok(())
    }
}

/// Fetches the history of a timeline. Timeline 1 has none.
async fn fetch_history(client: &mut Client, timeline: Timeline) -> Result<Option<FetchedHistory>, SessionEnd> {
    if timeline == Timeline::FIRST {
        return Ok(None);
    }
    let (name, content) = client.timeline_history(timeline).await?;
    if name != WalFile::History(timeline).name() {
        return Err(SessionEnd::Setting(format!("the upstream names the history of timeline {timeline} {name:?}")));
    }
    let parsed = History::parse(timeline, &content);
    let parsed = parsed.map_err(|error| SessionEnd::Setting(format!("the upstream's {name} can't be read: {error}")))?;
    Ok(Some(FetchedHistory { parsed, content }))
}

/// What the primary answers, unless it is silent or the process is to stop.
async fn answered<T>(
    shutdown: &mut watch::Receiver<bool>,
    asked: impl Future<Output = Result<T, SessionEnd>>,
) -> Result<T, SessionEnd> {
    tokio::select! {
        () = stopped(shutdown) => Err(SessionEnd::Shutdown),
        answer = tokio::time::timeout(SILENCE_MAX, asked) => answer.unwrap_or(Err(SessionEnd::Silent)),
    }
}

fn check_version(client: &Client) -> Result<(), SessionEnd> {
    let version = client.parameter_status("server_version").unwrap_or_default();
    let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u32>().ok());
    if !major.is_some_and(|major| (VERSION_MIN..=VERSION_MAX).contains(&major)) {
        return Err(SessionEnd::Setting(format!(
            "the upstream runs PostgreSQL {version:?}: this program knows {VERSION_MIN} to {VERSION_MAX}"
        )));
    }
    if client.parameter_status("integer_datetimes") != Some("on") {
        return Err(SessionEnd::Setting("the upstream was built without integer_datetimes: its times can't be read".into()));
    }
    Ok(())
}

/// `16MB`, `1GB`: as `SHOW wal_segment_size` has it.
fn parse_segment_size(text: &str) -> Option<SegmentSize> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    SegmentSize::new(digits.parse::<u64>().ok()?.checked_mul(unit)?).ok()
}

/// Waits until the process is to stop. Cancellation-safe.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error says that nobody can ask any more: that is a stop as well.
    drop(shutdown.wait_for(|stop| *stop).await);
}
