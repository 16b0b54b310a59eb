//! What a connection may say, and what follows from it. Pure.
//!
//! Call order: [`Session::handle_message`] for each message that arrives, [`Session::handle_authenticated`], [`Session::handle_started`] and
//! [`Session::handle_failed`] when what was asked for is done; after each of them [`Session::poll_action`] until it gives nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use beyond_cdc_proto::v1::client_message::Kind as FromClient;
use beyond_cdc_proto::v1::server_message::Kind as ToClient;
use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, ClientMessage, Encoding, ErrorCode};
use walbus::{Lsn, Position};

use super::limits::{AGENT_BYTES_MAX, Limits};
use crate::fanout::cursor::Progress;
use crate::fanout::pattern::TablePattern;
use crate::fanout::select::{SelectError, Selection};

/// The minor versions of beyond-cdc/1 that are spoken.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// Who may read what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What logs and lists call it.
    pub name: String,
    /// The tables it may read.
    pub tables: Vec<TablePattern>,
}

/// What the world is like at the moment of a message.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// The end of the log.
    pub head: Position,
    /// What the log holds is behind this.
    pub earliest: Position,
    /// The epoch that positions are of.
    pub epoch: [u8; 16],
    /// The cluster.
    pub system_id: u64,
    /// The end of WAL on the primary, as far as it is known.
    pub primary_lsn: Lsn,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// A consumer's position is to be kept.
    Acknowledge(u32, Position),
    /// A token is to be looked at, which is empty where the client relies on its certificate.
    Authenticate(String),
    /// The connection is over, once what was said before has been sent.
    Close(ErrorCode, String),
    /// A message is to be sent.
    Send(ToClient),
    /// A subscription is to be started.
    Start(Box<Opening>),
    /// A subscription is to be ended; the session says the last word once its stream is finished.
    Stop(u32),
}

/// A subscription that is wanted.
#[derive(Debug)]
pub struct Opening {
    /// Its number.
    pub subscription: u32,
    /// The consumer's name; empty for none.
    pub consumer: String,
    /// Whether the name may be taken over.
    pub take_over: bool,
    /// Where to start.
    pub start: Start,
    /// The epoch of the start's position, where it was said.
    pub epoch: Option<[u8; 16]>,
    /// Where a consumer starts that has acknowledged nothing.
    pub fresh_from_earliest: bool,
    /// What passes.
    pub selection: Selection,
    /// How it is sent.
    pub encoding: Encoding,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// One connection, from hello to its end.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    state: State,
    agent: String,
    version: u32,
    subscriptions: BTreeMap<u32, Active>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    Authenticating,
    Closed,
    Fresh,
    Open(Principal),
}

#[derive(Debug)]
struct Active {
    progress: Arc<Progress>,
    /// Where it began: what is acknowledged up to there is nothing new.
    start: Position,
    acknowledged: Option<Position>,
    /// Why it is being ended. Its number is not free before that is done: what ends is told apart from what begins.
    refused: Option<v1::Error>,
}

