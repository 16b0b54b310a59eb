//! One transaction with savepoints, half of them rolled back.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use beyond_pg_benches::counted::Counted;

use crate::bench::{Bench, COLUMNS};
use crate::contender::{Contender, Reading, Used};
use crate::report::{Better, Columns, Line};

/// How many savepoints; every second one is rolled back.
const SAVEPOINTS: u64 = 10;

struct Run {
    counted: Counted,
    used: Used,
}

impl Run {
    fn seconds_to(&self, micros: i64) -> f64 {
        (micros - self.counted.commit_micros) as f64 / 1e6
    }

    fn receiver_cpu(&self) -> f64 {
        self.used.receiver.cpu_seconds * 1e6 / self.counted.changes as f64
    }
}

pub(crate) async fn measure(bench: &mut Bench, rows: u64) -> Result<Vec<Line>> {
    let each = rows / SAVEPOINTS;
    let rows = each * SAVEPOINTS;
    let mut runs: Columns<Run> = Columns::default();
    for round in 1..=bench.rounds.min(3) {
        let run = transaction(bench, each, rows).await?;
        eprintln!("large, round {round}: last row after {:.2} s", run.seconds_to(run.counted.last_micros));
        runs.push(Contender::Ours, run);
    }
    let line = |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| Line::of(&format!("large: {name}"), unit, better, &runs, of);
    Ok(vec![
        line("resident memory of the server", "MB", Better::Less, &|run| run.used.receiver.resident_mb_max).at_most(64.0),
        line("COMMIT to the first row", "s", Better::Less, &|run| run.seconds_to(run.counted.first_micros)),
        line("COMMIT to the last row", "s", Better::Less, &|run| run.seconds_to(run.counted.last_micros))
            .note(format!("{rows} rows came, of {} written, half of {SAVEPOINTS} savepoints rolled back", rows / 2 * 3)),
        line("CPU of the server a row", "us", Better::Less, &Run::receiver_cpu),
    ])
}

/// Fails where not exactly those rows come that stay.
async fn transaction(bench: &Bench, each: u64, rows: u64) -> Result<Run> {
    let contender = Contender::Ours;
    bench.make_slot(contender.slot()).await?;
    let mut running = contender.start(bench).await?;
    let mut reading = running.subscribers(Reading::Decoded, 1, 0, rows).await?;
    let before = running.used()?;
    let sql = sql(each);
    let (written, read) = tokio::join!(bench.cluster.execute(&sql), reading.wait());
    written?;
    let (counted, _) = read?;
    ensure!(counted.changes == rows, "{} rows came, of {rows}", counted.changes);
    let run = Run { counted, used: running.used()?.since(before) };
    running.end(bench).await?;
    bench.cluster.execute("TRUNCATE backlog; CHECKPOINT").await?;
    Ok(run)
}

fn sql(each: u64) -> String {
    let mut sql = "BEGIN;".to_owned();
    for n in 0..SAVEPOINTS {
        let insert =
            format!("INSERT INTO backlog SELECT {COLUMNS} FROM generate_series({} + 1, {}) AS id;", n * each, (n + 1) * each);
        let end = if n % 2 == 1 { format!("ROLLBACK TO s{n}; {insert}") } else { format!("RELEASE s{n};") };
        let written = write!(sql, "SAVEPOINT s{n}; {insert} {end}");
        debug_assert!(written.is_ok(), "a String takes what it is given");
    }
    sql + "COMMIT"
}
