//! The table, and the same as JSON.

use std::fmt;

use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::spread::Spread;
use comfy_table::{CellAlignment, Table, presets};

use crate::bench::Bench;
use crate::contender::Contender;
use crate::{Args, Row};

/// Which value of two is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// The runs of each contender.
#[derive(Debug)]
pub(crate) struct Columns<T>([Vec<T>; 5]);

impl<T> Default for Columns<T> {
    fn default() -> Self {
        Self([const { Vec::new() }; 5])
    }
}

impl<T> Columns<T> {
    pub(crate) fn push(&mut self, contender: Contender, run: T) {
        self.0[contender.column()].push(run);
    }
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    /// The value itself.
    AtMost(f64),
    /// Against the best of those who only drain.
    Ratio(f64),
}

/// One line of the table.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Line {
    name: String,
    unit: &'static str,
    recvlogical: Option<Spread>,
    drain: Option<Spread>,
    patient_drain: Option<Spread>,
    ours: Option<Spread>,
    /// A server that only writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare: Option<Spread>,
    /// How many times better than the best of the others' medians ours is; more than 1 is better, whatever the unit.
    ratio: Option<f64>,
    target: Option<Target>,
    reached: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Line {
    /// A line for one value of each run.
    pub(crate) fn of<T>(name: &str, unit: &'static str, better: Better, runs: &Columns<T>, value: &dyn Fn(&T) -> f64) -> Self {
        let [recvlogical, drain, patient_drain, ours, bare] = runs.0.each_ref().map(|runs| Spread::of(runs.iter().map(value)));
        let peers = [recvlogical, drain, patient_drain].into_iter().flatten().map(|spread| spread.median);
        let ratio = ours.and_then(|ours| match better {
            Better::Less => peers.reduce(f64::min).map(|peer| peer / ours.median),
            Better::More => peers.reduce(f64::max).map(|peer| ours.median / peer),
        });
        let name = name.to_owned();
        Self { name, unit, recvlogical, drain, patient_drain, ours, bare, ratio, target: None, reached: None, note: None }
    }

    /// The others have no such thing.
    pub(crate) fn ours_alone(self) -> Self {
        Self { recvlogical: None, drain: None, patient_drain: None, bare: None, ratio: None, ..self }
    }

    /// Against a server that only writes, and no other: less is what ours costs beyond QUIC itself.
    pub(crate) fn beside_bare(self, better: Better) -> Self {
        let both = self.ours.zip(self.bare).map(|(ours, bare)| (ours.median, bare.median));
        let ratio = both.map(|(ours, bare)| if better == Better::Less { bare / ours } else { ours / bare });
        Self { recvlogical: None, drain: None, patient_drain: None, ratio, ..self }
    }

    pub(crate) fn ratio(self, least: f64) -> Self {
        Self { target: Some(Target::Ratio(least)), reached: self.ratio.map(|ratio| ratio >= least), ..self }
    }

    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { target: Some(Target::AtMost(most)), reached: self.ours.map(|ours| ours.median <= most), ..self }
    }

    pub(crate) fn note(self, note: String) -> Self {
        Self { note: Some(note), ..self }
    }

    fn cells(&self) -> [String; 9] {
        let value = |spread: Option<Spread>| spread.map_or_else(String::new, |spread| spread.to_string());
        let reached = match self.reached {
            None => "",
            Some(true) => "reached",
            Some(false) => "missed",
        };
        let target = match self.target {
            None => String::new(),
            Some(Target::AtMost(most)) => format!("at most {most}"),
            Some(Target::Ratio(least)) => format!("{least:.2}x"),
        };
        [
            format!("{}, {}", self.name, self.unit),
            value(self.recvlogical),
            value(self.drain),
            value(self.patient_drain),
            value(self.ours),
            value(self.bare),
            self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            target,
            reached.to_owned(),
        ]
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [name, recvlogical, drain, patient, ours, bare, rest @ ..] = self.cells();
        write!(f, "    {name}:")?;
        for (contender, value) in
            Contender::NAMES.iter().zip([recvlogical, drain, patient, ours, bare]).filter(|(_, value)| !value.is_empty())
        {
            write!(f, " {contender} {value},")?;
        }
        write!(f, " {}", rest.join(" "))
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    postgres: String,
    cdc: &'static str,
    backlog_rows: u64,
    large_rows: u64,
    seconds: u32,
    rounds: u32,
    command: String,
    rows: Vec<Measured>,
}

#[derive(Debug, serde::Serialize)]
struct Measured {
    row: Row,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) async fn new(bench: &Bench, args: &Args) -> anyhow::Result<Self> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            machine: bench.machine.clone(),
            postgres: bench.cluster.value("SHOW server_version").await?,
            cdc: env!("CARGO_PKG_VERSION"),
            backlog_rows: args.backlog_rows,
            large_rows: args.large_rows,
            seconds: args.seconds,
            rounds: args.rounds,
            command: format!("benches/peers/cdc {}", given.join(" ")).trim_end().to_owned(),
            rows: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row, lines: Vec<Line>) {
        self.rows.push(Measured { row, lines });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let [recvlogical, drain, patient, ours, bare] = Contender::NAMES;
        table.set_header(["", recvlogical, drain, patient, ours, bare, "ratio", "target", ""]);
        for column in 1..=7 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = || self.rows.iter().flat_map(|row| &row.lines);
        for line in lines() {
            table.add_row(line.cells());
        }
        let Machine { cores, cpu, memory_gb, kernel, filesystem, load } = &self.machine;
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Median (least..greatest) of {} runs each, in turns; a ratio is against the best of those who only drain, above 1 is better. A bare server writes the same \
             bytes to as many connections, which is what QUIC itself allows; deliveries are against that one.",
            self.rounds
        )?;
        for line in lines() {
            if let Some(note) = &line.note {
                writeln!(f, "{}: {note}.", line.name)?;
            }
        }
        writeln!(
            f,
            "PostgreSQL {}, pg_recvlogical of the same; beyond-pg-cdc {}. {cores} cores ({cpu}), {memory_gb:.0} GB, Linux {kernel}, {filesystem}, \
             load {load} before the start.",
            self.postgres, self.cdc
        )?;
        write!(f, "Again: {}", self.command)
    }
}
