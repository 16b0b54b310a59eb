//! A subscription's stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use beyond_cdc_proto::frame::{BATCH_BYTES_MAX, Frames};
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::Batch;
use futures_util::Stream;
use quinn::RecvStream;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use walbus::Position;

use crate::change::{Change, Header};
use crate::client::{Client, Command};
use crate::decode::Decoder;
use crate::driver::{Attached, End, Refused};
use crate::error::Error;
use crate::subscription::{Epoch, Subscription};
use crate::transactions::{Changes, Transactions};

/// How much is read from a stream at once, in bytes.
const READ_BYTES: usize = 64 << 10;
/// The pause before a subscription that failed for a passing reason is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a consumer's name that is in use is tried again after a connection broke: until the server has given the old session up.
const BUSY_TRIES: u32 = 45;

/// What a subscription says, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A transaction begins. It may turn out to have nothing in it, where a filter leaves nothing of a large one.
    Begin(Arc<Header>),
    /// A change of the transaction that has begun.
    Change(Change),
    /// The transaction has ended.
    Commit {
        /// Its end.
        position: Position,
        /// The transaction.
        header: Arc<Header>,
    },
    /// All up to this position has been given out, be it that a filter left nothing of it.
    Through(Position),
}

/// A subscription. It reads from the connection only when it is polled, and goes on by itself when the connection breaks.
#[derive(Debug)]
pub struct Events {
    subscription: Subscription,
    client: Client,
    /// Its number on the connection there is; each connection gives it another.
    id: u32,
    /// The epoch of the positions, known from the first connection on.
    epoch: Option<Epoch>,
    head: Option<Position>,
    decoder: Decoder,
    queue: VecDeque<Event>,
    /// What was given out last.
    position: Position,
    /// What has been acknowledged, to say it again on another connection.
    acknowledged: Option<Position>,
    busy: u32,
    state: State,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Detached,
    Done,
    /// The data has ended; why is still to come.
    Ending(oneshot::Receiver<End>),
    Pausing(Pin<Box<Sleep>>),
    Streaming {
        stream: RecvStream,
        frames: Frames,
        end: oneshot::Receiver<End>,
    },
    Waiting(oneshot::Receiver<Result<Attached, Refused>>),
}

impl Events {
    pub(crate) fn new(subscription: Subscription, client: Client) -> Self {
        Self {
            subscription,
            client,
            id: 0,
            epoch: None,
            head: None,
            decoder: Decoder::default(),
            queue: VecDeque::new(),
            position: Position::default(),
            acknowledged: None,
            busy: 0,
            state: State::Detached,
            buffer: Vec::new(),
        }
    }

    /// Only the changes, one by one.
    #[must_use]
    pub fn changes(self) -> Changes {
        Changes::new(self)
    }

    /// Whole transactions.
    #[must_use]
    pub fn transactions(self) -> Transactions {
        Transactions::new(self)
    }

    /// Behind what has been given out; the start, before anything was.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The epoch that positions are of, once subscribed.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The end of the server's log at the moment that it was subscribed to first.
    #[must_use]
    pub const fn head(&self) -> Option<Position> {
        self.head
    }

    /// All up to this position has been dealt with; kept by the server for a consumer with a name. Returns at once.
    pub fn acknowledge(&mut self, position: Position) {
        self.acknowledged = Some(position);
        if matches!(self.state, State::Streaming { .. }) {
            self.client.shared.acknowledge(self.id, position);
        }
    }

