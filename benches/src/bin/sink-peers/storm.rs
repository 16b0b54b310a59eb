//! Row 4: the slowest commits while segments end all the time.

use std::time::Duration;

use anyhow::Result;
use beyond_pg_benches::latency::Latencies;

use crate::bench::{Bench, Run, SWITCHES_A_SECOND, Turns};
use crate::report::{Better, Result as Measured};

/// The slowest commits of one client while WAL is switched every 0.2 s, for so many seconds with each of the two.
pub(crate) async fn measure(bench: &mut Bench, seconds: u32) -> Result<Vec<Measured>> {
    let seconds = seconds.div_ceil(bench.rounds);
    fill_wal_folder(bench, seconds).await?;
    let turns = bench
        .in_turns("storm", async |bench, contender| {
            let mut receiver = bench.receiver(contender, "on").await?;
            bench.pgbench(1, "on", 1).await?;
            let run = tokio::select! {
                run = bench.run(&mut receiver, 1, "on", seconds) => run?,
                failed = switch_for_ever(bench) => return Err(failed),
            };
            bench.end(receiver).await?;
            Ok(run)
        })
        .await?;
    let pooled = |runs: &[Run]| runs.iter().fold(Latencies::default(), |all, run| all.merge(&run.latencies));
    let pooled = Turns { peer: vec![pooled(&turns.peer)], ours: vec![pooled(&turns.ours)] };
    let all = |name: &str, share| Measured::of(name, "ms", Better::Less, &pooled, &|all: &Latencies| all.quantile_ms(share));
    let each = |name: &str, unit, of: &dyn Fn(&Run) -> f64| Measured::of(name, unit, Better::Less, &turns, of);
    Ok(vec![
        all("storm: latency p99.9, all runs", 0.999).target(3.0),
        all("storm: worst commit, all runs", 1.0).target(3.0),
        each("storm: latency p99.9 of a run", "ms", &|run| run.latencies.quantile_ms(0.999)),
        each("storm: worst commit of a run", "ms", &|run| run.latencies.quantile_ms(1.0)),
        each("storm: latency p50", "ms", &|run| run.latencies.quantile_ms(0.5)),
        each("storm: latency p99", "ms", &|run| run.latencies.quantile_ms(0.99)),
        each("storm: CPU, share of a core", "%", &|run| run.usage.cpu_seconds / run.seconds * 100.0),
        each("storm: resident memory", "MB", &|run| run.usage.resident_mb_max),
    ])
}

async fn switch_for_ever(bench: &Bench) -> anyhow::Error {
    let switching = async {
        let client = bench.cluster.client().await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / SWITCHES_A_SECOND);
        loop {
            ticks.tick().await;
            client.batch_execute("SELECT pg_switch_wal()").await?;
        }
    };
    let Err::<std::convert::Infallible, anyhow::Error>(failed) = switching.await;
    failed
}

/// Makes as many segments as one storm takes, for the checkpoint to keep: see the settings of the primary.
async fn fill_wal_folder(bench: &Bench, seconds: u32) -> Result<()> {
    let client = bench.cluster.client().await?;
    eprintln!("storm: filling the primary's WAL folder");
    for _ in 0..(seconds + 5) * SWITCHES_A_SECOND {
        client.batch_execute("SELECT pg_logical_emit_message(false, 'fill', 'x'); SELECT pg_switch_wal()").await?;
    }
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}
