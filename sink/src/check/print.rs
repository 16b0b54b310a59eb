//! The report, for people.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use walbus::SegmentSize;

use super::{Finding, Report, Severity};

/// How many restore points are printed.
const RESTORE_POINTS: usize = 20;

pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let written = write(report, &mut text);
    debug_assert!(written.is_ok(), "a String takes everything");
    text
}

fn write(report: &Report, to: &mut String) -> std::fmt::Result {
    write!(to, "{}", report.dir.display())?;
    if let (Some(system), Some(postgres), Some(bytes)) = (&report.system_id, report.postgres, report.segment_bytes) {
        let size = SegmentSize::new(bytes).map_or_else(|error| error.to_string(), |size| size.to_string());
        write!(to, ": cluster {system}, PostgreSQL {postgres}, segments of {size}")?;
    }
    writeln!(to, "\n")?;
    if !report.timelines.is_empty() {
        table(report).lines().try_for_each(|line| writeln!(to, "{}", line.trim()))?;
        writeln!(to)?;
    }
    let points: Vec<_> = report.timelines.iter().flat_map(|timeline| &timeline.restore_points).collect();
    for point in points.iter().take(RESTORE_POINTS) {
        writeln!(to, "restore point {:?} at {} ({})", point.name, point.end, point.time.as_deref().unwrap_or("no time"))?;
    }
    if let Some(more) = points.len().checked_sub(RESTORE_POINTS).filter(|more| *more > 0) {
        writeln!(to, "and {more} restore points more; --json lists all")?;
    }
    for finding in &report.findings {
        write_finding(finding, to)?;
    }
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let plural = |count: usize, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => writeln!(to, "sound: every record is right and nothing is missing"),
        (0, _) => writeln!(to, "sound, with {}", plural(warnings, "warning")),
        _ => writeln!(to, "DAMAGED: {}, {}", plural(errors, "error"), plural(warnings, "warning")),
    }
}

fn write_finding(finding: &Finding, to: &mut String) -> std::fmt::Result {
    to.push_str(match finding.severity {
        Severity::Error => "error: ",
        Severity::Warning => "warning: ",
    });
    if let Some(file) = &finding.file {
        write!(to, "{file}: ")?;
    }
    if let Some(lsn) = finding.lsn {
        write!(to, "at {lsn}: ")?;
    }
    writeln!(to, "{}", finding.problem)
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["TIMELINE", "SEGMENTS", "FROM", "COMPLETE TO", "RECORDS", "COMMITS", "FIRST", "LAST", "COMES FROM"]);
    for timeline in &report.timelines {
        let pending = timeline.pending_record.map_or("", |_| " +");
        table.add_row([
            timeline.timeline.to_string(),
            timeline.segments.to_string(),
            timeline.from.to_string(),
            format!("{}{pending}", timeline.complete_end),
            timeline.records.to_string(),
            timeline.commits.to_string(),
            timeline.time_min.clone().unwrap_or_default(),
            timeline.time_max.clone().unwrap_or_default(),
            timeline.parent.as_ref().map_or_else(String::new, |parent| format!("{} at {}", parent.timeline, parent.end)),
        ]);
    }
    table
}
