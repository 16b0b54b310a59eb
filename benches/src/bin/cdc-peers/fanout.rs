//! The same with more subscribers.

use anyhow::Result;

use crate::bench::{Bench, TRANSACTION_ROWS};
use crate::contender::{Contender, Reading};
use crate::rate::{Run, Source, bare, drain};
use crate::report::{Better, Columns, Line};

/// From so many subscribers on the backlog shrinks, so that not all of the time is theirs: to a share of it.
const SHARES: [(u32, u64); 3] = [(1000, 40), (100, 4), (10, 2)];
/// With so many, all have to have everything at 0.9 of the rate of one who only drains.
const TARGET_SUBSCRIBERS: u32 = 100;

pub(crate) async fn measure(bench: &mut Bench, rows: u64, counts: &[u32]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for count in counts {
        let share = SHARES.iter().find(|(from, _)| count >= from).map_or(1, |(_, share)| *share);
        let rows = (rows / share / TRANSACTION_ROWS).max(1) * TRANSACTION_ROWS;
        lines.extend(subscribers(bench, rows, *count).await?);
    }
    Ok(lines)
}

async fn subscribers(bench: &mut Bench, rows: u64, count: u32) -> Result<Vec<Line>> {
    let mut runs: Columns<Run> = Columns::default();
    for round in 1..=bench.rounds {
        for contender in [Contender::Drain(rows), Contender::PatientDrain(rows), Contender::Ours] {
            let run = drain(bench, contender, Source::Held { rows }, Reading::Counted, count).await?;
            bench.clear_backlog().await?;
            eprintln!(
                "fan-out: {count} subscribers, {contender}, round {round}: {:.0} k/s, slot {:.0} k/s",
                run.rate(),
                run.slot_rate()
            );
            runs.push(contender, run);
        }
        let run = bare(bench, rows, count).await?;
        eprintln!("fan-out: {count} subscribers, a bare server, round {round}: {:.0} k/s", run.rate());
        runs.push(Contender::Bare { subscribers: count, rows }, run);
    }
    let line = |name: &str, unit, better, of: &dyn Fn(&Run) -> f64| {
        Line::of(&format!("{count} subscribers: {name}"), unit, better, &runs, of)
    };
    let all =
        line("changes, all with the last reader", "1000/s", Better::More, &Run::rate).note(format!("a backlog of {rows} rows"));
    let deliveries = |run: &Run| run.rate() * f64::from(count);
    Ok(vec![
        if count == TARGET_SUBSCRIBERS { all.ratio(0.9) } else { all },
        line("changes, confirmed", "1000/s", Better::More, &Run::slot_rate),
        line("deliveries together", "1000/s", Better::More, &deliveries).beside_bare(Better::More),
        line("CPU of the server a delivery", "us", Better::Less, &|run| run.receiver_cpu() / f64::from(count))
            .beside_bare(Better::Less),
        line("CPU of the subscribers a delivery", "us", Better::Less, &|run| run.subscribers_cpu() / f64::from(count))
            .beside_bare(Better::Less),
        line("resident memory of the server", "MB", Better::Less, &Run::memory).ours_alone(),
    ])
}
