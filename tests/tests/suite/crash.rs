//! A handful of crash rounds with fixed seeds; `scripts/crash` plays as many as wanted.

use anyhow::Result;
use harness::crash::{Mode, Round, play, seed_of};

async fn rounds(mode: Mode, version: u32, first: u64) -> Result<()> {
    for number in 0..3 {
        let seed = seed_of(first, number);
        let outcome = Box::pin(play(Round { seed, mode, version })).await;
        println!("seed {seed} postgres {version} {mode}: {}", outcome?);
    }
    Ok(())
}

#[tokio::test]
async fn no_commit_is_lost_that_waited_for_the_flush() -> Result<()> {
    rounds(Mode::On, 18, 1000).await
}

#[tokio::test]
async fn no_commit_is_lost_that_waited_for_the_write() -> Result<()> {
    rounds(Mode::RemoteWrite, 18, 2000).await
}

#[tokio::test]
async fn no_commit_is_lost_on_the_oldest_version() -> Result<()> {
    rounds(Mode::On, 15, 3000).await
}
