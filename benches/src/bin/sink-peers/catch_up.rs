//! Row 5: a receiver that was away catches up.

use anyhow::Result;
use beyond_pg_benches::usage::Usage;
use walbus::clock::{Clock, SystemClock};

use crate::bench::Bench;
use crate::contender::Contender;
use crate::report::{Better, Result as Measured};

/// Keeps the backlog on the primary: each run has a copy of it as its slot.
const HOLDER: &str = "holder";

/// What one run gave.
struct CatchUp {
    gigabytes: f64,
    seconds: f64,
    usage: Usage,
}

/// How long it takes to have `bytes` of WAL, from the start of the process to the flush of the last byte.
pub(crate) async fn measure(bench: &mut Bench, bytes: u64) -> Result<Vec<Measured>> {
    let cluster = &bench.cluster;
    cluster.value(&format!("SELECT pg_create_physical_replication_slot('{HOLDER}', true)")).await?;
    let start = cluster.lsn(&format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{HOLDER}'")).await?;
    eprintln!("catch-up: writing {} MB of WAL", bytes >> 20);
    cluster.execute("CREATE TABLE backlog (id bigint, filler text)").await?;
    loop {
        let end = cluster.flush_lsn().await?;
        if end.0.saturating_sub(start.0) >= bytes {
            break;
        }
        // Records as most databases have them: small.
        cluster.execute("INSERT INTO backlog SELECT id, md5(id::text) FROM generate_series(1, 100000) AS id").await?;
    }
    // A record that ends nothing: the end must not be a segment's.
    cluster.value("SELECT pg_logical_emit_message(true, 'catch-up', 'end')").await?;
    let end = cluster.flush_lsn().await?;
    let gigabytes = (end.0 - bench.cluster.segment_size().floor(start).0) as f64 / 1e9;
    let turns = bench
        .in_turns("catch-up", async |bench, contender| {
            let (seconds, usage) = catch_up(bench, contender, end).await?;
            Ok(CatchUp { gigabytes, seconds, usage })
        })
        .await?;
    bench.cluster.value(&format!("SELECT pg_drop_replication_slot('{HOLDER}')")).await?;
    bench.cluster.execute("DROP TABLE backlog; CHECKPOINT").await?;
    let result = |name: &str, unit, better, of: &dyn Fn(&CatchUp) -> f64| Measured::of(name, unit, better, &turns, of);
    Ok(vec![
        result("catch-up: rate", "MB/s", Better::More, &|run| run.gigabytes * 1e3 / run.seconds).target(1.0),
        result("catch-up: CPU a GB", "s", Better::Less, &|run| run.usage.cpu_seconds / run.gigabytes).target(1.0 / 0.8),
        result("catch-up: resident memory", "MB", Better::Less, &|run| run.usage.resident_mb_max),
    ])
}

async fn catch_up(bench: &Bench, contender: Contender, end: walbus::Lsn) -> Result<(f64, Usage)> {
    bench.cluster.value(&format!("SELECT pg_copy_physical_replication_slot('{HOLDER}', '{}')", contender.name())).await?;
    let clock = SystemClock::new();
    let start = clock.monotonic();
    let mut receiver = contender.start(&bench.cluster)?;
    receiver.wait_flushed(&bench.cluster, end).await?;
    let seconds = (clock.monotonic() - start).as_secs_f64();
    let usage = receiver.usage()?;
    receiver.end(&bench.cluster).await?;
    Ok((seconds, usage))
}
