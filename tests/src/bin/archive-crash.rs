//! The archiver's crash test: as many rounds as wanted, one line each. Ends with 1 where the archive was not what Postgres wrote, or a round
//! failed.

use anyhow::Result;
use clap::Parser;
use harness::archive_crash::{Round, play};
use harness::crash::seed_of;

/// Crash rounds of the archiver: pgbench writes while Postgres, its pushes and the store are killed at random, and the store fails in
/// other ways. In the end, the archive must be whole, the same as Postgres wrote it, and restore to the same tables.
#[derive(Debug, Parser)]
#[command(name = "archive-crash")]
struct Args {
    /// How many rounds are played.
    #[arg(long, default_value_t = 10)]
    rounds: u64,

    /// The seed of the first round; those of the others follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Plays one round, of just this seed, as a line of an earlier run has it.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["rounds", "seed"])]
    replay: Option<u64>,

    /// The version of Postgres; each in turn unless one is told.
    #[arg(long)]
    version: Option<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let seeds: Vec<u64> = match args.replay {
        Some(seed) => vec![seed],
        None => (0..args.rounds).map(|round| seed_of(args.seed, round)).collect(),
    };
    let (mut failed, mut files) = (0, 0);
    for (number, seed) in (1..).zip(seeds) {
        let version = args.version.unwrap_or(15 + (seed % 4) as u32);
        let line = format!("round {number} seed {seed} postgres {version}");
        match Box::pin(play(Round { seed, version })).await {
            Ok(outcome) => {
                files += outcome.files;
                println!("{line}: {outcome}");
            }
            Err(error) => {
                failed += 1;
                println!("{line}: FAILED: {error:#}");
            }
        }
    }
    println!("{files} files archived, each the same; {failed} rounds failed");
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}
