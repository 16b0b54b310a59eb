//! One session: from the primary's messages to batches for the log, and what is durable back.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use walbus::disk::{FolderSpool, FolderSpoolFile, OsDisk};
use walbus::logical::{Assembler, Feedback, NotHeld, Replay, Step, Transaction};
use walbus::proto::pgoutput::Parser;
use walbus::proto::replication::{StandbyStatus, XLogData};
use walbus::source::{CopyStream, Event};
use walbus::{Lsn, PgTime};

use super::confirmed::Confirmed;
use super::continuity::{Continuity, Last};
use super::journal::{Journal, Word};
use super::pace::Pace;
use super::sparse::Sparse;
use super::{Fatal, SessionEnd, stopped};
use crate::encode::{Encoder, TransactionStart};
use crate::log::EventLog;
use crate::state::ServerState;

/// How much is taken from the socket before anything else has its turn.
const TAKEN_BYTES: usize = 1 << 20;
/// How long the primary may be silent though it was asked to answer.
pub(super) const SILENCE_MAX: Duration = Duration::from_mins(1);
/// How often in a row a primary may ask for more to be confirmed than there is. One that shuts down asks again with each answer, for as long as
/// that takes.
const ASKS_MAX: u32 = 50;

/// What lasts over sessions.
pub(super) struct Pump<'a> {
    pub(super) log: &'a EventLog<OsDisk>,
    pub(super) journal: &'a mut Journal,
    pub(super) assembler: &'a mut Assembler<FolderSpool>,
    pub(super) encoder: &'a mut Encoder,
    pub(super) confirmed: &'a mut Confirmed<OsDisk>,
    pub(super) continuity: Continuity,
    pub(super) last: &'a mut Option<Last>,
    pub(super) state: &'a ServerState,
    pub(super) status_interval: Duration,
}

/// What comes next.
enum Turn {
    Event(Event),
    Journal(Word),
    Rested,
    Status,
}

/// What is of this session alone.
struct Session {
    parser: Parser,
    /// Says when the process is to stop.
    shutdown: watch::Receiver<bool>,
    pace: Pace,
    feedback: Feedback,
    /// Where the slot stood at its start: may be said again.
    start: Lsn,
    /// The end of the last transaction that was given to the log, in it or, where it was sent again, before.
    given: Lsn,
    server_end: Lsn,
    /// What was said last.
    told: Lsn,
    next_status: Instant,
    heard: Instant,
    asked: bool,
    /// How often the primary has asked since anything else has come, or the status interval was over.
    asks: u32,
    transactions: u64,
    changes: u64,
    /// Lines about a position that can't be written down.
    lines: Sparse,
}

