//! `beyond-pg-archiver locate`: which LSN it was.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use walbus::pgdata::BackupHistory;
use walbus::{Lsn, PgTime, Timeline};

use crate::cluster::{self, chosen_timeline, parse_timeline};
use crate::holdings::{Holdings, KnownBackup};
use crate::moment;
use crate::output::print;
use crate::plan::base::Found;
use crate::plan::{Chain, Goal, Run, Side, Target};
use crate::search::{Commit, Search};
use crate::settings::{StoreArgs, SystemArgs};

/// Find the LSN of a moment, a transaction or a restore point.
///
/// Answers where recovery with that target would stop, record by record as Postgres decides it, and what stands around it: without a restore,
/// and with a few requests to the archive, since the index of each segment says what is in it.
///
/// A moment is found before the first commit or rollback, in the order of the WAL, that is later: commit times do not always rise.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
#[command(after_help = "Exit codes: 0 found; 1 not in the archive, or failed; 2 wrong usage.\n\nExamples:\n  \
                  beyond-pg-archiver locate --time '2026-11-20 12:01:00+00'\n  \
                  beyond-pg-archiver locate --name before-migration --json")]
pub struct LocateArgs {
    /// A moment, with its zone: '2026-11-20 14:30:00+00'.
    #[arg(long, value_name = "TIME", group = "what", value_parser = moment::parse)]
    pub time: Option<PgTime>,

    /// A transaction's number, as txid_current() or pg_current_xact_id() has it.
    #[arg(long, value_name = "XID", group = "what")]
    pub xid: Option<u64>,

    /// A restore point's name, as given to pg_create_restore_point().
    #[arg(long, value_name = "NAME", group = "what")]
    pub name: Option<String>,

    /// A position: what stands around it.
    #[arg(long, value_name = "LSN", group = "what")]
    pub lsn: Option<Lsn>,

    /// Stop before what stands at the target (recovery_target_inclusive = off).
    #[arg(long, conflicts_with = "name")]
    pub exclusive: bool,

    /// The timeline to follow; the newest one unless told otherwise.
    #[arg(long, value_name = "N", value_parser = parse_timeline)]
    pub timeline: Option<Timeline>,

