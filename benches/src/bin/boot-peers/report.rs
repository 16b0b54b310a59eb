//! The table, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;

use beyond_pg_benches::machine::Machine;
use beyond_pg_benches::spread::Spread;
use comfy_table::{CellAlignment, Table, presets};

use crate::contender::{Contender, Run};
use crate::stage::Stage;

/// What DESIGN's table asks of the time that is init's own, in ms, and of its resident memory, in MB of 1,048,576 bytes.
const OWN_MS_MAX: f64 = 50.0;
const RESIDENT_MIB_MAX: f64 = 4.0;

/// Everything that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    postgres: String,
    program_bytes: u64,
    rounds: u32,
    command: String,
    runs: BTreeMap<Contender, Vec<Run>>,
}

impl Report {
    pub(crate) fn new(stage: &Stage, rounds: u32) -> anyhow::Result<Self> {
        Ok(Self {
            machine: stage.machine.clone(),
            postgres: stage.postgres.clone(),
            program_bytes: stage.program_bytes,
            rounds,
            command: format!("benches/peers/boot --rounds {rounds}"),
            runs: BTreeMap::new(),
        })
    }

    pub(crate) fn add(&mut self, contender: Contender, run: Run) {
        self.runs.entry(contender).or_default().push(run);
    }

    fn spread(&self, contender: Contender, of: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.runs.get(&contender)?.iter().filter_map(of))
    }

    /// What is init's own: the first answer through PgBouncer, less what `pg_ctl start -w` took in the same round.
    fn own(&self, contender: Contender) -> Option<Spread> {
        let alone = self.runs.get(&Contender::PgCtl)?;
        Spread::of(self.runs.get(&contender)?.iter().zip(alone).map(|(run, alone)| run.ready_ms - alone.ready_ms))
    }

    fn row(&self, title: &str, of: impl Fn(Contender) -> Option<Spread>, verdict: String) -> Vec<String> {
        let cells = Contender::ALL.into_iter().map(|contender| of(contender).map_or_else(String::new, |spread| spread.to_string()));
        [title.to_owned()].into_iter().chain(cells).chain([verdict]).collect()
    }
}

fn verdict(spread: Option<Spread>, most: f64, unit: &str) -> String {
    spread.map_or_else(String::new, |spread| {
        let word = if spread.median <= most { "reached" } else { "missed" };
        format!("{most:.0} {unit} wanted: {word}")
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let titles = Contender::ALL.map(|contender| contender.to_string());
        table.set_header([String::new()].into_iter().chain(titles).chain([String::new()]));
        for column in 1..=Contender::ALL.len() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mebibytes = |kib: u64| kib as f64 / 1024.0;
        let all = |contender| self.spread(contender, |run| run.resident_kib.map(|(all, _)| mebibytes(all)));
        let own_memory = |contender| self.spread(contender, |run| run.resident_kib.map(|(_, own)| mebibytes(own)));
        let beyond = |contender| if contender == Contender::PgCtl { None } else { self.own(contender) };
        table.add_row(self.row("ready, ms", |contender| self.spread(contender, |run| Some(run.ready_ms)), String::new()));
        let own_verdict = verdict(self.own(Contender::Boot), OWN_MS_MAX, "ms");
        table.add_row(self.row("beyond pg_ctl start -w, ms", beyond, own_verdict));
        table.add_row(self.row("stopped, ms", |contender| self.spread(contender, |run| Some(run.stop_ms)), String::new()));
        table.add_row(self.row("resident, MiB", all, verdict(all(Contender::Boot), RESIDENT_MIB_MAX, "MiB")));
        table.add_row(self.row("of it its own, MiB", own_memory, String::new()));
        let Machine { cores, cpu, memory_gb, kernel, filesystem, load } = &self.machine;
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Median (least..greatest) of {} runs each, in turns, on one volume that was stopped in order. Ready: the first answer through \
             PgBouncer, asked for each ms with SCRAM (of pg_ctl: its return; of tini's: without a password). Its own memory is what no file \
             is behind. `beyond-pg` is {:.1} MB.",
            self.rounds,
            self.program_bytes as f64 / 1e6
        )?;
        writeln!(
            f,
            "{}. {cores} cores ({cpu}), {memory_gb:.0} GB, Linux {kernel}, {filesystem}, load {load} before the start.",
            self.postgres
        )?;
        write!(f, "Again: {}", self.command)
    }
}
