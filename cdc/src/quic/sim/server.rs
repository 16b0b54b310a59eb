//! One life of the server, as `quic::connection` and `quic::pump` drive it, with links in place of sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use beyond_cdc_proto::frame::{Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, Batch, ClientMessage, Encoding, ErrorCode, ServerMessage};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use walbus::sim::PowerDisk;
use walbus::{Lsn, Position};

use super::history::History;
use super::link::{Link, Pipe, Read};
use super::names::Names;
use super::wanted::PRINCIPALS;
use super::{Defect, Met};
use crate::fanout::class::Classes;
use crate::fanout::consumers::{Attachment, Consumers, Place};
use crate::fanout::cursor::{CursorError, Progress};
use crate::fanout::pattern::TablePattern;
use crate::fanout::select::Selection;
use crate::log::{Epoch, EventLog, ReadError};
use crate::quic::feed::{Feed, Step};
use crate::quic::limits::Limits;
use crate::quic::pump::End;
use crate::quic::refusal::of_end;
use crate::quic::session::{Action, Opening, Principal, Session, View};
use crate::quic::start::{attach, keep, start};

/// How much of the file cache of classes is kept, in bytes: little, so that it is spent.
const CLASS_CACHE_BYTES: usize = 4000;

/// A server, from its start to its end.
pub(super) struct Server {
    pub(super) log: EventLog<PowerDisk>,
    pub(super) consumers: Arc<Consumers<PowerDisk>>,
    classes: Classes,
    connections: BTreeMap<u64, Connection>,
    streams: u64,
    gathered_bytes: usize,
    defect: Option<Defect>,
    first_selection: Option<Selection>,
}

struct Connection {
    session: Session,
    frames: Frames,
    running: BTreeMap<u32, Running>,
    pumps: Vec<Pump>,
    ended: VecDeque<(u32, u64, End)>,
}

struct Running {
    stop: CancellationToken,
    attachment: Option<Attachment<PowerDisk>>,
    stream: u64,
}

struct Pump {
    subscription: u32,
    stream: u64,
    name: String,
    typed: bool,
    feed: Feed<PowerDisk>,
    progress: Arc<Progress>,
    pending: VecDeque<Bytes>,
    begun: bool,
    next: Turn,
    stop: CancellationToken,
    taken_over: CancellationToken,
}

/// What a pump does once all is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Files,
    Memory,
    Wait,
}

/// What is true, and what was met.
pub(super) struct Scene<'a> {
    pub(super) history: &'a History,
    pub(super) links: &'a mut BTreeMap<u64, Link>,
    pub(super) names: &'a mut Names,
    pub(super) durable: Position,
    /// The largest batch of all, in bytes.
    pub(super) largest: usize,
    /// The greatest position that was handed to any connection.
    pub(super) given: &'a mut Position,
    pub(super) seen: &'a mut Met,
}

impl Server {
    pub(super) fn new(
        log: EventLog<PowerDisk>,
        consumers: Consumers<PowerDisk>,
        gathered_bytes: usize,
        defect: Option<Defect>,
    ) -> Self {
        Self {
            log,
            consumers: Arc::new(consumers),
            classes: Classes::new(CLASS_CACHE_BYTES),
            connections: BTreeMap::new(),
            streams: 0,
            gathered_bytes,
            defect,
            first_selection: None,
        }
    }

    /// The connections that it knows of.
    pub(super) fn connections(&self) -> Vec<u64> {
        self.connections.keys().copied().collect()
    }

    /// A client has come.
    pub(super) fn accept(&mut self, link: u64) {
        let limits = Limits { subscriptions: 2, ..Limits::default() };
        let connection = Connection {
            session: Session::new(limits),
            frames: Frames::new(limits.control_bytes),
            running: BTreeMap::new(),
            pumps: Vec::new(),
            ended: VecDeque::new(),
        };
        self.connections.insert(link, connection);
    }

