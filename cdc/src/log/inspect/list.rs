//! `log ls`: the segments.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use jiff::Timestamp;

use super::{Folder, FolderArgs, Segment};
use crate::log::names::file_of;

/// List the segments, and what each of them holds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A segment's name is its number in hexadecimal. BEHIND is the position that it begins behind, LAST the last one in it; \
                  commit times are UTC. The last segment is the one being written."
)]
pub(super) struct ListArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

pub(super) fn run(args: &ListArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(&args.folder.dir)?;
    let segments = folder.numbers.iter().map(|number| folder.segment(*number)).collect::<Result<Vec<_>, _>>()?;
    let identity = &folder.epoch.identity;
    writeln!(out, "epoch {}, cluster {}, slot {}\n", folder.epoch.epoch, identity.system_id, identity.slot).context("print")?;
    for line in table(&segments).lines() {
        writeln!(out, "{}", line.trim_end()).context("print")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(segments: &[Segment]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["SEGMENT", "BYTES", "FILE", "BATCHES", "BEHIND", "LAST", "FIRST COMMIT", "LAST COMMIT"]);
    for Segment { header, index, file_bytes, .. } in segments {
        let summary = &index.summary;
        let time = |micros| match Timestamp::from_microsecond(micros) {
            Ok(time) if summary.batches > 0 => format!("{time:.6}"),
            _ => "-".to_owned(),
        };
        table.add_row([
            file_of(header.number),
            summary.end.to_string(),
            file_bytes.to_string(),
            summary.batches.to_string(),
            header.before.to_string(),
            summary.last.to_string(),
            time(summary.time_min),
            time(summary.time_max),
        ]);
    }
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
