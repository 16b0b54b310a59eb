//! `ls`: what is in the archive.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::Listed;
use walbus::{PgTime, SystemId, Timeline};

use crate::settings::{StoreArgs, SystemArgs};

/// List what is in the archive: of one cluster, or of all.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit codes: 0 it was listed; 1 it could not be; 2 wrong usage.")]
pub struct LsArgs {
    /// List this timeline alone; histories have no timeline of their own, and are left out.
    #[arg(long, value_name = "NUMBER", value_parser = parse_timeline)]
    pub timeline: Option<Timeline>,

    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,

    /// Whose WAL.
    #[command(flatten)]
    pub system: SystemArgs,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

fn parse_timeline(text: &str) -> Result<Timeline, String> {
    text.parse().ok().and_then(Timeline::new).ok_or_else(|| "expected a timeline's number, 1 or more".to_owned())
}

/// An object, as it is printed.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    kind: &'static str,
    stored_bytes: u64,
    modified: String,
}

impl Line {
    fn of(listed: &Listed) -> Self {
        let kind = match listed.name {
            ObjectName::Backup { .. } => "backup",
            ObjectName::History { .. } => "history",
            ObjectName::Index { .. } => "index",
            ObjectName::Marker => "marker",
            ObjectName::Partial { .. } => "partial",
            ObjectName::Segment { .. } => "segment",
            ObjectName::Tail { .. } => "tail",
        };
        Self { path: listed.name.to_string(), kind, stored_bytes: listed.stored_bytes, modified: time(listed.modified) }
    }
}

/// A moment in UTC, to the second.
fn time(time: PgTime) -> String {
    let moment = jiff::Timestamp::from_microsecond(time.to_unix_micros()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Runs the command.
///
/// # Errors
/// Where the archive can't be listed.
pub async fn run(args: LsArgs) -> anyhow::Result<ExitCode> {
    let archive = args.store.archive()?;
    let systems: Vec<SystemId> = match args.system.named()? {
        Some(system) => vec![system],
        None => archive.systems().await?,
    };
    let mut lines = Vec::new();
    for system in systems {
        let listing = archive.list(system, args.timeline).await?;
        lines.extend(listing.objects.iter().map(Line::of));
        for path in listing.foreign {
            tracing::warn!("{}/{path} is none of the archive's objects", archive.url());
        }
    }
    let text = if args.json { json(&lines)? } else { table(&lines) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print the list")?;
    Ok(ExitCode::SUCCESS)
}

fn json(lines: &[Line]) -> anyhow::Result<String> {
    lines.iter().try_fold(String::new(), |text, line| Ok(text + &serde_json::to_string(line)? + "\n"))
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["MODIFIED", "BYTES", "KIND", "PATH"]);
    for line in lines {
        table.add_row([line.modified.clone(), line.stored_bytes.to_string(), line.kind.to_owned(), line.path.clone()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let name = ObjectName::parse("7/00000001/000000010000000000000003.zst").unwrap();
        vec![Line::of(&Listed { name, stored_bytes: 1234, modified: PgTime::from_unix_micros(1_795_273_200_000_000) })]
    }

    #[test]
    fn an_object_is_a_line_of_json() {
        let text = json(&lines()).unwrap();
        let expected = r#"{"path":"7/00000001/000000010000000000000003.zst","kind":"segment","stored_bytes":1234,"modified":"2026-11-21T15:00:00Z"}"#;
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn an_object_is_a_row() {
        let text = table(&lines());
        let row: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["2026-11-21T15:00:00Z", "1234", "segment", "7/00000001/000000010000000000000003.zst"]);
    }
}
