//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::check::CheckArgs;
use crate::config::ServeArgs;
use crate::recover::RecoverArgs;
use crate::status::StatusArgs;

/// A synchronous WAL receiver for PostgreSQL: no acknowledged commit is lost when a host dies, without a full replica.
///
/// Run `serve` in a second failure domain, and name it in the primary's synchronous_standby_names: from then on a commit returns only when
/// its WAL is durable here too. When the primary's host dies, bring its volume or a backup back and run `recover` on it, before Postgres is
/// started: the WAL that it lacks is laid on it.
#[derive(Debug, Parser)]
#[command(name = "beyond-pg-sink", version, max_term_width = 110)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

/// Listed to users in the order in which they are needed.
#[derive(Debug, Subcommand)]
enum Command {
    /// Prove a folder of WAL offline, and print what it holds.
    #[command(display_order = 3)]
    Check(CheckArgs),
    /// Give a data folder the WAL that it lacks and the sink has, or prove after its start that it has it.
    #[command(display_order = 4)]
    Recover(Box<RecoverArgs>),
    /// Receive WAL from a primary, acknowledge it, and serve it over HTTPS.
    #[command(display_order = 1)]
    Serve(Box<ServeArgs>),
    /// Show what a sink does and how far it is.
    #[command(display_order = 2)]
    Status(StatusArgs),
}

/// Runs the program with the process' arguments.
pub fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("beyond-pg-sink: another provider of cryptography is installed in this process");
        return ExitCode::FAILURE;
    }
    let done = match Program::parse().command {
        Command::Check(args) => crate::check::run(&args),
        Command::Recover(args) => wait_for(crate::recover::run(*args)),
        Command::Serve(args) => crate::serve::run(&args),
        Command::Status(args) => wait_for(crate::status::run(args)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("beyond-pg-sink: {error:#}");
        ExitCode::FAILURE
    })
}

fn wait_for(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