    /// Look from this position on, as a recovery does whose base starts there; from the first segment unless told otherwise.
    #[arg(long, value_name = "LSN")]
    pub from: Option<Lsn>,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    /// Whose WAL.
    #[command(flatten)]
    pub system: SystemArgs,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located {
    /// The cluster.
    pub system_id: String,
    /// The timeline that was followed.
    pub timeline: u32,
    /// What was looked for.
    pub target: String,
    /// Where the record starts at which recovery stops.
    pub lsn: String,
    /// Its end.
    pub end: String,
    /// `before` or `after` that record.
    pub stops: &'static str,
    /// The transaction that the record ends, where it ends one.
    pub xid: Option<u32>,
    /// When that ended, or the restore point was made.
    pub time: Option<String>,
    /// The end of what is replayed.
    pub replayed: String,
    /// What to give `restore` for the same state.
    pub restore: Restore,
    /// The last commit that is there.
    pub commit_before: Option<CommitReport>,
    /// The first one that is not.
    pub commit_after: Option<CommitReport>,
    /// The base backups that it can be reached from, by their start, oldest first.
    pub bases: Vec<BaseReport>,
    /// How many segments without an index were read whole or had to be.
    pub segments_without_index: usize,
}

/// A target that names a position alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restore {
    /// For `--target-lsn`.
    pub target_lsn: String,
    /// Whether `--exclusive` goes with it.
    pub exclusive: bool,
    /// For `--timeline`.
    pub timeline: u32,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommitReport {
    /// Where its record starts.
    pub lsn: String,
    /// The record's end.
    pub end: String,
    /// The transaction.
    pub xid: Option<u32>,
    /// When, by the primary's clock.
    pub time: String,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseReport {
    /// Where its replay starts.
    pub start: String,
    /// From where on it is consistent.
    pub end: String,
    /// Its name.
    pub label: String,
    /// When it ended, in the server's words.
    pub stop_time: String,
}

impl From<Commit> for CommitReport {
    fn from(commit: Commit) -> Self {
        let Commit { lsn, end, xid, time } = commit;
        Self { lsn: lsn.to_string(), end: end.to_string(), xid, time: moment::text(time) }
    }
}

impl LocateArgs {
    fn goal(&self) -> Goal {
        let target = match (&self.time, &self.xid, &self.name, &self.lsn) {
            (Some(time), ..) => Target::Time(*time),
            // WAL holds the lower half; the upper counts how often numbers have wrapped around.
            (_, Some(xid), ..) => Target::Xid(u32::try_from(xid & 0xFFFF_FFFF).unwrap_or(u32::MAX)),
            (_, _, Some(name), _) => Target::Name(name.clone()),
            (.., lsn) => Target::Lsn(lsn.unwrap_or_default()),
        };
        Goal { target, inclusive: !self.exclusive }
    }
}

/// Runs the command.
///
/// # Errors
/// Where the archive can't be read, or the target is not in it: the text says what is.
pub async fn run(args: LocateArgs) -> anyhow::Result<ExitCode> {
    let holdings = cluster::open(&args.store, &args.system).await?;
    let timeline = chosen_timeline(&holdings, args.timeline)?;
    let chain = holdings.chain(timeline)?;
    let goal = args.goal();
    let located = locate(&holdings, &chain, &goal, args.from).await?;
    print(args.json, &located.text(), &located)?;
    Ok(ExitCode::SUCCESS)
}

/// Where recovery along `chain` would stop.
///
/// # Errors
/// Where it is not in the archive, or that can't be read.
pub async fn locate(holdings: &Holdings, chain: &Chain, goal: &Goal, from: Option<Lsn>) -> anyhow::Result<Located> {
    let runs: Vec<Run> = match from {
        Some(from) => vec![
            chain
                .from(from)
                .map_err(|_| anyhow::anyhow!("the archive has no WAL of timeline {} at {from} (--from)", chain.timeline()))?,
        ],
        None => chain.runs(),
    };
    anyhow::ensure!(!runs.is_empty(), "the archive holds no segment of timeline {}", chain.timeline());
    let mut seen = Vec::new();
    for run in runs {
        if let Target::Lsn(lsn) = goal.target
            && !run.contains(lsn)
        {
            seen.push((run, None));
            continue;
        }
        let search = Search::new(holdings, run.clone(), chain.timeline()).await?;
        if let Some(found) = search.find(goal, None).await? {
            return describe(holdings, chain, goal, &search, &found).await;
        }
        seen.push((run, search.newest_time(Lsn::INVALID)));
    }
    anyhow::bail!("{}", not_found(goal, chain, &seen))
}

fn not_found(goal: &Goal, chain: &Chain, seen: &[(Run, Option<PgTime>)]) -> String {
    let held: Vec<String> = seen
        .iter()
        .map(|(run, newest)| match newest {
            Some(time) => format!("{} to {} (newest commit or rollback {})", run.start, run.end, moment::text(*time)),
            None => format!("{} to {}", run.start, run.end),
        })
        .collect();
    let why = match goal.target {
        Target::Time(_) => " is not past yet: no commit or rollback in the archive is later",
        _ => " is not in the archive",
    };
    format!("{goal}{why}. It holds of timeline {}: {}", chain.timeline(), held.join("; "))
}

async fn describe(holdings: &Holdings, chain: &Chain, goal: &Goal, search: &Search<'_>, found: &Found) -> anyhow::Result<Located> {
    let replayed = found.replayed();
    let bases = holdings.backups().await.context("read the backup history files")?;
    let fits = |known: &&KnownBackup| {
        let history = &known.history;
        let on_chain = chain.history().timeline_at(history.label.start) == history.label.timeline;
        on_chain && history.stop <= replayed && search.run().contains(history.label.start)
    };
    Ok(Located {
        system_id: holdings.inventory().system.to_string(),
        timeline: chain.timeline().get(),
        target: goal.to_string(),
        lsn: found.lsn.to_string(),
        end: found.end.to_string(),
        stops: match found.side {
            Side::After => "after",
            Side::Before => "before",
        },
        xid: Some(found.xid).filter(|xid| *xid != 0),
        time: found.time.map(moment::text),
        replayed: replayed.to_string(),
        restore: Restore {
            target_lsn: found.lsn.to_string(),
            exclusive: found.side == Side::Before,
            timeline: chain.timeline().get(),
        },
        commit_before: search.commit_before(replayed).await?.map(CommitReport::from),
        commit_after: search.commit_after(replayed).await?.map(CommitReport::from),
        bases: bases.iter().filter(fits).map(BaseReport::of).collect(),
        segments_without_index: search.unindexed(),
    })
}

impl BaseReport {
    /// A base backup that the archive knows of.
    #[must_use]
    pub fn of(known: &KnownBackup) -> Self {
        Self::of_history(&known.history)
    }

    /// The same, of its history file.
    #[must_use]
    pub fn of_history(history: &BackupHistory) -> Self {
        Self {
            start: history.label.start.to_string(),
            end: history.stop.to_string(),
            label: history.name.clone(),
            stop_time: history.stop_time.clone(),
        }
    }
}

impl Located {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text =
            format!("{} on timeline {}: recovery stops {} the record at {}", self.target, self.timeline, self.stops, self.lsn);
        let mut line = |line: String| text.extend([line.as_str(), "\n"]);
        let of = self.xid.map(|xid| format!(" (transaction {xid})")).unwrap_or_default();
        let when = self.time.as_ref().map(|time| format!(", {time}")).unwrap_or_default();
        line(format!("{of}{when}"));
        let commit = |commit: &Option<CommitReport>, none: &str| match commit {
            Some(commit) => {
                let xid = commit.xid.map_or_else(|| "?".to_owned(), |xid| xid.to_string());
                format!("{} to {}  transaction {xid}  {}", commit.lsn, commit.end, commit.time)
            }
            None => none.to_owned(),
        };
        line(format!("  last commit in it:    {}", commit(&self.commit_before, "none in the archive")));
        line(format!("  first commit not in:  {}", commit(&self.commit_after, "none in the archive yet")));
        let exclusive = if self.restore.exclusive { " --exclusive" } else { "" };
        line(format!(
            "  the same state:       restore --target-lsn {}{exclusive} --timeline {}",
            self.restore.target_lsn, self.timeline
        ));
        for base in &self.bases {
            line(format!("  base backup:          {} to {}  {} {}", base.start, base.end, base.stop_time, base.label));
        }
        if self.bases.is_empty() {
            line("  base backup:          none that the archive knows of; snapshots leave no trace here".to_owned());
        }
        if self.segments_without_index > 0 {
            line(format!(
                "  {} segments have no index, so that they are read whole: verify --repair makes them",
                self.segments_without_index
            ));
        }
        text
    }
}
