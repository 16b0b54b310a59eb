//! Where a subscription starts. No socket, no task: [`super::connection`] asks, and tells the client.
//!
//! Call order: [`attach`], then [`start`], then, for a consumer that has no place yet, [`keep`].

use std::sync::Arc;

use beyond_cdc_proto::v1::subscribe::Start;
use beyond_cdc_proto::v1::{self, ErrorCode};
use walbus::Position;
use walbus::disk::Disk;

use super::feed::Feed;
use super::refusal::{of_epoch, of_name, of_read, refusal};
use super::session::Opening;
use crate::fanout::class::Classes;
use crate::fanout::consumers::{Attachment, Consumers, Place};
use crate::fanout::cursor::Cursor;
use crate::log::{Epoch, EventLog, ReadError};

/// How often a start at the earliest position is tried again when retention has just moved it.
const EARLIEST_TRIES: usize = 3;

/// Takes the consumer's name that is asked for, if there is one.
///
/// # Errors
/// With what to tell the client.
pub(super) fn attach<C: Disk>(
    consumers: &Arc<Consumers<C>>,
    opening: &Opening,
    agent: &str,
) -> Result<Option<Attachment<C>>, v1::Error> {
    if opening.consumer.is_empty() {
        return Ok(None);
    }
    consumers.attach(&opening.consumer, agent, opening.take_over).map(Some).map_err(|error| of_name(&error))
}

/// Starts a subscription: gives the position behind which it starts, and what it gets. Blocks on files for a start by time, and for no other.
///
/// # Errors
/// With what to tell the client.
pub(super) fn start<D: Disk, C: Disk>(
    log: &EventLog<D>,
    classes: &Classes,
    opening: &Opening,
    attachment: Option<&Attachment<C>>,
    gathered_bytes: usize,
) -> Result<(Position, Feed<D>), v1::Error> {
    let class = classes.class(opening.selection.clone(), opening.encoding);
    // Before the log is asked, so that no change of the head is missed.
    let head = log.watch();
    let mut tries = 0;
    let (start, cursor) = loop {
        let start = place(log, opening, attachment)?;
        tries += 1;
        match Cursor::new(log, start, Arc::clone(&class)) {
            Ok(cursor) => break (start, cursor),
            Err(ReadError::TooFarBehind { .. })
                if (matches!(opening.start, Start::Earliest(_)) || opening.fresh_from_earliest) && tries < EARLIEST_TRIES => {}
            Err(error) => return Err(of_read(&error)),
        }
    };
    opening.progress.set_sent(start);
    Ok((start, Feed::new(cursor, head, Arc::clone(&opening.progress), gathered_bytes)))
}

/// Writes down where a consumer begins that has no place yet: from now on it resumes there, be it that it never acknowledges anything, and
/// whatever becomes of this server. Blocks on files.
///
/// # Errors
/// With what to tell the client.
pub(super) fn keep<C: Disk>(attachment: &Attachment<C>, place: Place) -> Result<(), v1::Error> {
    attachment.keep(place).map_err(|error| {
        tracing::error!(%error, "where a consumer begins can't be written");
        refusal(ErrorCode::Internal, "the server can't write down where the consumer begins; its own log says why")
    })
}

/// The position that an opening's start means.
fn place<D: Disk, C: Disk>(
    log: &EventLog<D>,
    opening: &Opening,
    attachment: Option<&Attachment<C>>,
) -> Result<Position, v1::Error> {
    match &opening.start {
        Start::After(position) => {
            same_epoch(log, opening.epoch.map(Epoch::new))?;
            Ok(position.into())
        }
        Start::Earliest(_) => Ok(log.earliest()),
        Start::Latest(_) => Ok(log.head()),
        Start::Resume(_) => match attachment.and_then(Attachment::place) {
            Some(place) => {
                same_epoch(log, Some(place.epoch))?;
                Ok(place.position)
            }
            None if opening.fresh_from_earliest => Ok(log.earliest()),
            None => Ok(log.head()),
        },
        Start::Time(micros) => log.locate_time(*micros).map_err(|error| of_read(&error)),
    }
}

fn same_epoch<D: Disk>(log: &EventLog<D>, epoch: Option<Epoch>) -> Result<(), v1::Error> {
    match epoch {
        Some(epoch) if epoch != log.epoch() => Err(of_epoch(epoch, log.epoch(), log.earliest())),
        _ => Ok(()),
    }
}
