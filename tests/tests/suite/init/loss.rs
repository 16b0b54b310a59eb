//! A few rounds of a lost host with a fixed seed; `scripts/boot-loss` plays as many as wanted.

use anyhow::Result;
use harness::boot_loss::Stage;

#[tokio::test]
async fn no_commit_is_lost_with_a_host_that_boots_on_an_older_volume() -> Result<()> {
    let mut stage = Box::pin(Stage::set(4)).await?;
    for number in 1..=2 {
        let outcome = Box::pin(stage.round()).await?;
        println!("round {number}: {outcome}");
    }
    stage.check_sink().await
}
