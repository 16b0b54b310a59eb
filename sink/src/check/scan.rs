//! Each record of a timeline, and what the end of it is.

use std::collections::BTreeMap;

use walbus::proto::control::DbState;
use walbus::proto::wal::{DecodeError, Decoder, MAX_RECORD_BYTES, PAGE_BYTES, PageHeader, RECORD_HEADER_BYTES, Record, WalEvent};
use walbus::{Lsn, PgTime, Segment, Timeline};

use super::folder::{Folder, Identity, SegmentFile};
use super::{Finding, Parent, RestorePoint, TimelineReport};

/// How much of a file is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Checks all that is held of a timeline.
pub(super) fn timeline(folder: &Folder, timeline: Timeline, findings: &mut Vec<Finding>) -> anyhow::Result<TimelineReport> {
    let segments = folder.segments(timeline);
    let mut tally = Tally::default();
    let mut report = TimelineReport {
        timeline: timeline.get(),
        parent: folder
            .histories()
            .get(&timeline)
            .and_then(|history| history.ancestors().last())
            .map(|parent| Parent { timeline: parent.timeline.get(), end: parent.end }),
        segments: segments.len(),
        from: Lsn::INVALID,
        complete_end: Lsn::INVALID,
        pending_record: None,
        records: 0,
        commits: 0,
        time_min: None,
        time_max: None,
        restore_points: Vec::new(),
    };
    let Some(identity) = folder.identity() else { return Ok(report) };
    report.from = segments.first().map_or(Lsn::INVALID, |(segment, _)| segment.start(identity.segment));
    let mut decoder: Option<Decoder> = None;
    let mut before: Option<(Segment, &SegmentFile)> = None;
    for (index, (segment, file)) in segments.iter().copied().enumerate() {
        decoder = match before {
            Some((last, _)) if last.next() != segment => {
                findings.push(gap(identity, last.next(), segment, file));
                None
            }
            Some((_, last)) if last.is_partial => {
                findings.push(Finding::error(&last.name, None, format!("is not finished, but {} follows it", file.name)));
                None
            }
            _ => decoder,
        };
        before = Some((segment, file));
        let start = segment.start(identity.segment);
        let fresh = || Ok::<_, DecodeError>(Decoder::new(identity.segment, start, timeline)?.with_system(identity.system));
        let mut now = decoder.take().map_or_else(fresh, Ok)?;
        let stopped = decode(folder, file, identity, &mut now, &mut tally)?;
        report.complete_end = now.complete_end().max(report.complete_end);
        report.pending_record = now.pending_record();
        let Some(error) = stopped else {
            decoder = (now.position() == segment.end(identity.segment)).then_some(now);
            continue;
        };
        let later = segments.get(index + 1..).unwrap_or_default();
        match judge(folder, identity, (segment, file), later, &error)? {
            Verdict::Damage(problem) => findings.push(Finding::error(&file.name, Some(error.lsn), problem)),
            Verdict::EndOfWal { pending } => {
                report.pending_record = pending.then_some(now.complete_end());
                report.segments = index + 1;
                break;
            }
        }
    }
    tally.into_report(&mut report);
    Ok(report)
}

/// What a server says of its own WAL.
pub(super) fn against_control(folder: &Folder, timelines: &BTreeMap<Timeline, TimelineReport>, findings: &mut Vec<Finding>) {
    let Some(control) = &folder.control else { return };
    let held = timelines.get(&control.timeline).map_or(Lsn::INVALID, |report| report.complete_end);
    let is_down = matches!(control.state, DbState::ShutDown | DbState::ShutDownInRecovery);
    if held <= control.checkpoint && is_down {
        let problem = format!(
            "the server was shut down with a checkpoint at {} on timeline {}, but WAL is right up to {held} only: it will not start",
            control.checkpoint, control.timeline
        );
        findings.push(Finding::error("../global/pg_control", Some(control.checkpoint), problem));
    }
    if folder.identity().is_some_and(|identity| identity.system != control.system) {
        let problem = format!("is of the cluster with system identifier {}, the WAL is not", control.system);
        findings.push(Finding::error("../global/pg_control", None, problem));
    }
}

fn gap(identity: Identity, first: Segment, next: Segment, file: &SegmentFile) -> Finding {
    let missing = next.number - first.number;
    let last = Segment { number: next.number - 1, ..first };
    let (from, to) = (first.name(identity.segment), last.name(identity.segment));
    let problem = match missing {
        1 => format!("the segment before it, {from}, is missing"),
        _ => format!("the {missing} segments before it, {from} to {to}, are missing"),
    };
    Finding::error(&file.name, Some(first.start(identity.segment)), problem)
}

