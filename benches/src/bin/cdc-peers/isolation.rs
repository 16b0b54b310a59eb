//! 50 consumers; with two among them that do not read, and without.

use anyhow::Result;
use beyond_pg_benches::counted::Counted;
use harness::Postgres;
use rustix::process::Signal;
use tokio::time::{Duration, interval};

use crate::bench::{Bench, transactions_in};
use crate::contender::{Contender, Reading, Used};
use crate::report::{Better, Columns, Line};

/// Those who read, in both cases.
const GOOD: u32 = 48;
/// Bytes of text in a row: in a run far more than what a stalled connection takes up.
const FILLER: usize = 1900;
/// How often it is looked how far behind the slot is.
const LOOK: Duration = Duration::from_millis(100);

struct Run {
    counted: Counted,
    lag: Lag,
    used: Used,
}

/// The most that was seen, in bytes behind the end of WAL.
#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    confirmed: f64,
    restart: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        let seconds = (self.counted.last_micros - self.counted.first_micros) as f64 / 1e6;
        self.counted.changes as f64 / f64::from(GOOD) / seconds
    }

    fn cpu(&self) -> f64 {
        self.used.receiver.cpu_seconds * 1e6 / self.counted.changes as f64
    }
}

pub(crate) async fn measure(bench: &mut Bench, rate: u32, seconds: u32) -> Result<Vec<Line>> {
    let transactions = transactions_in(seconds, rate);
    let (mut without, mut with) = (Columns::default(), Columns::default());
    for round in 1..=bench.rounds {
        for (bad, runs) in [(false, &mut without), (true, &mut with)] {
            let run = live(bench, bad, rate, transactions).await?;
            let Counted { p50_ms, p99_ms, .. } = run.counted;
            eprintln!("isolation: {}, round {round}: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms", if bad { "with" } else { "without" });
            runs.push(Contender::Ours, run);
        }
    }
    let mut lines = Vec::new();
    let mut both = |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| {
        let line = |runs, name: &str| Line::of(name, unit, better, runs, of);
        lines.push(line(&without, &format!("isolation: {name}, {GOOD} readers alone")));
        lines.push(line(&with, &format!("isolation: {name}, with one stuck and one stopped")));
    };
    both("transactions to each", "1/s", Better::More, &Run::rate);
    both("latency p50", "ms", Better::Less, &|run| run.counted.p50_ms);
    both("latency p99", "ms", Better::Less, &|run| run.counted.p99_ms);
    both("confirmed_flush_lsn behind, at most", "kB", Better::Less, &|run| run.lag.confirmed / 1e3);
    both("restart_lsn behind, at most", "kB", Better::Less, &|run| run.lag.restart / 1e3);
    both("CPU of the server a delivery", "us", Better::Less, &Run::cpu);
    both("resident memory of the server", "MB", Better::Less, &|run| run.used.receiver.resident_mb_max);
    Ok(lines)
}

async fn live(bench: &Bench, bad: bool, rate: u32, transactions: u64) -> Result<Run> {
    let contender = Contender::Ours;
    bench.make_slot(contender.slot()).await?;
    let mut running = contender.start(bench).await?;
    let mut stopped = None;
    if bad {
        let mut process = running.subscribers(Reading::Decoded, 1, 0, transactions).await?.process;
        process.signal(Signal::STOP)?;
        stopped = Some(process);
    }
    let mut reading = running.subscribers(Reading::Decoded, GOOD, u32::from(bad), transactions).await?;
    let before = running.used()?;
    let mut lag = Lag::default();
    let work = async { tokio::join!(bench.commit_at_rate(rate, transactions, FILLER), reading.wait()) };
    let (written, read) = tokio::select! {
        done = work => done,
        failed = watch(&bench.cluster, contender.slot(), &mut lag) => return Err(failed.context("look how far behind the slot is")),
    };
    written?;
    let run = Run { counted: read?.0, lag, used: running.used()?.since(before) };
    drop(stopped);
    running.end(bench).await?;
    bench.cluster.execute("TRUNCATE live").await?;
    Ok(run)
}

/// Looks until it is dropped, or fails.
async fn watch(cluster: &Postgres, slot: &str, lag: &mut Lag) -> anyhow::Error {
    let watching = async {
        let client = cluster.client().await?;
        let query = client
            .prepare(
                "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::float8, (pg_current_wal_lsn() - restart_lsn)::float8 \
                 FROM pg_replication_slots WHERE slot_name = $1",
            )
            .await?;
        let mut looks = interval(LOOK);
        let mut looked = 0_u64;
        loop {
            looks.tick().await;
            // Else the slot has nothing to restart from but what the background writer logs every 15 s.
            if cluster.major() >= 16 && looked.is_multiple_of(10) {
                client.batch_execute("SELECT pg_log_standby_snapshot()").await?;
            }
            let row = client.query_one(&query, &[&slot]).await?;
            lag.confirmed = lag.confirmed.max(row.try_get(0)?);
            lag.restart = lag.restart.max(row.try_get(1)?);
            looked += 1;
        }
    };
    let Err::<std::convert::Infallible, anyhow::Error>(failed) = watching.await;
    failed
}
