//! The table, and the same as JSON.

use std::fmt;

use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::spread::Spread;
use comfy_table::{CellAlignment, Table, presets};

use crate::bench::{Bench, Turns};
use crate::contender::Contender;
use crate::{Args, Row};

/// Which value of two is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// One line of the table.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Result {
    name: String,
    unit: &'static str,
    peer: Spread,
    ours: Spread,
    /// How many times better than the peer's median ours is; more than 1 is better, whatever the unit.
    ratio: f64,
    target: Option<f64>,
    reached: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Result {
    /// A line for one value of each run; there is at least one run.
    pub(crate) fn of<T>(name: &str, unit: &'static str, better: Better, turns: &Turns<T>, value: &dyn Fn(&T) -> f64) -> Self {
        let spread = |runs: &[T]| Spread::of(runs.iter().map(value)).expect("each row has a run");
        let (peer, ours) = (spread(&turns.peer), spread(&turns.ours));
        let ratio = match better {
            Better::Less => peer.median / ours.median,
            Better::More => ours.median / peer.median,
        };
        Self { name: name.to_owned(), unit, peer, ours, ratio, target: None, reached: None, note: None }
    }

    pub(crate) fn target(mut self, ratio: f64) -> Self {
        self.target = Some(ratio);
        self.reached = Some(self.ratio >= ratio);
        self
    }

    pub(crate) fn note(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }

    fn cells(&self) -> [String; 6] {
        let reached = match self.reached {
            None => "",
            Some(true) => "reached",
            Some(false) => "missed",
        };
        [
            format!("{}, {}", self.name, self.unit),
            self.peer.to_string(),
            self.ours.to_string(),
            format!("{:.2}x", self.ratio),
            self.target.map_or_else(String::new, |target| format!("{target:.2}x")),
            reached.to_owned(),
        ]
    }
}

impl fmt::Display for Result {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [name, peer, ours, ratio, target, reached] = self.cells();
        write!(f, "    {name}: {} {peer}, {} {ours}, {ratio} {target} {reached}", Contender::Peer, Contender::Ours)
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    postgres: String,
    sink: &'static str,
    seconds: u32,
    rounds: u32,
    storm_seconds: u32,
    backlog_mb: u32,
    command: String,
    rows: Vec<Measured>,
}

#[derive(Debug, serde::Serialize)]
struct Measured {
    row: Row,
    results: Vec<Result>,
}

impl Report {
    pub(crate) async fn new(bench: &Bench, args: &Args) -> anyhow::Result<Self> {
        let Args { seconds, rounds, storm_seconds, backlog_mb, .. } = *args;
        let given: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            machine: bench.machine.clone(),
            postgres: bench.cluster.value("SHOW server_version").await?,
            sink: env!("CARGO_PKG_VERSION"),
            seconds,
            rounds,
            storm_seconds,
            backlog_mb,
            command: format!("benches/peers/sink {}", given.join(" ")).trim_end().to_owned(),
            rows: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row, results: Vec<Result>) {
        self.rows.push(Measured { row, results });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["", &Contender::Peer.to_string(), &Contender::Ours.to_string(), "ratio", "target", ""]);
        for column in 1..=4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let results = || self.rows.iter().flat_map(|row| &row.results);
        for result in results() {
            table.add_row(result.cells());
        }
        let Machine { cores, cpu, memory_gb, kernel, filesystem, load } = &self.machine;
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Median (least..greatest) of {} runs each, in turns; {} s a run; a ratio above 1 is better.",
            self.rounds, self.seconds
        )?;
        for result in results() {
            if let Some(note) = &result.note {
                writeln!(f, "{}: {note}.", result.name)?;
            }
        }
        writeln!(
            f,
            "PostgreSQL {}, pg_receivewal of the same; beyond-pg-sink {}. {cores} cores ({cpu}), {memory_gb:.0} GB, Linux {kernel}, {filesystem}, load {load} \
             before the start.",
            self.postgres, self.sink
        )?;
        write!(f, "Again: {}", self.command)
    }
}
