//! Drives the source: one connection, one slot.
//!
//! ```text
//!   prepare ─▶ START_REPLICATION ─▶ session: Parser ─▶ Assembler ─▶ Encoder ─▶ journal (thread) ─▶ log
//!      ▲                                │  ▲                                        │
//!      │                                │  └──────────── Feedback ◀── durable ──────┘
//!      └────── wait, by the error ◀─────┘
//! ```
//!
//! Nothing downstream is ever waited for but the log's disk; and while that is, the primary is told that we live.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use walbus::causes::in_one_line;
use walbus::conninfo;
use walbus::disk::{FolderSpool, OsDisk, is_full};
use walbus::logical::{Assembler, Limits, LogicalError};
use walbus::proto::history::History;
use walbus::proto::pgoutput::{Parser, PgoutputError, ProtoVersion, Streaming};
use walbus::source::{Class, SourceError};
use walbus::{Lsn, SystemId};

mod confirmed;
mod continuity;
mod journal;
mod pace;
mod prepare;
mod session;
mod sparse;

use crate::encode::{self, Encoder, Unfinished};
use crate::log::{EventLog, Writer};
use crate::state::{Condition, ServerState};
use confirmed::Confirmed;
use continuity::{Continuity, Last, OtherHistory};
use journal::Journal;
use prepare::{Prepared, Slot, Use};
use session::Pump;
use sparse::Sparse;

/// The wait before the first try again of what passes by itself; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait for what passes by itself.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// The wait for what a person has to mend.
const REFUSED_RETRY: Duration = Duration::from_secs(15);

/// What is to be followed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The primary, or from PostgreSQL 16 on a standby.
    pub upstream: conninfo::Config,
    /// The slot.
    pub slot: String,
    /// What is published.
    pub publications: Vec<String>,
    /// Whether to make the slot where there is none.
    pub create_slot: bool,
    /// Whether to make publications that are not there, for all tables.
    pub create_publication: bool,
    /// Whether to ask for logical messages. Then transactions come when they are committed, and not while they run: Postgres does not say which
    /// subtransaction wrote a message.
    pub messages: bool,
    /// Whether a slot that is made decodes transactions at their prepare.
    pub two_phase: bool,
    /// Whether a slot that is made is kept in step on standbys.
    pub failover: bool,
    /// The longest time without a report.
    pub status_interval: Duration,
    /// How much memory transactions that are not committed may take before they are spooled.
    pub memory_bytes: usize,
    /// Where they are spooled.
    pub spool: PathBuf,
    /// How long the disk may be full before the session is ended: while it is full nothing is read, and a primary that shuts down waits for that.
    pub disk_full_timeout: Duration,
}

