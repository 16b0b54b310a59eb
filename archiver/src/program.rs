//! The command line.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::fetch::{self, FetchArgs};
use crate::fill::{self, FillArgs};
use crate::follow::{self, FollowArgs};
use crate::locate::{self, LocateArgs};
use crate::ls::{self, LsArgs};
use crate::probe::{self, ProbeArgs};
use crate::prune::{self, PruneArgs};
use crate::push::{self, PushArgs};
use crate::restore::{self, RestoreArgs};
use crate::serve::{self, ServeArgs};
use crate::settings;
use crate::verify::{self, VerifyArgs};
use crate::window::{self, WindowArgs};

const EXAMPLE: &str = "\
Example, in postgresql.conf:
  archive_mode = on
  archive_command = 'beyond-pg-archiver push %p'
  restore_command = 'beyond-pg-archiver fetch %f %p'

and in the environment of Postgres (its unit file, its container):
  BEYOND_PG_ARCHIVE_STORE=s3://bucket/prefix
  AWS_REGION=eu-central-1        and AWS_ACCESS_KEY_ID and the like, AWS_PROFILE, or a role of the instance

Try it first:
  beyond-pg-archiver probe --store s3://bucket/prefix";

/// PostgreSQL's WAL in object storage, and recovery to any point of it.
///
/// Segments are compressed and put under names that two clusters can't share; what is there is never replaced by other content, and
/// archive_command hears of success only when the store has acknowledged.
#[derive(Debug, Parser)]
#[command(name = "beyond-pg-archiver", version, max_term_width = 110, after_help = EXAMPLE)]
struct Program {
    /// What is logged to stderr: error, warn, info, debug, or a filter as tracing's EnvFilter takes it [default: warn, info for serve and follow].
    #[arg(long, value_name = "LEVEL", env = "BEYOND_PG_ARCHIVE_LOG_LEVEL", global = true, display_order = 100)]
    log_level: Option<String>,

    #[command(subcommand)]
    command: Command,
}

/// Listed to users in the order in which they are needed.
#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a file of WAL back: for restore_command.
    #[command(display_order = 2)]
    Fetch(FetchArgs),
    #[command(display_order = 8)]
    Fill(FillArgs),
    #[command(display_order = 2)]
    Follow(Box<FollowArgs>),
    #[command(display_order = 4)]
    Locate(LocateArgs),
    /// List what is in the archive.
    #[command(display_order = 10)]
    Ls(LsArgs),
    /// Try whether the store can be reached, and keeps to conditions.
    #[command(display_order = 9)]
    Probe(ProbeArgs),
    #[command(display_order = 8)]
    Prune(PruneArgs),
    /// Put a file of WAL into the archive: for archive_command.
    #[command(display_order = 1)]
    Push(PushArgs),
    #[command(display_order = 5)]
    Restore(RestoreArgs),
    /// Upload WAL before Postgres asks for it, and fetch what recovery asks for next: a daemon beside Postgres.
    #[command(display_order = 2)]
    Serve(Box<ServeArgs>),
    #[command(display_order = 7)]
    Verify(VerifyArgs),
    #[command(display_order = 3)]
    Window(WindowArgs),
}

impl Command {
    /// The exit code for what went wrong, whatever it was.
    const fn failure(&self) -> u8 {
        match self {
            Self::Fetch(_) => fetch::DOUBT,
            Self::Fill(_)
            | Self::Follow(_)
            | Self::Locate(_)
            | Self::Ls(_)
            | Self::Probe(_)
            | Self::Prune(_)
            | Self::Push(_)
            | Self::Restore(_)
            | Self::Serve(_)
            | Self::Verify(_)
            | Self::Window(_) => 1,
        }
    }
}

/// Runs the program with the process' arguments.
#[must_use]
pub fn main() -> ExitCode {
    // To Postgres, every small exit code of restore_command says that the file does not exist: recovery would end there. So whatever stops
    // fetch, wrong usage and a defect of the program included, has to end in a great one.
    let is_fetch = std::env::args_os().any(|argument| argument == "fetch");
    if is_fetch {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            told(panic);
            std::process::exit(fetch::DOUBT.into());
        }));
    }
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => {
            // To stdout for help, to stderr for the rest; where neither can be written to, nobody reads.
            drop(error.print());
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ if is_fetch => fetch::DOUBT.into(),
                _ => 2.into(),
            };
        }
    };
    let failure = program.command.failure();
    run(program).unwrap_or_else(|error| {
        eprintln!("beyond-pg-archiver: {error:#}");
        failure.into()
    })
}

fn run(program: Program) -> anyhow::Result<ExitCode> {
    // A daemon tells of what it does; a command that succeeds has nothing to say.
    let level = if matches!(program.command, Command::Follow(_) | Command::Serve(_)) { "info" } else { "warn" };
    settings::log(program.log_level.as_deref().unwrap_or(level))?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another provider of cryptography is installed in this process");
    }
    match program.command {
        Command::Fetch(args) if fetch::is_given_by_daemon(&args) => Ok(ExitCode::SUCCESS),
        Command::Fetch(args) => alone(fetch::run(args)),
        Command::Fill(args) => alone(fill::run(args)),
        Command::Follow(args) => alone(follow::run(*args)),
        Command::Locate(args) => alone(locate::run(args)),
        Command::Ls(args) => alone(ls::run(args)),
        Command::Probe(args) => alone(probe::run(args)),
        Command::Prune(args) => alone(prune::run(args)),
        Command::Push(args) if push::is_stored_by_daemon(&args) => Ok(ExitCode::SUCCESS),
        Command::Push(args) => alone(push::run(args)),
        Command::Restore(args) => alone(restore::run(args)),
        Command::Serve(args) => serve::run(*args),
        Command::Verify(args) => alone(verify::run(args)),
        Command::Window(args) => alone(window::run(args)),
    }
}

/// Runs a short command on this thread; what takes a processor goes to threads of its own.
fn alone(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(command);
    // What hangs in a file system is not waited for: what there is to say is known.
    runtime.shutdown_background();
    done
}
