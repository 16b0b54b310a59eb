//! The connection: made, kept, and made again.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use beyond_cdc_proto::frame::{CONTROL_BYTES_MAX, Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::{self, ClientMessage, ErrorCode, ServerMessage, client_message, server_message};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TokioRuntime, VarInt};
use rustix::net::sockopt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use walbus::{Lsn, Position};

use crate::client::{Client, Command, ServerInfo, Shared};
use crate::error::Error;
use crate::options::{Options, Token};
use crate::subscription::Epoch;
use crate::tls;

/// How much the socket may hold that was not read yet, in bytes. What comes beyond is lost, and sent again.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// The pause before the first try to connect again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// How long a control message may take to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a closed connection may take to say so to the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How much is read from the control stream at once, in bytes.
const READ_BYTES: usize = 16 << 10;

/// A subscription that the server has agreed to.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) start: Position,
    pub(crate) head: Position,
    pub(crate) epoch: Epoch,
    pub(crate) stream: RecvStream,
    pub(crate) end: oneshot::Receiver<End>,
}

/// Why a subscription has ended.
#[derive(Debug)]
pub(crate) enum End {
    Ended,
    Failed(Refused),
}

/// What the server finds fault with.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// Whether it is only that the consumer's name is in use.
    pub(crate) busy: bool,
}

impl From<v1::Error> for Refused {
    fn from(error: v1::Error) -> Self {
        Self { busy: error.code() == ErrorCode::ConsumerBusy, error: Error::from_server(&error) }
    }
}

/// The connection's work. Nothing moves unless it runs.
#[derive(Debug)]
pub struct Driver {
    options: Options,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    session: Option<Session>,
}

/// One connection.
#[derive(Debug)]
struct Session {
    endpoint: Endpoint,
    connection: Connection,
    control: Control,
    epoch: Epoch,
}

#[derive(Debug)]
struct Control {
    send: SendStream,
    receive: RecvStream,
    frames: Frames,
}

/// Why a session is over.
enum Over {
    /// Nobody wants anything more.
    Closed,
    /// It broke, and another may be made.
    Lost(Error),
    /// It broke, and another one would as well.
    Failed(Error),
}

impl Driver {
    pub(crate) async fn connect(options: Options) -> Result<(Client, Self), Error> {
        let (session, info) = open(&options).await?;
        let (sender, commands) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(options.url(), info));
        let client = Client { commands: sender, shared: Arc::clone(&shared) };
        Ok((client, Self { options, shared, commands, session: Some(session) }))
    }

    /// Keeps the connection until the last [`Client`] and the last subscription are gone, or a connection can't be made again for a reason
    /// that does not pass: every subscription's stream ends with that then. Dropped, it closes the connection.
    pub async fn run(mut self) {
        loop {
            let session = match self.session.take() {
                Some(session) => session,
                None => match self.reconnect().await {
                    Ok(Some(session)) => session,
                    Ok(None) => return,
                    Err(error) => return self.shared.fail(error),
                },
            };
            match Serving::new(session, &self.shared).run(&mut self.commands).await {
                Over::Closed => return,
                Over::Failed(error) => return self.shared.fail(error),
                Over::Lost(error) => tracing::warn!(%error, "the connection broke; connecting again"),
            }
        }
    }

    /// Tries until there is a connection; `None` when nobody wants one any more.
    async fn reconnect(&self) -> Result<Option<Session>, Error> {
        let mut pause = BACKOFF_MIN;
        loop {
            sleep(jittered(pause)).await;
            if self.commands.is_closed() && self.commands.is_empty() {
                return Ok(None);
            }
            match open(&self.options).await {
                Ok((session, info)) => {
                    self.shared.set_info(info);
                    return Ok(Some(session));
                }
                Err(error) if error.is_retry() => tracing::debug!(%error, "can't connect yet"),
                Err(error) => return Err(error),
            }
            pause = (pause * 2).min(self.options.backoff_max);
        }
    }
}

/// Between half and all of a pause, so that thousands of clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish();
    let thousandth = u32::try_from(chance % 500).unwrap_or_default();
    pause / 2 + pause / 1000 * thousandth
}