/// Why the source ended for good: the process must end.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A thread is gone without a word: a defect of this program.
    #[error("a thread died; see above")]
    Died,
    /// An fsync failed.
    #[error(
        "fsync failed: nothing more is confirmed. Check the disk of --data-dir, then start again: what it holds is read back and checked"
    )]
    Fsync(#[source] io::Error),
    /// The log can't be written or read.
    #[error("the event log can't be written")]
    Log(#[source] io::Error),
    /// The thread can't be set up.
    #[error("the source's thread can't be set up")]
    Runtime(#[source] io::Error),
    /// A transaction is in the log in part, and the primary sends another one: the next start cuts it off.
    #[error(transparent)]
    Unfinished(Unfinished),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("{0}")]
    Busy(String),
    #[error("the disk of --data-dir is full. Make room there, or set --keep-size; it goes on by itself")]
    DiskFull(#[source] io::Error),
    #[error("the primary ended the stream: it is shutting down")]
    Ended,
    #[error(transparent)]
    Fatal(#[from] Fatal),
    #[error(
        "the primary shuts down and waits until all is confirmed, which a prepared transaction or what is not durable yet holds back: the connection \
         is given up, so that it can"
    )]
    Held,
    #[error("the upstream's changes can't be put together")]
    Logical(#[source] LogicalError),
    #[error(
        "the disk of --data-dir has been full for {0:?}: the session is ended, so that the primary can shut down; its slot keeps the WAL. Make room \
         there, or set --keep-size; it goes on by itself"
    )]
    NoRoom(Duration),
    #[error("the slot {0:?} was moved or made anew while the session began: it is looked at again")]
    Moved(String),
    #[error("{0}")]
    NoSlot(String),
    #[error(transparent)]
    OtherHistory(#[from] OtherHistory),
    #[error("the upstream's changes can't be read")]
    Pgoutput(#[from] PgoutputError),
    #[error("{0}")]
    Setting(String),
    #[error("shutting down")]
    Shutdown,
    #[error("the upstream has not answered for {0:?}: it hangs, or the network to it loses everything")]
    Silent(Duration),
    #[error("{0}")]
    SlotLost(String),
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<LogicalError> for SessionEnd {
    fn from(error: LogicalError) -> Self {
        match error {
            LogicalError::Spool(error) if is_full(&error) => Self::DiskFull(error),
            error => Self::Logical(error),
        }
    }
}

impl SessionEnd {
    /// What it says of the source, and how long to wait; `None`: longer each time.
    fn next(&self) -> (Condition, Option<Duration>) {
        match self {
            Self::Busy(_) => (Condition::Connecting, Some(RETRY_MAX)),
            Self::DiskFull(_) | Self::NoRoom(_) => (Condition::DiskFull, Some(REFUSED_RETRY)),
            Self::Source(error) if error.is_retryable() => (Condition::Connecting, None),
            Self::Source(error) if matches!(error.class(), Class::SlotUnusable | Class::WalRemoved) => {
                (Condition::SlotLost, Some(REFUSED_RETRY))
            }
            Self::OtherHistory(_) | Self::SlotLost(_) => (Condition::SlotLost, Some(REFUSED_RETRY)),
            Self::NoSlot(_) | Self::Setting(_) | Self::Source(_) => (Condition::Refused, Some(REFUSED_RETRY)),
            _ => (Condition::Connecting, None),
        }
    }
}

/// Microseconds since 1970-01-01 00:00 UTC.
pub(crate) fn unix_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// What a primary says of a slot before anything is kept of it.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The cluster.
    pub system_id: SystemId,
    /// Where the slot's changes begin.
    pub start: Lsn,
    /// Whether the slot was made for this.
    pub made: bool,
}

/// Asks the primary, again and again until it answers, where the slot's changes begin; makes slot and publications where told to. `None` where
/// the process is to stop first.
pub async fn origin(settings: &Settings, state: &ServerState, shutdown: &mut watch::Receiver<bool>) -> Option<Origin> {
    let mut wait = RETRY_FIRST;
    loop {
        let prepared = tokio::select! {
            () = stopped(shutdown) => return None,
            prepared = prepare::prepare(settings, Use::New) => prepared,
        };
        match prepared {
            Ok(Prepared { system_id, slot, made, .. }) => return Some(Origin { system_id, start: slot.confirmed, made }),
            Err(end) => {
                tell(&end, in_one_line(&end), wait, state);
                wait = pause(&end, wait, shutdown).await?;
            }
        }
    }
}

/// Drops the slot that was made for a log that could not be begun: nobody would read it, and it would keep the primary's WAL.
pub async fn drop_slot(settings: &Settings) {
    match prepare::drop_slot(settings).await {
        Ok(()) => info!(slot = settings.slot, "dropped the replication slot again"),
        Err(error) => warn!(
            slot = settings.slot,
            problem = in_one_line(&error),
            "the replication slot that was made is left behind, and keeps WAL: drop it by pg_drop_replication_slot"
        ),
    }
}

/// What is asked of the primary before the stream, or that it does not answer.
async fn in_time<T>(answer: impl Future<Output = Result<T, SessionEnd>>) -> Result<T, SessionEnd> {
    match tokio::time::timeout(session::SILENCE_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(SessionEnd::Silent(session::SILENCE_MAX)),
    }
}

/// Tells what is wrong, and how long it will be waited.
fn tell(end: &SessionEnd, text: String, wait: Duration, state: &ServerState) {
    let (condition, fixed) = end.next();
    let pause = fixed.unwrap_or(wait);
    warn!(problem = text, again_in_ms = pause.as_millis() as u64, "no changes are received");
    state.condition(condition, Some(text));
}

/// Waits. Gives the next wait, `None` where the process is to stop.
async fn pause(end: &SessionEnd, wait: Duration, shutdown: &mut watch::Receiver<bool>) -> Option<Duration> {
    let (_, fixed) = end.next();
    match tokio::time::timeout(fixed.unwrap_or(wait), stopped(shutdown)).await {
        Ok(()) => None,
        Err(_) => Some((wait * 2).min(RETRY_MAX)),
    }
}

/// Follows the slot until told to stop. Runs on the thread that calls it, and blocks it.
///
/// # Errors
/// See [`Fatal`]: the process must end with a failure.
pub fn run(
    settings: Settings,
    disk: Arc<OsDisk>,
    log: EventLog<OsDisk>,
    writer: Writer<OsDisk>,
    state: Arc<ServerState>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fatal::Runtime)?;
    let durable = log.head().commit_lsn;
    let schemas = Arc::clone(writer.schemas());
    let mut source = Source {
        confirmed: Confirmed::read(disk, log.epoch().bytes()).map_err(Fatal::Log)?,
        last: Last::of(&log).map_err(Fatal::Log)?,
        assembler: Assembler::new(
            FolderSpool::new(&settings.spool),
            Limits { memory_bytes: settings.memory_bytes, ..Limits::default() },
            durable,
        ),
        encoder: Encoder::new(encode::Limits::default(), schemas.iter(), log.durable_end_lsn()),
        journal: Journal::start(writer, Arc::clone(&state), settings.disk_full_timeout).map_err(Fatal::Runtime)?,
        log,
        settings,
        state,
        disk_full_lines: Sparse::default(),
    };
    runtime.block_on(async {
        source.run(&mut shutdown).await?;
        source.journal.finish().await
    })
}

/// Names and values for START_REPLICATION.
type Options = Vec<(&'static str, String)>;

struct Source {
    settings: Settings,
    log: EventLog<OsDisk>,
    state: Arc<ServerState>,
    journal: Journal,
    assembler: Assembler<FolderSpool>,
    encoder: Encoder,
    confirmed: Confirmed<OsDisk>,
    /// The last transaction that was given to the log.
    last: Option<Last>,
    disk_full_lines: Sparse,
}

impl Source {
    async fn run(&mut self, shutdown: &mut watch::Receiver<bool>) -> Result<(), Fatal> {
        let mut wait = RETRY_FIRST;
        loop {
            let before = self.state.view().confirmed;
            let end = self.session(shutdown).await;
            self.encoder.suspend();
            match end {
                SessionEnd::Shutdown => return Ok(()),
                SessionEnd::Fatal(fatal) => return Err(fatal),
                end @ SessionEnd::NoRoom(_) => {
                    self.tell(&end, wait);
                    self.state.update(|view| view.disk_full_sessions += 1);
                    tokio::select! {
                        () = stopped(shutdown) => return Ok(()),
                        room = self.journal.room() => room?,
                    }
                    self.state.condition(Condition::Connecting, None);
                    wait = RETRY_FIRST;
                }
                end => {
                    if self.state.view().confirmed > before {
                        wait = RETRY_FIRST;
                    }
                    self.tell(&end, wait);
                    match pause(&end, wait, shutdown).await {
                        Some(next) => wait = next,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Tells what is wrong, and the way out where the slot is lost; of a full disk seldom.
    fn tell(&mut self, end: &SessionEnd, wait: Duration) {
        let (condition, _) = end.next();
        let mut text = in_one_line(end);
        if condition == Condition::SlotLost {
            let epoch = self.log.epoch();
            text += &format!(
                ". To go on from where the slot stands, start with --new-epoch {epoch}: consumers are told that there is a gap"
            );
        }
        if condition == Condition::DiskFull && !self.disk_full_lines.is_due(Instant::now()) {
            self.state.condition(condition, Some(text));
        } else {
            tell(end, text, wait, &self.state);
        }
    }

    async fn session(&mut self, shutdown: &mut watch::Receiver<bool>) -> SessionEnd {
        let prepared = tokio::select! {
            () = stopped(shutdown) => return SessionEnd::Shutdown,
            prepared = in_time(prepare::prepare(&self.settings, Use::Held)) => prepared,
        };
        match prepared {
            Ok(prepared) => self.stream(prepared, shutdown).await,
            Err(end) => end,
        }
    }

    async fn stream(&mut self, mut prepared: Prepared, shutdown: &mut watch::Receiver<bool>) -> SessionEnd {
        let followed = tokio::select! {
            () = stopped(shutdown) => return SessionEnd::Shutdown,
            followed = in_time(self.follow_timeline(&mut prepared)) => followed,
        };
        if let Err(end) = followed.and_then(|()| self.still_ours(&prepared)) {
            return end;
        }
        let Prepared { client, mut beside, version, slot, .. } = prepared;
        let Slot { confirmed, two_phase } = slot;
        let (parser, options) = match self.options(version, two_phase) {
            Ok(options) => options,
            Err(error) => return error.into(),
        };
        // What the slot stands at, and not where the log ends: behind that, a transaction that is prepared would not be sent again.
        let starting = client.start_logical(&self.settings.slot, Lsn::INVALID, &options);
        let stream = tokio::select! {
            () = stopped(shutdown) => return SessionEnd::Shutdown,
            stream = starting => match stream {
                Ok(stream) => stream,
                Err(error) => return error.into(),
            },
        };
        // From now on nobody else can move it: whoever did so since it was looked at has left a gap.
        let looked = tokio::select! {
            () = stopped(shutdown) => return SessionEnd::Shutdown,
            looked = in_time(async { prepare::look(&mut beside, &self.settings.slot).await.map_err(SessionEnd::from) }) => looked,
        };
        match looked {
            Ok(Some(now)) if now == slot => drop(beside),
            Ok(_) => return SessionEnd::Moved(self.settings.slot.clone()),
            Err(end) => return end,
        }
        info!(slot = self.settings.slot, at = %confirmed, version, "streaming");
        self.state.condition(Condition::Streaming, None);
        self.state.update(|view| view.sessions += 1);
        self.assembler.handle_reconnect(self.encoder.last_commit().max(self.log.head().commit_lsn));
        let pump = Pump {
            log: &self.log,
            journal: &mut self.journal,
            assembler: &mut self.assembler,
            encoder: &mut self.encoder,
            confirmed: &mut self.confirmed,
            continuity: Continuity::new(self.last, confirmed),
            last: &mut self.last,
            state: &self.state,
            status_interval: self.settings.status_interval,
        };
        pump.run(stream, parser, confirmed, shutdown).await
    }

    /// Proves that the upstream's history has all that the log has. One that was promoted without the newest WAL has not: what the log holds of
    /// that never happened there.
    async fn follow_timeline(&mut self, prepared: &mut Prepared) -> Result<(), SessionEnd> {
        let now = prepared.timeline;
        let switchpoint = match self.confirmed.timeline() {
            Some(held) if held == now => return Ok(()),
            Some(held) if now < held => {
                return Err(SessionEnd::Setting(format!(
                    "the upstream is on timeline {now}, and the log has followed timeline {held}: it is an old primary. Point --upstream to the one that \
                     was promoted"
                )));
            }
            Some(held) => {
                let (name, content) = prepared.client.timeline_history(now).await?;
                let history = History::parse(now, &content)
                    .map_err(|error| SessionEnd::Setting(format!("the upstream's {name} can't be read: {error}")))?;
                // A timeline that is no ancestor shares nothing that is known of.
                history.switchpoint(held).unwrap_or(Lsn::INVALID)
            }
            None => Lsn::MAX,
        };
        let end = self.log.durable_end_lsn().max(self.encoder.end_lsn());
        if end > switchpoint {
            return Err(SessionEnd::SlotLost(format!(
                "the upstream was promoted to timeline {now} at {switchpoint}, and the log ends at {end}: it holds changes that the new primary never \
                 received. On PostgreSQL 17 and later, synchronized_standby_slots keeps a standby from being behind"
            )));
        }
        self.confirmed.follow(now, switchpoint).map_err(|error| match error {
            error if is_full(&error) => SessionEnd::DiskFull(error),
            error => Fatal::Log(error).into(),
        })
    }

    /// Proves that nothing is missing between what is held and what the slot sends.
    fn still_ours(&self, prepared: &Prepared) -> Result<(), SessionEnd> {
        if prepared.system_id != self.log.system_id() {
            return Err(SessionEnd::Setting(format!(
                "the upstream is the cluster with system identifier {}, and the log that of {}: use another --data-dir for it",
                prepared.system_id,
                self.log.system_id()
            )));
        }
        let known = self.log.durable_end_lsn().max(self.confirmed.lsn());
        if prepared.slot.confirmed > known {
            return Err(SessionEnd::SlotLost(format!(
                "the slot {:?} stands at {}, and what was confirmed to it ends at {known}: it was moved by somebody else, or dropped and made anew, and \
                 changes in between may be missing",
                self.settings.slot, prepared.slot.confirmed
            )));
        }
        if prepared.flushed < known {
            return Err(SessionEnd::Setting(format!(
                "the upstream's WAL ends at {}, and it has sent what ends at {known}: it is a standby that is behind, which passes, or it was \
                 restored from an older copy. In that case start with --new-epoch {}: consumers are told that there is a gap",
                prepared.flushed,
                self.log.epoch()
            )));
        }
        Ok(())
    }

    fn options(&self, version: u32, two_phase: bool) -> Result<(Parser, Options), PgoutputError> {
        let streaming = if self.settings.messages { Streaming::Off } else { Streaming::On };
        let proto = if version >= 16 { ProtoVersion::V4 } else { ProtoVersion::V3 };
        let publications: Vec<_> =
            self.settings.publications.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
        let mut options = vec![
            ("proto_version", proto.number().to_string()),
            ("publication_names", publications.join(",")),
            ("streaming", streaming.option().to_owned()),
            ("messages", self.settings.messages.to_string()),
        ];
        if two_phase {
            options.push(("two_phase", "on".to_owned()));
        }
        Ok((Parser::new(proto, streaming)?, options))
    }
}

/// Waits until the process is to stop. Cancellation-safe.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error says that nobody can ask any more: that is a stop as well.
    drop(shutdown.wait_for(|stop| *stop).await);
}
