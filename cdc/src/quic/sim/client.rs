//! A simulated client: subscribes, reads at its own pace, loses its link, comes back, acknowledges, and lies.

use std::collections::BTreeMap;

use beyond_cdc_proto::frame::{CONTROL_BYTES_MAX, Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::client_message::Kind;
use beyond_cdc_proto::v1::server_message::Kind as Told;
use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, ClientMessage, Encoding, ErrorCode, ServerMessage};
use walbus::sim::Random;
use walbus::{Lsn, Position};

use super::Met;
use super::history::History;
use super::link::{Link, Read};
use super::stream::{Stream, Truth};
use super::wanted::{PRINCIPALS, Wanted};
use crate::log::Epoch;

/// The names that clients fight for.
pub(super) const NAMES: [&str; 3] = ["billing", "reports", "search"];

/// A client with what it wants.
pub(super) struct Client {
    principal: usize,
    pub(super) aims: Vec<Aim>,
    pub(super) link: Option<u64>,
    control: Frames,
    epoch: Option<Epoch>,
    subscriptions: BTreeMap<u32, Subscription>,
    /// The first bytes of a data stream, and whose it is once there are four of them.
    streams: BTreeMap<u64, (Vec<u8>, Option<u32>)>,
    /// How many bytes it reads at once, at most.
    pace: u64,
    /// It does nothing any more but read to the end.
    honest: bool,
}

/// Something that is wanted for good, over any number of connections.
pub(super) struct Aim {
    name: Option<&'static str>,
    pub(super) wanted: Wanted,
    encoding: Encoding,
    /// All up to here has been dealt with.
    pub(super) kept: Option<(Epoch, Position)>,
    /// The number of its next subscription.
    number: u32,
}

struct Subscription {
    aim: usize,
    asked: Asked,
    stream: Stream,
    /// It acknowledged what it can't have.
    lied: bool,
    unsubscribed: bool,
}

/// Where a subscription was to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Behind what was dealt with in this epoch.
    Kept(Epoch, Position),
    /// Behind some position.
    MadeUp(Position),
    /// Anywhere else.
    Other,
}

/// What a client sees of the world, and what nobody sees of it.
pub(super) struct Sight<'a> {
    pub(super) history: &'a History,
    pub(super) links: &'a mut BTreeMap<u64, Link>,
    pub(super) durable: Position,
    pub(super) random: &'a mut Random,
    pub(super) seen: &'a mut Met,
}

impl Client {
    pub(super) fn new(random: &mut Random) -> Self {
        let pick = |random: &mut Random, of: u64| usize::try_from(random.below(of)).unwrap();
        let principal = pick(random, 3);
        let aim = |number: u32, random: &mut Random| Aim {
            name: random.chance(1, 2).then(|| NAMES[pick(random, 3)]),
            wanted: Wanted::random(PRINCIPALS[principal], random),
            encoding: if random.chance(1, 4) { Encoding::Json } else { Encoding::Typed },
            kept: None,
            number,
        };
        Self {
            principal,
            aims: (1..=1 + random.below(2)).map(|number| aim(u32::try_from(number).unwrap(), random)).collect(),
            link: None,
            control: Frames::new(CONTROL_BYTES_MAX),
            epoch: None,
            subscriptions: BTreeMap::new(),
            streams: BTreeMap::new(),
            pace: [40, 600, 8000][pick(random, 3)],
            honest: false,
        }
    }

    /// The epoch that its connection is of, once that is known.
    pub(super) const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Opens a connection.
    pub(super) fn connect(&mut self, id: u64, sight: &mut Sight<'_>) {
        let window = if self.honest { 1 << 14 } else { 100 << sight.random.below(6) };
        sight.links.insert(id, Link::new(usize::try_from(window).unwrap()));
        self.link = Some(id);
        let token = self.principal.to_string();
        let hello = v1::Hello { version_min: 1, version_max: 1, token, agent: "sim".to_owned(), ..v1::Hello::default() };
        self.say(sight, Kind::Hello(hello));
    }

    /// From now on it wants everything, quickly, and does nothing else.
    pub(super) fn settle(&mut self) {
        self.disconnect();
        (self.honest, self.pace) = (true, 1 << 14);
    }

    /// Forgets its connection, and what has come on it in part.
    fn disconnect(&mut self) {
        self.link = None;
        self.epoch = None;
        self.control = Frames::new(CONTROL_BYTES_MAX);
        self.subscriptions.clear();
        self.streams.clear();
    }

    /// Does one thing or another.
    pub(super) fn act(&mut self, sight: &mut Sight<'_>) -> Result<(), String> {
        match sight.random.below(if self.honest { 5 } else { 9 }) {
            0 | 1 => self.listen(sight)?,
            2 | 3 => self.read(sight)?,
            4 => self.subscribe(sight),
            5 | 7 => self.acknowledge(sight),
            6 if sight.random.chance(1, 6) => self.unsubscribe(sight),
            6 => self.say(sight, Kind::Ping(v1::Ping { id: 7 })),
            _ => {}
        }
        Ok(())
    }

