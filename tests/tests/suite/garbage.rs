//! A server that sends what no walsender sends: the sink takes nothing of it for WAL, holds no memory for it, and lives on.

use anyhow::{Context, Result, ensure};
use harness::postgres::conninfo;
use harness::walsender::{FakeWalsender, START, empty_segment, message, xlog_data};
use harness::{DEADLINE, Sink, SinkStatus, eventually};
use walbus::Lsn;

/// The most memory that a sink may have, whatever it is sent.
const RESIDENT_MAX: u64 = 200 << 20;

/// Sends these bytes to a sink, and gives what it says of them.
async fn meet(bytes: Vec<u8>, close: bool) -> Result<SinkStatus> {
    let server = FakeWalsender::start(bytes, close).await?;
    let mut sink = Sink::new(&conninfo(server.port()))?;
    sink.start().await?;
    eventually(DEADLINE, "a stream", async || Ok((server.streams() >= 1).then_some(()))).await?;
    let status = sink.wait_for("a word of what is wrong", |status| !status.problem.is_empty()).await?;
    let resident = resident(&mut sink)?;
    ensure!(resident < RESIDENT_MAX, "{resident} bytes are resident");
    ensure!(status.complete <= START && status.flushed.0 <= START.0 + (1 << 20), "nothing of it is a record: {status:?}");
    Ok(status)
}

/// How many bytes of memory its process has.
fn resident(sink: &mut Sink) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sink.process()?.pid().as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(line.context("a process has a VmRSS")?.parse::<u64>()? << 10)
}

#[tokio::test]
async fn messages_of_impossible_lengths() -> Result<()> {
    for length in [0_u32, 3, 0x7FFF_FFFF, u32::MAX] {
        let mut bytes = vec![b'd'];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 64]);
        let status = meet(bytes, true).await?;
        ensure!(status.state != "streaming" || !status.problem.is_empty(), "length {length}: {status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn messages_that_are_cut_short() -> Result<()> {
    let whole = xlog_data(START, &empty_segment(START)[..8192]);
    for len in [1, 4, 5, 6, 20, 29, 30, 8000] {
        meet(whole[..len].to_vec(), true).await?;
    }
    // A CopyData whose own head is cut short, though its length is right.
    for body in [b"w".as_slice(), b"w\0\0\0\0\0\0\0\0", b"k\0", b""] {
        meet(message(b'd', body), true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn messages_of_unknown_types() -> Result<()> {
    for bytes in [message(b'?', b"what"), message(b'd', b"?what"), message(0, b""), message(b'T', b"\xFF\xFF")] {
        let status = meet(bytes, true).await?;
        ensure!(status.state != "streaming", "{status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn wal_that_is_none() -> Result<()> {
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    meet(xlog_data(START, &noise), false).await?;
    meet(noise, false).await?;
    // A page of another cluster's, of another place, of an unknown version.
    for (at, byte) in [(24, 0xAA), (8, 0xAA), (0, 0x77)] {
        let mut segment = empty_segment(START);
        segment[at] = byte;
        meet(xlog_data(START, &segment[..8192]), false).await?;
    }
    Ok(())
}

#[tokio::test]
async fn wal_that_does_not_follow() -> Result<()> {
    let page = &empty_segment(START)[..8192];
    for at in [0, START.0 + 8192, START.0 - 1, u64::MAX - 8192] {
        meet(xlog_data(Lsn(at), page), false).await?;
    }
    Ok(())
}