impl Session {
    /// A connection that has said nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Fresh,
            agent: String::new(),
            version: *VERSIONS.end(),
            subscriptions: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether hello has been said, and found good.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether nothing is taken any more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What the client calls itself.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// Who it is, once that is known.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        if let State::Open(principal) = &self.state { Some(principal) } else { None }
    }

    /// Takes a message.
    pub fn handle_message(&mut self, message: ClientMessage, view: &View) {
        match (&self.state, message.kind) {
            (State::Closed, _) => {}
            (_, None) => self.close(ErrorCode::Protocol, "a message of a kind that this version does not know"),
            (State::Fresh, Some(FromClient::Hello(hello))) => self.hello(hello),
            (State::Fresh, Some(_)) => self.close(ErrorCode::Protocol, "hello has to come first"),
            (State::Authenticating, Some(_)) => self.close(ErrorCode::Protocol, "a message before the answer to hello"),
            (State::Open(_), Some(FromClient::Hello(_))) => self.close(ErrorCode::Protocol, "a second hello"),
            (State::Open(_), Some(FromClient::Subscribe(subscribe))) => self.subscribe(subscribe),
            (State::Open(_), Some(FromClient::Acknowledge(acknowledge))) => self.acknowledge(&acknowledge),
            // One that has ended on its own a moment ago is none any more.
            (State::Open(_), Some(FromClient::Unsubscribe(wanted))) => {
                if self.subscriptions.contains_key(&wanted.subscription) {
                    self.actions.push_back(Action::Stop(wanted.subscription));
                }
            }
            (State::Open(_), Some(FromClient::Ping(ping))) => {
                let pong = v1::Pong { id: ping.id, head: Some(view.head.into()), primary_lsn: view.primary_lsn.0 };
                self.send(ToClient::Pong(pong));
            }
        }
    }

    /// Takes what was found of a token or certificate.
    pub fn handle_authenticated(&mut self, found: Result<Principal, String>, view: &View) {
        if !matches!(self.state, State::Authenticating) {
            return;
        }
        match found {
            Err(message) => self.close(ErrorCode::Unauthenticated, &message),
            Ok(principal) => {
                self.state = State::Open(principal);
                let bytes_max = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
                self.send(ToClient::Welcome(v1::Welcome {
                    version: self.version,
                    agent: concat!("beyond-pg-cdc/", env!("CARGO_PKG_VERSION")).to_owned(),
                    system_id: view.system_id,
                    epoch: view.epoch.to_vec(),
                    earliest: Some(view.earliest.into()),
                    head: Some(view.head.into()),
                    control_bytes_max: bytes_max(self.limits.control_bytes),
                    batch_bytes_max: bytes_max(beyond_cdc_proto::frame::BATCH_BYTES_MAX),
                }));
            }
        }
    }

    /// A subscription has started behind that position.
    pub fn handle_started(&mut self, subscription: u32, start: Position, head: Position) {
        if let Some(active) = self.subscriptions.get_mut(&subscription) {
            active.start = start;
        }
        let (start, head) = (Some(start.into()), Some(head.into()));
        self.send(ToClient::Subscribed(v1::Subscribed { subscription, start, head }));
    }

    /// A subscription has ended because the client asked for it, or because it was refused to go on, and its stream is finished.
    pub fn handle_stopped(&mut self, subscription: u32) {
        let Some(active) = self.subscriptions.remove(&subscription) else { return };
        let acknowledged = active.acknowledged.map(v1::Position::from);
        self.send(active.refused.map_or(ToClient::Ended(v1::Ended { subscription, acknowledged }), ToClient::Error));
    }

    /// A subscription could not be started, or can't go on; `error` names it.
    pub fn handle_failed(&mut self, error: v1::Error) {
        if self.subscriptions.remove(&error.subscription).is_some() {
            self.send(ToClient::Error(error));
        }
    }

    /// The server stops.
    pub fn handle_shutdown(&mut self) {
        self.close(ErrorCode::ShuttingDown, "the server is shutting down: connect again in a moment");
    }

    /// What arrives can't be read.
    pub fn handle_garbage(&mut self, message: &str) {
        self.close(ErrorCode::Protocol, message);
    }

    /// The client has taken too long over something.
    pub fn handle_late(&mut self, message: &str) {
        self.close(ErrorCode::Limit, message);
    }

    fn hello(&mut self, hello: v1::Hello) {
        let highest = hello.version_max.min(*VERSIONS.end());
        if hello.version_min > hello.version_max || highest < hello.version_min.max(*VERSIONS.start()) {
            let text = format!(
                "versions {} to {} of beyond-cdc/1 are asked for, and {} to {} are spoken: use a client or a server of another release",
                hello.version_min,
                hello.version_max,
                VERSIONS.start(),
                VERSIONS.end()
            );
            return self.close(ErrorCode::Unsupported, &text);
        }
        if let Some(feature) = hello.required_features.first() {
            return self.close(ErrorCode::Unsupported, &format!("the feature {:?} is not known here", short(feature)));
        }
        self.version = highest;
        self.agent = short(&hello.agent).chars().filter(|c| !c.is_control()).collect();
        self.state = State::Authenticating;
        self.actions.push_back(Action::Authenticate(hello.token));
    }

    fn subscribe(&mut self, subscribe: v1::Subscribe) {
        let State::Open(principal) = &self.state else { return };
        let subscription = subscribe.subscription;
        if subscription == 0 || self.subscriptions.contains_key(&subscription) {
            let text = format!("subscription {subscription}: a number has to be above 0, and not in use");
            return self.close(ErrorCode::Protocol, &text);
        }
        if self.subscriptions.len() >= self.limits.subscriptions {
            let text = format!("a connection may have {} subscriptions, and has them", self.limits.subscriptions);
            return self.refuse(subscription, ErrorCode::Limit, text);
        }
        let opening = match opening(subscribe, &principal.tables) {
            Ok(opening) => opening,
            Err((code, text)) => return self.refuse(subscription, code, text),
        };
        let active =
            Active { progress: Arc::clone(&opening.progress), start: Position::default(), acknowledged: None, refused: None };
        self.subscriptions.insert(subscription, active);
        self.actions.push_back(Action::Start(Box::new(opening)));
    }

    fn acknowledge(&mut self, acknowledge: &v1::Acknowledge) {
        let subscription = acknowledge.subscription;
        let active = self.subscriptions.get_mut(&subscription).filter(|active| active.refused.is_none());
        let Some(active) = active else { return };
        let position = acknowledge.position.as_ref().map(Position::from).unwrap_or_default();
        let sent = active.progress.sent();
        if position > sent {
            let text = format!("{position} is acknowledged, and no more than what is up to {sent} was sent");
            active.refused = Some(error(subscription, ErrorCode::Invalid, text));
            return self.actions.push_back(Action::Stop(subscription));
        }
        // What goes back says nothing new.
        if active.start < position && active.acknowledged.is_none_or(|before| before < position) {
            active.acknowledged = Some(position);
            self.actions.push_back(Action::Acknowledge(subscription, position));
        }
    }

    fn refuse(&mut self, subscription: u32, code: ErrorCode, message: String) {
        self.send(ToClient::Error(error(subscription, code, message)));
    }

    fn send(&mut self, kind: ToClient) {
        self.actions.push_back(Action::Send(kind));
    }

    fn close(&mut self, code: ErrorCode, message: &str) {
        if self.is_closed() {
            return;
        }
        self.state = State::Closed;
        let message = message.to_owned();
        self.send(ToClient::Error(v1::Error { code: code.into(), message: message.clone(), ..v1::Error::default() }));
        self.actions.push_back(Action::Close(code, message));
    }
}

