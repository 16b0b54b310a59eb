//! What the server takes of memory.

use anyhow::{Context, Result, ensure};
use beyond_cdc_client::Start;
use harness::{Cdc, DEADLINE, eventually};

use super::{decoding, read, streaming};

/// A line of the process' status in the kernel, in bytes.
fn memory(cdc: &mut Cdc, line: &str) -> Result<u64> {
    let path = format!("/proc/{}/status", cdc.process()?.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path)?;
    let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).context("a line of the status")?;
    Ok(found.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[tokio::test]
async fn a_large_row_takes_three_copies_at_most_and_none_behind_it() -> Result<()> {
    const ROW: u64 = 50 << 20;
    let (cluster, mut cdc) = streaming(decoding(18)).await?;
    let before = memory(&mut cdc, "VmRSS")?;
    for number in 1..=2 {
        cluster.execute(&format!("INSERT INTO t VALUES ({number}, repeat('x', {ROW}))")).await?;
        let end = cluster.flush_lsn().await?;
        eventually(DEADLINE, "the row to be durable", async || {
            Ok((cluster.lsn("SELECT confirmed_flush_lsn FROM pg_replication_slots").await? >= end).then_some(()))
        })
        .await?;
        let most = memory(&mut cdc, "VmHWM")?.saturating_sub(before);
        ensure!(most < 7 * ROW / 2, "row {number}: {} MiB at most", most >> 20);
        let after = memory(&mut cdc, "VmRSS")?.saturating_sub(before);
        // What the allocator keeps of it is its own.
        ensure!(after < ROW, "row {number}: {} MiB behind it", after >> 20);
    }
    let changes = read(&cdc, Start::Earliest, 2).await?;
    for change in changes {
        let text = change.new_row().and_then(|row| row.column("b")?.text()).context("a text")?;
        ensure!(text.len() as u64 == ROW && text.bytes().all(|byte| byte == b'x'));
    }
    Ok(())
}
