//! Rounds of recovery to a point: one line each. Ends with 1 where a row was missing or too many.

use anyhow::Result;
use clap::Parser;
use harness::crash::seed_of;
use harness::pitr::{Round, play};
use harness::postgres::VERSIONS;

/// Recovery to random points of a random story, over a promotion, from base backups and from copies of one moment. The rows that are there
/// afterwards must be exactly those that were committed before, and locate must agree with where Postgres stops.
#[derive(Debug, Parser)]
#[command(name = "pitr")]
struct Args {
    /// How many targets are recovered to in each round.
    #[arg(long, default_value_t = 30)]
    targets: u64,

    /// Recovers to moments alone, each of which is compared with locate.
    #[arg(long)]
    times: bool,

    /// How many rounds are played, for each version.
    #[arg(long, default_value_t = 1)]
    rounds: u64,

    /// The seed of the first round; those of the others follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Plays one round, of just this seed, as a line of an earlier run has it.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["rounds", "seed"])]
    replay: Option<u64>,

    /// The version of Postgres, or all.
    #[arg(long, default_value = "18")]
    version: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let versions = if args.version == "all" { VERSIONS.to_vec() } else { vec![args.version.parse()?] };
    let seeds: Vec<u64> = match args.replay {
        Some(seed) => vec![seed],
        None => (0..args.rounds).map(|round| seed_of(args.seed, round)).collect(),
    };
    let mut failed = 0;
    for version in versions {
        for seed in &seeds {
            let round = Round { seed: *seed, version, targets: args.targets, only_times: args.times };
            match Box::pin(play(round)).await {
                Ok(outcome) => println!("seed {seed} postgres {version}: {outcome}"),
                Err(error) => {
                    failed += 1;
                    println!("seed {seed} postgres {version}: FAILED: {error:#}");
                }
            }
        }
    }
    println!("{failed} rounds failed");
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}
