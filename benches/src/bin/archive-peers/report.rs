//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;

use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::spread::Spread;
use comfy_table::{CellAlignment, Table, presets};

use crate::Args;
use crate::bench::{Bench, Run};
use crate::contender::Contender;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// MB/s until Postgres has ticked all off.
    Push,
    /// One call whose segment the store has already, in ms.
    Call,
    /// MB/s back, one call after the other.
    Fetch,
}

impl Row {
    pub(crate) const ALL: [Self; 3] = [Self::Push, Self::Call, Self::Fetch];

    pub(crate) const fn of(self, run: &Run) -> f64 {
        match self {
            Self::Push => run.push_mb_per_second,
            Self::Call => run.push_ms,
            Self::Fetch => run.fetch_mb_per_second,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Push => "push, MB/s",
            Self::Call => "push of what the store has, ms",
            Self::Fetch => "fetch, MB/s",
        }
    }

    /// What our daemon is to reach: against pgBackRest, or by itself.
    fn target(self, peer: Option<Spread>, ours: Option<Spread>) -> Option<String> {
        let ours = ours?.median;
        let (reached, text) = match self {
            Self::Push | Self::Fetch => {
                let ratio = ours / peer?.median;
                (ratio >= 2.0, format!("{ratio:.2}x pgBackRest, 2x wanted"))
            }
            Self::Call => (ours <= 5.0, format!("{ours:.1} ms, 5 ms wanted")),
        };
        Some(format!("{text}: {}", if reached { "reached" } else { "missed" }))
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    postgres: String,
    archiver: &'static str,
    segments: u32,
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
        for row in Row::ALL {
            let cells = self
                .contenders
                .iter()
                .map(|contender| self.spread(row, *contender).map_or_else(String::new, |spread| spread.to_string()));
            let target = row.target(self.spread(row, Contender::PgBackRest), self.spread(row, Contender::Daemon));
            table.add_row([row.title().to_owned()].into_iter().chain(cells).chain([target.unwrap_or_default()]));
        }
        let Machine { cores, cpu, memory_gb, kernel, filesystem, load } = &self.machine;
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Median (least..greatest) of {} runs each, in turns, of {} segments of pgbench's WAL; all but cp to one S3 server on this machine \
             over TLS, zstd at level 1; pgBackRest asynchronous with two processes.",
            self.rounds, self.segments
        )?;
        writeln!(
            f,
            "PostgreSQL {}; beyond-pg-archiver {}. {cores} cores ({cpu}), {memory_gb:.0} GB, Linux {kernel}, {filesystem}, load {load} before \
             the start.",
            self.postgres, self.archiver
        )?;
        write!(f, "Again: {}", self.command)
    }
}
