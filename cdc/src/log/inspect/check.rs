//! `log check`: every byte, proved.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1;
use bytes::Bytes;
use walbus::{Lsn, Position};

use super::{Folder, FolderArgs};
use crate::log::index::{SegmentIndex, Summary};
use crate::log::layout::RecordHeader;
use crate::log::names::{file_of, index_of};
use crate::log::reader::read_index;
use crate::log::recover::check_chain;
use crate::log::scan::{Rest, rest_of, scan};
use crate::log::schemas::SchemaSet;
use crate::log::{Damage, OpenError, Settings};

/// Prove every byte of the log.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Checked are the checksum of every record, that every batch can be decoded and holds what its header says, that positions \
                  rise without a gap between segments, that every definition stands before its first use, and the indexes. An end of the \
                  last segment that is not whole is no damage: the server cuts it off when it starts, and gets it again from the slot.\
                  \n\nExit codes: 0 sound, warnings may have been printed; 1 damage was found, or the folder can't be read; 2 wrong usage."
)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
    transactions: u64,
    changes: u64,
}

pub(super) fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(&args.folder.dir)?;
    let mut findings = Findings::default();
    let mut summaries: Vec<Summary> = Vec::new();
    let mut before = None;
    for number in folder.numbers.iter().copied() {
        if before.is_some_and(|before| before + 1 != number) {
            findings.errors.push(format!("a segment is missing before {}", file_of(number)));
        }
        before = Some(number);
        match check_segment(&folder, number, &mut findings) {
            Ok(summary) => summaries.push(summary),
            Err(OpenError::Damaged(damage)) => findings.errors.push(damage.to_string()),
            Err(error @ OpenError::Io { .. }) => return Err(error).context("read the log"),
            Err(error) => findings.errors.push(error.to_string()),
        }
    }
    for pair in summaries.windows(2).filter(|pair| pair[0].header.number + 1 == pair[1].header.number) {
        if let Err(damage) = check_chain(pair.iter()) {
            findings.errors.push(damage.to_string());
        }
    }
    print(&folder, &findings, out).context("print")?;
    Ok(if findings.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(folder: &Folder, findings: &Findings, out: &mut impl Write) -> std::io::Result<()> {
    for warning in &findings.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for error in &findings.errors {
        writeln!(out, "error: {error}")?;
    }
    let Findings { transactions, changes, .. } = findings;
    let segments = folder.numbers.len();
    writeln!(out, "epoch {}: {segments} segments, {transactions} transactions, {changes} changes", folder.epoch.epoch)?;
    match findings.errors.len() {
        0 => writeln!(out, "sound: every record is right and nothing is missing"),
        errors => writeln!(out, "DAMAGED: {errors} found"),
    }
}

fn check_segment(folder: &Folder, number: u64, findings: &mut Findings) -> Result<Summary, OpenError> {
    let name = file_of(number);
    let (file, header) = folder.header(number)?;
    let every = Settings::default().index_every_bytes;
    let scanned = scan(&file, &header, every, u64::MAX, |_, record, payload, schemas| {
        let (transactions, changes) = check_batch(record, payload, schemas)?;
        findings.transactions += transactions;
        findings.changes += changes;
        Ok(())
    })?;
    let end = scanned.end();
    let rest = rest_of(&file, number, end).map_err(OpenError::io("read", &name))?;
    let reason = scanned.stopped_by.map_or_else(|| "a record is missing".to_owned(), |error| error.to_string());
    match rest {
        Rest::Zeros => {}
        Rest::Torn if folder.is_last(number) => {
            findings.warnings.push(format!("{name}: from byte {end} on it is not whole, and will be cut off at the next start"));
        }
        Rest::Damage(_) | Rest::Torn => return Err(Damage::new(&name, end, reason).into()),
    }
    let summary = scanned.index.summary;
    if folder.is_last(number) && summary.last != summary.complete {
        let complete = summary.complete;
        findings.warnings.push(format!("{name}: what is behind {complete} is a transaction without its end"));
    }
    if !folder.is_last(number) {
        let beside = read_index(&folder.disk, number)?;
        let right =
            beside.as_deref().and_then(|bytes| SegmentIndex::parse(bytes, &header)).is_some_and(|index| index.summary == summary);
        if !right {
            let name = index_of(number);
            findings.warnings.push(format!("{name} is missing or wrong, and will be made again at the next start"));
        }
    }
    Ok(summary)
}

/// How many transactions end in a batch, and how many changes it holds.
fn check_batch(record: &RecordHeader, payload: &Bytes, known: &SchemaSet) -> Result<(u64, u64), String> {
    let batch = v1::Batch::decode(payload.clone()).map_err(|error| format!("it is no batch: {error}"))?;
    let meta = &record.meta;
    if meta.schemas == batch.schemas.is_empty() {
        return Err("it defines something and does not say so, or says so and does not".to_owned());
    }
    let is_known = |id: &u32| known.by_id(*id).is_some() || batch.schemas.iter().any(|schema| schema.id == *id);
    let (mut ended, mut changes) = (0, 0);
    let mut last: Option<Position> = None;
    for transaction in &batch.transactions {
        if !(meta.time_min..=meta.time_max).contains(&transaction.commit_time) {
            return Err(format!("transaction {} has a commit time that its header does not say", transaction.xid));
        }
        ended += u64::from(matches!(transaction.part(), v1::Part::Whole | v1::Part::End));
        for change in &transaction.changes {
            let at = Position { commit_lsn: Lsn(transaction.commit_lsn), ordinal: change.ordinal };
            if last.is_some_and(|last| last >= at) || !(meta.first..=meta.last).contains(&at) {
                return Err(format!("the change at {at} is not where its header says"));
            }
            last = Some(at);
            changes += 1;
            let of_table = change.truncate.is_none() && change.message.is_none();
            let mut used = change.truncate.iter().flat_map(|truncate| &truncate.schemas).chain(of_table.then_some(&change.schema));
            if let Some(unknown) = used.find(|id| !is_known(id)) {
                return Err(format!("the change at {at} uses schema {unknown}, which is not defined before it"));
            }
        }
    }
    Ok((ended, changes))
}
