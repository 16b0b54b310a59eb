//! The stream itself: CopyBoth. What comes is read in large pieces and sliced; what goes is one small message at a time.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::BufMut;
use tokio::task::coop;

use super::SourceError;
use super::client::{Answer, Client, NextTimeline};
use super::session::{Session, unexpected};
use super::transport::Transport;
use crate::proto::backend::{COPY_DATA, Frame, Message};
use crate::proto::replication::{Keepalive, StandbyStatus, WalsenderMessage, XLogData};

const DOING: &str = "stream";

/// CopyDone, whole.
const COPY_DONE: [u8; 5] = [b'c', 0, 0, 0, 4];

/// What a stream gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The timeline has ended: the server sends no more. Call [`CopyStream::finish`].
    End,
    /// Nothing new, and perhaps a request for a status.
    Keepalive(Keepalive),
    /// A piece of the stream.
    Wal(XLogData),
}

/// A running replication.
///
/// Made for one task on a `current_thread` runtime: [`Self::next`] waits, [`Self::try_next`] then takes all that is there without
/// waiting, and a status goes out between the two. The slices in [`Event::Wal`] share the read buffer, whose memory is used again
/// once all of them are dropped; those that are kept, keep up to 1 MiB each alive.
#[derive(Debug)]
pub struct CopyStream {
    session: Session,
    outgoing: Outgoing,
    /// A write that failed. The server may have said why before: what it sent is handed out first.
    write_error: Option<io::Error>,
    state: State,
    last_read_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// The server's CopyDone has come.
    Ended,
    /// The command is over, and ours needs no CopyDone.
    Over(Option<NextTimeline>),
}

impl CopyStream {
    pub(super) const fn new(session: Session) -> Self {
        Self { session, outgoing: Outgoing::new(), write_error: None, state: State::Streaming, last_read_bytes: 0 }
    }

    pub(super) const fn ended(session: Session, next: Option<NextTimeline>) -> Self {
        Self { session, outgoing: Outgoing::new(), write_error: None, state: State::Over(next), last_read_bytes: 0 }
    }

    /// What the server last reported of a setting.
    #[must_use]
    pub fn parameter_status(&self, name: &str) -> Option<&str> {
        self.session.parameter(name)
    }

    /// The process that serves this stream, as `pg_stat_replication.pid` has it.
    #[must_use]
    pub fn backend_pid(&self) -> Option<u32> {
        self.session.backend_pid()
    }

    /// Waits for the next event. A status that could not be sent yet is sent meanwhile. Cancellation-safe: nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// Of the server or the connection; the stream is of no further use then.
    pub async fn next(&mut self) -> Result<Event, SourceError> {
        poll_fn(|cx| {
            // Where there is always something to read, the runtime must still come round to its timers, and learn that a full socket
            // takes statuses again.
            let progress = ready!(coop::poll_proceed(cx));
            let event = self.poll_next(cx);
            if event.is_ready() {
                progress.made_progress();
            }
            event
        })
        .await
    }

