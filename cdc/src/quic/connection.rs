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
use super::limits::GATHERED_BYTES;
use super::list::Listed;
use super::pump::{End, Pump};
use super::refusal::{fault, of_end, of_read, refusal};
use super::session::{Action, Opening, Session};
use super::start::{self, attach, start};
use crate::fanout::consumers::{Attachment, Place};

/// How much is read from the control stream at once, in bytes.
const READ_BYTES: usize = 16 << 10;
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
    let kept = tokio::task::spawn_blocking(move || start::keep(&attachment, place).map(|()| attachment)).await;
    // Otherwise it has panicked; the panic's message was printed.
    kept.unwrap_or_else(|_panicked| Err(fault()))
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

    async fn open(&self, mut opening: Opening) -> Result<(Position, Pump<D>, Running<C>), v1::Error> {
        let shared = &self.shared;
        let mut attachment = attach(&shared.consumers, &opening, self.session.agent())?;
        if let Start::Time(micros) = opening.start {
            (opening.start, opening.epoch) = (Start::After(self.locate(micros).await?.into()), None);
        }
        let (start, feed) = start(&shared.log, &shared.classes, &opening, attachment.as_ref(), GATHERED_BYTES)?;
        if let Some(fresh) = attachment.take_if(|attachment| attachment.place().is_none()) {
            attachment = Some(keep(fresh, Place { epoch: shared.log.epoch(), position: start }).await?);
        }
        let stop = CancellationToken::new();
        let taken_over = attachment.as_ref().map(Attachment::taken_over).unwrap_or_default();
        let pump = Pump {
            connection: self.connection.clone(),
            subscription: opening.subscription,
            feed,
            files: Arc::clone(&shared.files),
            stop: stop.clone(),
            taken_over,
        };
        let principal = self.session.principal().map(|principal| principal.name.clone()).unwrap_or_default();
        let listed = shared.list.add(self.connection.remote_address(), self.session.agent(), principal, &opening);
        Ok((start, pump, Running { stop, attachment, listed }))
    }

    /// The position of a commit time, found in the files when it is its turn.
    async fn locate(&self, micros: i64) -> Result<Position, v1::Error> {
        let log = self.shared.log.clone();
        let Ok(_turn) = self.shared.files.acquire().await else {
            return Err(refusal(ErrorCode::ShuttingDown, "the server is shutting down"));
        };
        match tokio::task::spawn_blocking(move || log.locate_time(micros)).await {
            Ok(located) => located.map_err(|error| of_read(&error)),
            Err(_panicked) => Err(fault()),
        }
    }

    fn ended(&mut self, subscription: u32, end: End) {
        // The consumer's name is free before the client hears that the subscription has ended.
        drop(self.running.remove(&subscription));
        match of_end(end) {
            None => self.session.handle_stopped(subscription),
            Some(error) => self.session.handle_failed(v1::Error { subscription, ..error }),
        }
    }
}
