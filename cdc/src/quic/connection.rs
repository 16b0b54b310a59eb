//! One connection: its control stream, and the subscriptions that it has.

use std::collections::HashMap;
use std::sync::Arc;

use beyond_cdc_proto::frame::{Frames, encode};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, ClientMessage, ErrorCode, ServerMessage, server_message};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use walbus::Position;
use walbus::disk::Disk;
use walbus::service::tls::common_name;

use super::Shared;
use super::list::Listed;
use super::pump::{End, Pump};
use super::session::{Action, Opening, Session};
use crate::fanout::consumers::{AttachError, Attachment, Place};
use crate::fanout::cursor::{Cursor, CursorError};
use crate::log::{Epoch, ReadError};

/// How much is read from the control stream at once, in bytes.
const READ_BYTES: usize = 16 << 10;
/// How often a start at the earliest position is tried again when retention has just moved it.
const EARLIEST_TRIES: usize = 3;
/// After how many messages another task gets its turn.
const MESSAGES_A_TURN: usize = 64;

/// A connection's driver.
pub(super) struct Driver<D: Disk, C: Disk> {
    shared: Arc<Shared<D, C>>,
    connection: Connection,
    certificate: Option<String>,
    session: Session,
    send: SendStream,
    running: HashMap<u32, Running<C>>,
    pumps: JoinSet<(u32, End)>,
}

/// A subscription that has started.
struct Running<C: Disk> {
    stop: CancellationToken,
    attachment: Option<Attachment<C>>,
    listed: Listed,
}

/// What arrives on a control stream.
struct Incoming {
    receive: RecvStream,
    frames: Frames,
}

/// What a control stream had.
enum Received {
    Message(ClientMessage),
    Garbage(String),
    /// The stream or the connection has ended.
    Over,
}

impl Incoming {
    /// The next message. Cancellation-safe.
    async fn receive(&mut self) -> Received {
        loop {
            match self.frames.next() {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    return match ClientMessage::decode(frame) {
                        Ok(message) => Received::Message(message),
                        Err(error) => Received::Garbage(format!("a message that can't be read: {error}")),
                    };
                }
                Err(error) => return Received::Garbage(error.to_string()),
            }
            match self.receive.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => self.frames.push(&chunk.bytes),
                Ok(None) | Err(_) => return Received::Over,
            }
        }
    }
}

/// Serves a connection whose handshake is done, until it is over.
pub(super) async fn serve<D: Disk, C: Disk>(connection: Connection, shared: Arc<Shared<D, C>>) {
    let limits = shared.limits;
    let opened = tokio::select! {
        () = shared.stop.cancelled() => None,
        opened = timeout(limits.handshake_timeout, connection.accept_bi()) => opened.ok().and_then(Result::ok),
    };
    let Some((send, receive)) = opened else {
        return connection.close(code(ErrorCode::Limit), b"no control stream was opened in time");
    };
    let certificate = certificate_of(&connection);
    let driver = Driver {
        session: Session::new(limits),
        shared,
        connection,
        certificate,
        send,
        running: HashMap::new(),
        pumps: JoinSet::new(),
    };
    driver.run(Incoming { receive, frames: Frames::new(limits.control_bytes) }).await;
}

/// The common name of a client's certificate. One without such a name is an empty one, which no principal has.
fn certificate_of(connection: &Connection) -> Option<String> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(common_name(chain.first()?).unwrap_or_default())
}

fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(u32::try_from(i32::from(code)).unwrap_or_default())
}

/// Writes down where a consumer begins.
async fn keep<C: Disk>(attachment: Attachment<C>, place: Place) -> Result<Attachment<C>, v1::Error> {
    let kept = tokio::task::spawn_blocking(move || attachment.keep(place).map(|()| attachment)).await;
    match kept {
        Ok(Ok(attachment)) => Ok(attachment),
        Ok(Err(error)) => {
            tracing::error!(%error, "where a consumer begins can't be written");
            Err(refusal(ErrorCode::Internal, "the server can't write down where the consumer begins; its own log says why"))
        }
        Err(_panicked) => Err(refusal(ErrorCode::Internal, "the server has a fault; its log says more")),
    }
}

/// Why an opening came to nothing.
fn refusal(code: ErrorCode, message: impl Into<String>) -> v1::Error {
    v1::Error { code: code.into(), message: message.into(), ..v1::Error::default() }
}

