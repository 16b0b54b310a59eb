//! Follows a subscription: prints, keeps the place, and knows when to stop.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::Poll;

use beyond_cdc_client::{Epoch, Error, Event, Events, Position};
use futures_util::{Stream, StreamExt};

use crate::exit::Failure;
use crate::output::Printer;
use crate::place::PositionFile;

/// How many bytes are gathered before they are written, unless there is nothing more to print at the moment.
const BUFFER_BYTES: usize = 64 << 10;

/// What to do with what arrives.
#[derive(Debug)]
pub struct Follower<W: Write> {
    /// The subscription.
    pub events: Events,
    /// How it is printed.
    pub printer: Printer,
    /// Where it is printed to.
    pub out: W,
    /// Where the place is kept.
    pub file: Option<PositionFile>,
    /// Whether the server keeps the place.
    pub named: bool,
    /// How many changes are still wanted.
    pub left: Option<u64>,
    /// Whether to end with what the server has at the start.
    pub until_now: bool,
}

impl<W: Write> Follower<W> {
    /// Prints until it has what was asked for, or whoever reads the pipe has gone.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(mut self) -> Result<(), Failure> {
        self.events.started().await?;
        let until = self.events.head().filter(|_| self.until_now);
        let mut buffer = String::new();
        // What was printed, and is not yet out, reaches up to here.
        let mut printed = self.events.position();
        // A transaction is through with its end, and not with its last change.
        let mut through = printed;
        while !is_reached(until, through) && self.left != Some(0) {
            let event = match self.next_now().await {
                Some(Some(event)) => event?,
                Some(None) => break,
                // Nothing is there at the moment: what was gathered goes out.
                None => {
                    if !self.flush(&mut buffer, printed)? {
                        return Ok(());
                    }
                    match self.events.next().await {
                        Some(event) => event?,
                        None => break,
                    }
                }
            };
            self.print(&mut buffer, &event)?;
            printed = self.events.position();
            if matches!(event, Event::Commit { .. } | Event::Through(_)) {
                through = printed;
            }
            if buffer.len() >= BUFFER_BYTES && !self.flush(&mut buffer, printed)? {
                return Ok(());
            }
        }
        self.flush(&mut buffer, printed)?;
        Ok(())
    }

    /// The next event if there is one at once; `None` where there is not.
    async fn next_now(&mut self) -> Option<Option<Result<Event, Error>>> {
        std::future::poll_fn(|cx| match Pin::new(&mut self.events).poll_next(cx) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn print(&mut self, buffer: &mut String, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Begin(header) => self.printer.begin(header),
            Event::Change(change) => {
                self.printer.change(buffer, change).map_err(Error::Protocol)?;
                if let Some(left) = &mut self.left {
                    *left -= 1;
                }
            }
            Event::Commit { position, header } => self.printer.commit(buffer, header, *position),
            Event::Through(_) => {}
        }
        Ok(())
    }

    /// Writes what was gathered, then keeps the place; `false` when nobody reads it any more.
    fn flush(&mut self, buffer: &mut String, printed: Position) -> Result<bool, Failure> {
        let written = self.out.write_all(buffer.as_bytes()).and_then(|()| self.out.flush());
        buffer.clear();
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(Failure::Output(error)),
        }
        let epoch: Option<Epoch> = self.events.epoch();
        if let (Some(file), Some(epoch)) = (&mut self.file, epoch) {
            file.write(epoch, printed)?;
        }
        if self.named {
            self.events.acknowledge(printed);
        }
        Ok(true)
    }
}

fn is_reached(until: Option<Position>, through: Position) -> bool {
    until.is_some_and(|until| through >= until)
}
