//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;

use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::spread::Spread;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};

use crate::Args;
use crate::bench::Bench;
use crate::contender::Contender;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// MB/s until Postgres has ticked all off
    Push,
    /// One call whose segment the store has already, in ms
    Call,
    /// MB/s back, one call after the other
    Fetch,
    /// Seconds until a server has replayed them
    Replay,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Call => "call",
            Self::Fetch => "fetch",
            Self::Replay => "replay",
        })
    }
}

impl Row {
    pub(crate) const ALL: [Self; 4] = [Self::Push, Self::Call, Self::Fetch, Self::Replay];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Push => "push, MB/s",
            Self::Call => "push of what the store has, ms",
            Self::Fetch => "fetch, MB/s",
            Self::Replay => "replay, s",
        }
    }

    /// What our daemon is to reach: by itself, or beside the others.
    fn target(self, of: impl Fn(Contender) -> Option<Spread>) -> Option<String> {
        let ours = of(Contender::Daemon)?.median;
        let beside = |contender| of(contender).map(|spread| spread.median);
        let verdict = |reached, text: String| format!("{text}: {}", if reached { "reached" } else { "missed" });
        match self {
            Self::Push | Self::Fetch => {
                let ratio = ours / beside(Contender::PgBackRest)?;
                Some(verdict(ratio >= 2.0, format!("{ratio:.2}x pgBackRest, 2x wanted")))
            }
            Self::Call => Some(verdict(ours <= 5.0, format!("{ours:.1} ms, 5 ms wanted"))),
            Self::Replay => {
                let times = |contender| Some(beside(contender)? / ours);
                let text = |contender| times(contender).map(|times| format!("{times:.2}x as fast as {contender}"));
                let texts: Vec<String> = [Contender::PgBackRest, Contender::Cp].into_iter().filter_map(text).collect();
                (!texts.is_empty()).then(|| texts.join(", "))
            }
        }
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    postgres: String,
    archiver: &'static str,
    segments: u32,
    megabytes: f64,
    rounds: u32,
    command: String,
    contenders: Vec<Contender>,
    values: BTreeMap<Row, BTreeMap<Contender, Vec<f64>>>,
}

impl Report {
    pub(crate) async fn new(bench: &Bench, args: &Args) -> anyhow::Result<Self> {
        let given: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            machine: bench.machine.clone(),
            postgres: bench.cluster.value("SHOW server_version").await?,
            archiver: env!("CARGO_PKG_VERSION"),
            segments: args.segments,
            megabytes: bench.megabytes(),
            rounds: args.rounds,
            command: format!("benches/peers/archive {}", given.join(" ")).trim_end().to_owned(),
            contenders: args.contenders.clone(),
            values: BTreeMap::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row, contender: Contender, value: f64) {
        self.values.entry(row).or_default().entry(contender).or_default().push(value);
    }

    fn spread(&self, row: Row, contender: Contender) -> Option<Spread> {
        Spread::of(self.values.get(&row)?.get(&contender)?.iter().copied())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let titles = self.contenders.iter().map(ToString::to_string);
        table.set_header([String::new()].into_iter().chain(titles).chain([String::new()]));
        for column in 1..=self.contenders.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in self.values.keys().copied() {
            let cells = self
                .contenders
                .iter()
                .map(|contender| self.spread(row, *contender).map_or_else(String::new, |spread| spread.to_string()));
            let target = row.target(|contender| self.spread(row, contender));
            table.add_row([row.title().to_owned()].into_iter().chain(cells).chain([target.unwrap_or_default()]));
        }
        let Machine { cores, cpu, memory_gb, kernel, filesystem, load } = &self.machine;
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Median (least..greatest) of {} runs each, in turns, of {} segments of 16 MB of pgbench's WAL: {:.0} MB. One S3 server on this \
             machine, which syncs nothing.",
            self.rounds, self.segments, self.megabytes
        )?;
        for contender in &self.contenders {
            writeln!(f, "{contender}: {}.", contender.settings())?;
        }
        writeln!(
            f,
            "PostgreSQL {}; beyond-pg-archiver {}. {cores} cores ({cpu}), {memory_gb:.0} GB, Linux {kernel}, {filesystem}, load {load} before \
             the start.",
            self.postgres, self.archiver
        )?;
        write!(f, "Again: {}", self.command)
    }
}
