//! The sink beside `pg_receivewal --synchronous` of the same version: the first five rows of DESIGN.md's numbers to reach.
//!
//! ```text
//!   pgbench ──▶ Postgres ──▶ pg_receivewal | beyond-pg-sink     one of them at a time, in turns
//!      │                          │
//!      └ latency of each commit   └ CPU, memory
//! ```

mod bench;
mod catch_up;
mod commits;
mod contender;
mod report;
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::bench::Bench;
use crate::report::Report;

/// Measures the sink and pg_receivewal --synchronous, of the same version, in alternating runs on one primary.
#[derive(Debug, Parser)]
#[command(name = "benches/peers/sink")]
struct Args {
    /// Seconds of one run of a row
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Runs of each of the two, after one of each that does not count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of the storm of WAL switches, for each of the two, all rounds together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    storm_seconds: u32,
    /// Megabytes of WAL to catch up
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    backlog_mb: u32,
    /// The rows to measure
    #[arg(long, value_delimiter = ',', default_values_t = Row::ALL, value_enum)]
    rows: Vec<Row>,
    /// The major version of Postgres
    #[arg(long, default_value_t = 18)]
    postgres: u32,
    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Row {
    /// Commit latency, 1 client, synchronous_commit = on
    On,
    /// Commit latency, 1 client, synchronous_commit = remote_write
    RemoteWrite,
    /// Commits a second, 16 clients, synchronous_commit = on
    Clients16,
    /// The slowest commits while WAL is switched every 0.2 s
    Storm,
    /// A receiver that was away catches up
    CatchUp,
}

impl Row {
    const ALL: [Self; 5] = [Self::On, Self::RemoteWrite, Self::Clients16, Self::Storm, Self::CatchUp];
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    beyond_pg_benches::report::give(measure(&args), args.json.as_deref())
}

async fn measure(args: &Args) -> Result<Report> {
    let mut bench = Bench::start(args).await?;
    let mut report = Report::new(&bench, args).await?;
    for row in &args.rows {
        let results = match row {
            Row::On => commits::latency(&mut bench, "on", 1.1).await,
            Row::RemoteWrite => commits::latency(&mut bench, "remote_write", 1.6).await,
            Row::Clients16 => commits::rate(&mut bench, 16, 1.2).await,
            Row::Storm => storm::measure(&mut bench, args.storm_seconds).await,
            Row::CatchUp => catch_up::measure(&mut bench, u64::from(args.backlog_mb) << 20).await,
        };
        let results = results.with_context(|| format!("the row {row}"))?;
        for result in &results {
            eprintln!("{result}");
        }
        report.add(*row, results);
    }
    Ok(report)
}
