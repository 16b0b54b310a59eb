//! Receiving one cluster's WAL: what to ask the primary for, what to take from it, and what may be acknowledged.
//!
//! ```text
//!                 complete        held
//!   ── held WAL ─────┼──────────────┼─────▶
//!          │         │              │
//!      strict:     soft:          new:
//!      the same    a partial      written, decoded,
//!      or it is    record; may    acknowledged after
//!      divergence  be replaced    the flush
//! ```
//!
//! Each session starts again at a segment's start, so what comes first is WAL that is held already. It is compared, not written: the
//! primary's word that it is the same cluster is worth less than the bytes. Nothing is acknowledged before that was done.
//!
//! A [`Receiver`] is sync code over a [`Disk`], and knows no socket, clock or thread. The order of calls: [`Receiver::open`],
//! then for each session [`Receiver::plan`], [`Receiver::begin`], and as WAL comes [`Receiver::handle_wal`]; whenever it suits,
//! [`Receiver::begin_flush`], [`FlushJob::run`], [`Receiver::finish_flush`]; at the end of a timeline [`Receiver::end_timeline`].

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::ident::{SystemId, Timeline};
use crate::index::SegmentFacts;
use crate::ledger::{ApplyAs, Ledger};
use crate::log::{FlushDone, FlushJob, Log, WriteError};
use crate::lsn::Lsn;
use crate::proto::history::History;
use crate::proto::wal::{DecodeError, Decoder};
use crate::segment::{Segment, SegmentSize, WalFile};

mod plan;
mod scan;

pub use plan::{COMPARED_BYTES_MIN, Refusal, Server, Start};
pub use scan::{DamagedSegment, OpenError, Scan};

/// Whose WAL a folder holds; fixed by its first segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
}

/// How far the WAL reaches that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its timeline.
    pub timeline: Timeline,
    /// The first byte held of this timeline, with no hole up to `end`. WAL before it may be held of an older timeline.
    pub oldest: Lsn,
    /// The end of the last complete, CRC-valid record: below it nothing is ever replaced.
    pub complete: Lsn,
    /// The end of all bytes that are durable; those from `complete` on are of a partial record.
    pub end: Lsn,
}

/// Why received WAL was not taken. After any of these the session is over.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The primary's WAL contradicts a complete record that is held. Stop for good and tell a person.
    #[error(
        "divergence: at {lsn} on timeline {timeline} the primary sends other WAL than the complete records held here (up to {complete}); \
         both are kept, nothing more is received"
    )]
    Diverged {
        /// The first byte that differs.
        lsn: Lsn,
        /// The timeline.
        timeline: Timeline,
        /// The end of the last complete record held.
        complete: Lsn,
    },
    /// The message does not continue the one before. The link or the primary is at fault: connect again.
    #[error("the primary sent WAL from {got} where {expected} was to follow")]
    Discontinuous {
        /// Where WAL was to go on.
        expected: Lsn,
        /// Where the message starts.
        got: Lsn,
    },
    /// A file of the log can't be read or written. The process should end.
    #[error("{doing} segment {name}")]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file.
        name: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A record is damaged: nothing from it on is acknowledged. Connect again; if it stays, the primary's WAL is damaged.
    #[error("damaged WAL from the primary")]
    Record(#[from] DecodeError),
}

/// How much of a piece of WAL was taken.
#[derive(Debug)]
pub enum Taken {
    /// All of it.
    All,
    /// This many bytes: the rest needs room, or a spare. Offer it again, from there on, when there is.
    UpTo(usize, Blocked),
}

/// What a write waits for.
#[derive(Debug)]
pub enum Blocked {
    /// Room on the disk.
    Full(io::Error),
    /// A zeroed file: see [`Log::spare_job`].
    NoSpare,
}

/// The receiving end of one cluster's WAL.
#[derive(Debug)]
pub struct Receiver<D: Disk> {
    identity: Identity,
    log: Log<D>,
    held: Option<Held>,
    session: Option<Session<D>>,
    /// Decoders as they stood at the last segment starts, to begin a session there.
    checkpoints: Vec<Decoder>,
    /// What was found in the WAL since the last [`Receiver::take_facts`], by segment; the last one is being received.
    facts: Vec<(Segment, SegmentFacts)>,
    /// What is held when the flush is done that is under way.
    flushing: Option<Held>,
}

