//! The equality test: as many rounds as wanted, one line each. Ends with 1 where the databases differ, or a round failed.

use anyhow::Result;
use clap::Parser;
use harness::equality::{Round, Size, play, seed_of, versions};

/// Equality rounds: a random workload, and a subscriber that applies what it gets to a second database through the public client library,
/// while server, subscriber and Postgres are killed at random. In the end both are equal, row by row, and another decoder of the same WAL
/// has seen the same transactions.
#[derive(Debug, Parser)]
#[command(name = "equality")]
struct Args {
    /// How many rounds are played, on each version.
    #[arg(long, default_value_t = 10)]
    rounds: u64,

    /// The seed of the first round; those of the others follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Plays one round, of just this seed, as a line of an earlier run has it.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["rounds", "seed"])]
    replay: Option<u64>,

    /// The version of Postgres: 15 to 18, or all, one after the other.
    #[arg(long, default_value = "18")]
    version: String,

    /// Plays small rounds.
    #[arg(long)]
    small: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let seeds: Vec<u64> = match args.replay {
        Some(seed) => vec![seed],
        None => (0..args.rounds).map(|round| seed_of(args.seed, round)).collect(),
    };
    let size = if args.small { Size::Small } else { Size::Full };
    let (mut failed, mut transactions, mut changes) = (0, 0, 0);
    for version in versions(&args.version)? {
        for (number, seed) in (1..).zip(&seeds) {
            let name = format!("round {number} seed {seed} postgres {version}");
            match Box::pin(play(Round { seed: *seed, version, size })).await {
                Ok(outcome) => {
                    println!("{name} {outcome}");
                    (transactions, changes) = (transactions + outcome.transactions, changes + outcome.changes);
                }
                Err(error) => {
                    println!("{name} FAILED: {error:#}");
                    failed += 1;
                }
            }
        }
    }
    println!("{transactions} transactions, {changes} changes; {failed} rounds failed");
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}
