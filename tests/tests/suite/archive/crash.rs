//! A few crash rounds with fixed seeds; `scripts/archive-crash` plays as many as wanted.

use anyhow::Result;
use harness::archive_crash::{Round, play};
use harness::crash::seed_of;

async fn rounds(version: u32, first: u64) -> Result<()> {
    for number in 0..2 {
        let seed = seed_of(first, number);
        let outcome = Box::pin(play(Round { seed, version, lie: None })).await;
        println!("seed {seed} postgres {version}: {}", outcome?);
    }
    Ok(())
}

#[tokio::test]
async fn the_archive_is_whole_and_the_same_and_restores() -> Result<()> {
    rounds(18, 4000).await
}

#[tokio::test]
async fn so_it_is_on_the_oldest_version() -> Result<()> {
    rounds(15, 5000).await
}
