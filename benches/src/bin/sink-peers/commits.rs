//! Rows 1 to 3: how fast commits are through a receiver.

use anyhow::Result;

use crate::bench::{Bench, Run, Turns};
use crate::report::{Better, Result as Measured};

/// The latency of the commits of one client.
pub(crate) async fn latency(bench: &mut Bench, commit: &str, target: f64) -> Result<Vec<Measured>> {
    let what = format!("1 client, {commit}");
    let alone = bench.pgbench(1, "local", bench.seconds.min(5)).await?.0;
    let turns = turns(bench, 1, commit, &what).await?;
    let result =
        |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| Measured::of(&format!("{what}: {name}"), unit, better, &turns, of);
    Ok(vec![
        result("latency p50", "ms", Better::Less, &|run| run.latencies.quantile_ms(0.5))
            .target(target)
            .note(format!("{:.2} ms with no receiver", alone.quantile_ms(0.5))),
        result("latency p99", "ms", Better::Less, &|run| run.latencies.quantile_ms(0.99)),
        result("CPU a commit", "us", Better::Less, &Run::cpu_micros_a_commit),
        result("resident memory", "MB", Better::Less, &|run| run.usage.resident_mb_max),
    ])
}

/// How many commits so many clients make.
pub(crate) async fn rate(bench: &mut Bench, clients: u32, target: f64) -> Result<Vec<Measured>> {
    let what = format!("{clients} clients, on");
    let (alone, seconds) = bench.pgbench(clients, "local", bench.seconds.min(5)).await?;
    let turns = turns(bench, clients, "on", &what).await?;
    let result =
        |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| Measured::of(&format!("{what}: {name}"), unit, better, &turns, of);
    Ok(vec![
        result("commits", "1/s", Better::More, &Run::commits_a_second)
            .target(target)
            .note(format!("{:.0}/s with no receiver", alone.count() as f64 / seconds)),
        result("latency p50", "ms", Better::Less, &|run| run.latencies.quantile_ms(0.5)),
        result("latency p99", "ms", Better::Less, &|run| run.latencies.quantile_ms(0.99)),
        result("CPU a commit", "us", Better::Less, &Run::cpu_micros_a_commit),
        result("resident memory", "MB", Better::Less, &|run| run.usage.resident_mb_max),
    ])
}

async fn turns(bench: &mut Bench, clients: u32, commit: &str, what: &str) -> Result<Turns<Run>> {
    bench
        .in_turns(what, async |bench, contender| {
            let mut receiver = bench.receiver(contender, commit).await?;
            // The first commits find cold caches and make the first segment.
            bench.pgbench(clients, commit, 1).await?;
            let run = bench.run(&mut receiver, clients, commit, bench.seconds).await?;
            bench.end(receiver).await?;
            Ok(run)
        })
        .await
}