    /// Hears what has come on a connection, up to `most` bytes, and does what follows.
    pub(super) fn hear(&mut self, id: u64, most: usize, scene: &mut Scene<'_>) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let link = scene.links.get_mut(&id).ok_or("a connection without a link")?;
        match link.to_server.read(most) {
            Read::Nothing => {}
            Read::End => self.forget(id, scene),
            Read::Bytes(bytes) => {
                connection.frames.push(&bytes);
                while let Some(connection) = self.connections.get_mut(&id)
                    && let Some(frame) = connection.frames.next().map_err(|error| error.to_string())?
                {
                    let message = ClientMessage::decode(frame).map_err(|error| error.to_string())?;
                    let view = view(&self.log);
                    connection.session.handle_message(message, &view);
                    self.act(id, scene)?;
                }
            }
        }
        Ok(())
    }

    /// The connection is over, as the server has it.
    pub(super) fn forget(&mut self, id: u64, scene: &mut Scene<'_>) {
        let Some(connection) = self.connections.remove(&id) else { return };
        for running in connection.running.values() {
            if let Some(attachment) = &running.attachment {
                scene.names.release(attachment.name(), (id, running.stream));
            }
        }
        if let Some(link) = scene.links.get_mut(&id) {
            link.to_client.finish();
            link.data.values_mut().for_each(Pipe::finish);
        }
    }

