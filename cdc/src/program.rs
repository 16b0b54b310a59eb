//! The command line.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::args::ServeArgs;
use crate::config;
use crate::log::inspect::{self, LogArgs};
use crate::serve;

/// Changes of a PostgreSQL database, from one replication slot to any number of consumers.
///
/// One logical slot is decoded once; the changes are kept in a durable event log, and each consumer reads it at its own pace: a slow or a dead one
/// costs the primary nothing.
#[derive(Debug, Parser)]
#[command(name = "beyond-pg-cdc", version, max_term_width = 110)]
pub(crate) struct Program {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Listed to users in the order in which they are needed.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look into the event log of a data folder: prove it, list its segments, print its changes.
    #[command(display_order = 9)]
    Log(LogArgs),
    /// Follow one slot, keep its changes, and serve them to consumers.
    #[command(display_order = 1)]
    Serve(Box<ServeArgs>),
}

/// Runs the program with the process' arguments.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match config::arguments(&Program::command(), std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("beyond-pg-cdc: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match Program::parse_from(arguments).command {
        Command::Log(args) => inspect::run(&args),
        Command::Serve(args) => serve::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("beyond-pg-cdc: {error:#}");
        ExitCode::FAILURE
    })
}
