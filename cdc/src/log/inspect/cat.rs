//! `log cat`: the changes.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use beyond_cdc_proto::json::Renderer;
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::{Lsn, Position};

use super::{Folder, FolderArgs, Segment};
use crate::log::Damage;
use crate::log::layout::RecordHeader;
use crate::log::names::file_of;
use crate::log::scan::scan;
use crate::log::schemas::SchemaSet;

/// Print the changes that the log holds, one JSON object a line.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Whole transactions in commit order, from the oldest one held, as walcat prints them: see `walcat --help` for what is in \
                  an object.\n\nExamples:\n  beyond-pg-cdc log cat DIR --count 10\n  beyond-pg-cdc log cat DIR --after 0/16B3748:3 | jq .new"
)]
pub(super) struct CatArgs {
    #[command(flatten)]
    folder: FolderArgs,

    /// Print what is behind this position, as 0/16B3748:3.
    #[arg(long, value_name = "POSITION")]
    after: Option<Position>,

    /// Print no more than this many changes.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,

    /// Print a line before and behind each transaction as well: op is "begin" and "commit".
    #[arg(long)]
    transactions: bool,
}

pub(super) fn run(args: &CatArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(&args.folder.dir)?;
    let Some((end, end_segment)) = whole_end(&folder)? else { return Ok(ExitCode::SUCCESS) };
    let after = args.after.unwrap_or_default();
    let mut print =
        Print { args, out, renderer: Renderer::new(), after, left: args.count.unwrap_or(u64::MAX), line: String::new() };
    let mut last = None;
    for number in folder.numbers.iter().copied().filter(|number| *number <= end_segment) {
        let segment = folder.segment(number)?;
        if last.is_some_and(|last| last != segment.header.before) {
            bail!("{} does not begin where the segment before it ends: run `log check`", file_of(number));
        }
        last = Some(segment.index.summary.last);
        if segment.index.summary.last <= after || print.left == 0 {
            continue;
        }
        print.segment(&segment, if number == end_segment { end } else { u64::MAX })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The end of the last whole transaction: an offset, and the segment's number.
fn whole_end(folder: &Folder) -> anyhow::Result<Option<(u64, u64)>> {
    for number in folder.numbers.iter().rev() {
        let summary = folder.segment(*number)?.index.summary;
        if summary.complete_at > 0 {
            return Ok(Some((summary.complete_at, *number)));
        }
    }
    Ok(None)
}

struct Print<'a, W> {
    args: &'a CatArgs,
    out: &'a mut W,
    renderer: Renderer,
    after: Position,
    left: u64,
    line: String,
}

impl<W: Write> Print<'_, W> {
    fn segment(&mut self, segment: &Segment, limit: u64) -> anyhow::Result<()> {
        let mut known = 0;
        // What the walk itself can't carry.
        let mut failed = None;
        let scanned = scan(&segment.file, &segment.header, u64::MAX, limit, |_, record, payload, schemas| {
            if failed.is_some() || self.left == 0 {
                return Ok(());
            }
            if known != schemas.len() {
                schemas.iter().for_each(|schema| self.renderer.learn(schema));
                known = schemas.len();
            }
            failed = self.batch(record, payload, schemas).err();
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        match scanned.stopped_by {
            Some(error) if scanned.end() < limit => Err(Damage::new(&file_of(segment.header.number), scanned.end(), error).into()),
            _ => Ok(()),
        }
    }

    fn batch(&mut self, record: &RecordHeader, payload: &Bytes, _known: &SchemaSet) -> anyhow::Result<()> {
        if record.meta.last <= self.after && !record.meta.schemas {
            return Ok(());
        }
        let batch = v1::Batch::decode(payload.clone()).context("decode a batch")?;
        batch.schemas.iter().for_each(|schema| self.renderer.learn(schema));
        batch.transactions.iter().try_for_each(|transaction| self.transaction(transaction))
    }

    fn transaction(&mut self, transaction: &v1::Transaction) -> anyhow::Result<()> {
        let begins = matches!(transaction.part(), v1::Part::Whole | v1::Part::Begin);
        let ends = matches!(transaction.part(), v1::Part::Whole | v1::Part::End);
        let at = |ordinal| Position { commit_lsn: Lsn(transaction.commit_lsn), ordinal };
        let last = transaction.changes.last().map_or(0, |change| change.ordinal);
        if self.args.transactions && self.left > 0 && begins && at(0) >= self.after {
            self.renderer.begin(&mut self.line, transaction);
            self.print()?;
        }
        for change in &transaction.changes {
            if at(change.ordinal) <= self.after || self.left == 0 {
                continue;
            }
            self.left -= 1;
            self.renderer.change(&mut self.line, transaction, change)?;
            self.print()?;
        }
        if self.args.transactions && self.left > 0 && ends && at(last) > self.after {
            self.renderer.commit(&mut self.line, transaction, last);
            self.print()?;
        }
        Ok(())
    }

    fn print(&mut self) -> anyhow::Result<()> {
        self.line.push('\n');
        // Not with a context: who prints knows a pipe that is closed by the error itself.
        self.out.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }
}