#[derive(Debug)]
struct Session<D: Disk> {
    timeline: Timeline,
    start: Lsn,
    ledger: Ledger,
    decoder: Decoder,
    /// The end of the last complete record of what was taken whole: the decoder may be ahead of it where an error ended the session.
    complete: Lsn,
    /// Below this the bytes held must be the same.
    strict_end: Lsn,
    /// Up to here bytes are held; those from `strict_end` on may differ.
    held_end: Lsn,
    /// The file that is being compared with.
    comparing: Option<(Segment, D::File)>,
    /// Below this WAL is of the parent timeline: it must equal what is held there.
    parent: Option<(Timeline, Lsn)>,
    buffer: Vec<u8>,
}

impl<D: Disk> Receiver<D> {
    /// A receiver over the folder, which holds what `scan` found in it.
    ///
    /// # Errors
    /// Where the folder can't be changed, or what was scanned can't be made durable.
    pub fn open(disk: Arc<D>, identity: Identity, scan: Option<Scan>) -> io::Result<Self> {
        let log = Log::open(Arc::clone(&disk), identity.segment_size)?;
        let mut checkpoints = Vec::new();
        let held = match scan {
            Some(scan) => {
                scan.make_durable(&*disk, identity.segment_size)?;
                checkpoints.extend(scan.checkpoints);
                Some(scan.held)
            }
            None => None,
        };
        Ok(Self { identity, log, held, session: None, checkpoints, facts: Vec::new(), flushing: None })
    }

    /// Whose WAL this is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// How far the WAL reaches that is held.
    #[must_use]
    pub const fn held(&self) -> Option<Held> {
        self.held
    }

    /// The log, to give it spares.
    pub const fn log_mut(&mut self) -> &mut Log<D> {
        &mut self.log
    }

    /// The ledger of the session.
    #[must_use]
    pub fn ledger(&self) -> Option<&Ledger> {
        self.session.as_ref().map(|session| &session.ledger)
    }

