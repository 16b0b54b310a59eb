//! One small equality round on each version, with a fixed seed; `scripts/equality` plays as many as wanted.

use anyhow::Result;
use harness::equality::{Round, Size, play};

async fn round(version: u32, seed: u64) -> Result<()> {
    let outcome = Box::pin(play(Round { seed, version, size: Size::Small })).await?;
    println!("seed {seed} postgres {version} {outcome}");
    assert!(outcome.transactions > 10 && outcome.compared.rows > 10, "the round has shown nothing: {outcome}");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_has_what_postgres_15_has() -> Result<()> {
    round(15, 15_001).await
}

#[tokio::test]
async fn a_subscriber_has_what_postgres_16_has() -> Result<()> {
    round(16, 16_001).await
}

#[tokio::test]
async fn a_subscriber_has_what_postgres_17_has() -> Result<()> {
    round(17, 17_001).await
}

#[tokio::test]
async fn a_subscriber_has_what_postgres_18_has() -> Result<()> {
    round(18, 18_001).await
}
