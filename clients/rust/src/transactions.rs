//! Streams of changes, and of whole transactions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use beyond_cdc_proto::prost::Message;
use futures_util::Stream;
use walbus::Position;

use crate::change::{Change, Header, Transaction};
use crate::error::Error;
use crate::events::{Event, Events};

/// How large a transaction may be unless said, in bytes of its encoding.
const TRANSACTION_BYTES_MAX: usize = 256 << 20;

/// Changes, one by one. Nothing is gathered, however large a transaction is.
#[derive(Debug)]
pub struct Changes {
    events: Events,
}

impl Changes {
    pub(crate) const fn new(events: Events) -> Self {
        Self { events }
    }

    /// Behind what has been given out.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.events.position()
    }

    /// All up to this position has been dealt with. Returns at once.
    pub fn acknowledge(&mut self, position: Position) {
        self.events.acknowledge(position);
    }
}

impl Stream for Changes {
    type Item = Result<Change, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.events).poll_next(cx)) {
                Some(Ok(Event::Change(change))) => return Poll::Ready(Some(Ok(change))),
                Some(Ok(Event::Begin(_) | Event::Commit { .. } | Event::Through(_))) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Whole transactions. One that a filter has left nothing of is not among them.
///
/// A stream that starts within a transaction gives the rest of it as one.
#[derive(Debug)]
pub struct Transactions {
    events: Events,
    gathered: Gathered,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    header: Option<Arc<Header>>,
    changes: Vec<Change>,
    bytes: usize,
}

impl Transactions {
    pub(crate) fn new(events: Events) -> Self {
        Self { events, gathered: Gathered::default(), bytes_max: TRANSACTION_BYTES_MAX }
    }

    /// How large a transaction may be, in bytes of its encoding (256 MiB unless said): a larger one is an error, since it is held in memory.
    #[must_use]
    pub const fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Behind what has arrived.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.events.position()
    }

    /// All up to this position has been dealt with. Returns at once.
    pub fn acknowledge(&mut self, position: Position) {
        self.events.acknowledge(position);
    }
}

impl Gathered {
    /// Takes what has arrived, and gives a transaction at its end.
    fn handle_event(&mut self, event: Event, bytes_max: usize) -> Result<Option<Transaction>, Error> {
        match event {
            Event::Begin(_) | Event::Through(_) => Ok(None),
            Event::Change(change) => {
                self.bytes += change.wire().encoded_len();
                if self.bytes > bytes_max {
                    let position = self.changes.first().unwrap_or(&change).position();
                    return Err(Error::TransactionTooLarge { position, max: bytes_max });
                }
                self.header.get_or_insert_with(|| Arc::clone(&change.header));
                self.changes.push(change);
                Ok(None)
            }
            Event::Commit { position, .. } => {
                let Self { header, changes, .. } = std::mem::take(self);
                Ok(header.map(|header| Transaction { header, changes, position }))
            }
        }
    }
}

impl Stream for Transactions {
    type Item = Result<Transaction, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let event = match ready!(Pin::new(&mut self.events).poll_next(cx)) {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            let bytes_max = self.bytes_max;
            match self.gathered.handle_event(event, bytes_max) {
                Ok(None) => {}
                Ok(Some(transaction)) => return Poll::Ready(Some(Ok(transaction))),
                Err(error) => {
                    self.events.end();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
