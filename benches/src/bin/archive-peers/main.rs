//! The archiver beside pgBackRest (asynchronous) and a plain `cp`: the rows on archiving of DESIGN.md's numbers to reach.
//!
//! ```text
//!   Postgres ── archive_command ──▶ cp | pgBackRest | push alone | push with the daemon ──▶ a folder | S3, over TLS
//!                    restore_command ◀──  one of them at a time, in turns, with the same segments
//! ```

mod bench;
mod contender;
mod replay;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::bench::Bench;
use crate::contender::Contender;
use crate::report::{Report, Row};

/// Measures beyond-pg-archiver, pgBackRest and cp, in alternating runs with the same segments and the same S3 server.
#[derive(Debug, Parser)]
#[command(name = "benches/peers/archive")]
struct Args {
    /// How many segments of 16 MB are archived, brought back and replayed in each run: 128 are 2 GB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(4..))]
    segments: u32,
    /// Runs of each, after one of each that does not count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The rows to measure
    #[arg(long, value_delimiter = ',', default_values_t = Row::ALL, value_enum)]
    rows: Vec<Row>,
    /// The contenders to measure
    #[arg(long, value_delimiter = ',', default_values_t = Contender::ALL, value_enum)]
    contenders: Vec<Contender>,
    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    beyond_pg_benches::report::give(measure(&args), args.json.as_deref())
}

async fn measure(args: &Args) -> Result<Report> {
    let mut bench = Bench::start(args.segments).await?;
    let mut report = Report::new(&bench, args).await?;
    // Round 0 warms up, and does not count.
    for round in 0..=args.rounds {
        for contender in &args.contenders {
            let run = bench.run(*contender, round, &args.rows).await.with_context(|| format!("{contender}, round {round}"))?;
            eprintln!("    round {round} {contender}: {run}");
            if round > 0 {
                for (row, value) in run.0 {
                    report.add(row, *contender, value);
                }
            }
        }
    }
    Ok(report)
}