    fn act(&mut self, id: u64, scene: &mut Scene<'_>) -> Result<(), String> {
        while let Some(connection) = self.connections.get_mut(&id)
            && let Some(action) = connection.session.poll_action()
        {
            match action {
                Action::Acknowledge(subscription, position) => {
                    if let Some(running) = connection.running.get(&subscription)
                        && let Some(attachment) = &running.attachment
                    {
                        let (name, epoch) = (attachment.name(), self.log.epoch());
                        let kept = attachment.acknowledge(Place { epoch, position });
                        let holder = (id, running.stream);
                        if kept != scene.names.has(name, holder) {
                            return Err(format!("{name} at {position}: kept {kept}, and has the name {}", !kept));
                        }
                        scene.names.acknowledge(name, holder, epoch, position);
                        scene.seen.acknowledged += 1;
                    }
                }
                Action::Authenticate(token) => {
                    let tables = token.parse::<usize>().ok().and_then(|n| PRINCIPALS.get(n)).ok_or("no such principal")?;
                    let tables = tables.iter().map(|text| TablePattern::parse(text).unwrap()).collect();
                    let found = Ok(Principal { name: token, tables });
                    connection.session.handle_authenticated(found, &view(&self.log));
                }
                Action::Close(..) => {
                    connection.pumps.clear();
                    self.forget(id, scene);
                }
                Action::Send(kind) => {
                    let link = scene.links.get_mut(&id).ok_or("a connection without a link")?;
                    let mut bytes = encode(&ServerMessage { kind: Some(kind) });
                    link.to_client.write(&mut bytes);
                    if !bytes.is_empty() && !link.lost {
                        return Err("the answers to control messages are without end".to_owned());
                    }
                }
                Action::Start(opening) => self.start(id, *opening, scene)?,
                Action::Stop(subscription) => {
                    if let Some(running) = connection.running.get(&subscription) {
                        running.stop.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, id: u64, mut opening: Opening, scene: &mut Scene<'_>) -> Result<(), String> {
        self.streams += 1;
        let holder = (id, self.streams);
        let subscription = opening.subscription;
        let busy = scene.names.is_busy(&opening.consumer) && !opening.take_over;
        let connection = self.connections.get_mut(&id).ok_or("no such connection")?;
        let attachment = match attach(&self.consumers, &opening, "sim") {
            Ok(attachment) if !busy => attachment,
            Err(error) if busy && error.code() == ErrorCode::ConsumerBusy => {
                scene.seen.busy += 1;
                connection.session.handle_failed(v1::Error { subscription, ..error });
                return Ok(());
            }
            other => return Err(format!("{:?} is busy: {busy}, and the answer is {other:?}", opening.consumer)),
        };
        if let Some(attachment) = &attachment {
            scene.seen.taken_over += u64::from(scene.names.is_busy(attachment.name()));
            scene.names.attach(attachment.name(), holder);
            let place = scene.names.place(attachment.name());
            if attachment.place() != place {
                return Err(format!("{} is at {:?}, where {place:?} was acknowledged", attachment.name(), attachment.place()));
            }
        }
        let expected = Expected::of(scene.history, &self.log, &opening, attachment.as_ref());
        let told = self.plant(&mut opening);
        let connection = self.connections.get_mut(&id).ok_or("no such connection")?;
        match start(&self.log, &self.classes, &opening, attachment.as_ref(), self.gathered_bytes) {
            Ok((start, feed)) => {
                let start = told.unwrap_or(start);
                expected.started(start)?;
                if let Some(attachment) = attachment.as_ref().filter(|attachment| attachment.place().is_none()) {
                    let place = Place { epoch: self.log.epoch(), position: start };
                    let kept = if self.defect == Some(Defect::BegunLazily) {
                        attachment.acknowledge(place);
                        Ok(())
                    } else {
                        keep(attachment, place)
                    };
                    scene.names.begin(attachment.name(), place, kept.is_ok());
                    if let Err(error) = kept {
                        scene.names.release(attachment.name(), holder);
                        connection.session.handle_failed(v1::Error { subscription, ..error });
                        return Ok(());
                    }
                }
                scene.seen.started += 1;
                let stop = CancellationToken::new();
                let taken_over = attachment.as_ref().map(Attachment::taken_over).unwrap_or_default();
                connection.pumps.push(Pump {
                    subscription,
                    stream: self.streams,
                    name: opening.consumer.clone(),
                    typed: opening.encoding == Encoding::Typed,
                    feed,
                    progress: Arc::clone(&opening.progress),
                    pending: VecDeque::new(),
                    begun: false,
                    next: Turn::Memory,
                    stop: stop.clone(),
                    taken_over,
                });
                connection.running.insert(subscription, Running { stop, attachment, stream: self.streams });
                connection.session.handle_started(subscription, start, self.log.head());
            }
            Err(error) => {
                expected.refused(&error, scene.seen)?;
                scene.names.release(&opening.consumer, holder);
                connection.session.handle_failed(v1::Error { subscription, ..error });
            }
        }
        Ok(())
    }

    /// Defects in where and how a subscription starts. Gives the position that the client is told all the same.
    fn plant(&mut self, opening: &mut Opening) -> Option<Position> {
        match (self.defect, &mut opening.start) {
            (Some(Defect::ClassOfAnother), _) => {
                let first = self.first_selection.get_or_insert_with(|| opening.selection.clone());
                opening.selection = first.clone();
                None
            }
            (Some(Defect::EpochIgnored), _) => {
                opening.epoch = None;
                None
            }
            (Some(Defect::GapIgnored), Start::After(after))
                if Position::from(&*after) < self.log.earliest()
                    && opening.epoch.is_none_or(|epoch| Epoch::new(epoch) == self.log.epoch()) =>
            {
                let told = Position::from(&*after);
                opening.start = Start::Earliest(true);
                Some(told)
            }
            (Some(Defect::OffByOne), Start::After(after)) if after.ordinal > 0 => {
                let told = Position::from(&*after);
                after.ordinal += 1;
                Some(told)
            }
            _ => None,
        }
    }

    /// Lets every pump of a connection do what it can, once.
    pub(super) fn pump(&mut self, id: u64, scene: &mut Scene<'_>) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let link = scene.links.get_mut(&id).ok_or("a connection without a link")?;
        let bound = self.gathered_bytes + 6 * scene.largest + 6000;
        let mut at = 0;
        while let Some(pump) = connection.pumps.get_mut(at) {
            let end = pump.step(id, link, self.defect, scene.names, scene.seen)?;
            let sent = pump.progress.sent();
            *scene.given = sent.max(*scene.given);
            if sent > scene.durable {
                return Err(format!("{sent} is sent, where no more than {} is durable", scene.durable));
            }
            let held: usize = pump.pending.iter().map(Bytes::len).sum();
            if held > bound {
                return Err(format!("a subscription holds {held} bytes, more than {bound}"));
            }
            match end {
                None => at += 1,
                Some(end) => {
                    too_far_behind(&end, sent, &self.log, scene.seen)?;
                    let pump = connection.pumps.remove(at);
                    connection.ended.push_back((pump.subscription, pump.stream, end));
                }
            }
        }
        let classes = connection.pumps.len() + self.connections.values().map(|connection| connection.pumps.len()).sum::<usize>();
        let (cached, most) = (self.classes.cached_bytes(), CLASS_CACHE_BYTES + (classes + 1) * (4 * scene.largest + 1000));
        if cached > most { Err(format!("classes keep {cached} bytes, more than {most}")) } else { Ok(()) }
    }

    /// Hears of a pump that has ended.
    pub(super) fn join(&mut self, id: u64, scene: &mut Scene<'_>) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some((subscription, stream, end)) = connection.ended.pop_front() else { return Ok(()) };
        let running = connection.running.remove(&subscription);
        let Some(running) = running.filter(|running| running.stream == stream) else {
            return Err(format!("subscription {subscription} has ended, and it was another one that was forgotten"));
        };
        if let Some(attachment) = &running.attachment {
            scene.names.release(attachment.name(), (id, stream));
        }
        drop(running);
        match of_end(end) {
            None => connection.session.handle_stopped(subscription),
            Some(error) => connection.session.handle_failed(v1::Error { subscription, ..error }),
        }
        self.act(id, scene)
    }
}

/// A subscription is told that it is too far behind where it is, and of nothing else.
fn too_far_behind(end: &End, sent: Position, log: &EventLog<PowerDisk>, seen: &mut Met) -> Result<(), String> {
    match end {
        End::Failed(CursorError::Read(ReadError::TooFarBehind { earliest })) => {
            seen.too_far_behind += 1;
            // Found together with what was written before it, and more may have gone since.
            if *earliest > log.earliest() || sent >= *earliest {
                return Err(format!("at {sent} told to be behind {earliest}, where {} is the earliest", log.earliest()));
            }
            Ok(())
        }
        End::Failed(error) => Err(format!("at {sent}: {error:?}")),
        End::Broken | End::Gone | End::Stopped | End::TakenOver => Ok(()),
    }
}

impl Pump {
    /// Writes what waits, or finds what comes next.
    fn step(
        &mut self,
        id: u64,
        link: &mut Link,
        defect: Option<Defect>,
        names: &Names,
        seen: &mut Met,
    ) -> Result<Option<End>, String> {
        if !self.begun {
            link.open(self.stream);
            self.pending.push_back(Bytes::copy_from_slice(&self.subscription.to_be_bytes()));
        }
        let pipe = link.data.get_mut(&self.stream).ok_or("a pump without a stream")?;
        if self.stop.is_cancelled() {
            pipe.reset();
            return Ok(Some(End::Stopped));
        }
        if self.taken_over.is_cancelled() && defect != Some(Defect::NameShared) {
            pipe.reset();
            return Ok(Some(End::TakenOver));
        }
        while let Some(chunk) = self.pending.front_mut() {
            pipe.write(chunk);
            if !chunk.is_empty() {
                break;
            }
            self.pending.pop_front();
        }
        if !self.pending.is_empty() && defect != Some(Defect::Unbounded) {
            return Ok(None);
        }
        let step = match self.next {
            Turn::Files => self.feed.poll_files(),
            Turn::Memory => self.feed.poll(),
            Turn::Wait if self.feed.has_changed() && defect != Some(Defect::WakeMissed) => self.feed.poll(),
            Turn::Wait => return Ok(None),
        };
        let first = !std::mem::replace(&mut self.begun, true);
        seen.from_files += u64::from(self.next == Turn::Files);
        self.next = match step {
            Step::Failed(error) => {
                pipe.finish();
                return Ok(Some(End::Failed(error)));
            }
            Step::InFiles => Turn::Files,
            Step::Wait => Turn::Wait,
            Step::Write(mut chunks) => {
                if !self.name.is_empty() && !names.has(&self.name, (id, self.stream)) {
                    return Err(format!("stream {} sends on, though it does not have the name {}", self.stream, self.name));
                }
                if first && self.typed && defect == Some(Defect::DefinitionsNotSent) {
                    chunks = without_definitions(&chunks);
                }
                self.pending.extend(chunks);
                Turn::Memory
            }
        };
        Ok(None)
    }
}

/// A defect: what is written first, without the definitions that stand before it.
fn without_definitions(chunks: &[Bytes]) -> Vec<Bytes> {
    let mut frames = Frames::new(usize::MAX);
    chunks.iter().for_each(|chunk| frames.push(chunk));
    let whole = std::iter::from_fn(|| frames.next().unwrap());
    whole.map(|frame| Batch::decode(frame).unwrap()).filter(|batch| batch.through.is_some()).map(|batch| encode(&batch)).collect()
}

fn view(log: &EventLog<PowerDisk>) -> View {
    View {
        head: log.head(),
        earliest: log.earliest(),
        epoch: log.epoch().bytes(),
        system_id: log.system_id().0,
        primary_lsn: Lsn(0),
    }
}

/// What must come of a start.
#[derive(Debug)]
enum Expected {
    /// It starts there, unless the log does not have it.
    At { wanted: Position, earliest: Position, head: Position },
    /// The position is of another epoch.
    OtherEpoch { now: Epoch, earliest: Position },
    /// By time: it starts there, unless something as late as that was removed.
    Time { wanted: Position, removed: bool, earliest: Position },
}

impl Expected {
    fn of(history: &History, log: &EventLog<PowerDisk>, opening: &Opening, attachment: Option<&Attachment<PowerDisk>>) -> Self {
        let (earliest, head, now) = (log.earliest(), log.head(), log.epoch());
        let (epoch, wanted) = match &opening.start {
            Start::After(after) => (opening.epoch.map(Epoch::new), Position::from(after)),
            Start::Earliest(_) => (None, earliest),
            Start::Latest(_) => (None, head),
            Start::Resume(_) => match attachment.and_then(Attachment::place) {
                Some(place) => (Some(place.epoch), place.position),
                None if opening.fresh_from_earliest => (None, earliest),
                None => (None, head),
            },
            Start::Time(time) => {
                let mut held = history.between(earliest, head);
                let wanted = held.find(|committed| committed.time >= *time).map_or(head, |committed| committed.at(0));
                let removed = history.between(history.start(), earliest).any(|committed| committed.time >= *time);
                return Self::Time { wanted, removed, earliest };
            }
        };
        match epoch {
            Some(epoch) if epoch != now => Self::OtherEpoch { now, earliest },
            _ => Self::At { wanted, earliest, head },
        }
    }

    fn started(&self, start: Position) -> Result<(), String> {
        let right = match self {
            Self::At { wanted, earliest, head } => start == *wanted && earliest <= wanted && wanted <= head,
            Self::OtherEpoch { .. } => false,
            Self::Time { wanted, removed, .. } => !removed && start == *wanted,
        };
        if right { Ok(()) } else { Err(format!("started behind {start}, where {self:?} was expected")) }
    }

    fn refused(&self, error: &v1::Error, seen: &mut Met) -> Result<(), String> {
        let told = error.earliest.as_ref().map(Position::from);
        let right = match self {
            Self::At { wanted, earliest, head } => match error.code() {
                ErrorCode::TooFarBehind => {
                    seen.too_far_behind += 1;
                    wanted < earliest && told == Some(*earliest)
                }
                ErrorCode::Ahead => {
                    seen.ahead += 1;
                    wanted > head
                }
                _ => false,
            },
            Self::OtherEpoch { now, earliest } => {
                seen.wrong_epoch += 1;
                error.code() == ErrorCode::WrongEpoch && error.epoch == now.bytes() && told == Some(*earliest)
            }
            Self::Time { removed, earliest, .. } => *removed && error.code() == ErrorCode::TooFarBehind && told == Some(*earliest),
        };
        if right { Ok(()) } else { Err(format!("refused by {error:?}, where {self:?} was expected")) }
    }
}
