//! Changes a second out of a backlog.

use anyhow::{Context, Result};
use beyond_pg_benches::usage::Usage;
use rustix::process::Signal;
use tokio::time::interval;
use walbus::Lsn;
use walbus::clock::{Clock, SystemClock};

use crate::bench::{Backlog, Bench, HOLDER};
use crate::contender::{Contender, Reading, Used};
use crate::report::{Better, Columns, Line};

/// What one run gave.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    rows: u64,
    /// Until whoever was the last had all.
    seconds: f64,
    /// Until all was confirmed to the slot.
    confirmed_seconds: f64,
    used: Used,
    subscribers: Usage,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds / 1e3
    }

    pub(crate) fn slot_rate(&self) -> f64 {
        self.rows as f64 / self.confirmed_seconds / 1e3
    }

    fn micros(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.rows as f64
    }

    pub(crate) fn receiver_cpu(&self) -> f64 {
        self.micros(self.used.receiver.cpu_seconds)
    }

    fn walsender_cpu(&self) -> f64 {
        self.micros(self.used.walsender.cpu_seconds)
    }

    pub(crate) fn subscribers_cpu(&self) -> f64 {
        self.micros(self.subscribers.cpu_seconds)
    }

    pub(crate) const fn memory(&self) -> f64 {
        self.used.receiver.resident_mb_max
    }
}

/// A contender, and those who read from it. Where `held`, its walsender stands still until all of them are there and the backlog is written;
/// else it starts to stream a backlog that is there, and they come as it does.
pub(crate) enum Source<'a> {
    Held { rows: u64 },
    Written(&'a Backlog),
}

/// Drains a backlog.
pub(crate) async fn drain(
    bench: &Bench,
    contender: Contender,
    source: Source<'_>,
    reading: Reading,
    subscribers: u32,
) -> Result<Run> {
    let clock = SystemClock::new();
    let rows = match source {
        Source::Held { rows } => rows,
        Source::Written(backlog) => backlog.rows,
    };
    match source {
        Source::Held { .. } => bench.make_slot(contender.slot()).await?,
        Source::Written(_) => bench.copy_slot(contender.slot()).await?,
    }
    let mut running = contender.start(bench).await?;
    let reading = match contender {
        Contender::Ours => Some(running.subscribers(reading, subscribers, 0, rows).await?),
        _ => None,
    };
    let (start_micros, end, before) = match source {
        Source::Written(backlog) => (running.start_micros(), backlog.end, None),
        Source::Held { rows } => {
            running.walsender(Signal::STOP)?;
            let end = bench.write_backlog(rows).await?.end;
            let (start, before) = (clock.now().to_unix_micros(), running.used()?);
            running.walsender(Signal::CONT)?;
            (start, end, Some(before))
        }
    };
    let seconds_to = |micros: i64| (micros - start_micros) as f64 / 1e6;
    let run = if let Some(mut reading) = reading {
        let confirmed = wait_confirmed(bench, &clock, contender.slot(), end);
        let (confirmed, done) = tokio::join!(confirmed, reading.wait());
        let (confirmed_micros, (counted, subscribers_used)) = (confirmed?, done?);
        let expected = rows * u64::from(subscribers);
        anyhow::ensure!(counted.changes == expected, "{} changes came, of {expected}", counted.changes);
        let (seconds, confirmed_seconds) = (seconds_to(counted.last_micros), seconds_to(confirmed_micros));
        Run { rows, seconds, confirmed_seconds, used: running.used()?, subscribers: subscribers_used }
    } else {
        let used = running.wait_ended().await?;
        let end = match contender {
            Contender::Drain(_) | Contender::PatientDrain(_) => running.counted()?.last_micros,
            _ => clock.now().to_unix_micros(),
        };
        let (seconds, subscribers) = (seconds_to(end), Usage { cpu_seconds: 0.0, resident_mb_max: 0.0 });
        Run { rows, seconds, confirmed_seconds: seconds, used, subscribers }
    };
    running.end(bench).await?;
    Ok(Run { used: before.map_or(run.used, |before| run.used.since(before)), ..run })
}

/// Has a server that only writes send as much to as many.
pub(crate) async fn bare(bench: &Bench, rows: u64, subscribers: u32) -> Result<Run> {
    let mut running = Contender::Bare { subscribers, rows }.start(bench).await?;
    let mut reading = running.subscribers(Reading::Counted, subscribers, 0, rows).await?;
    let (counted, subscribers) = reading.wait().await?;
    // From the first change that anybody had: there is nothing before it.
    let seconds = (counted.last_micros - counted.first_micros) as f64 / 1e6;
    let run = Run { rows, seconds, confirmed_seconds: seconds, used: running.used()?, subscribers };
    running.end(bench).await?;
    Ok(run)
}

/// Gives when the slot was confirmed up to `end`.
async fn wait_confirmed(bench: &Bench, clock: &SystemClock, slot: &str, end: Lsn) -> Result<i64> {
    let client = bench.cluster.client().await?;
    let query = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1";
    let query = client.prepare(query).await?;
    let end = end.to_string();
    let mut looks = interval(std::time::Duration::from_millis(5));
    let confirmed = async {
        loop {
            looks.tick().await;
            if client.query_one(&query, &[&slot, &end]).await?.get(0) {
                return anyhow::Ok(clock.now().to_unix_micros());
            }
        }
    };
    tokio::time::timeout(harness::DEADLINE * 10, confirmed).await.context("the slot is not confirmed to the end of the backlog")?
}

/// One subscriber, against those who only drain.
pub(crate) async fn measure(bench: &mut Bench, rows: u64) -> Result<Vec<Line>> {
    bench.make_slot(HOLDER).await?;
    eprintln!("rate: writing {rows} rows");
    let backlog = bench.write_backlog(rows).await?;
    let rows = backlog.rows;
    let contenders = [Contender::RecvLogical(backlog.end), Contender::Drain(rows), Contender::PatientDrain(rows), Contender::Ours];
    let mut runs: Columns<Run> = Columns::default();
    for round in 0..=bench.rounds {
        for contender in contenders {
            let run = drain(bench, contender, Source::Written(&backlog), Reading::Decoded, 1).await?;
            eprintln!("rate: {contender}, round {round}{}: {:.0} k/s", if round == 0 { ", warm-up" } else { "" }, run.rate());
            if round > 0 {
                runs.push(contender, run);
            }
        }
    }
    bench.drop_slot(HOLDER).await?;
    bench.clear_backlog().await?;
    let line = |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| Line::of(&format!("rate: {name}"), unit, better, &runs, of);
    Ok(vec![
        line("changes, all with the last reader", "1000/s", Better::More, &Run::rate).ratio(0.95),
        line("changes, confirmed", "1000/s", Better::More, &Run::slot_rate),
        line("CPU of the receiver a change", "us", Better::Less, &Run::receiver_cpu),
        line("CPU of the walsender a change", "us", Better::Less, &Run::walsender_cpu),
        line("CPU of the subscriber a change", "us", Better::Less, &Run::subscribers_cpu).ours_alone(),
        line("resident memory of the receiver", "MB", Better::Less, &Run::memory),
    ])
}
