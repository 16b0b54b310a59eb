//! A recovery, step by step.
//!
//! ```text
//!   look      pg_control, pg_wal, the sink ──▶ Plan, or a refusal
//!   guard     from here on Postgres does not start on the folder
//!   stage     each segment under a temporary name, synced; every record's CRC; nothing contradicts
//!   commit    history, pg_control, what is in the way set aside; then names, the last segment first
//!   record    DIR/beyond-pg-recover.json
//!   guard     taken down
//! ```
//!
//! Nothing that Postgres reads is changed before `commit`. Killed anywhere and run again, it ends in the same place: staged files are made
//! anew, and those that have their name already are found to be the same. The names are given from the last segment to the first, so that
//! without the guard, too, Postgres would find the old end of the WAL until the very last rename.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use walbus::disk::{Disk, DiskFile, write_whole};
use walbus::segment::WalFile;
use walbus::{Lsn, Segment, SegmentName, Timeline};

use crate::api;

use super::chain::{Walk, has_pages_from};
use super::error::RecoverError;
use super::folder::{Folders, read_local, read_whole};
use super::history::ancestors;
use super::plan::{Held, Origin, Piece, Plan, Refusal, plan};
use super::record::Record;
use super::report::Report;
use super::stage::{Outcome, Proven, Stage, Staged, copy, remove_leftovers, temporary_name};
use super::{control, guard};

/// The sink, as a recovery needs it.
pub trait Remote: Sync {
    /// Its status, when all that it has written is flushed, or it said that this takes too long.
    ///
    /// # Errors
    /// Where it gives no answer.
    fn status(&self) -> Result<api::Status, RecoverError>;

    /// What it holds.
    ///
    /// # Errors
    /// Where it gives no answer.
    fn segments(&self) -> Result<api::Segments, RecoverError>;

    /// A timeline's history file.
    ///
    /// # Errors
    /// Where it gives no answer, or does not hold it.
    fn history(&self, timeline: Timeline) -> Result<Vec<u8>, RecoverError>;

    /// Hands all bytes of a segment to `take`, in order, each once.
    ///
    /// # Errors
    /// Where it gives no answer, or of `take`.
    fn segment(&self, name: &SegmentName, take: &mut dyn FnMut(&[u8]) -> Result<(), RecoverError>) -> Result<(), RecoverError>;
}

/// Who wants to see how it goes on.
pub trait Progress: Sync {
    /// So many bytes are to come.
    fn start(&self, bytes: u64);
    /// So many have come.
    fn advance(&self, bytes: u64);
    /// All have come.
    fn finish(&self);
}

/// What a recovery is made of.
#[expect(missing_debug_implementations, reason = "it is made of what others bring, functions among it")]
pub struct Job<'a, D: Disk, R: Remote> {
    /// The data folder.
    pub folders: &'a Folders<D>,
    /// The sink.
    pub remote: &'a R,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Fails where a server runs on the folder.
    pub refuse_running: &'a (dyn Fn() -> Result<(), RecoverError> + Sync),
    /// How many bytes are free for `pg_wal`.
    pub free_bytes: &'a (dyn Fn() -> Result<u64, RecoverError> + Sync),
    /// How many segments are downloaded at once.
    pub jobs: usize,
    /// Whether to change nothing.
    pub dry_run: bool,
    /// What is noted down beside the result.
    pub note: Note,
}

/// Where the WAL came from, and when.
#[derive(Debug, Clone)]
pub struct Note {
    /// The sink's URL.
    pub sink: String,
    /// Microseconds since 1970-01-01 UTC.
    pub time: i64,
}

/// What is known when all is staged.
struct Prepared {
    staged: Vec<Staged>,
    /// The walk at the end of all complete records, the folder's own that go on behind the sink's included.
    end: Walk,
    /// The end of the folder's own.
    local: Lsn,
}

