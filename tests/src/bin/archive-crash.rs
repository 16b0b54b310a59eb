//! The archiver's crash test: as many rounds as wanted, one line each. Ends with 1 where the archive was not what Postgres wrote, or a round
//! failed.

use anyhow::Result;
use clap::Parser;
use harness::archive_crash::{Lie, Round, play};
use harness::crash::seed_of;

/// Crash rounds of the archiver: pgbench writes while Postgres, its pushes, the daemon and the store are killed at random, and the store
/// fails in other ways. In the end, the archive must be whole, the same as Postgres wrote it, and restore to the same tables.
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

    /// Plants a lie, which the rounds have to find: absent, always, claimed or early. Ends with 1 where none does.
    #[arg(long, value_name = "LIE")]
    plant: Option<Lie>,
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
        match Box::pin(play(Round { seed, version, lie: args.plant })).await {
            Ok(outcome) => {
                files += outcome.files;
                println!("{line}: {outcome}");
            }
            Err(error) => {
                failed += 1;
                let (verdict, text) =
                    if args.plant.is_some() { ("FOUND", first_line(&error)) } else { ("FAILED", format!("{error:#}")) };
                println!("{line}: {verdict}: {text}");
            }
        }
    }
    match args.plant {
        Some(lie) => println!("{lie:?}: found in {failed} rounds"),
        None => println!("{files} files archived, each the same; {failed} rounds failed"),
    }
    if (failed > 0) != args.plant.is_some() {
        std::process::exit(1);
    }
    Ok(())
}

/// What was found; what the server has logged is left out.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
