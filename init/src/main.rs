//! `beyond-pg`: the command line, and what it wires.

use std::process::ExitCode;

use beyond_pg_init::program::{Cli, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("beyond-pg: {error:#}");
            ExitCode::FAILURE
        }
    }
}