impl Pump<'_> {
    /// Streams until something ends it. Gives no `Ok`: a stream of a slot has no end.
    pub(super) async fn run(
        mut self,
        mut stream: CopyStream,
        parser: Parser,
        confirmed: Lsn,
        shutdown: &mut watch::Receiver<bool>,
    ) -> SessionEnd {
        let mut session = Session {
            parser,
            shutdown: shutdown.clone(),
            pace: Pace::new(Instant::now()),
            feedback: Feedback::new(confirmed),
            start: confirmed,
            given: Lsn::INVALID,
            server_end: confirmed,
            told: Lsn::INVALID,
            next_status: Instant::now() + self.status_interval,
            heard: Instant::now(),
            asked: false,
            asks: 0,
            transactions: 0,
            changes: 0,
            lines: Sparse::default(),
        };
        loop {
            match self.turn(&mut session, &mut stream, shutdown).await {
                Ok(()) => {}
                Err(SessionEnd::Shutdown) => {
                    return self.stop(&mut session, &mut stream).await.err().unwrap_or(SessionEnd::Shutdown);
                }
                Err(end) => return end,
            }
        }
    }

    async fn turn(
        &mut self,
        session: &mut Session,
        stream: &mut CopyStream,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), SessionEnd> {
        let rest = session.pace.rest();
        let turn = tokio::select! {
            // In order: what must not starve comes first, and a batch goes out as soon as the log takes it.
            biased;
            () = stopped(shutdown) => return Err(SessionEnd::Shutdown),
            word = self.journal.next(self.encoder.has_batch()) => Turn::Journal(word),
            event = stream.next(), if rest.is_none() && !self.encoder.is_full() => Turn::Event(event?),
            () = sleep_until(rest.unwrap_or(session.next_status)), if rest.is_some() => Turn::Rested,
            () = sleep_until(session.next_status) => Turn::Status,
        };
        match turn {
            Turn::Event(event) => {
                (session.heard, session.asked) = (Instant::now(), false);
                self.take(session, stream, event).await
            }
            Turn::Journal(word) => self.journal_says(session, stream, word),
            Turn::Rested => {
                session.pace.handle_rested();
                Ok(())
            }
            Turn::Status => self.status(session, stream),
        }
    }

    fn journal_says(&mut self, session: &mut Session, stream: &mut CopyStream, word: Word) -> Result<(), SessionEnd> {
        match word {
            Word::Ended(fatal) => return Err(fatal.into()),
            Word::Full(since) if self.journal.is_full_too_long() => {
                return Err(SessionEnd::NoRoom(Duration::from_secs(since.elapsed().as_secs())));
            }
            Word::Full(_) => {}
            Word::Room => {
                if let Some(batch) = self.encoder.take() {
                    self.journal.give(batch)?;
                }
            }
            Word::Synced => self.durable(session, stream),
        }
        Ok(())
    }

    /// Takes an event and what has arrived behind it.
    async fn take(&mut self, session: &mut Session, stream: &mut CopyStream, first: Event) -> Result<(), SessionEnd> {
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(event) = next {
            match event {
                Event::End => return Err(SessionEnd::Ended),
                Event::Keepalive(keepalive) => {
                    self.continuity.handle_keepalive(keepalive.server_end)?;
                    session.server_end = session.server_end.max(keepalive.server_end);
                    session.feedback.handle_keepalive(keepalive.server_end);
                    self.report(session, stream, keepalive.reply_requested);
                    session.asks += u32::from(keepalive.reply_requested && session.told < keepalive.server_end);
                    if session.asks > ASKS_MAX {
                        return Err(SessionEnd::Held);
                    }
                }
                Event::Wal(data) => {
                    session.asks = 0;
                    session.server_end = session.server_end.max(data.server_end);
                    bytes += data.data.len();
                    self.message(session, stream, &data).await?;
                }
            }
            if bytes >= TAKEN_BYTES || self.encoder.is_full() {
                break;
            }
            next = stream.try_next_read()?;
            if next.is_some() {
                continue;
            }
            if Pace::has_caught_up(bytes, stream.last_read_bytes()) {
                session.pace.handle_drained(bytes, Instant::now());
                break;
            }
            next = stream.try_next()?;
            if next.is_none() {
                session.pace.handle_drained(bytes, Instant::now());
            }
        }
        self.tell_state(session);
        Ok(())
    }

    async fn message(&mut self, session: &mut Session, stream: &mut CopyStream, data: &XLogData) -> Result<(), SessionEnd> {
        let parsed = session.parser.parse(&data.data)?;
        match self.assembler.handle(parsed, &data.data)? {
            Step::Change(change) => {
                self.encoder.change(&change);
                session.changes += 1;
            }
            Step::Begin(begin) => {
                self.continuity.handle_new(begin.final_lsn)?;
                session.feedback.handle_begin();
                self.begin(begin.xid, begin.final_lsn, begin.commit_time)?;
            }
            Step::Commit(transaction) => self.commit(session, &transaction),
            Step::Committed(replay) => self.replay(session, stream, *replay).await?,
            Step::Message(change) => {
                let position = change.position;
                self.continuity.handle_new(position.commit_lsn)?;
                self.begin(0, position.commit_lsn, data.time)?;
                self.encoder.change(&change);
                session.changes += 1;
                let end_lsn = Lsn(position.commit_lsn.0 + 1);
                let transaction = Transaction {
                    xid: 0,
                    commit_lsn: position.commit_lsn,
                    end_lsn,
                    commit_time: data.time,
                    origin: None,
                    prepare_lsn: None,
                    gid: None,
                };
                self.commit(session, &transaction);
            }
            Step::Prepared(prepare) => session.feedback.handle_prepared(prepare.prepare_lsn),
            Step::RolledBack { prepare_lsn, .. } => session.feedback.handle_released(prepare_lsn),
            Step::NotHeld(NotHeld::RolledBack(_)) | Step::Nothing | Step::Skipped(None) => {}
            Step::NotHeld(NotHeld::Committed(transaction)) => {
                let gid = transaction.gid.unwrap_or_default();
                return Err(SessionEnd::SlotLost(format!(
                    "the prepared transaction {gid:?} was committed at {}, and its changes were confirmed to the slot before they were kept: they are \
                     missing",
                    transaction.commit_lsn
                )));
            }
            Step::Skipped(Some(transaction)) => self.skipped(session, &transaction)?,
        }
        Ok(())
    }

    /// A transaction was sent again. The session before gave it to the log, which may not have made it durable yet.
    fn skipped(&mut self, session: &mut Session, transaction: &Transaction) -> Result<(), SessionEnd> {
        self.continuity.handle_skipped(transaction)?;
        session.given = session.given.max(transaction.end_lsn);
        session.feedback.handle_skipped(transaction.prepare_lsn, transaction.end_lsn);
        session.feedback.handle_durable(self.log.durable_end_lsn().min(session.given));
        Ok(())
    }

    fn begin(&mut self, xid: u32, commit_lsn: Lsn, time: PgTime) -> Result<(), SessionEnd> {
        let start = TransactionStart { xid, commit_lsn, commit_time: time.to_unix_micros() };
        // Where one was given in part when the last session ended, it has to come first in this one.
        self.encoder.begin(start).map_err(|unfinished| Fatal::Unfinished(unfinished).into())
    }

    fn commit(&mut self, session: &mut Session, transaction: &Transaction) {
        self.encoder.commit(transaction);
        *self.last = Some(Last::new(transaction));
        session.given = transaction.end_lsn;
        session.transactions += 1;
        match transaction.prepare_lsn {
            Some(prepared) => session.feedback.handle_commit_prepared(prepared, transaction.end_lsn),
            None => session.feedback.handle_commit(transaction.end_lsn),
        }
    }

    /// Reads back a transaction that was kept until its commit. As large as it may be, it is given to the log piece by piece, and the primary is
    /// told all the while that we live.
    async fn replay(
        &mut self,
        session: &mut Session,
        stream: &mut CopyStream,
        mut replay: Replay<FolderSpoolFile>,
    ) -> Result<(), SessionEnd> {
        let transaction = replay.transaction().clone();
        self.continuity.handle_new(transaction.commit_lsn)?;
        let mut next = replay.poll_change()?;
        if next.is_none() {
            // Its savepoints were all rolled back, or it was prepared with nothing in it: there is nothing to tell, and it has no position.
            session.feedback.handle_empty(transaction.prepare_lsn, transaction.end_lsn);
            return Ok(());
        }
        session.feedback.handle_begin();
        self.begin(transaction.xid, transaction.commit_lsn, transaction.commit_time)?;
        while let Some(change) = next {
            self.encoder.change(&change);
            session.changes += 1;
            while self.encoder.is_full() {
                let mut shutdown = session.shutdown.clone();
                // Large ones take minutes: what is in the log of it by then is cut off at the next start, and all of it sent again.
                tokio::select! {
                    biased;
                    () = stopped(&mut shutdown) => return Err(SessionEnd::Shutdown),
                    given = self.give(session, stream) => given?,
                }
            }
            // Before the next one is read: each may be large.
            drop(change);
            next = replay.poll_change()?;
        }
        self.commit(session, &transaction);
        Ok(())
    }

    /// Waits for the log to take a batch, and answers the primary meanwhile. Cancellation-safe.
    async fn give(&mut self, session: &mut Session, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        let turn = tokio::select! {
            word = self.journal.next(self.encoder.has_batch()) => Turn::Journal(word),
            () = sleep_until(session.next_status) => Turn::Status,
        };
        match turn {
            Turn::Journal(word) => self.journal_says(session, stream, word)?,
            // Nothing is read here, so no answer is asked for.
            Turn::Event(_) | Turn::Rested | Turn::Status => self.report(session, stream, true),
        }
        Ok(())
    }

    /// Something has become durable.
    fn durable(&mut self, session: &mut Session, stream: &mut CopyStream) {
        self.encoder.prune(self.log.earliest().commit_lsn);
        let end = self.log.durable_end_lsn().min(session.given);
        if end.is_valid() {
            session.feedback.handle_durable(end);
            self.report(session, stream, false);
        }
    }

    /// The status interval is over.
    fn status(&mut self, session: &mut Session, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        let listens = !self.encoder.is_full();
        session.asks = 0;
        if session.asked && listens && Instant::now() > session.heard + SILENCE_MAX {
            return Err(SessionEnd::Silent(SILENCE_MAX));
        }
        self.report(session, stream, true);
        Ok(())
    }

    /// Tells the primary what is kept: with `now`, in any case; else where that has moved and the log itself proves it.
    ///
    /// Never waits: a status that can't be sent yet goes out with what is next read.
    fn report(&mut self, session: &mut Session, stream: &mut CopyStream, now: bool) {
        let wanted = session.feedback.confirmed();
        let proved = self.log.durable_end_lsn().max(self.confirmed.lsn()).max(session.start);
        let told = if wanted <= proved {
            wanted
        } else if now {
            match self.confirmed.write(wanted) {
                Ok(()) => wanted,
                Err(error) => {
                    if session.lines.is_due(Instant::now()) {
                        warn!(%error, "what is confirmed beyond the log can't be written down: the slot stays where it is");
                    }
                    proved
                }
            }
        } else {
            proved
        };
        let told = told.max(session.told);
        if !now && told == session.told {
            return;
        }
        session.told = told;
        let ask = now && Instant::now() >= session.heard + self.status_interval;
        session.asked |= ask;
        session.next_status = Instant::now() + self.status_interval;
        let time = PgTime::from_unix_micros(super::unix_micros());
        stream.try_send_status(&StandbyStatus { write: told, flush: told, apply: told, time, reply_requested: ask });
    }

    /// Ends in order: what is whole goes to the log, becomes durable and is confirmed; where there is room for it.
    async fn stop(&mut self, session: &mut Session, stream: &mut CopyStream) -> Result<(), SessionEnd> {
        while self.encoder.has_batch() && self.journal.full_since().is_none() {
            self.give(session, stream).await?;
        }
        while session.given > self.log.durable_end_lsn() && !self.encoder.is_parted() && self.journal.full_since().is_none() {
            let word = self.journal.next(false).await;
            self.journal_says(session, stream, word)?;
        }
        self.durable(session, stream);
        self.report(session, stream, true);
        Ok(())
    }

    fn tell_state(&self, session: &mut Session) {
        let (memory, spooled) = (self.assembler.memory_bytes() as u64, self.assembler.spooled_bytes());
        let (transactions, changes) = (std::mem::take(&mut session.transactions), std::mem::take(&mut session.changes));
        self.state.primary_lsn().set(session.server_end);
        self.state.update(|view| {
            (view.server_end, view.confirmed) = (session.server_end, session.told);
            (view.open_memory_bytes, view.spooled_bytes) = (memory, spooled);
            view.transactions += transactions;
            view.changes += changes;
        });
    }
}
