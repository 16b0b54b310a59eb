//! Folder and archive together reach the target, or why they do not.

use anyhow::{Context, bail};
use walbus::archive::envelope::ContentHash;
use walbus::archive::index::SegmentIndex;
use walbus::proto::history::History;
use walbus::proto::wal::{DecodeError, Record, WalEvent};
use walbus::{Lsn, PgTime, Segment, SegmentSize, Timeline};

use super::folder::{Folder, Local, LocalEnd};
use crate::fetch::{complete_end, reaches};
use crate::holdings::Holdings;
use crate::plan::base::{Found, Reach};
use crate::plan::{Base, Chain, Consistency, Goal, Held, Kind, Link, ParameterChange, Refusal, Run, Target};
use crate::search::{Commit, Search};

/// How many segments before the one in which replay starts are looked through for the last commit that the folder holds.
const BACK_MAX: usize = 64;

/// What was proven.
#[derive(Debug)]
pub(super) struct Proof {
    /// The timeline that recovery follows.
    pub timeline: Timeline,
    /// From where on the data is consistent.
    pub consistent: Lsn,
    /// Where recovery stops; `None` at the end of the WAL, or as soon as the data is consistent.
    pub found: Option<Found>,
    /// The end of what is replayed.
    pub replayed: Lsn,
    /// The last commit that will be there.
    pub commit_before: Option<Commit>,
    /// The first one that will not.
    pub commit_after: Option<Commit>,
    /// The changes of settings that recovery goes through.
    pub parameter_changes: Vec<ParameterChange>,
    /// How many segments recovery reads.
    pub segments: usize,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Proves that recovery from this folder reaches the goal.
///
/// # Errors
/// A [`Refusal`] where it does not; others where folder or archive can't be read.
pub(super) async fn prove(
    holdings: &Holdings,
    folder: &Folder,
    local: &Local,
    goal: &Goal,
    named: Option<Timeline>,
) -> anyhow::Result<Proof> {
    let history = choose(holdings, local, named)?;
    let mut chain = holdings.chain_along(history);
    let own_end = join_folder(holdings, folder, local, &mut chain).await?;
    let run = start(local, &chain)?;
    let search = Search::new(holdings, run, chain.timeline()).await?;
    let checkpoint_end = check_checkpoint(local, &search, &chain).await?;
    let mut reach = reach(&search, local, own_end.as_ref()).await?;
    let consistent = consistent(holdings, local, &search, &reach, own_end.as_ref(), checkpoint_end).await?;
    reach.from = Some(consistent);
    check_held(holdings, local, goal, &chain, &reach).await?;

    let found = match &goal.target {
        Target::Immediate => immediate(local, goal, &chain, consistent, &reach).map(|()| None)?,
        Target::Latest => latest(&local.base, goal, &chain, search.run().end, consistent, &reach).map(|()| None)?,
        _ => Some(stop(holdings, local, goal, &chain, &search, consistent, &reach).await?),
    };
    let replayed = match (&found, &goal.target) {
        (Some(found), _) => found.replayed(),
        (None, Target::Immediate) => consistent,
        (None, _) => reach.to.unwrap_or(consistent),
    };
    let size = chain.size();
    if let Some((segment, invalid)) = search.invalid_before(local.base.redo, replayed).await? {
        let (segment, goal) = (segment.name(size).to_string(), goal.to_string());
        return Err(Refusal::Invalid { goal, segment, at: invalid.at, problem: invalid.reason }.into());
    }
    let parameter_changes = search.parameter_changes(local.base.redo, replayed).await?;
    check_level(local, goal, &parameter_changes, &reach)?;
    let segments = search.run().links.iter().filter(|link| link.segment.start(size) < replayed).count();
    let warnings = warnings(local, &search, chain.timeline());
    let (commit_before, commit_after) = (search.commit_before(replayed).await?, search.commit_after(replayed).await?);
    let timeline = chain.timeline();
    Ok(Proof { timeline, consistent, found, replayed, commit_before, commit_after, parameter_changes, segments, warnings })
}

/// Refuses WAL that was written with `wal_level = minimal`.
fn check_level(local: &Local, goal: &Goal, changes: &[ParameterChange], reach: &Reach) -> Result<(), Refusal> {
    let from_start = (local.control.wal_level == 0).then_some(local.base.redo);
    let at = from_start.or_else(|| changes.iter().find(|change| change.is_minimal).map(|change| change.lsn));
    at.map_or(Ok(()), |at| Err(Refusal::Minimal { goal: goal.to_string(), at, reach: reach.clone() }))
}

/// The timeline that recovery follows: the one that is named, or the newest with WAL that goes through where the folder starts.
fn choose(holdings: &Holdings, local: &Local, named: Option<Timeline>) -> anyhow::Result<History> {
    let inventory = holdings.inventory();
    let base = &local.base;
    let possible: Vec<Timeline> = inventory
        .all_through(base.timeline, base.checkpoint)
        .into_iter()
        .filter(|timeline| inventory.history(*timeline).is_ok_and(|history| base.check_descent(&history, &[]).is_ok()))
        .collect();
    let has_wal = |timeline: &Timeline| {
        let mut segments = inventory.whole.iter().chain(inventory.tails.keys()).chain(&inventory.partial);
        segments.any(|segment| segment.timeline == *timeline)
    };
    let newest = possible.iter().rev().find(|timeline| has_wal(timeline)).copied();
    let timeline = named.or(newest).unwrap_or(base.own_timeline);
    let history = inventory.history(timeline)?;
    base.check_descent(&history, &possible)?;
    Ok(history)
}

/// Takes the folder's own WAL into the chain, as far as recovery reads it. Gives its end where the folder is consistent only from there on.
async fn join_folder(holdings: &Holdings, folder: &Folder, local: &Local, chain: &mut Chain) -> anyhow::Result<Option<LocalEnd>> {
    let size = chain.size();
    let first = size.number(local.base.redo);
    if local.base.consistency != Consistency::FolderEnd {
        // Postgres keeps files for WAL to come, under names to come: those hold what was long ago.
        for segment in local.segments.iter().copied().filter(|segment| segment.number >= first) {
            if folder.has_begun(segment, &local.control)? {
                take_own(holdings, folder, size, chain, segment).await?;
            }
        }
        return Ok(None);
    }
    check_own_timeline(holdings, folder, local, chain, first)?;
    let own = local.own_end(folder, chain.history())?;
    if let Some(left) = chain.history().switchpoint(own.segment.timeline)
        && own.end > left
    {
        let why = format!(
            "it leaves timeline {} at {left}, and this folder's own WAL, which is always replayed whole, goes on to {}",
            own.segment.timeline, own.end
        );
        let possible = holdings.inventory().all_through(own.segment.timeline, Lsn(own.end.0 - 1));
        return Err(Refusal::OtherBranch { timeline: chain.timeline(), why, possible }.into());
    }
    check_same(holdings, folder, local, chain, &own).await?;
    let read = first..=own.segment.number;
    for segment in local.segments.iter().copied().filter(|segment| read.contains(&segment.number)) {
        take_own(holdings, folder, size, chain, segment).await?;
    }
    Ok(Some(own))
}

/// Refuses a copy of one moment whose own WAL goes over to a timeline that recovery would not go through: of a server that was promoted and has
/// made no checkpoint since. Its data may hold what was written there.
fn check_own_timeline(holdings: &Holdings, folder: &Folder, local: &Local, chain: &Chain, first: u64) -> anyhow::Result<()> {
    let elsewhere = |segment: &&Segment| segment.number >= first && !chain.history().contains(segment.timeline);
    for segment in local.segments.iter().filter(elsewhere) {
        if folder.has_begun(*segment, &local.control)? {
            let own = segment.timeline;
            let why = format!("this folder's own WAL goes over to timeline {own}, which it does not go through");
            let possible = holdings.inventory().all_through(own, segment.start(chain.size()));
            return Err(Refusal::OtherBranch { timeline: chain.timeline(), why, possible }.into());
        }
    }
    Ok(())
}

/// Takes a segment of the folder's own into the chain, where that is what recovery reads: as `fetch` decides it, when Postgres asks for it.
async fn take_own(
    holdings: &Holdings,
    folder: &Folder,
    size: SegmentSize,
    chain: &mut Chain,
    segment: Segment,
) -> anyhow::Result<()> {
    let Some(rival) = chain.rival_of(segment) else { return Ok(()) };
    let ours = folder.segment(segment, size)?;
    if let Some(part) = rival {
        let theirs = holdings.bytes(&part).await?;
        if !reaches(&ours, &theirs, segment, size) {
            return Ok(());
        }
    }
    // The last one of a server ends somewhere.
    let index = SegmentIndex::with_hash(holdings.inventory().system, segment, size, &ours, ContentHash([0; 32]));
    let end = index.invalid.map_or_else(|| segment.end(size), |invalid| invalid.at);
    if end > segment.start(size) {
        chain.take_folder(segment, end);
    }
    Ok(())
}

/// Refuses a folder whose newest WAL is not what the archive has there.
async fn check_same(holdings: &Holdings, folder: &Folder, local: &Local, chain: &Chain, own: &LocalEnd) -> anyhow::Result<()> {
    let size = local.control.segment;
    let start = own.segment.start(size);
    let Some(link) = chain.at(start).copied() else { return Ok(()) };
    let ours = folder.segment(own.segment, size)?;
    let theirs = holdings.bytes(&link).await?;
    // Behind the last record of a `.partial` is what a recycled file held.
    let theirs_end = if link.held == Held::Partial { complete_end(&theirs, link.segment, size) } else { link.end(size) };
    match first_difference(&ours, &theirs, start, own.end.min(theirs_end)) {
        Some(at) => Err(Refusal::Diverged { segment: own.segment.name(size).to_string(), at }.into()),
        None => Ok(()),
    }
}

/// Where two copies of a segment differ first before `end`.
fn first_difference(ours: &[u8], theirs: &[u8], start: Lsn, end: Lsn) -> Option<Lsn> {
    let compared = usize::try_from(end.bytes_after(start)).unwrap_or(usize::MAX);
    let at = ours.iter().zip(theirs).take(compared).position(|(ours, theirs)| ours != theirs)?;
    Some(Lsn(start.0 + at as u64))
}

/// The WAL from where replay starts on, up to the first gap.
fn start(local: &Local, chain: &Chain) -> anyhow::Result<Run> {
    let base = &local.base;
    chain.from(base.redo).map_err(|gap| {
        let next = gap.and_then(|gap| chain.at(gap.end).map(|link| link.segment.name(chain.size()).to_string()));
        Refusal::NoStart { system: base.system, timeline: chain.timeline(), redo: base.redo, next }.into()
    })
}

/// Makes sure that the WAL has the folder's checkpoint where the folder says. Gives the end of its record.
async fn check_checkpoint(local: &Local, search: &Search<'_>, chain: &Chain) -> anyhow::Result<Lsn> {
    let base = &local.base;
    let other =
        || Refusal::Checkpoint { checkpoint: base.checkpoint, redo: base.redo, timeline: base.timeline, system: base.system };
    let at = |record: &Record| (record.lsn >= base.checkpoint).then(|| record.clone());
    let read = search.first(base.redo, at).await;
    let (found, end) = match read {
        Err(error)
            if error.chain().any(|cause| cause.downcast_ref::<DecodeError>().is_some_and(|error| error.lsn == base.redo)) =>
        {
            bail!(other())
        }
        read => read?,
    };
    match found {
        Some(record) => match record.event {
            Some(WalEvent::CheckpointOnline { redo, .. } | WalEvent::CheckpointShutdown { redo, .. })
                if record.lsn == base.checkpoint && redo == base.redo =>
            {
                Ok(record.end)
            }
            _ => Err(other().into()),
        },
        // The very first record is none.
        None if end.last.is_none() && end.broken.is_some() => Err(other().into()),
        None => bail!(
            "the WAL of timeline {} ends at {}, before the checkpoint at {} that this folder starts from: archive the rest",
            chain.timeline(),
            end.complete,
            base.checkpoint
        ),
    }
}

async fn reach(search: &Search<'_>, local: &Local, own_end: Option<&LocalEnd>) -> anyhow::Result<Reach> {
    let end = search.end().await?;
    Ok(Reach {
        from: None,
        to: Some(own_end.map_or(end.complete, |own| own.end.max(end.complete))),
        newest: search.newest_time(local.base.redo),
    })
}

/// From where on the data is consistent.
async fn consistent(
    holdings: &Holdings,
    local: &Local,
    search: &Search<'_>,
    reach: &Reach,
    own_end: Option<&LocalEnd>,
    checkpoint_end: Lsn,
) -> anyhow::Result<Lsn> {
    let base = &local.base;
    match base.consistency {
        Consistency::At(_) if base.kind == Kind::ShutDown => Ok(checkpoint_end),
        Consistency::At(lsn) => Ok(lsn),
        Consistency::FolderEnd => Ok(own_end.context("the folder's own WAL was not read")?.end),
        Consistency::BackupEnd { start, not_before } => {
            let backups = holdings.backups().await?;
            let same = |known: &&crate::holdings::KnownBackup| {
                let label = &known.history.label;
                label.start == start && label.timeline == base.timeline && search.run().contains(Lsn(known.history.stop.0 - 1))
            };
            if let Some(known) = backups.iter().find(same) {
                return Ok(known.history.stop.max(not_before));
            }
            let is_end = |record: &Record| {
                matches!(record.event, Some(WalEvent::BackupEnd { start: of }) if of == start).then_some(record.end)
            };
            let (found, end) = search.first(base.redo, is_end).await?;
            let missing = || Refusal::BackupEndMissing { start, end: reach.to.unwrap_or(end.complete) };
            Ok(found.ok_or_else(missing)?.max(not_before))
        }
    }
}

/// Refuses a moment before the last commit in the folder. Where the archive does not have that commit, the checkpoint's own time stands for
/// it.
async fn check_held(holdings: &Holdings, local: &Local, goal: &Goal, chain: &Chain, reach: &Reach) -> anyhow::Result<()> {
    let base = &local.base;
    let Target::Time(wanted) = goal.target else { return Ok(()) };
    let Some(mut run) = chain.runs().into_iter().find(|run| run.contains(base.redo)) else { return Ok(()) };
    let size = chain.size();
    let behind = run.links.partition_point(|link: &Link| link.segment.start(size) <= base.redo);
    run.links.truncate(behind);
    run.links.drain(..behind.saturating_sub(BACK_MAX));
    let search = Search::new(holdings, run, chain.timeline()).await?;
    let last = search.commit_before(base.redo).await?;
    base.check_held(goal, last.map(|commit| (commit.end, commit.time)), reach)?;
    let checkpoint_time = PgTime::from_unix_micros(local.control.checkpoint_time_unix_s.saturating_mul(1_000_000));
    if last.is_none() && wanted < checkpoint_time {
        return Err(Refusal::CommitsUnknown { goal: goal.to_string(), since: checkpoint_time, reach: reach.clone() }.into());
    }
    Ok(())
}

/// Whether recovery stops as soon as the data is consistent: by a record, so that there must be one.
fn immediate(local: &Local, goal: &Goal, chain: &Chain, consistent: Lsn, reach: &Reach) -> anyhow::Result<()> {
    let end = reach.to.unwrap_or_default();
    if let (Kind::Crashed, Some((lsn, _))) = (local.base.kind, local.base.recovered_to) {
        let reason = format!(
            "the copy is of a server that had just been promoted, and Postgres would stop at {lsn}, before the end of the folder's own WAL; \
             name a position from {consistent} on"
        );
        return Err(not_reached(goal, chain, reason, reach, Vec::new()).into());
    }
    let needs_another = matches!(local.base.kind, Kind::Crashed | Kind::ShutDown);
    if end > consistent || end == consistent && !needs_another {
        return Ok(());
    }
    let reason = if end == consistent {
        format!("no record follows {end}, at which Postgres would notice that it is there; --latest is the same state")
    } else {
        format!("the WAL ends at {end}, before it")
    };
    Err(not_reached(goal, chain, reason, reach, Vec::new()).into())
}

/// Whether recovery runs to the end of the WAL that there is: where more follows behind a gap, its end is not that. `held` is the end of what
/// follows each other.
fn latest(base: &Base, goal: &Goal, chain: &Chain, held: Lsn, consistent: Lsn, reach: &Reach) -> anyhow::Result<()> {
    if let Some(gap) = chain.gap_behind(held) {
        return Err(Refusal::Gap { goal: goal.to_string(), from: base.redo, gap: Box::new(gap), reach: reach.clone() }.into());
    }
    let end = reach.to.unwrap_or_default();
    if end >= consistent {
        return Ok(());
    }
    let reason = format!("the WAL ends at {end}, before the folder's consistent point {consistent}");
    Err(not_reached(goal, chain, reason, reach, Vec::new()).into())
}

/// Where recovery stops, which lies behind the consistent point.
async fn stop(
    holdings: &Holdings,
    local: &Local,
    goal: &Goal,
    chain: &Chain,
    search: &Search<'_>,
    consistent: Lsn,
    reach: &Reach,
) -> anyhow::Result<Found> {
    let base = &local.base;
    let Some(found) = search.find(goal, Some(base.redo)).await? else {
        let end = search.run().end;
        if let Some(gap) = chain.gap_behind(end) {
            return Err(Refusal::Gap { goal: goal.to_string(), from: base.redo, gap: Box::new(gap), reach: reach.clone() }.into());
        }
        let reason = match goal.target {
            Target::Time(_) => {
                "no commit or rollback in the archive is later, so that recovery would run to the end and fail (--latest is the end)"
            }
            Target::Lsn(_) => "the WAL ends before it",
            _ => "it is not in the WAL",
        };
        let others = holdings.inventory().all_through(base.timeline, base.checkpoint);
        let others = others.into_iter().filter(|timeline| *timeline != chain.timeline()).collect();
        return Err(not_reached(goal, chain, reason.to_owned(), reach, others).into());
    };
    // Where the checkpoint is its own redo point, replay starts behind it.
    if base.redo == base.checkpoint && found.lsn <= base.checkpoint {
        return Err(Refusal::BeforeConsistent { goal: goal.to_string(), stop: found.lsn, consistent, reach: reach.clone() }.into());
    }
    base.judge(goal, &found, consistent, reach)?;
    Ok(found)
}

fn not_reached(goal: &Goal, chain: &Chain, reason: String, reach: &Reach, others: Vec<Timeline>) -> Refusal {
    Refusal::NotReached { goal: goal.to_string(), timeline: chain.timeline(), reason, reach: reach.clone(), others }
}

fn warnings(local: &Local, search: &Search<'_>, timeline: Timeline) -> Vec<String> {
    let mut warnings = Vec::new();
    if local.base.kind == Kind::Crashed {
        warnings.push(
            "the folder is a copy of one moment (no backup_label): Postgres replays its own pg_wal to the end first. That is right for a \
             snapshot of the whole filesystem; a copy made file by file without pg_basebackup is damaged"
                .to_owned(),
        );
    }
    if timeline != local.base.own_timeline {
        warnings.push(format!("recovery goes over to timeline {timeline}; the folder is on {}", local.base.own_timeline));
    }
    if search.unindexed() > 0 {
        warnings.push(format!("{} segments without an index were read whole: verify --repair makes them", search.unindexed()));
    }
    warnings
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