    fn say(&self, sight: &mut Sight<'_>, kind: Kind) {
        if let Some(link) = self.link.and_then(|id| sight.links.get_mut(&id)) {
            link.to_server.write(&mut encode(&ClientMessage { kind: Some(kind) }));
        }
    }

    /// Reads what the server says.
    fn listen(&mut self, sight: &mut Sight<'_>) -> Result<(), String> {
        let Some(id) = self.link else { return Ok(()) };
        let most = usize::try_from(1 + sight.random.below(300)).unwrap();
        match sight.links.get_mut(&id).map(|link| link.to_client.read(most)) {
            Some(Read::Bytes(bytes)) => self.control.push(&bytes),
            Some(Read::Nothing) => {}
            None | Some(Read::End) => {
                self.disconnect();
                return Ok(());
            }
        }
        while let Some(frame) = self.control.next().map_err(|error| error.to_string())? {
            let message = ServerMessage::decode(frame).map_err(|error| error.to_string())?;
            self.told(message.kind.ok_or("a message of no kind")?, sight)?;
        }
        Ok(())
    }

    fn told(&mut self, told: Told, sight: &mut Sight<'_>) -> Result<(), String> {
        match told {
            Told::Welcome(welcome) => {
                let epoch = <[u8; 16]>::try_from(welcome.epoch.as_slice()).map_err(|_| "an epoch of another length")?;
                self.epoch = Some(Epoch::new(epoch));
                // It was under way when the server died, and another epoch has begun since.
                if self.epoch != Some(sight.history.epoch) {
                    self.disconnect();
                }
            }
            Told::Subscribed(subscribed) => {
                let start = subscribed.start.map(Position::from).ok_or("a start without a position")?;
                let Some(own) = self.subscriptions.get_mut(&subscribed.subscription) else {
                    return Err(format!("subscription {} was not asked for", subscribed.subscription));
                };
                let wanted = &self.aims[own.aim].wanted;
                let other = match own.asked {
                    Asked::Kept(_, position) | Asked::MadeUp(position) => position != start,
                    Asked::Other => false,
                };
                if other || wanted.is_forbidden() {
                    return Err(format!("started behind {start}, where {:?} was asked for by {wanted:?}", own.asked));
                }
                own.stream.start(start, sight.history);
            }
            Told::Ended(ended) => {
                let own = self.subscriptions.remove(&ended.subscription);
                if !own.is_some_and(|own| own.unsubscribed) {
                    return Err("a subscription ended that was not to end".to_owned());
                }
            }
            Told::Pong(pong) => {
                if pong.head.map(Position::from) > Some(sight.durable) {
                    return Err(format!("the log ends at {:?}, where {} is durable", pong.head, sight.durable));
                }
            }
            Told::Error(error) => self.refused(&error, sight)?,
        }
        Ok(())
    }

    fn refused(&mut self, error: &v1::Error, sight: &mut Sight<'_>) -> Result<(), String> {
        let Some(own) = self.subscriptions.remove(&error.subscription) else {
            return Err(format!("an error of no subscription: {error:?}"));
        };
        let aim = &mut self.aims[own.aim];
        let at = own.stream.at().or_else(|| aim.kept.map(|(_, position)| position));
        let right = match error.code() {
            ErrorCode::Ahead => matches!(own.asked, Asked::MadeUp(_)),
            // The server's disk may have failed when it wrote down where the consumer begins.
            ErrorCode::ConsumerBusy | ErrorCode::Internal | ErrorCode::TakenOver => aim.name.is_some(),
            ErrorCode::Forbidden => aim.wanted.is_forbidden(),
            ErrorCode::Invalid => {
                sight.seen.lies += 1;
                own.lied
            }
            ErrorCode::TooFarBehind => {
                let behind = own.stream.at().is_none_or(|at| Some(at) < error.earliest.as_ref().map(Position::from));
                if !matches!(own.asked, Asked::MadeUp(_)) || own.stream.at().is_some() {
                    aim.kept = None;
                }
                behind
            }
            ErrorCode::WrongEpoch => {
                let stale = !matches!(own.asked, Asked::Kept(epoch, _) if epoch.bytes()[..] == error.epoch[..]);
                aim.kept = None;
                stale
            }
            _ => false,
        };
        if error.code() != ErrorCode::Invalid {
            // What is left of its stream may still come: another number tells the two apart. Behind a reset nothing comes.
            aim.number += 2;
        }
        sight.seen.errors += 1;
        if right { Ok(()) } else { Err(format!("at {at:?}, after asking for {:?}: {error:?}", own.asked)) }
    }

