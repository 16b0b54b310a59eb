//! The command line.

mod show;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::boot::{self, Options, Step};
use crate::status::Status;

/// A volume and a few settings become a running, tuned, recovered Postgres behind PgBouncer.
#[derive(Debug, Parser)]
#[command(name = "beyond-pg", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot, and run until told to stop: as PID 1 of a machine, or as an ordinary process.
    ///
    /// Settings come from the metadata service, a file, the environment and the kernel's command line: `beyond-pg plan --settings` lists
    /// them. SIGTERM stops all in order, SIGHUP reads the settings again.
    #[command(after_help = "Exit codes: 0 stopped as asked; 1 failed for good; 2 wrong usage or settings.")]
    Boot(BootArgs),
    /// Print what a boot would do: its steps, the settings with where each is from, and the files. Changes nothing.
    ///
    /// Settings are read as `boot` reads them; secrets are not shown. What can't be found out here is assumed, and said.
    #[command(after_help = PLAN_HELP)]
    Plan(show::PlanArgs),
    /// Have a running standby become the primary, when the primary is lost or was stopped.
    ///
    /// Refused where that could lose what was acknowledged: where the primary still streams or answers, or where the standby is not
    /// known to have been in step. PgBouncer follows.
    #[command(after_help = "Exit codes: 0 promoted; 1 refused, or failed.")]
    Promote(PromoteArgs),
    /// Have a running one read its settings again, and do what follows.
    Reload(Reach),
    /// Tell how a running one is.
    #[command(after_help = "Exit codes: 0 ready; 1 not ready, or none runs; 2 wrong usage; 3 failed for good.")]
    Status(StatusArgs),
    /// Stop a running one, in order, and wait until it is gone.
    Stop(Reach),
    /// Print what Postgres would be told on a machine of this size, each value with its formula and whose it is.
    #[command(after_help = TUNE_HELP)]
    Tune(show::TuneArgs),
}

const PLAN_HELP: &str = "Exit codes: 0 printed; 1 something is in the way; 2 wrong usage or settings.

Examples:
  beyond-pg plan --settings
  BEYOND_PG_MEMORY_MB=4096 BEYOND_PG_WAL_SINK=https://10.0.0.7:8432 beyond-pg plan";

const TUNE_HELP: &str =
    "What you want otherwise goes into a file of your own, conf.d/90-local.conf in the data folder: it is read later, and wins.

Examples:
  beyond-pg tune --memory 16GB --cpus 4
  beyond-pg tune --memory 2GB --cpus 1 --pg-version 15 --wal-volume 20GB";

#[derive(Debug, Args)]
struct BootArgs {
    /// Turn the machine off when all is over
    #[arg(long)]
    power_off: bool,
    /// Die by SIGKILL right after this step
    #[arg(long, hide = true, value_parser = Step::of_name)]
    die_after: Option<Step>,
}

#[derive(Debug, Args)]
struct Reach {
    /// The folder of the running one's sockets
    #[arg(long, env = "BEYOND_PG_RUN_DIR", default_value = "/run/beyond-pg", value_name = "DIR")]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct PromoteArgs {
    #[command(flatten)]
    reach: Reach,
    /// Promote in spite of every reason against it: what the primary acknowledged may be lost
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    reach: Reach,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Does what the command line says.
///
/// # Errors
/// Where it can't.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Boot(args) => Ok(boot::run(Options { die_after: args.die_after, power_off: args.power_off })?.into()),
        Command::Promote(args) => promote(&args),
        Command::Reload(reach) => {
            ask(&reach.run_dir, &plain("reload"), PATIENCE)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Plan(args) => show::show_plan(&args),
        Command::Status(args) => status(&args),
        Command::Tune(args) => show::show_tuning(&args),
        Command::Stop(reach) => stop(&reach.run_dir),
    }
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let line = ask(&args.reach.run_dir, &plain("status"), PATIENCE)?;
    let status: Status = serde_json::from_str(&line).context("the running one is of another version")?;
    let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { status.table() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(status.exit_code().into())
}

fn stop(run_dir: &Path) -> Result<ExitCode> {
    ask(run_dir, &plain("stop"), PATIENCE)?;
    // Its end closes this connection, which it never answers.
    let Ok(mut socket) = UnixStream::connect(run_dir.join("control.sock")) else { return Ok(ExitCode::SUCCESS) };
    socket.write_all(b"{\"command\":\"wait\"}\n").ok();
    std::io::copy(&mut socket, &mut std::io::sink()).ok();
    Ok(ExitCode::SUCCESS)
}

/// What becomes of a promotion.
#[derive(serde::Deserialize)]
struct Promoted {
    said: Option<String>,
    error: Option<String>,
    #[serde(default)]
    refused: Vec<String>,
}

fn promote(args: &PromoteArgs) -> Result<ExitCode> {
    let request = format!("{{\"command\":\"promote\",\"force\":{}}}", args.force);
    // It replays all that it has received first.
    let line = ask(&args.reach.run_dir, &request, Duration::from_secs(3600))?;
    let outcome: Promoted = serde_json::from_str(&line).context("the running one is of another version")?;
    if let Some(said) = outcome.said {
        println!("{said}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(error) = outcome.error {
        bail!("not promoted: {error}");
    }
    for reason in &outcome.refused {
        eprintln!("beyond-pg: not promoted: {reason}");
    }
    Ok(ExitCode::FAILURE)
}

/// How long the running one may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn plain(command: &str) -> String {
    format!("{{\"command\":\"{command}\"}}")
}

fn ask(run_dir: &Path, request: &str, patience: Duration) -> Result<String> {
    let path = run_dir.join("control.sock");
    let reach = || format!("no beyond-pg answers at {}: is it running, and is this its BEYOND_PG_RUN_DIR?", path.display());
    let mut socket = UnixStream::connect(&path).with_context(reach)?;
    socket.set_read_timeout(Some(patience))?;
    socket.write_all(format!("{request}\n").as_bytes()).with_context(reach)?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).with_context(reach)?;
    if line.is_empty() {
        bail!("{}: no answer", path.display());
    }
    Ok(line)
}