fn error(subscription: u32, code: ErrorCode, message: String) -> v1::Error {
    v1::Error { code: code.into(), message, subscription, ..v1::Error::default() }
}

/// What of a message is wanted, or why it makes no sense.
fn opening(subscribe: v1::Subscribe, permitted: &[TablePattern]) -> Result<Opening, (ErrorCode, String)> {
    let invalid = |text: &str| (ErrorCode::Invalid, text.to_owned());
    if let Some(feature) = subscribe.required_features.first() {
        return Err((ErrorCode::Unsupported, format!("the feature {:?} is not known here", short(feature))));
    }
    let encoding = Encoding::try_from(subscribe.encoding)
        .map_err(|_unknown| (ErrorCode::Unsupported, format!("encoding {} is not known here", subscribe.encoding)))?;
    let start = subscribe.start.ok_or_else(|| invalid("where to start has to be said"))?;
    if matches!(start, Start::Resume(_)) && subscribe.consumer.is_empty() {
        return Err(invalid("only a consumer with a name has a place to resume from"));
    }
    let epoch = match subscribe.epoch.len() {
        0 => None,
        _ => Some(<[u8; 16]>::try_from(subscribe.epoch.as_slice()).map_err(|_| invalid("an epoch has 16 bytes"))?),
    };
    let selection = Selection::parse(subscribe.filter.unwrap_or_default(), permitted).map_err(|error| match error {
        SelectError::Forbidden(_) => (ErrorCode::Forbidden, error.to_string()),
        SelectError::Invalid(text) => (ErrorCode::Invalid, text),
    })?;
    Ok(Opening {
        subscription: subscribe.subscription,
        consumer: subscribe.consumer,
        take_over: subscribe.take_over,
        start,
        epoch,
        fresh_from_earliest: subscribe.fresh_from_earliest,
        selection,
        encoding,
        progress: Arc::default(),
    })
}

/// The start of a text that a client has sent.
fn short(text: &str) -> String {
    let mut end = text.len().min(AGENT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
