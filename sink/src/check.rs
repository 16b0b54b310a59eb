//! `beyond-pg-sink check`: proves a folder of WAL without a server.
//!
//! ```text
//!   folder   what files there are, and of what cluster
//!   scan     each record of each timeline, and what the end of it is: of WAL, of a record in flight, or damage
//!   lineage  that timelines fit together
//!   print    for people
//! ```
//!
//! Reads only. Works on a sink's folder, on one that `pg_receivewal` or an `archive_command` fills, and on `pg_wal`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use walbus::Lsn;

mod folder;
mod lineage;
mod print;
mod scan;

#[cfg(test)]
mod tests;

use folder::Folder;

/// Prove a folder of WAL offline, and print what it holds.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Checked are names and sizes, the CRC of every record, gaps, that timelines fit together by their history files, and \
                  what the last segment of each timeline ends with. Nothing is changed. The folder may be a sink's, one that \
                  pg_receivewal or an archive_command fills, or a pg_wal; of Postgres 15 to 18, with segments of any size. A sink or a \
                  server that writes to it meanwhile makes its last segment look unfinished, no more.\n\nExit codes: 0 sound, warnings \
                  may have been printed; 1 damage was found, or the folder can't be read; 2 wrong usage."
)]
pub struct CheckArgs {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Where the folder can't be read or holds no WAL.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = check(&args.dir)?;
    let text = if args.json { format!("{}\n", serde_json::to_string_pretty(&report)?) } else { print::text(&report) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print what was found")?;
    Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a folder holds and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The folder.
    pub dir: PathBuf,
    /// Whether nothing is wrong: no finding is an error.
    pub sound: bool,
    /// The cluster's system identifier, as text: it does not fit into a JSON number of every reader.
    pub system_id: Option<String>,
    /// The major version of Postgres.
    pub postgres: Option<u32>,
    /// `wal_segment_size` in bytes.
    pub segment_bytes: Option<u64>,
    /// What is held of each timeline, lowest first.
    pub timelines: Vec<TimelineReport>,
    /// What is wrong, errors first.
    pub findings: Vec<Finding>,
}

/// What is held of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineReport {
    /// Its number.
    pub timeline: u32,
    /// The timeline that it comes from, and where it left that, by its history file.
    pub parent: Option<Parent>,
    /// How many segments there are, the tail among them.
    pub segments: usize,
    /// Where the first segment starts.
    #[serde(serialize_with = "as_text")]
    pub from: Lsn,
    /// The end of the last complete record.
    #[serde(serialize_with = "as_text")]
    pub complete_end: Lsn,
    /// Where a record starts behind it of which the rest has not come.
    #[serde(serialize_with = "as_optional_text")]
    pub pending_record: Option<Lsn>,
    /// How many records there are, those of a parent's in its first segment among them.
    pub records: u64,
    /// How many of them are commits, those of prepared transactions among them.
    pub commits: u64,
    /// The earliest commit or rollback, RFC 3339.
    pub time_min: Option<String>,
    /// The latest commit or rollback, RFC 3339.
    pub time_max: Option<String>,
    /// The restore points, in order.
    pub restore_points: Vec<RestorePoint>,
}

/// Where a timeline comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// Its number.
    pub timeline: u32,
    /// The first byte that is no longer of it.
    #[serde(serialize_with = "as_text")]
    pub end: Lsn,
}

/// A named position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// Where its record ends.
    #[serde(serialize_with = "as_text")]
    pub end: Lsn,
    /// When it was made, RFC 3339.
    pub time: Option<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Whether WAL is lost by it.
    pub severity: Severity,
    /// The file that it is about.
    pub file: Option<String>,
    /// Where in the WAL it is.
    #[serde(serialize_with = "as_optional_text")]
    pub lsn: Option<Lsn>,
    /// What it is, and what to do.
    pub problem: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// WAL is damaged, missing, or contradicts itself.
    Error,
    /// All that is there is right, but somebody should know.
    Warning,
}

impl Finding {
    fn error(file: &str, lsn: Option<Lsn>, problem: impl Into<String>) -> Self {
        Self { severity: Severity::Error, file: Some(file.to_owned()), lsn, problem: problem.into() }
    }

    fn warning(file: &str, lsn: Option<Lsn>, problem: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, lsn, problem) }
    }
}

/// Proves a folder of WAL. Reads all of it, and writes nothing.
///
/// # Errors
/// Where the folder or a file in it can't be read, or there is no WAL in it. Damage is no error but a [`Finding`].
pub fn check(dir: &Path) -> anyhow::Result<Report> {
    let mut findings = Vec::new();
    let folder = Folder::read(dir, &mut findings)?;
    let mut timelines = BTreeMap::new();
    for timeline in folder.timelines() {
        timelines.insert(timeline, scan::timeline(&folder, timeline, &mut findings)?);
    }
    lineage::check(&folder, &timelines, &mut findings)?;
    scan::against_control(&folder, &timelines, &mut findings);
    findings.sort();
    findings.dedup();
    Ok(Report {
        dir: dir.to_owned(),
        sound: findings.iter().all(|finding| finding.severity == Severity::Warning),
        system_id: folder.identity().map(|identity| identity.system.to_string()),
        postgres: folder.identity().map(|identity| identity.version.major()),
        segment_bytes: folder.identity().map(|identity| identity.segment.bytes()),
        timelines: timelines.into_values().collect(),
        findings,
    })
}

fn as_text<S: serde::Serializer>(lsn: &Lsn, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(lsn)
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn as_optional_text<S: serde::Serializer>(lsn: &Option<Lsn>, to: S) -> Result<S::Ok, S::Error> {
    lsn.map(|lsn| lsn.to_string()).serialize(to)
}
