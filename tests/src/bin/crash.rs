//! The crash test: as many rounds as wanted, one line each. Ends with 1 where an acknowledged commit was lost, or a round failed.

use anyhow::Result;
use clap::Parser;
use harness::crash::{Mode, Round, modes, play, seed_of};

/// Crash rounds: eight clients commit through a sink while sink, primary and link are killed and cut at random; in the end the
/// primary's host is lost and recovered from the sink. Every acknowledged commit must be there.
#[derive(Debug, Parser)]
#[command(name = "crash")]
struct Args {
    /// How many rounds are played, in each mode.
    #[arg(long, default_value_t = 10)]
    rounds: u64,

    /// The seed of the first round; those of the others follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Plays one round, of just this seed, as a line of an earlier run has it.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["rounds", "seed"])]
    replay: Option<u64>,

    /// What synchronous_commit is: on, remote_write, or both, one after the other.
    #[arg(long, default_value = "both")]
    mode: String,

    /// The version of Postgres.
    #[arg(long, default_value_t = 18)]
    version: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let seeds: Vec<u64> = match args.replay {
        Some(seed) => vec![seed],
        None => (0..args.rounds).map(|round| seed_of(args.seed, round)).collect(),
    };
    let (mut failed, mut acknowledged) = (0, 0);
    for mode in modes(&args.mode)? {
        for (number, seed) in (1..).zip(&seeds) {
            match play_one(number, Round { seed: *seed, mode, version: args.version }).await {
                Some(commits) => acknowledged += commits,
                None => failed += 1,
            }
        }
    }
    println!("{acknowledged} acknowledged commits; {failed} rounds failed");
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// Plays a round and prints its line; `None` where it failed.
async fn play_one(number: u64, round: Round) -> Option<u64> {
    let Round { seed, mode, version } = round;
    let mode: Mode = mode;
    match Box::pin(play(round)).await {
        Ok(outcome) => {
            println!("round {number} seed {seed} postgres {version} {mode}: {outcome}");
            Some(outcome.found.acknowledged)
        }
        Err(error) => {
            println!("round {number} seed {seed} postgres {version} {mode}: FAILED: {error:#}");
            None
        }
    }
}