impl<D: Disk, C: Disk> Driver<D, C> {
    async fn run(mut self, mut incoming: Incoming) {
        let late = sleep(self.shared.limits.handshake_timeout);
        tokio::pin!(late);
        let stop = self.shared.stop.clone();
        let mut messages = 0_usize;
        loop {
            while let Some(action) = self.session.poll_action() {
                if let Err((code, message)) = self.act(action).await {
                    return self.close(code, &message).await;
                }
            }
            tokio::select! {
                received = incoming.receive() => match received {
                    Received::Message(message) => {
                        let view = self.shared.view();
                        self.session.handle_message(message, &view);
                        messages += 1;
                        if messages.is_multiple_of(MESSAGES_A_TURN) {
                            tokio::task::yield_now().await;
                        }
                    }
                    Received::Garbage(text) => self.session.handle_garbage(&text),
                    Received::Over => return self.connection.close(VarInt::from_u32(0), b""),
                },
                Some(ended) = self.pumps.join_next(), if !self.pumps.is_empty() => {
                    // A pump that has panicked has ended as well; which one it was is not known, so the connection goes.
                    let Ok((subscription, end)) = ended else {
                        return self.close(ErrorCode::Internal, "the server has a fault; its log says more").await;
                    };
                    self.ended(subscription, end);
                }
                () = stop.cancelled() => self.session.handle_shutdown(),
                () = &mut late, if !self.session.is_open() => self.session.handle_late("no hello was said in time"),
            }
        }
    }

