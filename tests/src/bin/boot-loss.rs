//! The test of a lost host through `beyond-pg boot`: as many rounds as wanted, one line each. Ends with 1 where an acknowledged commit was
//! lost, or a round failed.

use anyhow::{Context, Result};
use clap::Parser;
use harness::boot_loss::Stage;

/// Rounds of a lost host: clients commit through `beyond-pg boot` and a required sink until the whole host is killed; an older copy of its
/// volume is booted, which recovers from the sink. Every acknowledged commit must be there with the first answer.
#[derive(Debug, Parser)]
#[command(name = "boot-loss")]
struct Args {
    /// How many rounds are played, all on one cluster.
    #[arg(long, default_value_t = 10)]
    rounds: u64,

    /// Fixes what happens in them.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args { rounds, seed } = Args::parse();
    let mut stage = Box::pin(Stage::set(seed)).await.with_context(|| format!("seed {seed}: no cluster"))?;
    let mut acknowledged = 0;
    for number in 1..=rounds {
        match Box::pin(stage.round()).await {
            Ok(outcome) => {
                acknowledged = outcome.found.acknowledged;
                println!("seed {seed} round {number}: {outcome}");
            }
            Err(error) => {
                println!("seed {seed} round {number}: FAILED: {error:#}");
                drop(stage);
                std::process::exit(1);
            }
        }
    }
    stage.check_sink().await?;
    println!("seed {seed}: {rounds} rounds; {acknowledged} acknowledged commits, lost 0");
    Ok(())
}