    fn subscribe(&mut self, sight: &mut Sight<'_>) {
        let Some(epoch) = self.epoch else { return };
        let aim = usize::try_from(sight.random.below(self.aims.len() as u64)).unwrap();
        let own = &self.aims[aim];
        let number = own.number;
        if self.subscriptions.contains_key(&number) || (own.wanted.is_forbidden() && !sight.random.chance(1, 20)) {
            return;
        }
        let (asked, start, of_epoch) = self.start(own, epoch, sight);
        let resumes = matches!(start, Start::Resume(_));
        let named = own.name.filter(|_| resumes || (!self.honest && sight.random.chance(1, 2)));
        let stream = Stream::new(own.encoding);
        let subscribe = v1::Subscribe {
            subscription: number,
            consumer: named.unwrap_or_default().to_owned(),
            take_over: sight.random.chance(1, 3),
            start: Some(start),
            epoch: of_epoch.map(|epoch| epoch.bytes().to_vec()).unwrap_or_default(),
            filter: Some(own.wanted.filter()),
            encoding: own.encoding.into(),
            fresh_from_earliest: sight.random.chance(1, 2),
            ..v1::Subscribe::default()
        };
        self.subscriptions.insert(number, Subscription { aim, asked, stream, lied: false, unsubscribed: false });
        // What came for the one before under that number is over.
        self.streams.values_mut().filter(|(_, of)| *of == Some(number)).for_each(|(_, of)| *of = Some(0));
        self.say(sight, Kind::Subscribe(subscribe));
    }

    /// Where to start.
    fn start(&self, aim: &Aim, epoch: Epoch, sight: &mut Sight<'_>) -> (Asked, Start, Option<Epoch>) {
        let random = &mut *sight.random;
        let dice = if self.honest { 9 } else { random.below(12) };
        match (dice, aim.kept) {
            (0..=3, _) if aim.name.is_some() => (Asked::Other, Start::Resume(true), None),
            (0, _) => (Asked::Other, Start::Latest(true), None),
            (1, _) => {
                let time = 1_000_000 + i64::try_from(random.below(30_000)).unwrap();
                (Asked::Other, Start::Time(time), None)
            }
            (2, _) => {
                let span = sight.durable.commit_lsn.0.saturating_sub(sight.history.start_lsn.0) + 600;
                let commit_lsn = Lsn(sight.history.start_lsn.0 + random.below(span));
                let near = sight.history.between(Position::before(commit_lsn), sight.durable).next();
                // One within a transaction, most often.
                let commit_lsn = near.filter(|_| random.chance(3, 4)).map_or(commit_lsn, |committed| committed.lsn);
                let position = Position { commit_lsn, ordinal: u32::try_from(random.below(40)).unwrap() };
                (Asked::MadeUp(position), Start::After(position.into()), random.chance(1, 2).then_some(epoch))
            }
            (_, Some((kept, position))) => (Asked::Kept(kept, position), Start::After(position.into()), Some(kept)),
            (_, None) => (Asked::Other, Start::Earliest(true), None),
        }
    }

    fn acknowledge(&mut self, sight: &mut Sight<'_>) {
        let random = &mut *sight.random;
        let Some((number, own)) = self.subscriptions.iter_mut().find(|_| random.chance(2, 3)) else { return };
        let Some(at) = own.stream.at() else { return };
        let mut position = at;
        match random.below(12) {
            0 => {
                position.commit_lsn.0 += 1_000_000;
                own.lied = true;
            }
            1 => position.ordinal = position.ordinal.saturating_sub(1),
            2 => position.commit_lsn.0 = position.commit_lsn.0.saturating_sub(random.below(200)),
            _ => {}
        }
        let acknowledge = v1::Acknowledge { subscription: *number, position: Some(position.into()) };
        self.say(sight, Kind::Acknowledge(acknowledge));
    }

    fn unsubscribe(&mut self, sight: &mut Sight<'_>) {
        let Some((number, own)) = self.subscriptions.iter_mut().next() else { return };
        own.unsubscribed = true;
        let unsubscribe = v1::Unsubscribe { subscription: *number };
        self.say(sight, Kind::Unsubscribe(unsubscribe));
    }

    /// Reads from its data streams.
    fn read(&mut self, sight: &mut Sight<'_>) -> Result<(), String> {
        let Some(link) = self.link.and_then(|id| sight.links.get_mut(&id)) else { return Ok(()) };
        for (stream, pipe) in &mut link.data {
            let most = usize::try_from(1 + sight.random.below(self.pace)).unwrap();
            let Read::Bytes(bytes) = pipe.read(most) else { continue };
            let (first, of) = self.streams.entry(*stream).or_default();
            let mut rest = &bytes[..];
            if of.is_none() {
                let (more, behind) = rest.split_at(rest.len().min(4 - first.len()));
                first.extend(more);
                rest = behind;
                *of = first.first_chunk().map(|number| u32::from_be_bytes(*number));
            }
            let Some(own) = of.and_then(|number| self.subscriptions.get_mut(&number)) else { continue };
            own.stream.push(rest);
        }
        self.deal(sight)
    }

    /// Deals with the batches that are whole.
    fn deal(&mut self, sight: &mut Sight<'_>) -> Result<(), String> {
        for own in self.subscriptions.values_mut() {
            let aim = &mut self.aims[own.aim];
            let truth = Truth { history: sight.history, wanted: &aim.wanted, durable: sight.durable };
            while own.stream.next(truth).map_err(|error| format!("{error}, asking for {:?} {:?}", own.asked, aim.wanted))? {
                sight.seen.batches += 1;
                if let Some(at) = own.stream.at() {
                    aim.kept = Some((sight.history.epoch, at));
                }
            }
        }
        Ok(())
    }
}