    /// Does what the session wants; an error is the end of the connection.
    async fn act(&mut self, action: Action) -> Result<(), (ErrorCode, String)> {
        match action {
            Action::Acknowledge(subscription, position) => {
                if let Some(running) = self.running.get(&subscription) {
                    running.listed.set_acknowledged(position);
                    // One that another session has taken over is told so by its pump.
                    if let Some(attachment) = &running.attachment {
                        attachment.acknowledge(Place { epoch: self.shared.log.epoch(), position });
                    }
                }
            }
            Action::Authenticate(token) => {
                let found = self.shared.authority.authenticate(&token, self.certificate.as_deref());
                let remote = self.connection.remote_address();
                match &found {
                    Ok(principal) => tracing::debug!(%remote, principal = principal.name, agent = self.session.agent(), "a client"),
                    Err(reason) => tracing::warn!(%remote, agent = self.session.agent(), reason, "a client is not let in"),
                }
                let view = self.shared.view();
                self.session.handle_authenticated(found, &view);
            }
            Action::Close(code, message) => return Err((code, message)),
            Action::Send(kind) => self.send(kind).await?,
            Action::Start(opening) => self.start(*opening).await,
            Action::Stop(subscription) => {
                if let Some(running) = self.running.get(&subscription) {
                    running.stop.cancel();
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, kind: server_message::Kind) -> Result<(), (ErrorCode, String)> {
        let mut message = [encode(&ServerMessage { kind: Some(kind) })];
        match timeout(self.shared.limits.control_timeout, self.send.write_all_chunks(&mut message)).await {
            // A connection that is gone is noticed where it is read from.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_elapsed) => Err((ErrorCode::Limit, "the answers to control messages are not read".to_owned())),
        }
    }

    /// Gives the last word the time to arrive, then closes.
    async fn close(mut self, why: ErrorCode, message: &str) {
        self.pumps.abort_all();
        if self.send.finish().is_ok() {
            drop(timeout(self.shared.limits.shutdown_timeout, self.send.stopped()).await);
        }
        self.connection.close(code(why), message.as_bytes());
    }

    async fn start(&mut self, opening: Opening) {
        let subscription = opening.subscription;
        match self.open(opening).await {
            Ok((start, pump, running)) => {
                self.running.insert(subscription, running);
                self.session.handle_started(subscription, start, self.shared.log.head());
                self.pumps.spawn(async move { (subscription, pump.run().await) });
            }
            Err(error) => self.session.handle_failed(v1::Error { subscription, ..error }),
        }
    }

    async fn open(&self, opening: Opening) -> Result<(Position, Pump<D>, Running<C>), v1::Error> {
        let Opening { subscription, selection, encoding, progress, .. } = &opening;
        let shared = &self.shared;
        let mut attachment = self.attach(&opening)?;
        let class = shared.classes.class(selection.clone(), *encoding);
        // Before the log is asked, so that no change of the head is missed.
        let head = shared.log.watch();
        let mut tries = 0;
        let (start, cursor) = loop {
            let start = self.place(&opening, attachment.as_ref()).await?;
            tries += 1;
            match Cursor::new(&shared.log, start, Arc::clone(&class)) {
                Ok(cursor) => break (start, cursor),
                Err(ReadError::TooFarBehind { .. }) if matches!(opening.start, Start::Earliest(_)) && tries < EARLIEST_TRIES => {}
                Err(error) => return Err(self.read_error(&error)),
            }
        };
        if let Some(fresh) = attachment.take_if(|attachment| attachment.place().is_none()) {
            // From now on it resumes here, be it that it never acknowledges anything, and whatever becomes of this server.
            attachment = Some(keep(fresh, Place { epoch: shared.log.epoch(), position: start }).await?);
        }
        progress.set_sent(start);
        let stop = CancellationToken::new();
        let taken_over = attachment.as_ref().map(Attachment::taken_over).unwrap_or_default();
        let pump = Pump {
            connection: self.connection.clone(),
            subscription: *subscription,
            cursor,
            head,
            progress: Arc::clone(progress),
            files: Arc::clone(&shared.files),
            stop: stop.clone(),
            taken_over,
        };
        let principal = self.session.principal().map(|principal| principal.name.clone()).unwrap_or_default();
        let listed = shared.list.add(self.connection.remote_address(), self.session.agent(), principal, &opening);
        Ok((start, pump, Running { stop, attachment, listed }))
    }

    fn attach(&self, opening: &Opening) -> Result<Option<Attachment<C>>, v1::Error> {
        if opening.consumer.is_empty() {
            return Ok(None);
        }
        let attached = self.shared.consumers.attach(&opening.consumer, self.session.agent(), opening.take_over);
        attached.map(Some).map_err(|error| {
            let code = match error {
                AttachError::Busy { .. } => ErrorCode::ConsumerBusy,
                AttachError::Name(_) => ErrorCode::Invalid,
                AttachError::TooMany(_) => ErrorCode::Limit,
            };
            refusal(code, error.to_string())
        })
    }

    /// The position that an opening's start means.
    async fn place(&self, opening: &Opening, attachment: Option<&Attachment<C>>) -> Result<Position, v1::Error> {
        let log = &self.shared.log;
        match &opening.start {
            Start::After(position) => {
                self.same_epoch(opening.epoch.map(Epoch::new))?;
                Ok(position.into())
            }
            Start::Earliest(_) => Ok(log.earliest()),
            Start::Latest(_) => Ok(log.head()),
            Start::Resume(_) => match attachment.and_then(Attachment::place) {
                Some(place) => {
                    self.same_epoch(Some(place.epoch))?;
                    Ok(place.position)
                }
                None if opening.fresh_from_earliest => Ok(log.earliest()),
                None => Ok(log.head()),
            },
            Start::Time(micros) => {
                let (log, micros) = (log.clone(), *micros);
                let Ok(_turn) = self.shared.files.acquire().await else {
                    return Err(refusal(ErrorCode::ShuttingDown, "the server is shutting down"));
                };
                match tokio::task::spawn_blocking(move || log.locate_time(micros)).await {
                    Ok(located) => located.map_err(|error| self.read_error(&error)),
                    Err(_panicked) => Err(refusal(ErrorCode::Internal, "the server has a fault; its log says more")),
                }
            }
        }
    }

    fn same_epoch(&self, epoch: Option<Epoch>) -> Result<(), v1::Error> {
        let now = self.shared.log.epoch();
        match epoch {
            Some(epoch) if epoch != now => Err(v1::Error {
                epoch: now.bytes().to_vec(),
                earliest: Some(self.shared.log.earliest().into()),
                ..refusal(
                    ErrorCode::WrongEpoch,
                    format!(
                        "the position is of epoch {epoch}, and this is {now}: the slot was lost or made anew, and changes may be missing in \
                         between. Start from the earliest position or the latest one, and copy the tables anew where that matters"
                    ),
                )
            }),
            _ => Ok(()),
        }
    }

    fn read_error(&self, error: &ReadError) -> v1::Error {
        match error {
            ReadError::Ahead { head } => refusal(
                ErrorCode::Ahead,
                format!("the position is ahead of the log, which ends at {head}: it is of another log, or of no log at all"),
            ),
            ReadError::TooFarBehind { earliest } => v1::Error {
                earliest: Some((*earliest).into()),
                ..refusal(
                    ErrorCode::TooFarBehind,
                    format!(
                        "the position is older than what the log holds, which begins behind {earliest}: changes are missing in between"
                    ),
                )
            },
            ReadError::Damaged(_) | ReadError::Io { .. } => {
                tracing::error!(error = error as &dyn std::error::Error, "the event log can't be read");
                refusal(ErrorCode::Internal, "the server can't read its log; its own log says why")
            }
        }
    }

    fn ended(&mut self, subscription: u32, end: End) {
        // The consumer's name is free before the client hears that the subscription has ended.
        drop(self.running.remove(&subscription));
        match end {
            End::Broken => {
                let error = refusal(ErrorCode::Internal, "the server has a fault; its log says more");
                self.session.handle_failed(v1::Error { subscription, ..error });
            }
            End::Failed(CursorError::Read(error)) => {
                let error = self.read_error(&error);
                self.session.handle_failed(v1::Error { subscription, ..error });
            }
            End::Failed(CursorError::Encode(error)) => {
                tracing::error!(%error, "a batch of the event log can't be given out");
                let error = refusal(ErrorCode::Internal, "the server can't give out what its log holds; its own log says why");
                self.session.handle_failed(v1::Error { subscription, ..error });
            }
            End::Gone | End::Stopped => self.session.handle_stopped(subscription),
            End::TakenOver => {
                let error = refusal(ErrorCode::TakenOver, "another session has taken the consumer's name over");
                self.session.handle_failed(v1::Error { subscription, ..error });
            }
        }
    }
}