    /// The ledger of the session, to take reports from.
    pub fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        self.session.as_mut().map(|session| &mut session.ledger)
    }

    /// Where to start, given what the primary says of itself.
    ///
    /// # Errors
    /// Where its WAL does not continue what is held: see [`Refusal`].
    pub fn plan(&self, server: &Server, history: Option<&History>) -> Result<Start, Refusal> {
        plan::plan(self.identity, self.held.as_ref(), server, history)
    }

    /// Where else to start, when the primary no longer has the WAL at [`Start::at`]: at the segment in which the held bytes end.
    #[must_use]
    pub fn fallback(&self, start: Start) -> Option<Start> {
        let held = self.held?;
        let at = self.identity.segment_size.floor(held.end);
        let known = self.checkpoints.iter().any(|decoder| decoder.position() == at);
        (held.timeline == start.timeline && at > start.at && known).then_some(Start { at, ..start })
    }

    /// Begins a session at what [`Receiver::plan`] gave.
    pub fn begin(&mut self, start: Start, apply: ApplyAs) {
        let held = self.held.filter(|held| held.timeline == start.timeline);
        // Whatever a session left half written is not held: it was never flushed.
        self.log.leave_segment();
        let decoder = self.decoder_at(start);
        self.session = Some(Session {
            timeline: start.timeline,
            start: start.at,
            ledger: Ledger::new(start.at, apply),
            complete: decoder.complete_end(),
            decoder,
            strict_end: held.map_or(start.at, |held| held.complete.max(start.at)),
            held_end: held.map_or(start.at, |held| held.end.max(start.at)),
            comparing: None,
            parent: start.parent,
            buffer: Vec::new(),
        });
        self.flushing = None;
    }

    fn decoder_at(&self, start: Start) -> Decoder {
        let known = self.checkpoints.iter().find(|decoder| decoder.position() == start.at).cloned();
        let mut decoder = known.unwrap_or_else(|| decoder(self.identity, start.timeline, start.at));
        decoder.set_timeline(start.timeline);
        decoder
    }

    /// Ends the session, whatever its reason. What was flushed is held.
    pub fn end_session(&mut self) {
        self.session = None;
        self.flushing = None;
    }

    /// Takes WAL that starts at `lsn`: compares what is held already, writes what is not, and decodes all of it.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    ///
    /// # Panics
    /// Without a session.
    pub fn handle_wal(&mut self, lsn: Lsn, data: &[u8]) -> Result<Taken, ReceiveError> {
        let expected = self.session.as_ref().expect("begin comes before handle_wal").ledger.received();
        if lsn != expected {
            return Err(ReceiveError::Discontinuous { expected, got: lsn });
        }
        let mut taken = 0;
        while taken < data.len() {
            let at = Lsn(lsn.0 + taken as u64);
            let len = match self.take_piece(at, &data[taken..])? {
                Ok(len) => len,
                Err(blocked) => return Ok(Taken::UpTo(taken, blocked)),
            };
            self.decode(&data[taken..taken + len])?;
            taken += len;
            let end = Lsn(lsn.0 + taken as u64);
            let ledger = self.ledger_mut().expect("a session lasts until its end is asked for");
            ledger.handle_received(end);
            ledger.handle_written(end);
        }
        Ok(Taken::All)
    }

    /// Compares or writes a first part of `data`, within one segment, and gives its length.
    fn take_piece(&mut self, at: Lsn, data: &[u8]) -> Result<Result<usize, Blocked>, ReceiveError> {
        let session = self.session.as_mut().expect("begin comes before handle_wal");
        let size = self.identity.segment_size;
        let data = up_to(data, at, Segment::containing(session.timeline, at, size).end(size));
        if at < session.held_end {
            let data = up_to(data, at, session.held_end);
            let same = compare(&self.log, session, at, data)?;
            if same < data.len() {
                replace_from(session, Lsn(at.0 + same as u64))?;
                if let Some(held) = &mut self.held {
                    held.end = held.end.min(session.held_end);
                }
            }
            return Ok(Ok(same));
        }
        check_against_parent(&self.log, session, at, data)?;
        match self.log.write(session.timeline, at, data) {
            Ok(len) => Ok(Ok(len)),
            Err(WriteError::Full(error)) => Ok(Err(Blocked::Full(error))),
            Err(WriteError::NoSpare) => Ok(Err(Blocked::NoSpare)),
            Err(WriteError::Io { name, source }) => Err(ReceiveError::Io { doing: "write", name, source }),
        }
    }

    fn decode(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        let session = self.session.as_mut().expect("begin comes before decode");
        let (size, timeline, facts) = (self.identity.segment_size, session.timeline, &mut self.facts);
        session.decoder.push(data, &mut |record| {
            if let Some(event) = &record.event {
                // The segment in which the record ends: recovery needs it to replay the record.
                let segment = Segment::containing(timeline, Lsn(record.end.0 - 1), size);
                if facts.last().is_none_or(|(last, _)| *last != segment) {
                    facts.push((segment, SegmentFacts::default()));
                }
                if let Some((_, facts)) = facts.last_mut() {
                    facts.add(record.end, event);
                }
            }
        })?;
        session.complete = session.decoder.complete_end();
        if session.complete > session.start {
            session.ledger.handle_proved();
        }
        let position = session.decoder.position();
        if size.offset(position) == 0 {
            // The next session starts where the record in progress does, or else here: see `plan` and `fallback`. One that starts again at
            // held WAL still needs the decoder at its end.
            let start = size.floor(session.decoder.complete_end());
            self.checkpoints.retain(|kept| kept.position() == start || kept.position() > position);
            self.checkpoints.retain(|kept| kept.position() != position);
            self.checkpoints.push(session.decoder.clone());
        }
        Ok(())
    }

    /// What was found in the WAL since the last call, by segment. It may say more of a segment that was given out before.
    pub fn take_facts(&mut self) -> Vec<(Segment, SegmentFacts)> {
        std::mem::take(&mut self.facts)
    }

    /// What makes all durable that was taken so far. One job at a time: run it, then [`Receiver::finish_flush`].
    ///
    /// # Panics
    /// Without a session.
    pub fn begin_flush(&mut self) -> FlushJob<D> {
        let session = self.session.as_ref().expect("begin comes before begin_flush");
        self.flushing = Some(Held {
            timeline: session.timeline,
            oldest: session.start,
            complete: session.complete,
            end: session.ledger.written(),
        });
        self.log.begin_flush()
    }

    /// Takes note that a flush is done: what was taken before it began is held, and may be acknowledged.
    ///
    /// # Panics
    /// Without [`Receiver::begin_flush`].
    pub fn finish_flush(&mut self, _done: &FlushDone) {
        let flushed = self.flushing.take().expect("begin_flush comes before finish_flush");
        let session = self.session.as_mut().expect("a session lasts until its flush is done");
        session.ledger.handle_flushed(flushed.end);
        // WAL below the point where the timeline began is held on its parent. Until all of that is here as well, the parent's is more.
        if session.parent.is_some_and(|(_, switchpoint)| flushed.end < switchpoint) {
            return;
        }
        self.held = Some(match self.held {
            Some(held) if held.timeline == flushed.timeline && held.end > flushed.end => held,
            Some(held) if held.timeline == flushed.timeline => {
                Held { oldest: held.oldest, complete: held.complete.max(flushed.complete), ..flushed }
            }
            _ => flushed,
        });
    }

    /// Whether anything was taken that is not durable and acknowledged.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.ledger.flushed() < session.ledger.written()) || self.log.needs_flush()
    }

    /// The primary has sent all of the session's timeline. Gives where the next one is to be received from. Flush before.
    ///
    /// # Errors
    /// Where the next timeline forked off before the end of the complete records held: it lacks WAL that was acknowledged.
    ///
    /// # Panics
    /// Without a session.
    pub fn end_timeline(&mut self, next: Timeline, switchpoint: Lsn) -> Result<Start, Refusal> {
        let timeline = self.session.as_ref().expect("begin comes before end_timeline").timeline;
        let held = self.held.filter(|held| held.timeline == timeline);
        let complete = held.map_or(switchpoint, |held| held.complete);
        if next <= timeline {
            return Err(Refusal::OlderTimeline { held: timeline, server: next });
        }
        if switchpoint < complete {
            return Err(Refusal::ForkedBefore { held: timeline, complete, server: next, switchpoint });
        }
        self.log.leave_segment();
        Ok(Start {
            timeline: next,
            at: self.identity.segment_size.floor(switchpoint),
            parent: held.map(|held| (held.timeline, switchpoint)),
        })
    }
}

