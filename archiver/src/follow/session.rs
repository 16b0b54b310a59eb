//! One connection after another: connect, plan, stream, and store what has come before the next one.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::{error, info, warn};
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, StoreError};
use walbus::conninfo::Config;
use walbus::proto::history::History;
use walbus::proto::replication::StandbyStatus;
use walbus::source::{self, Class, Client, CopyStream, Event, Mode, SourceError};
use walbus::{Lsn, Segment, SegmentSize, SystemId, Timeline, WalFile};

use super::FollowArgs;
use super::lag::Lag;
use super::plan::{Known, Plan, PlanError, Step};
use super::received::{Held, Received, ReceivedError};
use super::stow::{Cluster, Stow};
use crate::{fetch, fill};

/// The first wait before the server is connected to again; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How often it is reported how far all is, whether that has moved or not: a walsender that slept through its WAL is woken by it as well.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the server may be silent though it was asked to answer.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// How long what has come may take to be stored when the process is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    /// The process must end.
    #[error("{0:#}")]
    Fatal(anyhow::Error),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{0}")]
    Setting(String),
    #[error("the server has not answered for {SILENCE_MAX:?}: it hangs, or the network to it loses everything")]
    Silent,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("stopped")]
    Stopped,
}

impl From<ReceivedError> for SessionEnd {
    fn from(error: ReceivedError) -> Self {
        match error {
            ReceivedError::Differs { .. } => Self::Fatal(error.into()),
            ReceivedError::Gap { .. } => Self::Setting(format!("{error}: the server, or what is between, is no Postgres")),
        }
    }
}

/// What `--pg-wal` ends in: a store that is away is waited for, as always.
fn of_fill(error: anyhow::Error) -> SessionEnd {
    match error.downcast() {
        Ok(store) => SessionEnd::Store(store),
        Err(error) => SessionEnd::Fatal(error.context("--pg-wal")),
    }
}

/// A follower of one server.
#[derive(Debug)]
pub struct Follow {
    server: Config,
    args: FollowArgs,
    stow: Stow,
    stop: watch::Receiver<bool>,
    /// The cluster, once it is known.
    system: Option<SystemId>,
    filled: bool,
    probed: bool,
    /// Where the archive ends whose continuation the server no longer has.
    gave_up: Option<Lsn>,
    lag: Lag,
}

/// What a session is about.
struct Session {
    cluster: Cluster,
    received: Received,
    /// The last report, and when it was.
    reported: Option<Lsn>,
    next_status: Duration,
    heard: Duration,
    /// Where it started.
    start: Lsn,
}

impl Follow {
    pub(super) fn new(server: Config, args: FollowArgs, stow: Stow, stop: watch::Receiver<bool>) -> Self {
        let system = args.system_id;
        Self { server, args, stow, stop, system, filled: false, probed: false, gave_up: None, lag: Lag::default() }
    }

