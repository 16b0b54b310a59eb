//! beyond-pg-cdc beside clients that only drain the same slot: the rows for cdc of DESIGN.md's numbers to reach.
//!
//! ```text
//!   Postgres ─▶ walsender ─▶ pg_recvlogical to nothing | a drain of our own | beyond-pg-cdc ─▶ subscribers   in turns
//!                  │                    │                                           │              │
//!                  └ CPU                └ CPU, memory                               └ CPU, memory  └ CPU, rate, latency
//! ```

mod bench;
mod contender;
mod fanout;
mod isolation;
mod large;
mod latency;
mod rate;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::bench::Bench;
use crate::report::Report;

/// Measures beyond-pg-cdc, with its log durable and subscribers served, beside clients that only drain the same slot.
#[derive(Debug, Parser)]
#[command(name = "benches/peers/cdc")]
struct Args {
    /// Rows of the backlog that is drained, in transactions of 1,000
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    backlog_rows: u64,
    /// Rows of the one large transaction that stay, half as many are rolled back
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    large_rows: u64,
    /// How many subscribers there are, one after the other, in the row fan-out
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    subscribers: Vec<u32>,
    /// Transactions a second, in the rows with a rate
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    transactions: u32,
    /// Seconds of one run of a row with a rate
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Runs of each contender
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
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
    /// Changes a second out of a backlog, one subscriber
    Rate,
    /// The same with more subscribers
    Fanout,
    /// From the commit to the subscriber
    Latency,
    /// 50 consumers, of which two do not read
    Isolation,
    /// One transaction with savepoints
    Large,
}

impl Row {
    const ALL: [Self; 5] = [Self::Rate, Self::Fanout, Self::Latency, Self::Isolation, Self::Large];
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
        let lines = match row {
            Row::Rate => rate::measure(&mut bench, args.backlog_rows).await,
            Row::Fanout => fanout::measure(&mut bench, args.backlog_rows, &args.subscribers).await,
            Row::Latency => latency::measure(&mut bench, args.transactions, args.seconds).await,
            Row::Isolation => isolation::measure(&mut bench, args.transactions, args.seconds).await,
            Row::Large => large::measure(&mut bench, args.large_rows).await,
        };
        let lines = lines.with_context(|| format!("the row {row}"))?;
        for line in &lines {
            eprintln!("{line}");
        }
        report.add(*row, lines);
    }
    Ok(report)
}
