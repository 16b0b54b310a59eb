//! What was done, or would be.

use std::fmt::Write as _;

use serde::Serialize;
use walbus::Lsn;

use super::plan::Plan;
use super::stage::{Outcome, Staged};

/// What a recovery did, or, on a dry run, would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The cluster's system identifier.
    pub system_id: String,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// Where replay starts.
    pub redo: String,
    /// How far the folder's own records went.
    pub local_end: String,
    /// The end of the last complete record that the sink holds.
    pub sink_end: String,
    /// The LSN that recovery must reach.
    pub target: String,
    /// How many bytes of records the folder gained.
    pub gained_bytes: u64,
    /// How many bytes of records the folder has that the sink has not: they were kept.
    pub ahead_bytes: u64,
    /// Segments that the folder did not have.
    pub new: Vec<String>,
    /// Segments of the folder's that were replaced.
    pub overwritten: Vec<String>,
    /// How many segments were the same already.
    pub identical: usize,
    /// Segments that the sink did not have, or not as far, so that the folder's stay.
    pub kept: Vec<String>,
    /// Files of the folder's that were in the way, and are beside with `.set-aside-N` behind their names.
    pub set_aside: Vec<String>,
    /// How many bytes of segments were written.
    pub written_bytes: u64,
    /// Whether the timeline's history was written.
    pub history_written: bool,
    /// Whether `pg_control` was changed from "shut down" to "in production".
    pub pg_control_changed: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Report {
    pub(super) fn new(plan: &Plan, dry_run: bool, local_end: Lsn, target: Lsn) -> Self {
        Self {
            dry_run,
            system_id: plan.system_id.to_string(),
            timeline: plan.timeline.get(),
            redo: plan.redo.to_string(),
            local_end: local_end.to_string(),
            sink_end: plan.complete.to_string(),
            target: target.to_string(),
            gained_bytes: target.bytes_after(local_end),
            ahead_bytes: target.bytes_after(plan.complete),
            new: Vec::new(),
            overwritten: Vec::new(),
            identical: 0,
            kept: Vec::new(),
            set_aside: Vec::new(),
            written_bytes: 0,
            history_written: plan.write_history && !plan.pieces.is_empty(),
            pg_control_changed: false,
            warnings: plan.warnings.clone(),
        }
    }

    pub(super) fn count(&mut self, staged: &Staged, plan: &Plan) {
        let name = plan.name(staged.piece.segment).to_string();
        match staged.outcome {
            Outcome::Identical => self.identical += 1,
            Outcome::Kept => self.kept.push(name),
            Outcome::New => self.new.push(name),
            Outcome::Overwritten => self.overwritten.push(name),
        }
        if matches!(staged.outcome, Outcome::New | Outcome::Overwritten) {
            self.written_bytes += plan.segment_size.bytes();
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            writeln!(text, "{what:<20}{value}").expect("a text takes all that is written to it");
        };
        for warning in &self.warnings {
            line("warning", warning.clone());
        }
        line("cluster", format!("{}, timeline {}", self.system_id, self.timeline));
        line("replay starts at", self.redo.clone());
        line("own WAL ended at", self.local_end.clone());
        line("the sink's ends at", self.sink_end.clone());
        let segments = [
            (self.new.len(), "new"),
            (self.overwritten.len(), "overwritten"),
            (self.identical, "identical"),
            (self.kept.len(), "kept"),
        ];
        line("segments", segments.map(|(count, what)| format!("{count} {what}")).join(", "));
        for name in &self.set_aside {
            line(if self.dry_run { "to be set aside" } else { "set aside" }, format!("pg_wal/{name}"));
        }
        if self.ahead_bytes > 0 {
            line("kept of its own", format!("{} bytes of WAL behind the sink's end", self.ahead_bytes));
        }
        if self.pg_control_changed {
            line("pg_control", "was shut down in order; now says in production, so that Postgres replays the WAL".to_owned());
        }
        let gained = match (self.gained_bytes, self.dry_run) {
            (0, _) => "nothing: the folder has all that the sink has".to_owned(),
            (bytes, true) => format!("{bytes} bytes of WAL to be gained; nothing was changed"),
            (bytes, false) => format!("{bytes} bytes of WAL"),
        };
        line("recovered", gained);
        line("must be reached", self.target.clone());
        text
    }
}