/// Feeds a segment's file to the decoder. Gives what stopped it.
fn decode(
    folder: &Folder,
    file: &SegmentFile,
    identity: Identity,
    decoder: &mut Decoder,
    tally: &mut Tally,
) -> anyhow::Result<Option<DecodeError>> {
    let end = file.len.min(identity.segment.bytes());
    let mut offset = 0;
    while offset < end {
        let len = usize::try_from(end - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let bytes = folder.read_at(&file.name, offset, len)?;
        if bytes.is_empty() {
            break; // It was cut off meanwhile.
        }
        offset += bytes.len() as u64;
        if let Err(error) = decoder.push(&bytes, &mut |record| tally.add(record)) {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

/// What it means that a segment is not valid WAL up to its end.
enum Verdict {
    /// WAL is lost.
    Damage(String),
    /// WAL ends there as it should, within a record or not.
    EndOfWal { pending: bool },
}

fn judge(
    folder: &Folder,
    identity: Identity,
    (segment, file): (Segment, &SegmentFile),
    later: &[(Segment, &SegmentFile)],
    error: &DecodeError,
) -> anyhow::Result<Verdict> {
    if error.is_foreign() {
        return Ok(Verdict::Damage(error.reason.to_string()));
    }
    let mut is_last = true;
    for (segment, file) in later {
        is_last &= !begins(folder, identity, *segment, file)?;
    }
    if !is_last {
        return Ok(Verdict::Damage(format!("{}; WAL goes on in later segments", error.reason)));
    }
    let has_ended = folder.last_switchpoint(segment.timeline).is_some_and(|end| error.lsn >= end);
    if has_ended || folder.is_pg_wal {
        return Ok(Verdict::EndOfWal { pending: false });
    }
    if !file.is_partial {
        let problem = format!("{}; a segment under its final name must be valid to its end", error.reason);
        return Ok(Verdict::Damage(problem));
    }
    // What was received is the start of what was sent: behind a record in flight there is nothing.
    let start = segment.start(identity.segment);
    let home = folder.segment(Segment::containing(segment.timeline, error.lsn, identity.segment)).unwrap_or(file);
    let end = torn_end(folder, home, identity.segment.offset(error.lsn), error.lsn)?;
    let from = if error.lsn < start { 0 } else { identity.segment.offset(error.lsn) };
    let last = last_written(folder, file, from)?.map(|offset| Lsn(start.0 + offset));
    Ok(match last {
        Some(last) if error.is_unwritten() || last >= end => {
            Verdict::Damage(format!("{}; but there is something up to {last}", error.reason))
        }
        _ => Verdict::EndOfWal { pending: last.is_some() || error.lsn < start },
    })
}

/// Whether a segment starts with a page that belongs there, and is not one kept for later use.
fn begins(folder: &Folder, identity: Identity, segment: Segment, file: &SegmentFile) -> anyhow::Result<bool> {
    let header = PageHeader::parse(&folder.read_at(&file.name, 0, 40)?);
    Ok(header.is_some_and(|header| header.version().is_some() && header.address == segment.start(identity.segment)))
}

/// Where what could not be decoded at `lsn` would end at most, were it whole: the page's header, or the record.
fn torn_end(folder: &Folder, file: &SegmentFile, offset: u64, lsn: Lsn) -> anyhow::Result<Lsn> {
    let page = u64::from(PAGE_BYTES);
    if lsn.0.is_multiple_of(page) {
        return Ok(Lsn(lsn.0 + 40));
    }
    let total = folder.read_at(&file.name, offset, 4)?.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let total = if (RECORD_HEADER_BYTES..=MAX_RECORD_BYTES).contains(&total) { total } else { RECORD_HEADER_BYTES };
    // Each page that it reaches has a header of 40 bytes at most.
    let pages = (lsn.0 % page + u64::from(total)) / (page - 40) + 1;
    Ok(Lsn(lsn.0 + u64::from(total) + pages * 40).align_up())
}

/// The offset of the last byte that is not zero, from `from` on.
fn last_written(folder: &Folder, file: &SegmentFile, from: u64) -> anyhow::Result<Option<u64>> {
    let mut last = None;
    let mut offset = from;
    loop {
        let bytes = folder.read_at(&file.name, offset, CHUNK_BYTES)?;
        if bytes.is_empty() {
            return Ok(last);
        }
        last = bytes.iter().rposition(|byte| *byte != 0).map(|at| offset + at as u64).or(last);
        offset += bytes.len() as u64;
    }
}

/// What is counted on the way.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    commits: u64,
    times: Option<(PgTime, PgTime)>,
    restore_points: Vec<RestorePoint>,
}

impl Tally {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        match &record.event {
            Some(WalEvent::Commit { time } | WalEvent::CommitPrepared { time, .. }) => {
                self.commits += 1;
                self.time(*time);
            }
            Some(WalEvent::Abort { time } | WalEvent::AbortPrepared { time, .. }) => self.time(*time),
            Some(WalEvent::RestorePoint { time, name }) => {
                self.restore_points.push(RestorePoint { name: name.clone(), end: record.end, time: rfc3339(*time) });
            }
            _ => {}
        }
    }

    fn time(&mut self, time: PgTime) {
        let (min, max) = self.times.unwrap_or((time, time));
        self.times = Some((min.min(time), max.max(time)));
    }

    fn into_report(self, report: &mut TimelineReport) {
        report.records = self.records;
        report.commits = self.commits;
        report.time_min = self.times.and_then(|(min, _)| rfc3339(min));
        report.time_max = self.times.and_then(|(_, max)| rfc3339(max));
        report.restore_points = self.restore_points;
    }
}

fn rfc3339(time: PgTime) -> Option<String> {
    jiff::Timestamp::from_microsecond(time.to_unix_micros()).ok().map(|time| time.to_string())
}
