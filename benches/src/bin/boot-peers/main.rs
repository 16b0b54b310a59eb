//! `beyond-pg boot` beside the least that does its work: `tini`, a shell script, `pg_ctl start -w` and PgBouncer.
//!
//! ```text
//!   beyond-pg boot ──▶ Postgres ──▶ PgBouncer ◀── SELECT 1, again and again, until it answers
//!   tini ── sh ──────▶   ″      ──▶     ″     ◀──      ″          the same volume, in turns
//!   pg_ctl start -w ─▶   ″                        what Postgres alone takes
//! ```

mod contender;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::contender::Contender;
use crate::report::Report;
use crate::stage::Stage;

/// Measures how long beyond-pg takes to boot beyond `pg_ctl start -w`, and what it is in memory and on disk, beside tini and a script.
#[derive(Debug, Parser)]
#[command(name = "benches/peers/boot")]
struct Args {
    /// Runs of each, after one of each that does not count
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The `tini` to compare with; benches/peers/boot fetches one
    #[arg(long, value_name = "FILE")]
    tini: PathBuf,
    /// Write everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    beyond_pg_benches::report::give(measure(&args), args.json.as_deref())
}

async fn measure(args: &Args) -> Result<Report> {
    let stage = Stage::set(&args.tini).await?;
    let mut report = Report::new(&stage, args.rounds)?;
    // Round 0 warms up, and does not count.
    for round in 0..=args.rounds {
        for contender in Contender::ALL {
            let run = stage.run(contender).await.with_context(|| format!("{contender}, round {round}"))?;
            eprintln!("    round {round} {contender}: {run}");
            if round > 0 {
                report.add(contender, run);
            }
        }
    }
    Ok(report)
}