    /// The next event that is there: first what was read already, then what the socket holds. `None` where there is nothing now.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        // Nobody is woken: whoever wants to be calls `next`, which asks the socket anew.
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => event.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// The next event of what was read already: the socket is not asked.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next_read(&mut self) -> Result<Option<Event>, SourceError> {
        self.buffered()
    }

    /// How many bytes the last read of the socket has given. Few of them, where many came before, mean that the reader has caught up,
    /// and would go on message by message. `None` under TLS, where a read gives one record, however much waits behind it.
    #[must_use]
    pub const fn last_read_bytes(&self) -> Option<usize> {
        if self.session.transport.is_tls() { None } else { Some(self.last_read_bytes) }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, SourceError>> {
        loop {
            if let Some(event) = self.buffered()? {
                return Poll::Ready(Ok(event));
            }
            // Where the socket takes no more, what comes is read all the same: or both sides might wait for each other.
            let _sent = self.poll_send(cx);
            match self.session.poll_fill(cx, DOING) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(SourceError::Closed { doing: DOING, orderly: false })),
                Poll::Ready(Ok(bytes)) => self.last_read_bytes = bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match self.write_error.take() {
                    Some(error) => return Poll::Ready(Err(self.session.lost("send a status", error))),
                    None => return Poll::Pending,
                },
            }
        }
    }

    /// The next event of what was read.
    fn buffered(&mut self) -> Result<Option<Event>, SourceError> {
        if self.state != State::Streaming {
            return Ok(Some(Event::End));
        }
        while let Some(frame) = self.session.next_frame(DOING)? {
            if let Some(event) = self.event(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn event(&mut self, frame: Frame) -> Result<Option<Event>, SourceError> {
        if frame.tag == COPY_DATA {
            let message = WalsenderMessage::parse(frame.body);
            return match message.map_err(|reason| SourceError::Protocol { doing: DOING, reason })? {
                WalsenderMessage::Keepalive(keepalive) => Ok(Some(Event::Keepalive(keepalive))),
                WalsenderMessage::XLogData(data) => Ok(Some(Event::Wal(data))),
            };
        }
        match self.session.take_in(DOING, frame)? {
            None => Ok(None),
            Some(Message::CopyDone) => {
                self.state = State::Ended;
                Ok(Some(Event::End))
            }
            Some(Message::ErrorResponse(diagnostic)) => Err(SourceError::refused(DOING, diagnostic)),
            // A walsender that has sent everything and shuts down ends its command, not its copy.
            Some(Message::CommandComplete(_)) => Err(SourceError::Closed { doing: DOING, orderly: true }),
            Some(message) => Err(unexpected(DOING, &message)),
        }
    }

    /// Sends a status, and waits until the operating system has it. Cancellation-safe: a status whose future was dropped is sent by
    /// a later call, unless a newer one takes its place.
    ///
    /// That it can't be sent is for [`Self::next`] to say, after what the server sent before, which may hold the reason.
    pub async fn send_status(&mut self, status: &StandbyStatus) {
        self.outgoing.next = Some(*status);
        poll_fn(|cx| self.poll_send(cx)).await;
    }

    /// Sends a status if that needs no waiting; `false` where it does. It is then the one status that waits, in place of any before
    /// it, and goes out with the next call of any method here. That it can't be sent at all is for [`Self::next`] to say.
    pub fn try_send_status(&mut self, status: &StandbyStatus) -> bool {
        self.outgoing.next = Some(*status);
        self.poll_send(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Sends what waits. Ready when nothing waits any more, be it that nothing can be sent any more.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_error.is_some() || self.state != State::Streaming {
            return Poll::Ready(());
        }
        if let Err(error) = ready!(self.outgoing.poll_send(cx, &mut self.session.transport)) {
            self.write_error = Some(error);
        }
        Poll::Ready(())
    }

    /// Ends the stream and gives the session back, with what comes after this timeline where the server said so. May also be called
    /// before [`Event::End`]: what still comes is then thrown away. Not cancellation-safe.
    ///
    /// # Errors
    /// Of the server or the connection.
    pub async fn finish(mut self) -> Result<(Client, Option<NextTimeline>), SourceError> {
        const DOING: &str = "end the stream";
        if let State::Over(next) = self.state {
            return Ok((Client::new(self.session), next));
        }
        let (outgoing, session) = (&mut self.outgoing, &mut self.session);
        let sent = poll_fn(|cx| outgoing.poll_send(cx, &mut session.transport)).await;
        sent.map_err(|error| session.lost(DOING, error))?;
        session.send(DOING, &COPY_DONE).await?;
        let mut answer = Answer::default();
        loop {
            let message = session.receive(DOING).await?;
            match answer.take_in(DOING, message)? {
                None | Some(Message::CopyData(_) | Message::CopyDone) => {}
                Some(Message::ErrorResponse(diagnostic)) => return Err(SourceError::refused(DOING, diagnostic)),
                Some(Message::ReadyForQuery) => break,
                Some(message) => return Err(unexpected(DOING, &message)),
            }
        }
        let next = answer.next_timeline(DOING)?;
        Ok((Client::new(self.session), next))
    }
}

/// Type, length and a status.
const STATUS_FRAME_BYTES: usize = 5 + StandbyStatus::BYTES;

/// The one status that is being sent, and the one that waits behind it: newer ones take its place.
#[derive(Debug)]
struct Outgoing {
    frame: [u8; STATUS_FRAME_BYTES],
    sent: usize,
    flushed: bool,
    next: Option<StandbyStatus>,
}

impl Outgoing {
    const fn new() -> Self {
        Self { frame: [0; STATUS_FRAME_BYTES], sent: STATUS_FRAME_BYTES, flushed: true, next: None }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transport: &mut Transport) -> Poll<io::Result<()>> {
        loop {
            if self.sent < STATUS_FRAME_BYTES {
                let bytes = ready!(transport.poll_write(cx, &self.frame[self.sent..]))?;
                if bytes == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += bytes;
                self.flushed = false;
            } else if !self.flushed {
                ready!(transport.poll_flush(cx))?;
                self.flushed = true;
            } else if let Some(status) = self.next.take() {
                let mut frame = &mut self.frame[..];
                frame.put_u8(COPY_DATA);
                frame.put_u32(4 + StandbyStatus::BYTES as u32);
                status.encode(&mut frame);
                self.sent = 0;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
