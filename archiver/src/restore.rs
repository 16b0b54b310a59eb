//! `beyond-pg-archiver restore`: a data folder made ready to be recovered, after it is proven that it can be.
//!
//! ```text
//!   folder          what the data folder says, and its own WAL
//!   configuration   what the server is configured with
//!   proof           folder and archive together reach the target
//!   settings        recovery_target_*, restore_command: a block of their own
//!   job             the steps, each of which may be the last
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use walbus::{Lsn, PgTime, Timeline};

use crate::cluster::parse_timeline;
use crate::locate::CommitReport;
use crate::moment;
use crate::output::print;
use crate::plan::{Goal, Target};
use crate::settings::StoreArgs;

mod configuration;
mod folder;
mod job;
mod proof;
mod settings;

pub use settings::Action;

/// Make a data folder ready to be recovered to a point, after it is proven that it can be.
///
/// The folder is a base backup (pg_basebackup), a copy of one moment (a snapshot of its filesystem), or a server's that was shut down. It is
/// proven out of the archive that the folder is of that history, that no WAL is missing on the way, and that the target lies between the
/// folder's consistent point and the end of the WAL. What can't be reached is refused, with what can; nothing is changed then.
///
/// Only then the recovery settings are written, as a block of their own at the end of postgresql.auto.conf, and recovery.signal. Start the
/// server to recover. `--undo` takes the block back, before the start or when recovery is over. Killed at any moment, run it again.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("to").required(true))]
#[command(after_help = "Exit codes: 0 ready (or, with --dry-run, proven); 1 refused or failed; 2 wrong usage.\n\nExamples:\n  \
                  beyond-pg-archiver restore --pgdata /restore --target-time '2026-11-20 12:01:00+00' --dry-run\n  \
                  beyond-pg-archiver restore --pgdata /restore --target-lsn 0/3001A28 --exclusive --action promote\n  \
                  beyond-pg-archiver restore --pgdata /restore --undo")]
pub struct RestoreArgs {
    /// The data folder.
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: PathBuf,

    /// Recover up to this position: the first record that starts at or behind it is the last one that is replayed.
    #[arg(long, value_name = "LSN", group = "to")]
    pub target_lsn: Option<Lsn>,

    /// Recover up to this moment, given with its zone: what was committed later is not there.
    #[arg(long, value_name = "TIME", group = "to", value_parser = moment::parse)]
    pub target_time: Option<PgTime>,

    /// Recover up to the end of this transaction. What was committed before it is there, whatever its number.
    #[arg(long, value_name = "XID", group = "to")]
    pub target_xid: Option<u64>,

    /// Recover up to this restore point.
    #[arg(long, value_name = "NAME", group = "to")]
    pub target_name: Option<String>,

    /// Recover all that the archive has, and promote.
    #[arg(long, group = "to")]
    pub latest: bool,

    /// Recover as little as makes the folder consistent.
    #[arg(long, group = "to")]
    pub immediate: bool,

    /// Take the settings of an earlier `restore` back.
    #[arg(long, group = "to")]
    pub undo: bool,

    /// Leave out what stands at the target (recovery_target_inclusive = off).
    #[arg(long, conflicts_with_all = ["target_name", "latest", "immediate", "undo"])]
    pub exclusive: bool,

    /// The timeline to follow; the newest that comes from the folder's unless told otherwise.
    #[arg(long, value_name = "N", value_parser = parse_timeline)]
    pub timeline: Option<Timeline>,

    /// What the server does at the target: pause (and take queries, until pg_wal_replay_resume() promotes it), promote, or shutdown. Pause
    /// unless told otherwise.
    #[arg(long, value_enum)]
    pub action: Option<Action>,

    /// The server's configuration file, where that is not in the data folder: /etc/postgresql/VERSION/NAME/postgresql.conf on Debian.
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    pub config_file: Option<PathBuf>,

    /// Prove it, say what would be written, and change nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What was proven and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The cluster.
    pub system_id: String,
    /// What the folder is: `backup`, `crashed`, `recovering` or `shut_down`.
    pub folder: &'static str,
    /// The target.
    pub target: String,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// Where replay starts.
    pub redo: String,
    /// From where on the data is consistent.
    pub consistent: String,
    /// Where the record starts at which recovery stops; `None` for the end of the WAL.
    pub stop: Option<String>,
    /// `before` or `after` that record.
    pub stops: Option<&'static str>,
    /// The end of what is replayed.
    pub replayed: String,
    /// The last commit that will be there, as far as the archive has it.
    pub commit_before: Option<CommitReport>,
    /// The first one that will not.
    pub commit_after: Option<CommitReport>,
    /// How many segments recovery reads.
    pub segments: usize,
    /// The settings, as they stand in the file.
    pub settings: String,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl RestoreArgs {
    fn action(&self) -> Action {
        self.action.unwrap_or(if self.latest { Action::Promote } else { Action::Pause })
    }

    fn goal(&self) -> Goal {
        let target = match (&self.target_lsn, &self.target_time, &self.target_xid, &self.target_name) {
            (Some(lsn), ..) => Target::Lsn(*lsn),
            (_, Some(time), ..) => Target::Time(*time),
            (_, _, Some(xid), _) => Target::Xid(u32::try_from(xid & 0xFFFF_FFFF).unwrap_or(u32::MAX)),
            (.., Some(name)) => Target::Name(name.clone()),
            _ if self.immediate => Target::Immediate,
            _ => Target::Latest,
        };
        Goal { target, inclusive: !self.exclusive }
    }
}

/// Runs the command.
///
/// # Errors
/// Where it is refused or fails; the text says what to do.
pub async fn run(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    if args.undo {
        let undone = job::undo(&args.pgdata)?;
        let text = if undone { "taken back: the folder's settings are as before\n" } else { "nothing to take back\n" };
        print(args.json, text, &serde_json::json!({ "undone": undone }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = job::restore(&args).await?;
    print(args.json, &report.text(&args), &report)?;
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn text(&self, args: &RestoreArgs) -> String {
        let mut text = String::new();
        let mut line = |line: String| text.extend([line.as_str(), "\n"]);
        line(format!(
            "proven: {} is reached on timeline {}, from redo point {} over consistent point {}",
            self.target, self.timeline, self.redo, self.consistent
        ));
        match (&self.stop, self.stops) {
            (Some(stop), Some(stops)) => {
                line(format!("  recovery stops {stops} the record at {stop}, after {} segments", self.segments))
            }
            _ => line(format!("  recovery ends at {}, after {} segments", self.replayed, self.segments)),
        }
        let commit = |commit: &CommitReport| {
            let xid = commit.xid.map_or_else(|| "?".to_owned(), |xid| xid.to_string());
            format!("{}  transaction {xid}  {}", commit.lsn, commit.time)
        };
        line(format!(
            "  last commit in it:    {}",
            self.commit_before.as_ref().map_or_else(|| "none in the archive".to_owned(), commit)
        ));
        line(format!(
            "  first commit not in:  {}",
            self.commit_after.as_ref().map_or_else(|| "none in the archive yet".to_owned(), commit)
        ));
        self.warnings.iter().for_each(|warning| line(format!("  note: {warning}")));
        if self.dry_run {
            line(format!("nothing was changed; this would be written:\n{}", self.settings));
        } else {
            let folder = args.pgdata.display();
            line(format!("ready: start the server on {folder}; `restore --undo --pgdata {folder}` takes the settings back"));
            if args.action() == Action::Pause {
                line(
                    "  it pauses at the target and takes queries: look, then SELECT pg_wal_replay_resume() to go on as a primary"
                        .to_owned(),
                );
            }
        }
        text
    }
}