impl<D: Disk, R: Remote> Job<'_, D, R> {
    /// Does it.
    ///
    /// # Errors
    /// [`RecoverError::Refused`] and [`RecoverError::NotUsable`]: nothing was changed. After any other one the folder is guarded against a
    /// start as soon as anything was begun: run it again.
    pub fn run(&self) -> Result<Report, RecoverError> {
        (self.refuse_running)()?;
        let guarded_before = guard::is_up(&self.folders.pgdata)?;
        let (plan, history) = self.look()?;
        let mut local = Walk::new(&plan)?;
        local.follow(&self.folders.wal, &plan)?;
        if plan.pieces.is_empty() {
            return self.nothing_needed(&plan, local);
        }
        if self.dry_run {
            let prepared = self.dry(&plan, &local)?;
            return self.report(&plan, &prepared, &self.to_set_aside(&plan, &prepared)?);
        }
        self.check_room(&plan, local.complete())?;
        guard::put_up(&self.folders.pgdata)?;
        let prepared = (self.refuse_running)().and_then(|()| self.prepare(&plan, &local));
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                // A refusal leaves all as it was; but what an earlier run began is still half done.
                let undo = matches!(error, RecoverError::Refused(_) | RecoverError::Running(_) | RecoverError::NotUsable(_));
                if undo && !guarded_before {
                    remove_leftovers(&self.folders.wal)?;
                    guard::take_down(&self.folders.pgdata)?;
                }
                return Err(error);
            }
        };
        let set_aside = self.commit(&plan, &prepared, history.as_deref())?;
        self.close(&plan, &prepared.end, prepared.end.complete())?;
        self.report(&plan, &prepared, &set_aside)
    }

    /// What to do; and the history of the timeline, where there is one.
    fn look(&self) -> Result<(Plan, Option<Vec<u8>>), RecoverError> {
        let local = read_local(self.folders)?;
        let status = self.remote.status()?;
        let timeline = status.timeline.and_then(Timeline::new).filter(|timeline| *timeline > Timeline::FIRST);
        if let (Some(written), Some(flushed)) = (lsn(status.written.as_ref()), lsn(status.flushed.as_ref()))
            && written > flushed
            && status.state != api::State::Streaming
        {
            // Where WAL still comes, the end shows that it grew.
            return Err(Refusal::SinkNotFlushed { written, flushed, problem: status.problem }.into());
        }
        if status.flushed.is_none() {
            return Err(Refusal::SinkEmpty { problem: status.problem }.into());
        }
        let segments = self.remote.segments()?;
        let history = timeline.map(|timeline| self.remote.history(timeline)).transpose()?;
        let from = match (timeline, &history) {
            (Some(timeline), Some(text)) => ancestors(timeline, text)
                .map_err(|error| Refusal::SinkUnreadable { what: format!("the history of timeline {timeline}: {error}") })?,
            _ => Vec::new(),
        };
        Ok((plan(&local, &Held::parse(&status, &segments, from)?)?, history))
    }

    /// The folder is further than the sink: that is well where it does not contradict it.
    fn nothing_needed(&self, plan: &Plan, local: Walk) -> Result<Report, RecoverError> {
        if local.seen.checkpoint != Some(true) {
            return Err(
                Refusal::CheckpointMissing { checkpoint: plan.checkpoint, folder: local.complete(), sink: plan.complete }.into()
            );
        }
        let segment = plan.segment_at(Lsn(plan.complete.0.saturating_sub(1)));
        let name = plan.name(segment);
        if let Ok(file) = self.folders.wal.open(name.as_str()) {
            let start = segment.start(plan.segment_size);
            let (mut at, mut differs) = (start, None);
            let mut ours = Vec::new();
            self.remote.segment(&name, &mut |bytes| {
                let len = usize::try_from(plan.complete.bytes_after(at)).map_or(bytes.len(), |left| left.min(bytes.len()));
                ours.resize(len, 0);
                let read =
                    file.read_at(&mut ours, at.bytes_after(start)).map_err(RecoverError::folder(format!("read pg_wal/{name}")))?;
                let index = (0..read).find(|index| ours[*index] != bytes[*index]);
                differs = differs.or_else(|| index.map(|index| Lsn(at.0 + index as u64)));
                at = Lsn(at.0 + bytes.len() as u64);
                Ok(())
            })?;
            if let Some(at) = differs {
                return Err(Refusal::Contradicts { at, folder: local.complete(), sink: plan.complete }.into());
            }
        }
        let end = local.complete();
        if !self.dry_run {
            // The WAL is of another disk than pg_control, and newer: Postgres would write over it.
            if must_revive(plan, &local) {
                self.revive()?;
            }
            self.close(plan, &local, end)?;
        }
        self.report(plan, &Prepared { staged: Vec::new(), end: local, local: end }, &[])
    }

    fn check_room(&self, plan: &Plan, local_end: Lsn) -> Result<(), RecoverError> {
        let size = plan.segment_size;
        // Where the folder has records of its own up to the segment's end they are the same, or nothing is done.
        let count = plan.pieces.iter().filter(|piece| piece.segment.end(size) > local_end).count();
        let needed = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(size.bytes()).saturating_add(size.bytes());
        let free = (self.free_bytes)()?;
        if free < needed { Err(RecoverError::NoRoom { needed, free }) } else { Ok(()) }
    }

    /// Goes through all of it, one byte after the other, and writes nothing.
    fn dry(&self, plan: &Plan, local: &Walk) -> Result<Prepared, RecoverError> {
        let proven = proven(plan, local);
        let mut walk = Walk::new(plan)?;
        let mut staged = Vec::new();
        self.progress.start(plan.download_bytes_max());
        for piece in &plan.pieces {
            if piece.origin == Origin::Folder {
                self.follow_piece(plan, &mut walk, piece, plan.name(piece.segment).as_str())?;
                staged.push(Staged { piece: *piece, outcome: Outcome::Kept, differs_at: None });
                continue;
            }
            let mut stage = Stage::new(&self.folders.wal, plan, &proven, *piece, false)?;
            let mut at = piece.segment.start(plan.segment_size);
            self.remote.segment(&plan.name(piece.segment), &mut |bytes| {
                stage.take(bytes)?;
                walk.feed_window(bytes, at, plan.complete);
                at = Lsn(at.0 + bytes.len() as u64);
                self.progress.advance(bytes.len() as u64);
                Ok(())
            })?;
            staged.push(stage.finish()?);
            unbroken(plan, &walk, piece)?;
        }
        self.progress.finish();
        self.prove(plan, local, walk, staged)
    }

    /// Stages all segments and proves them.
    fn prepare(&self, plan: &Plan, local: &Walk) -> Result<Prepared, RecoverError> {
        remove_leftovers(&self.folders.wal)?;
        let proven = proven(plan, local);
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, results) = mpsc::channel();
        self.progress.start(plan.download_bytes_max());
        let mut walk = Walk::new(plan)?;
        let staged = std::thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, plan.pieces.len().max(1)) {
                let sender = sender.clone();
                let (next, stop, proven) = (&next, &stop, &proven);
                scope.spawn(move || {
                    while let Some(piece) = plan.pieces.get(next.fetch_add(1, Ordering::Relaxed))
                        && !stop.load(Ordering::Relaxed)
                    {
                        // Nobody listens any more where another one failed.
                        drop(sender.send((piece.segment, self.stage(plan, proven, *piece, stop))));
                    }
                });
            }
            drop(sender);
            let staged = self.follow_staged(plan, &mut walk, &results);
            stop.store(true, Ordering::Relaxed);
            staged
        })?;
        self.progress.finish();
        let prepared = self.prove(plan, local, walk, staged)?;
        self.join_local(plan, prepared)
    }

    fn stage(&self, plan: &Plan, proven: &Proven<'_>, piece: Piece, stop: &AtomicBool) -> Result<Staged, RecoverError> {
        if piece.origin == Origin::Folder {
            return Ok(Staged { piece, outcome: Outcome::Kept, differs_at: None });
        }
        let mut stage = Stage::new(&self.folders.wal, plan, proven, piece, true)?;
        self.remote.segment(&plan.name(piece.segment), &mut |bytes| {
            if stop.load(Ordering::Relaxed) {
                return Err(RecoverError::Stopped);
            }
            stage.take(bytes)?;
            self.progress.advance(bytes.len() as u64);
            Ok(())
        })?;
        stage.finish()
    }

    /// Follows the records through the segments in their order, as they come in any.
    fn follow_staged(
        &self,
        plan: &Plan,
        walk: &mut Walk,
        results: &mpsc::Receiver<(Segment, Result<Staged, RecoverError>)>,
    ) -> Result<Vec<Staged>, RecoverError> {
        let mut waiting = BTreeMap::new();
        let mut staged: Vec<Staged> = Vec::new();
        for (segment, result) in results {
            waiting.insert(segment, result?);
            while let Some(due) = plan.pieces.get(staged.len())
                && let Some(next) = waiting.remove(&due.segment)
            {
                let name = match next.outcome {
                    Outcome::Identical | Outcome::Kept => plan.name(due.segment).to_string(),
                    Outcome::New | Outcome::Overwritten => temporary_name(plan, due.segment),
                };
                self.follow_piece(plan, walk, due, &name)?;
                staged.push(next);
            }
        }
        Ok(staged)
    }

    fn follow_piece(&self, plan: &Plan, walk: &mut Walk, piece: &Piece, name: &str) -> Result<(), RecoverError> {
        let doing = || RecoverError::folder(format!("read pg_wal/{name}"));
        let file = self.folders.wal.open(name).map_err(doing())?;
        let end = piece.segment.end(plan.segment_size).min(plan.complete);
        let mut buffer = vec![0; 1 << 20];
        walk.follow_file(&file, piece.segment, plan, end, &mut buffer).map_err(doing())?;
        unbroken(plan, walk, piece)
    }

    /// Proves that the records go on up to what the sink says, and finds how far the folder's own go on from there.
    fn prove(&self, plan: &Plan, local: &Walk, walk: Walk, staged: Vec<Staged>) -> Result<Prepared, RecoverError> {
        if walk.complete() < plan.complete {
            return Err(broken(plan, &walk, "a record is not complete"));
        }
        let mut end = walk;
        end.follow(&self.folders.wal, plan)?;
        match end.seen.checkpoint {
            Some(true) => {}
            Some(false) => return Err(Refusal::CheckpointOther { checkpoint: plan.checkpoint }.into()),
            None => {
                let (folder, sink) = (end.complete().max(local.complete()), plan.complete);
                return Err(Refusal::CheckpointMissing { checkpoint: plan.checkpoint, folder, sink }.into());
            }
        }
        if plan.needs_backup_end && !end.seen.backup_end {
            return Err(Refusal::BackupEndMissing { end: end.complete() }.into());
        }
        let now = self.remote.status()?;
        match lsn(now.flushed.as_ref()) {
            Some(now) if now > plan.flushed => Err(RecoverError::Grew { planned: plan.flushed, now }),
            _ => Ok(Prepared { staged, end, local: local.complete() }),
        }
    }

    /// Where the folder's own records go on behind the sink's, they stay.
    fn join_local(&self, plan: &Plan, mut prepared: Prepared) -> Result<Prepared, RecoverError> {
        if prepared.end.complete() <= plan.complete {
            return Ok(prepared);
        }
        let size = plan.segment_size;
        for staged in &mut prepared.staged {
            let segment = staged.piece.segment;
            if segment.end(size) <= plan.complete || matches!(staged.outcome, Outcome::Identical | Outcome::Kept) {
                continue;
            }
            let temporary = temporary_name(plan, segment);
            let doing = || RecoverError::folder(format!("write pg_wal/{temporary}"));
            if staged.differs_at.is_none_or(|at| at >= plan.complete) {
                self.folders.wal.remove(&temporary).map_err(doing())?;
                staged.outcome = Outcome::Kept;
                continue;
            }
            let file = self.folders.wal.open(&temporary).map_err(doing())?;
            let ours = self.folders.wal.open(plan.name(segment).as_str()).map_err(doing())?;
            let len = ours.len().map_err(doing())?.min(size.bytes());
            copy(&ours, &file, size.offset(plan.complete), len).map_err(doing())?;
            file.sync().map_err(doing())?;
        }
        Ok(prepared)
    }

    /// The files in `pg_wal` that could be taken for WAL that goes on behind the end, and are no part of it.
    fn to_set_aside(&self, plan: &Plan, prepared: &Prepared) -> Result<Vec<Segment>, RecoverError> {
        let mut aside = Vec::new();
        if prepared.end.complete() > plan.complete {
            return Ok(aside);
        }
        for staged in &prepared.staged {
            let start = staged.piece.segment.start(plan.segment_size);
            if staged.outcome == Outcome::Overwritten
                && has_pages_from(&self.folders.wal, plan, staged.piece.segment, start.max(prepared.local))?
            {
                aside.push(staged.piece.segment);
            }
        }
        for (segment, _) in &plan.beyond {
            if has_pages_from(&self.folders.wal, plan, *segment, segment.start(plan.segment_size))? {
                aside.push(*segment);
            }
        }
        Ok(aside)
    }

    /// Changes what Postgres reads.
    fn commit(&self, plan: &Plan, prepared: &Prepared, history: Option<&[u8]>) -> Result<Vec<Segment>, RecoverError> {
        let wal = &self.folders.wal;
        let sync = || wal.sync_dir().map_err(RecoverError::folder("sync pg_wal"));
        if let (true, Some(text)) = (plan.write_history, history) {
            let name = WalFile::History(plan.timeline).name();
            write_whole(wal, &name, text).map_err(RecoverError::folder(format!("write pg_wal/{name}")))?;
        }
        if must_revive(plan, &prepared.end) {
            self.revive()?;
        }
        let aside = self.to_set_aside(plan, prepared)?;
        let names = wal.list().map_err(RecoverError::folder("list pg_wal"))?;
        for segment in aside.iter().rev() {
            let name = plan.name(*segment);
            let kept = (1_u32..).map(|n| set_aside_name(&name, n)).find(|kept| !names.iter().any(|(used, _)| used == kept));
            let kept = kept.unwrap_or_else(|| set_aside_name(&name, 0));
            wal.rename(name.as_str(), &kept).map_err(RecoverError::folder(format!("rename pg_wal/{name}")))?;
        }
        sync()?;
        let waiting = prepared.staged.iter().filter(|staged| matches!(staged.outcome, Outcome::New | Outcome::Overwritten));
        for (index, staged) in waiting.enumerate().collect::<Vec<_>>().into_iter().rev() {
            if index == 0 {
                // With this one the chain is whole; so the others are durable before.
                sync()?;
            }
            let name = plan.name(staged.piece.segment);
            let temporary = temporary_name(plan, staged.piece.segment);
            wal.rename(&temporary, name.as_str()).map_err(RecoverError::folder(format!("rename pg_wal/{temporary}")))?;
        }
        sync()?;
        Ok(aside)
    }

    /// Makes `pg_control` say what it said when the WAL behind its checkpoint was written.
    fn revive(&self) -> Result<(), RecoverError> {
        let bytes = read_whole(&self.folders.global, "pg_control")?.unwrap_or_default();
        let revived = control::in_production(&bytes)?;
        write_whole(&self.folders.global, "pg_control", &revived).map_err(RecoverError::folder("write global/pg_control"))
    }

    /// Notes down what must be reached, and lets Postgres start.
    fn close(&self, plan: &Plan, end: &Walk, target: Lsn) -> Result<(), RecoverError> {
        let record = Record::new(&self.folders.wal, plan, end.complete(), target, &self.note)?;
        record.write(&self.folders.pgdata)?;
        guard::take_down(&self.folders.pgdata)
    }

    fn report(&self, plan: &Plan, prepared: &Prepared, aside: &[Segment]) -> Result<Report, RecoverError> {
        let mut report = Report::new(plan, self.dry_run, prepared.local, prepared.end.complete());
        report.pg_control_changed = must_revive(plan, &prepared.end);
        report.set_aside = aside.iter().map(|segment| plan.name(*segment).to_string()).collect();
        for staged in &prepared.staged {
            report.count(staged, plan);
        }
        Ok(report)
    }
}

