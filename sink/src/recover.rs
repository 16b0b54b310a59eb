//! `beyond-pg-sink recover`: gives a primary back the WAL that its host died with.
//!
//! ```text
//!   plan     what to do, out of what folder and sink say          pure
//!   control  pg_control                                           pure
//!   chain    the records, followed as recovery will
//!   stage    one segment beside the one it replaces
//!   job      the steps, over any Disk and any Remote
//!   remote   the sink over HTTPS
//!   verify   whether the server got there
//! ```
//!
//! The folder is left for ordinary crash recovery: no signal file, no restore_command. Recovery stays on its timeline and ends where
//! the sink's complete records do.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use walbus::clock::{Clock, SystemClock};
use walbus::pgdata::{OwnedDisk, refuse_running};
use walbus::units::parse_duration;

use crate::client::Client;
use crate::config::ClientArgs;

mod chain;
mod control;
mod error;
mod folder;
mod guard;
mod history;
pub mod job;
pub mod plan;
mod progress;
mod record;
mod remote;
mod report;
mod stage;
#[cfg(test)]
mod tests;
mod verify;

pub use error::RecoverError;
pub use folder::Folders;
pub use record::{FILE, Record, Tail};
pub use report::Report;

/// Give a primary back the WAL that its host died with.
///
/// After a primary's host has died, its volume may come back older: without the WAL that was written last, commits included that were
/// acknowledged. The sink holds that WAL. This command writes it into pg_wal, from the segment at which replay starts on, the tail included,
/// so that Postgres replays all of it when it starts, by ordinary crash recovery.
///
/// The server must be down. Every record's CRC is checked before anything is changed, and WAL that contradicts the folder's own is refused.
/// WAL of the folder's own that goes on behind the sink's stays. Until all is done Postgres can't start on the folder; killed at any moment,
/// run it again. Files that are in the way are kept beside, as pg_wal/SEGMENT.set-aside-N.
///
/// A folder with a backup_label is recovered from where the base backup started. A folder on an older timeline than the sink is refused:
/// crash recovery never changes timelines, so pg_rewind or a new base backup is the way.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit codes: 0 done, or proven; 1 refused, failed, or not proven; 2 wrong usage.\n\nExamples:\n  \
                  beyond-pg-sink recover --from https://10.0.0.7:8432 --pgdata /var/lib/postgresql/18/main \\\n      \
                  --ca ca.pem --token-file token\n  \
                  pg_ctl start -D /var/lib/postgresql/18/main\n  \
                  beyond-pg-sink recover --verify --pgdata /var/lib/postgresql/18/main \\\n      \
                  --conninfo 'host=/run/postgresql user=postgres'")]
pub struct RecoverArgs {
    /// The sink to recover from, as https://HOST:PORT.
    #[arg(long, value_name = "URL", env = "BEYOND_PG_SINK_URL", required_unless_present_any = ["verify", "abandon"])]
    pub from: Option<String>,

    /// The data folder of the server that is to be recovered.
    #[arg(long, value_name = "DIR", env = "PGDATA")]
    pub pgdata: PathBuf,

    /// Say what would be done, and change nothing. Downloads and checks everything all the same.
    #[arg(long, conflicts_with_all = ["verify", "abandon"])]
    pub dry_run: bool,

    /// Prove, after the start, that the server has replayed what was recovered.
    ///
    /// Asks the server by --conninfo for its system identifier and position, and compares the last recovered bytes with those in its pg_wal.
    #[arg(long, requires = "conninfo")]
    pub verify: bool,

    /// With --verify: how to reach the server, as libpq has it; the user needs REPLICATION or SUPERUSER.
    #[arg(long, value_name = "CONNINFO", requires = "verify")]
    pub conninfo: Option<String>,

    /// With --verify: how long to wait for a server that is still starting or replaying.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub wait: Duration,

    /// Give a recovery up that has not come to its end: let Postgres start without the WAL, and lose the commits in it.
    #[arg(long, conflicts_with = "verify")]
    pub abandon: bool,

    /// How many segments are downloaded at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,

    /// How to reach the sink.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Runs the command.
///
/// # Errors
/// Where it does not come to its end; the text says what to do.
pub async fn run(args: RecoverArgs) -> anyhow::Result<ExitCode> {
    if args.verify {
        return verify::run(&args).await;
    }
    let runtime = tokio::runtime::Handle::current();
    // Files and the folder's system calls block; the client's requests run on the runtime all the same.
    tokio::task::spawn_blocking(move || blocking(&args, runtime)).await.context("run recover")?
}

fn blocking(args: &RecoverArgs, runtime: tokio::runtime::Handle) -> anyhow::Result<ExitCode> {
    let pgdata = std::path::absolute(&args.pgdata).context("find --pgdata")?;
    let folders = Folders::open(&pgdata)?;
    let _lock = Folders::lock(&pgdata)?;
    if args.abandon {
        return abandon(args, &pgdata, &folders);
    }
    let url = args.from.as_deref().unwrap_or_default();
    let remote = remote::HttpRemote::new(Client::new(url, &args.client)?, runtime);
    let progress = progress::choose(std::io::stderr().is_terminal());
    let job = job::Job {
        folders: &folders,
        remote: &remote,
        progress: progress.as_ref(),
        refuse_running: &|| Ok(refuse_running(&pgdata)?),
        free_bytes: &|| folders.free_bytes(),
        jobs: args.jobs.into(),
        dry_run: args.dry_run,
        note: job::Note { sink: without_secrets(url), time: SystemClock::new().now().to_unix_micros() },
    };
    match job.run() {
        Ok(report) => {
            print(args, &report.text(), &report)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let guarded = guard::is_up(&folders.pgdata).unwrap_or(true);
            let error = anyhow::Error::new(error);
            Err(if guarded && !args.dry_run {
                error.context(format!(
                    "recover has not come to its end, and until it has, Postgres will not start on {}: run it again",
                    pgdata.display()
                ))
            } else {
                error
            })
        }
    }
}

fn abandon(args: &RecoverArgs, pgdata: &Path, folders: &Folders<OwnedDisk>) -> anyhow::Result<ExitCode> {
    refuse_running(pgdata)?;
    let was_up = guard::is_up(&folders.pgdata)?;
    stage::remove_leftovers(&folders.wal)?;
    guard::take_down(&folders.pgdata)?;
    let text = if was_up {
        "given up: Postgres can start on the folder, and what the sink has more of WAL is not in it\n"
    } else {
        "nothing to give up: no recovery is half done in the folder\n"
    };
    print(args, text, &serde_json::json!({ "abandoned": was_up }))?;
    Ok(ExitCode::SUCCESS)
}

fn print<T: serde::Serialize>(args: &RecoverArgs, text: &str, value: &T) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(out.flush()?)
}

/// The URL without user and password.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}
