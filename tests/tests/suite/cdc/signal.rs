//! Signals at bad moments.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{DEADLINE, eventually};
use rustix::process::Signal;

use super::{decoding, numbers, streaming};

#[tokio::test]
async fn sigterm_is_heeded_while_a_large_transaction_is_read_back() -> Result<()> {
    const ROWS: usize = 400_000;
    let (cluster, mut cdc) = streaming(decoding(18)).await?;
    cluster.execute(&format!("INSERT INTO t SELECT n, repeat('x', 400) FROM generate_series(1, {ROWS}) n")).await?;
    // A part of it is in the log, and more than a part is to come.
    let segments = cdc.data().join("log");
    eventually(DEADLINE, "the transaction to be read back", async || {
        let second = std::fs::exists(segments.join("0000000000000002.log"))?;
        Ok(second.then_some(()))
    })
    .await?;
    cdc.signal(Signal::TERM)?;
    let status = cdc.process()?.wait(Duration::from_secs(4)).await?;
    ensure!(status.success(), "{status}: {}", cdc.log());
    let confirmed = cluster.lsn("SELECT confirmed_flush_lsn FROM pg_replication_slots").await?;
    cdc.start().await?;
    let seen = numbers(&cdc, ROWS).await?;
    ensure!(seen.iter().copied().eq(1..=ROWS as i64), "each row once, in order, behind {confirmed}");
    Ok(())
}
