//! From the commit to the subscriber.

use anyhow::Result;
use beyond_pg_benches::counted::Counted;

use crate::bench::{Bench, transactions_in};
use crate::contender::{Contender, Reading, Used};
use crate::report::{Better, Columns, Line};

/// Bytes of text in a row.
const FILLER: usize = 60;

struct Run {
    counted: Counted,
    used: Used,
}

impl Run {
    fn rate(&self) -> f64 {
        self.counted.changes as f64 * 1e6 / (self.counted.last_micros - self.counted.first_micros) as f64
    }

    fn receiver_cpu(&self) -> f64 {
        self.used.receiver.cpu_seconds * 1e6 / self.counted.changes as f64
    }
}

/// Single rows at a steady rate. From the time in the commit record, which is taken before the primary's own fsync, to the subscriber's clock.
pub(crate) async fn measure(bench: &mut Bench, rate: u32, seconds: u32) -> Result<Vec<Line>> {
    let transactions = transactions_in(seconds, rate);
    let mut runs: Columns<Run> = Columns::default();
    for round in 1..=bench.rounds {
        for contender in [Contender::Drain(transactions), Contender::Ours] {
            let run = live(bench, contender, rate, transactions).await?;
            eprintln!("latency: {contender}, round {round}: p50 {:.2} ms, p99 {:.2} ms", run.counted.p50_ms, run.counted.p99_ms);
            runs.push(contender, run);
        }
    }
    let line = |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| Line::of(&format!("latency: {name}"), unit, better, &runs, of);
    Ok(vec![
        line("commit to subscriber, p50", "ms", Better::Less, &|run| run.counted.p50_ms).at_most(2.0),
        line("commit to subscriber, p99", "ms", Better::Less, &|run| run.counted.p99_ms).at_most(10.0),
        line("commit to subscriber, worst", "ms", Better::Less, &|run| run.counted.worst_ms),
        line("transactions", "1/s", Better::More, &Run::rate),
        line("CPU of the receiver a transaction", "us", Better::Less, &Run::receiver_cpu),
    ])
}

async fn live(bench: &Bench, contender: Contender, rate: u32, transactions: u64) -> Result<Run> {
    bench.make_slot(contender.slot()).await?;
    let mut running = contender.start(bench).await?;
    let reading = match contender {
        Contender::Ours => Some(running.subscribers(Reading::Decoded, 1, 0, transactions).await?),
        _ => None,
    };
    let before = running.used()?;
    let run = if let Some(mut reading) = reading {
        let (written, read) = tokio::join!(bench.commit_at_rate(rate, transactions, FILLER), reading.wait());
        written?;
        Run { counted: read?.0, used: running.used()?.since(before) }
    } else {
        let (written, after) = tokio::join!(bench.commit_at_rate(rate, transactions, FILLER), running.wait_ended());
        written?;
        Run { used: after?.since(before), counted: running.counted()? }
    };
    running.end(bench).await?;
    bench.cluster.execute("TRUNCATE live").await?;
    Ok(run)
}