    /// Follows until told to stop.
    ///
    /// # Errors
    /// Where it must not go on.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut wait = RETRY_FIRST;
        loop {
            let mut session = None;
            let ended = Box::pin(self.session(&mut session)).await;
            if let Some(session) = &mut session {
                wait = RETRY_FIRST;
                // The server may be gone for good: what came from it is stored first.
                let stored = Box::pin(self.drain(session, matches!(ended, SessionEnd::Stopped))).await;
                if !matches!(ended, SessionEnd::Fatal(_)) {
                    stored?;
                }
            }
            self.tell_end(&ended);
            match ended {
                SessionEnd::Stopped => {
                    self.stow.finish().await;
                    info!("stopped");
                    return Ok(());
                }
                SessionEnd::Fatal(error) => return Err(error),
                SessionEnd::Store(error @ (StoreError::Conflict { .. } | StoreError::Unsupported { .. })) => {
                    return Err(error.into());
                }
                SessionEnd::Store(error @ StoreError::Settings { .. }) if !self.probed => return Err(error.into()),
                SessionEnd::Plan(_) | SessionEnd::Setting(_) => {
                    wait = RETRY_MAX;
                    error!(problem = %ended, again_in_s = wait.as_secs(), "no WAL is archived");
                }
                _ => warn!(problem = %ended, again_in_ms = wait.as_millis(), "no WAL is received"),
            }
            let mut stop = self.stop.clone();
            if tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok() {
                return Ok(());
            }
            wait = RETRY_MAX.min(wait * 2);
        }
    }

    /// Runs until the process is to stop, while something else goes on.
    async fn answered<T>(&self, asked: impl Future<Output = Result<T, SessionEnd>>) -> Result<T, SessionEnd> {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Err(SessionEnd::Stopped),
            answer = tokio::time::timeout(SILENCE_MAX, asked) => answer.unwrap_or(Err(SessionEnd::Silent)),
        }
    }

    /// Connects and receives, one timeline after another, until something ends it.
    async fn session(&mut self, session: &mut Option<Session>) -> SessionEnd {
        match self.stream(session).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn stream(&mut self, session: &mut Option<Session>) -> Result<std::convert::Infallible, SessionEnd> {
        if !self.probed {
            self.answered(async { Ok(self.stow.archive().probe().await?) }).await?;
            self.probed = true;
        }
        let mut client = self.answered(async { Ok(source::connect(&self.server, Mode::Physical).await?) }).await?;
        let (cluster, known, history) = self.answered(self.identify(&mut client)).await?;
        self.system = Some(cluster.system);
        if let Some(pg_wal) = self.args.pg_wal.clone().filter(|_| !self.filled) {
            let filling = fill::fill(self.stow.archive(), &pg_wal, cluster.system, cluster.size);
            filling.await.map_err(of_fill)?;
            self.filled = true;
        }
        let first = self.answered(self.plan(cluster, known.clone())).await?;
        let history = history.filter(|_| first.timeline == known.timeline);
        let mut received = self.answered(self.prepare(cluster, first, &mut client, &known, history)).await?;
        // A server that was set back may have a slot from ahead of its own WAL.
        received.handle_slot(known.slot.0.min(known.flushed));
        let now = self.stow.now();
        let at = received.end();
        self.lag.handle_session(at, known.flushed, now);
        let session = session.insert(Session { cluster, received, reported: None, next_status: now, heard: now, start: at });
        let mut start = first;
        loop {
            let starting = client.start_physical(Some(&self.args.slot), start.start(cluster.size), start.timeline);
            let stream = self.answered(async { Ok(starting.await?) }).await?;
            info!(slot = self.args.slot, timeline = start.timeline.get(), at = %start.start(cluster.size), "streaming");
            let at = session.received.end();
            let stream = self.pump(stream, session).await;
            if matches!(&stream, Err(SessionEnd::Source(error)) if error.class() == Class::WalRemoved)
                && session.received.end() == at
            {
                self.gave_up = Some(at);
            }
            let stream = stream?;
            (client, start) = self.next_timeline(stream, session).await?;
        }
    }

    /// What the server says of itself; makes the slot if that is wished.
    async fn identify(&self, client: &mut Client) -> Result<(Cluster, Known, Option<Bytes>), SessionEnd> {
        let system = client.identify_system().await?;
        if let Some(expected) = self.system.filter(|expected| *expected != system.system_id) {
            let (from, found) = ("--from", system.system_id);
            let text = format!("the server (check {from}) is of the cluster {found}, not of {expected}: nothing is archived of it");
            return Err(SessionEnd::Setting(text));
        }
        let size = client.show("wal_segment_size").await?;
        let size = walbus::units::parse_size(&size).ok().and_then(|bytes| SegmentSize::new(bytes).ok());
        let size = size.ok_or_else(|| SessionEnd::Setting("the server's wal_segment_size is no size known here".to_owned()))?;
        let slot = self.slot(client).await?;
        let (history, content) = fetch_history(client, system.timeline).await?;
        let known = Known { size, timeline: system.timeline, history, flushed: system.flushed, slot };
        Ok((Cluster { system: system.system_id, size }, known, content))
    }

    /// Where the slot begins.
    async fn slot(&self, client: &mut Client) -> Result<(Lsn, Timeline), SessionEnd> {
        let name = &self.args.slot;
        let mut slot = client.read_slot(name).await?;
        if slot.is_none() && self.args.create_slot {
            client.create_physical_slot(name, true).await?;
            info!(slot = name, "created the replication slot");
            slot = client.read_slot(name).await?;
        }
        let Some(slot) = slot else {
            return Err(SessionEnd::Setting(format!(
                "the server has no physical replication slot {name:?} (--slot): create it with SELECT pg_create_physical_replication_slot('{name}', \
                 true), or say --create-slot"
            )));
        };
        slot.restart_lsn.zip(slot.restart_timeline).ok_or_else(|| {
            SessionEnd::Setting(format!(
                "the slot {name:?} (--slot) keeps no WAL: it was made without reserving any, or was invalidated (max_slot_wal_keep_size). Drop it with \
                 SELECT pg_drop_replication_slot('{name}'), and say --create-slot. WAL that is gone leaves a gap: take a new base backup then"
            ))
        })
    }

    async fn plan(&self, cluster: Cluster, mut known: Known) -> Result<Segment, SessionEnd> {
        if let Some(end) = self.archived_before(cluster, &known).await? {
            let slot = known.slot.0;
            if self.gave_up == Some(end) {
                error!(
                    from = %end, to = %cluster.size.floor(slot),
                    "the archive has a gap: the server has removed that WAL. Recovery does not get over it: take a new base backup"
                );
            } else {
                info!(archived = %end, slot = %slot, "the slot begins behind the end of what is archived; starting there, if the server still has it");
                known.slot = (end, known.history.timeline_at(end));
            }
        }
        let mut plan = Plan::new(known)?;
        loop {
            match plan.poll()? {
                Step::Start(segment) => return Ok(segment),
                Step::Ask(segment) => {
                    let name = ObjectName::Segment { system: cluster.system, segment: segment.name(cluster.size) };
                    plan.handle_held(self.stow.archive().header(&name).await?.is_some());
                }
            }
        }
    }

    /// The end of the whole segments in the archive, where it lies before the slot and there is a gap between: a slot that was made anew, on
    /// another server perhaps.
    async fn archived_before(&self, cluster: Cluster, known: &Known) -> Result<Option<Lsn>, SessionEnd> {
        let Cluster { system, size } = cluster;
        let first = size.floor(known.slot.0);
        let Some(before) = first.0.checked_sub(size.bytes()).map(Lsn) else { return Ok(None) };
        let archive = self.stow.archive();
        let before = Segment::containing(known.history.timeline_at(before), before, size);
        if archive.header(&ObjectName::Segment { system, segment: before.name(size) }).await?.is_some() {
            return Ok(None);
        }
        let mut end = None;
        for timeline in archive.timelines(system).await?.into_iter().filter(|timeline| known.history.contains(*timeline)) {
            let listed = archive.list(system, Some(timeline)).await?.objects;
            let whole = listed.iter().filter_map(|listed| match &listed.name {
                ObjectName::Segment { segment, .. } => segment.segment(size),
                _ => None,
            });
            let ours =
                whole.filter(|segment| segment.end(size) <= first && known.history.timeline_at(segment.start(size)) == timeline);
            end = end.max(ours.map(|segment| segment.end(size)).max());
        }
        Ok(end)
    }

    /// What the first segment's tail has to be compared with, and the history of its timeline.
    async fn prepare(
        &self,
        cluster: Cluster,
        first: Segment,
        client: &mut Client,
        server: &Known,
        history: Option<Bytes>,
    ) -> Result<Received, SessionEnd> {
        let size = cluster.size;
        let jobs = self.args.jobs.unwrap_or_else(|| crate::serve::jobs(size));
        let mut received = Received::new(size, first, jobs, self.args.tail_interval.0);
        let archive = self.stow.archive();
        // The first segment may be one that the archive has whole, to be compared: then the tail is of the next.
        for segment in [first, first.next()] {
            let Some((end, archived, content)) = held_of(archive, cluster, segment).await? else { continue };
            if segment.timeline == server.timeline && archived > server.flushed {
                return Err(PlanError::Behind { timeline: segment.timeline, archived, flushed: server.flushed }.into());
            }
            let complete = usize::try_from(archived.bytes_after(segment.start(size))).unwrap_or(usize::MAX).min(content.len());
            received.handle_held(Held { segment, end, complete: content[..complete].to_vec() });
        }
        if first.timeline != Timeline::FIRST {
            let content = match history {
                Some(content) => Some(content),
                None => fetch_history(client, first.timeline).await?.1,
            };
            if let Some(content) = content {
                received.handle_history(first.timeline, content);
            }
        }
        Ok(received)
    }

    /// Receives until the timeline ends; gives the stream back for what comes then.
    async fn pump(&mut self, mut stream: CopyStream, session: &mut Session) -> Result<CopyStream, SessionEnd> {
        let mut stop = self.stop.clone();
        session.heard = self.stow.now();
        loop {
            self.stow.turn(&mut session.received, session.cluster);
            self.report(&mut stream, session).await;
            self.tell(session, true);
            let now = self.stow.now();
            let next = [
                Some(session.next_status),
                session.received.poll_timeout().filter(|at| *at > now),
                self.stow.outage.poll_timeout(now),
            ];
            let wake = next.into_iter().flatten().min().unwrap_or(now).saturating_sub(now).max(Duration::from_millis(5));
            let is_full = session.received.is_full();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Err(SessionEnd::Stopped),
                stored = self.stow.stored(&mut session.received) => stored.map_err(SessionEnd::Fatal)?,
                event = stream.next(), if !is_full => {
                    session.heard = self.stow.now();
                    let taken = take(&mut session.received, &mut stream, event?)?;
                    self.lag.handle_server(taken.server_end.max(session.received.end()), session.heard);
                    if taken.is_end {
                        return Ok(stream);
                    }
                }
                () = tokio::time::sleep(wake) => {
                    // While nothing is read, nothing is heard either.
                    if is_full {
                        session.heard = now;
                    } else if now.saturating_sub(session.heard) > SILENCE_MAX {
                        return Err(SessionEnd::Silent);
                    }
                }
            }
        }
    }

    /// Tells the metrics why nothing is received.
    fn tell_end(&self, ended: &SessionEnd) {
        let metrics = &self.stow.metrics;
        if let SessionEnd::Store(error) = ended {
            metrics.failed(error);
        }
        metrics.update(|figures| {
            figures.server_problem = Some(ended.to_string());
            if let SessionEnd::Store(error) = ended {
                figures.store_problem = Some(error.to_string());
            }
        });
    }

    /// Tells the metrics how all stands.
    fn tell(&mut self, session: &Session, is_streaming: bool) {
        // What lies before where the session starts is in the archive, or will never be.
        self.lag.handle_archived(session.received.flushed().unwrap_or(session.start));
        let (lag, stow) = (&self.lag, &self.stow);
        let now = stow.now();
        stow.metrics.update(|figures| {
            figures.lag_bytes = lag.bytes();
            figures.lag_since = lag.since();
            (figures.server, figures.archived) = (lag.server(), lag.archived());
            figures.received = session.received.end();
            figures.timeline = Some(session.received.timeline());
            figures.running = stow.running();
            figures.heard = Some(session.heard);
            figures.answered = stow.outage.since_answer(now).map(|ago| now.saturating_sub(ago)).or(figures.answered);
            if figures.store_problem.as_deref() != stow.outage.reason() {
                figures.store_problem = stow.outage.reason().map(str::to_owned);
            }
            if is_streaming {
                figures.server_problem = None;
            }
        });
    }

    /// Reports what is stored, where that has moved or it is time.
    async fn report(&self, stream: &mut CopyStream, session: &mut Session) {
        let now = self.stow.now();
        let flushed = session.received.reportable();
        if flushed == session.reported && now < session.next_status {
            return;
        }
        session.reported = flushed;
        session.next_status = now + STATUS_INTERVAL;
        let flush = flushed.unwrap_or(Lsn::INVALID);
        let reply_requested = now.saturating_sub(session.heard) >= SILENCE_MAX / 6;
        let status = StandbyStatus { write: flush, flush, apply: Lsn::INVALID, time: self.stow.time(), reply_requested };
        stream.send_status(&status).await;
    }

    async fn next_timeline(&self, stream: CopyStream, session: &mut Session) -> Result<(Client, Segment), SessionEnd> {
        let (mut client, next) = self.answered(async { Ok(stream.finish().await?) }).await?;
        let next = next
            .ok_or_else(|| SessionEnd::Setting("the server ended the stream without a next timeline: it shuts down".to_owned()))?;
        let (_, content) = self.answered(fetch_history(&mut client, next.timeline)).await?;
        let content = content.ok_or_else(|| SessionEnd::Setting(format!("timeline {} has no history", next.timeline)))?;
        info!(timeline = next.timeline.get(), switchpoint = %next.start, "the timeline ended; following the next");
        session.received.handle_timeline(next.timeline, next.start, content);
        Ok((client, Segment::containing(next.timeline, next.start, session.cluster.size)))
    }

    /// Stores what has come, the tail included, without the server.
    async fn drain(&mut self, session: &mut Session, mut is_stopping: bool) -> anyhow::Result<()> {
        let mut stop = self.stop.clone();
        session.received.handle_urgent();
        let mut until = is_stopping.then(|| self.stow.now() + STOP_DEADLINE);
        loop {
            self.stow.turn(&mut session.received, session.cluster);
            self.tell(session, false);
            if session.received.is_stored() {
                return Ok(());
            }
            let now = self.stow.now();
            if until.is_some_and(|until| now >= until) {
                warn!("not all that was received is stored: the server keeps it, and sends it again");
                return Ok(());
            }
            tokio::select! {
                stored = self.stow.stored(&mut session.received) => stored?,
                _ = stop.wait_for(|stop| *stop), if !is_stopping => {
                    is_stopping = true;
                    until = Some(self.stow.now() + STOP_DEADLINE);
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }
}

/// Of a segment's tails: where the longest ends, and the one whose complete records end last, with where they do. One that is longer ends in a
/// record that was never whole.
async fn held_of(archive: &Archive, cluster: Cluster, segment: Segment) -> Result<Option<(Lsn, Lsn, Bytes)>, StoreError> {
    let mut held: Option<(Lsn, Lsn, Bytes)> = None;
    for tail in archive.list_tails(cluster.system, &segment.name(cluster.size)).await?.objects {
        let ObjectName::Tail { end, .. } = tail.name else { continue };
        let Some(content) = archive.get(&tail.name).await? else { continue };
        let complete = fetch::complete_end(&content, segment, cluster.size);
        held = Some(match held {
            Some((longest, most, before)) if most > complete => (longest.max(end), most, before),
            before => (before.map_or(end, |(longest, ..)| longest.max(end)), complete, content),
        });
    }
    Ok(held)
}

/// What was taken of a stream.
struct Taken {
    /// Whether the timeline has ended.
    is_end: bool,
    /// How far the server's WAL goes, as it said last.
    server_end: Lsn,
}

/// Takes an event and all that has arrived behind it, while there is room.
fn take(received: &mut Received, stream: &mut CopyStream, first: Event) -> Result<Taken, SessionEnd> {
    let mut server_end = Lsn::INVALID;
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            Event::End => return Ok(Taken { is_end: true, server_end }),
            // A report goes out at least once a second. A server that shuts down asks, and waits until all is stored.
            Event::Keepalive(keepalive) => {
                server_end = server_end.max(keepalive.server_end);
                if keepalive.reply_requested && keepalive.server_end <= received.end() {
                    received.handle_urgent();
                }
            }
            Event::Wal(wal) => {
                server_end = server_end.max(wal.server_end);
                received.handle_wal(wal.start, &wal.data)?;
            }
        }
        next = if received.is_full() { None } else { stream.try_next()? };
    }
    Ok(Taken { is_end: false, server_end })
}

/// The history of a timeline, and its file. Timeline 1 has none.
async fn fetch_history(client: &mut Client, timeline: Timeline) -> Result<(History, Option<Bytes>), SessionEnd> {
    if timeline == Timeline::FIRST {
        return Ok((History::root(timeline), None));
    }
    let (name, content) = client.timeline_history(timeline).await?;
    let history = History::parse(timeline, &content).ok().filter(|_| name == WalFile::History(timeline).name());
    let history =
        history.ok_or_else(|| SessionEnd::Setting(format!("the server's {name} is no history of timeline {timeline}")))?;
    Ok((history, Some(content)))
}