    /// Subscribes, and waits until the server has agreed, without taking anything. Cancellation-safe.
    ///
    /// # Errors
    /// Where it does not agree; the stream has ended then.
    pub async fn started(&mut self) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_attached(cx)).await
    }

    pub(crate) fn end(&mut self) {
        if !matches!(self.state, State::Done) {
            self.state = State::Done;
            self.queue.clear();
            // A driver that is gone has no subscription to end.
            drop(self.client.commands.send(Command::Unsubscribe(self.id)));
        }
    }

    fn fail<T>(&mut self, error: Error) -> Poll<Result<T, Error>> {
        self.end();
        Poll::Ready(Err(error))
    }

    fn pause(&mut self) {
        self.state = State::Pausing(Box::pin(tokio::time::sleep(PAUSE)));
    }

    /// Ready when there is a stream to read from, or data that has ended.
    fn poll_attached(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match &mut self.state {
                State::Streaming { .. } | State::Ending(_) | State::Done => return Poll::Ready(Ok(())),
                State::Pausing(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.state = State::Detached;
                }
                State::Detached => {
                    self.id = self.client.shared.next_id();
                    let reached = self.epoch.map(|epoch| (self.decoder.reached(), epoch));
                    let request = Box::new(self.subscription.request(self.id, reached));
                    let (reply, answer) = oneshot::channel();
                    if self.client.commands.send(Command::Subscribe(request, reply)).is_err() {
                        let error = self.client.shared.failure();
                        return self.fail(error);
                    }
                    self.state = State::Waiting(answer);
                }
                State::Waiting(answer) => match ready!(Pin::new(answer).poll(cx)) {
                    Ok(Ok(attached)) => self.attach(attached),
                    Ok(Err(refused)) => self.refused(refused)?,
                    Err(_connection_broke) => self.state = State::Detached,
                },
            }
        }
    }

    fn attach(&mut self, attached: Attached) {
        if self.epoch.is_none() {
            self.decoder.start(attached.start);
            self.position = attached.start;
            self.head = Some(attached.head);
        }
        self.epoch = Some(attached.epoch);
        self.busy = 0;
        if let Some(position) = self.acknowledged {
            self.client.shared.acknowledge(self.id, position);
        }
        self.state = State::Streaming { stream: attached.stream, frames: Frames::new(BATCH_BYTES_MAX), end: attached.end };
    }

    fn refused(&mut self, refused: Refused) -> Result<(), Error> {
        let again = refused.busy && self.epoch.is_some() && self.busy < BUSY_TRIES;
        if again || refused.error.is_retry() {
            self.busy += u32::from(refused.busy);
            tracing::debug!(error = %refused.error, "subscribing again after a pause");
            self.pause();
            return Ok(());
        }
        self.end();
        Err(refused.error)
    }

    /// Reads the next batch into the queue; `false` where the stream has ended for good.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        loop {
            ready!(self.poll_attached(cx))?;
            match &mut self.state {
                State::Streaming { stream, frames, .. } => {
                    match frames.next() {
                        Ok(None) => {}
                        Ok(Some(frame)) => return Poll::Ready(self.take(frame.as_ref()).map(|()| true)),
                        Err(error) => return self.fail(Error::Protocol(error.to_string())),
                    }
                    self.buffer.resize(READ_BYTES, 0);
                    match ready!(stream.poll_read(cx, &mut self.buffer)) {
                        Ok(0) => self.ending(),
                        Ok(len) => frames.push(self.buffer.get(..len).unwrap_or_default()),
                        Err(error) => {
                            tracing::debug!(%error, "the stream broke off");
                            self.ending();
                        }
                    }
                }
                State::Ending(end) => match ready!(Pin::new(end).poll(cx)) {
                    Ok(End::Ended) => {
                        self.state = State::Done;
                        return Poll::Ready(Ok(false));
                    }
                    Ok(End::Failed(refused)) if refused.error.is_retry() => self.pause(),
                    Ok(End::Failed(refused)) => {
                        self.state = State::Done;
                        return Poll::Ready(Err(refused.error));
                    }
                    Err(_connection_broke) => self.state = State::Detached,
                },
                State::Done => return Poll::Ready(Ok(false)),
                State::Detached | State::Pausing(_) | State::Waiting(_) => {}
            }
        }
    }

    fn take(&mut self, frame: &[u8]) -> Result<(), Error> {
        let batch = Batch::decode(frame).map_err(|error| Error::Protocol(format!("a batch that can't be read: {error}")));
        let taken = batch.and_then(|batch| self.decoder.handle_batch(batch, &mut self.queue));
        if taken.is_err() {
            self.end();
        }
        taken
    }

    fn ending(&mut self) {
        if let State::Streaming { end, .. } = std::mem::replace(&mut self.state, State::Detached) {
            self.state = State::Ending(end);
        }
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.position = match &event {
                    Event::Begin(_) => self.position,
                    Event::Change(change) => change.position(),
                    Event::Commit { position, .. } | Event::Through(position) => *position,
                };
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.poll_batch(cx)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.end();
    }
}