/// A decoder at a segment's start, of which nothing before is known.
fn decoder(identity: Identity, timeline: Timeline, start: Lsn) -> Decoder {
    Decoder::new(identity.segment_size, start, timeline)
        .expect("a segment's start is one of a page")
        .with_system(identity.system_id)
}

/// The part of `data`, which starts at `from`, that lies below `end`.
fn up_to(data: &[u8], from: Lsn, end: Lsn) -> &[u8] {
    let room = usize::try_from(end.bytes_after(from)).unwrap_or(usize::MAX);
    &data[..data.len().min(room)]
}

/// Opens a segment for reading, by whichever name it has. Of one that is there twice the whole one counts, as in [`Scan`].
fn open_either<D: Disk>(log: &Log<D>, segment: Segment) -> Result<D::File, ReceiveError> {
    let name = segment.name(log.segment_size());
    let file = match log.disk().open(name.as_str()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => log.disk().open(&WalFile::Partial(name.clone()).name()),
        other => other,
    };
    file.map_err(|source| ReceiveError::Io { doing: "open", name: name.to_string(), source })
}

/// Fills the session's buffer with what is held of `segment` at `lsn`.
fn read_held<D: Disk>(log: &Log<D>, session: &mut Session<D>, segment: Segment, lsn: Lsn, len: usize) -> Result<(), ReceiveError> {
    if session.comparing.as_ref().is_none_or(|(open, _)| *open != segment) {
        session.comparing = Some((segment, open_either(log, segment)?));
    }
    session.buffer.resize(len, 0);
    if let Some((_, file)) = &session.comparing {
        let read = file.read_at(&mut session.buffer, log.segment_size().offset(lsn));
        let name = || segment.name(log.segment_size()).to_string();
        let read = read.map_err(|source| ReceiveError::Io { doing: "read", name: name(), source })?;
        session.buffer.truncate(read);
    }
    Ok(())
}

/// How many bytes of `data` are the same as what is held at `lsn`.
fn compare<D: Disk>(log: &Log<D>, session: &mut Session<D>, lsn: Lsn, data: &[u8]) -> Result<usize, ReceiveError> {
    let segment = Segment::containing(session.timeline, lsn, log.segment_size());
    read_held(log, session, segment, lsn, data.len())?;
    Ok(same_bytes(&session.buffer, data))
}

fn same_bytes(held: &[u8], sent: &[u8]) -> usize {
    if held == sent {
        return sent.len();
    }
    held.iter().zip(sent).take_while(|(held, sent)| held == sent).count()
}

/// From `lsn` on the primary's bytes differ: they replace the held ones if those are of a partial record.
fn replace_from<D: Disk>(session: &mut Session<D>, lsn: Lsn) -> Result<(), ReceiveError> {
    if lsn < session.strict_end {
        return Err(ReceiveError::Diverged { lsn, timeline: session.timeline, complete: session.strict_end });
    }
    session.held_end = lsn;
    session.comparing = None;
    Ok(())
}

/// A timeline starts with a copy of its parent's segment: what is held of that must come again.
fn check_against_parent<D: Disk>(log: &Log<D>, session: &mut Session<D>, lsn: Lsn, data: &[u8]) -> Result<(), ReceiveError> {
    let Some((parent, switchpoint)) = session.parent else { return Ok(()) };
    let data = up_to(data, lsn, switchpoint);
    if data.is_empty() {
        return Ok(());
    }
    let segment = Segment::containing(parent, lsn, log.segment_size());
    read_held(log, session, segment, lsn, data.len())?;
    let same = same_bytes(&session.buffer, data);
    if same < data.len() {
        return Err(ReceiveError::Diverged { lsn: Lsn(lsn.0 + same as u64), timeline: parent, complete: switchpoint });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