/// Connects and says hello.
async fn open(options: &Options) -> Result<(Session, ServerInfo), Error> {
    let late = |_elapsed| Error::Retry(format!("{} did not answer within {:?}", options.url(), options.connect_timeout));
    timeout(options.connect_timeout, shake(options)).await.map_err(late)?
}

async fn shake(options: &Options) -> Result<(Session, ServerInfo), Error> {
    let url = options.url();
    let config = tls::config(options)?;
    let token = read_token(&options.token)?;
    let unreachable = |error: std::io::Error| Error::Retry(format!("can't reach {url}: {error}"));
    let addresses = tokio::net::lookup_host((options.host.as_str(), options.port)).await.map_err(unreachable)?;
    let mut last = Error::Settings(format!("{url}: the name has no address"));
    for address in addresses {
        match dial(options, config.clone(), address).await {
            Ok((endpoint, connection)) => {
                return match hello(options, token.clone(), endpoint, connection).await {
                    // What the server said when it hung up tells more than that the stream broke.
                    Err((_, Some(close))) => Err(tls::explain(&url, &close)),
                    Err((error, None)) => Err(error),
                    Ok(done) => Ok(done),
                };
            }
            Err(error @ Error::Settings(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(options: &Options, config: quinn::ClientConfig, address: SocketAddr) -> Result<(Endpoint, Connection), Error> {
    let url = options.url();
    let from: SocketAddr = if address.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let no_socket = |error| Error::Retry(format!("can't open a UDP socket: {error}"));
    let socket = UdpSocket::bind(from).map_err(no_socket)?;
    // As much of it as the system allows: where it allows little, the connection's congestion control gets along with that.
    let _smaller = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let endpoint = Endpoint::new(tls::endpoint_config()?, None, socket, Arc::new(TokioRuntime)).map_err(no_socket)?;
    let connecting = endpoint
        .connect_with(config, address, &options.host)
        .map_err(|error| Error::Settings(format!("{url} can't be connected to: {error}")))?;
    let connection = connecting.await.map_err(|error| tls::explain(&url, &error))?;
    Ok((endpoint, connection))
}

fn read_token(token: &Token) -> Result<String, Error> {
    match token {
        Token::None => Ok(String::new()),
        Token::Text(text) => Ok(text.clone()),
        Token::File(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::Settings(format!("token file {}: can't be read: {error}", path.display())))?;
            match text.trim() {
                "" => Err(Error::Settings(format!("token file {} is empty", path.display()))),
                token => Ok(token.to_owned()),
            }
        }
    }
}

type Failed = (Error, Option<quinn::ConnectionError>);

async fn hello(
    options: &Options,
    token: String,
    endpoint: Endpoint,
    connection: Connection,
) -> Result<(Session, ServerInfo), Failed> {
    let url = options.url();
    let (send, receive) = match connection.open_bi().await {
        Ok(streams) => streams,
        Err(error) => return Err((tls::explain(&url, &error), None)),
    };
    let mut control = Control { send, receive, frames: Frames::new(CONTROL_BYTES_MAX) };
    let agent = options.agent.clone();
    let hello = v1::Hello { version_min: 1, version_max: 1, token, agent, required_features: Vec::new() };
    let answer = match control.send(client_message::Kind::Hello(hello)).await {
        Ok(()) => control.receive().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(server_message::Kind::Welcome(welcome)) => match info(&welcome) {
            Ok(info) => {
                let session = Session { endpoint, connection, control, epoch: info.epoch };
                Ok((session, info))
            }
            Err(error) => Err((error, None)),
        },
        Ok(server_message::Kind::Error(error)) => Err((Error::from_server(&error), None)),
        Ok(_) => Err((Error::Protocol(format!("{url} answered hello with something else than a welcome")), None)),
        Err(error) => Err((error, connection.close_reason())),
    }
}

fn info(welcome: &v1::Welcome) -> Result<ServerInfo, Error> {
    if welcome.version != 1 {
        return Err(Error::Protocol(format!("the server chose version {}, which was not offered", welcome.version)));
    }
    let epoch = <[u8; 16]>::try_from(welcome.epoch.as_slice())
        .map_err(|_length| Error::Protocol(format!("an epoch of {} bytes", welcome.epoch.len())))?;
    Ok(ServerInfo {
        agent: welcome.agent.clone(),
        system_id: welcome.system_id,
        epoch: Epoch(epoch),
        earliest: welcome.earliest.as_ref().map(Position::from).unwrap_or_default(),
        head: welcome.head.as_ref().map(Position::from).unwrap_or_default(),
    })
}

impl Control {
    async fn send(&mut self, kind: client_message::Kind) -> Result<(), Error> {
        let mut message = [encode(&ClientMessage { kind: Some(kind) })];
        match timeout(WRITE_TIMEOUT, self.send.write_all_chunks(&mut message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Retry(format!("the connection broke: {error}"))),
            Err(_elapsed) => Err(Error::Retry("the server takes no messages".to_owned())),
        }
    }

    /// The next message. Cancellation-safe.
    async fn receive(&mut self) -> Result<server_message::Kind, Error> {
        loop {
            let frame = self.frames.next().map_err(|error| Error::Protocol(format!("a control message: {error}")))?;
            if let Some(frame) = frame {
                let message = ServerMessage::decode(frame)
                    .map_err(|error| Error::Protocol(format!("a control message that can't be read: {error}")))?;
                // A kind that this version does not know is none that it has asked for.
                if let Some(kind) = message.kind {
                    return Ok(kind);
                }
                continue;
            }
            match self.receive.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.frames.push(&chunk.bytes),
                Ok(None) => return Err(Error::Retry("the server ended the control stream".to_owned())),
                Err(error) => return Err(Error::Retry(format!("the connection broke: {error}"))),
            }
        }
    }
}

/// A subscription whose answer, or whose stream, is still to come.
struct Pending {
    reply: oneshot::Sender<Result<Attached, Refused>>,
    subscribed: Option<(Position, Position)>,
    stream: Option<RecvStream>,
    end: Option<oneshot::Receiver<End>>,
}

type Opened = Pin<Box<dyn Future<Output = Option<(u32, RecvStream)>> + Send>>;

/// What of a session has to be remembered while it lasts.
struct Serving<'s> {
    session: Session,
    shared: &'s Shared,
    pending: HashMap<u32, Pending>,
    ends: HashMap<u32, oneshot::Sender<End>>,
    heads: HashMap<u64, oneshot::Sender<(Position, Lsn)>>,
    ping: u64,
    opened: FuturesUnordered<Opened>,
}

impl<'s> Serving<'s> {
    fn new(session: Session, shared: &'s Shared) -> Self {
        Self {
            session,
            shared,
            pending: HashMap::new(),
            ends: HashMap::new(),
            heads: HashMap::new(),
            ping: 0,
            opened: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Over {
        let over = loop {
            let done = tokio::select! {
                message = self.session.control.receive() => match message {
                    Ok(kind) => self.handle_message(kind),
                    Err(error) => Err(error),
                },
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command).await,
                    None => break Over::Closed,
                },
                () = self.shared.to_acknowledge.notified() => self.acknowledge().await,
                stream = self.session.connection.accept_uni() => match stream {
                    Ok(stream) => {
                        self.opened.push(Box::pin(number(stream)));
                        Ok(())
                    }
                    Err(error) => Err(tls::explain(&self.shared.url, &error)),
                },
                Some(opened) = self.opened.next(), if !self.opened.is_empty() => {
                    if let Some((id, stream)) = opened {
                        self.handle_stream(id, stream);
                    }
                    Ok(())
                }
            };
            if let Err(error) = done {
                break self.broken(error);
            }
        };
        // Acknowledgements of the last moment are still sent.
        if matches!(over, Over::Closed) && self.acknowledge().await.is_ok() && self.session.control.send.finish().is_ok() {
            drop(timeout(CLOSE_TIMEOUT, self.session.control.send.stopped()).await);
        }
        self.session.connection.close(VarInt::from_u32(0), b"done");
        drop(timeout(CLOSE_TIMEOUT, self.session.endpoint.wait_idle()).await);
        over
    }

    /// What a broken session means: what the server said when it hung up counts for more than that a stream broke.
    fn broken(&self, error: Error) -> Over {
        let error = match self.session.connection.close_reason() {
            Some(reason) => tls::explain(&self.shared.url, &reason),
            None => error,
        };
        if error.is_retry() { Over::Lost(error) } else { Over::Failed(error) }
    }

    async fn handle_command(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Head(reply) => {
                self.ping += 1;
                self.heads.insert(self.ping, reply);
                self.session.control.send(client_message::Kind::Ping(v1::Ping { id: self.ping })).await
            }
            Command::Subscribe(request, reply) => {
                let id = request.subscription;
                let (sender, end) = oneshot::channel();
                self.ends.insert(id, sender);
                self.pending.insert(id, Pending { reply, subscribed: None, stream: None, end: Some(end) });
                self.session.control.send(client_message::Kind::Subscribe(*request)).await
            }
            Command::Unsubscribe(id) if self.ends.contains_key(&id) => {
                let unsubscribe = v1::Unsubscribe { subscription: id };
                // What was acknowledged at the end of it goes first.
                self.acknowledge().await?;
                self.session.control.send(client_message::Kind::Unsubscribe(unsubscribe)).await
            }
            Command::Unsubscribe(_of_an_earlier_connection) => Ok(()),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), Error> {
        for (id, position) in self.shared.take_acknowledged() {
            if self.ends.contains_key(&id) {
                let acknowledge = v1::Acknowledge { subscription: id, position: Some(position.into()) };
                self.session.control.send(client_message::Kind::Acknowledge(acknowledge)).await?;
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, kind: server_message::Kind) -> Result<(), Error> {
        match kind {
            server_message::Kind::Welcome(_) => return Err(Error::Protocol("a second welcome".to_owned())),
            server_message::Kind::Subscribed(subscribed) => {
                if let Some(pending) = self.pending.get_mut(&subscribed.subscription) {
                    let at = |position: &Option<v1::Position>| position.as_ref().map(Position::from).unwrap_or_default();
                    pending.subscribed = Some((at(&subscribed.start), at(&subscribed.head)));
                }
                self.attach(subscribed.subscription);
            }
            server_message::Kind::Error(error) if error.subscription == 0 => return Err(Error::from_server(&error)),
            server_message::Kind::Error(error) => {
                let end = self.ends.remove(&error.subscription);
                match (self.pending.remove(&error.subscription), end) {
                    // Who asked may be gone.
                    (Some(pending), _) => drop(pending.reply.send(Err(error.into()))),
                    (None, Some(end)) => drop(end.send(End::Failed(error.into()))),
                    (None, None) => {}
                }
            }
            server_message::Kind::Pong(pong) => {
                if let Some(reply) = self.heads.remove(&pong.id) {
                    let head = pong.head.as_ref().map(Position::from).unwrap_or_default();
                    // Who asked may be gone.
                    reply.send((head, Lsn(pong.primary_lsn))).ok();
                }
            }
            server_message::Kind::Ended(ended) => {
                self.pending.remove(&ended.subscription);
                if let Some(end) = self.ends.remove(&ended.subscription) {
                    drop(end.send(End::Ended));
                }
            }
        }
        Ok(())
    }

    fn handle_stream(&mut self, id: u32, stream: RecvStream) {
        // A stream of a subscription that was given up is stopped when it is dropped.
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.stream = Some(stream);
            self.attach(id);
        }
    }

    /// Hands a subscription over when both its answer and its stream have come.
    fn attach(&mut self, id: u32) {
        let ready = self.pending.get(&id).is_some_and(|pending| pending.subscribed.is_some() && pending.stream.is_some());
        if !ready {
            return;
        }
        let Some(pending) = self.pending.remove(&id) else { return };
        if let Pending { reply, subscribed: Some((start, head)), stream: Some(stream), end: Some(end) } = pending {
            // Who asked may be gone: its drop has asked to unsubscribe.
            drop(reply.send(Ok(Attached { start, head, epoch: self.session.epoch, stream, end })));
        }
    }
}

/// Reads which subscription a stream is of.
async fn number(mut stream: RecvStream) -> Option<(u32, RecvStream)> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.ok()?;
    Some((u32::from_be_bytes(bytes), stream))
}