fn set_aside_name(name: &SegmentName, number: u32) -> String {
    format!("{name}.set-aside-{number}")
}

fn lsn(text: Option<&String>) -> Option<Lsn> {
    text?.parse().ok()
}

/// Whether Postgres would start without replaying what follows the checkpoint.
fn must_revive(plan: &Plan, end: &Walk) -> bool {
    plan.shut_down && end.seen.after_checkpoint
}

fn proven<'a>(plan: &Plan, local: &'a Walk) -> Proven<'a> {
    Proven { end: local.complete().min(plan.complete), local: local.complete(), unused: &local.seen.unused }
}

fn unbroken(plan: &Plan, walk: &Walk, piece: &Piece) -> Result<(), RecoverError> {
    let from = match piece.origin {
        Origin::Folder => "in pg_wal",
        Origin::Sink => "from the sink",
    };
    match &walk.broken {
        None => Ok(()),
        // Nothing at all fits at the place where replay starts: then it is another history.
        Some(_) if walk.complete() == plan.redo && piece.origin == Origin::Sink => {
            Err(Refusal::CheckpointOther { checkpoint: plan.redo }.into())
        }
        Some(error) => Err(broken(plan, walk, &format!("{error}, in segment {} {from}", plan.name(piece.segment)))),
    }
}

fn broken(plan: &Plan, walk: &Walk, what: &str) -> RecoverError {
    Refusal::Broken { at: walk.complete(), complete: plan.complete, what: what.to_owned() }.into()
}
