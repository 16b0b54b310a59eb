//! `beyond-pg-cdc log`: looks into the folder of an event log, and changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use walbus::disk::{DiskFile, OsDisk, OsFile};

use super::epoch::EpochFile;
use super::index::SegmentIndex;
use super::layout::SegmentHeader;
use super::names::{EPOCH_FILE, LOG_FOLDER, file_of, segment_number};
use super::reader::read_index;
use super::scan::{read_header, scan};
use super::{Damage, OpenError, Settings};

mod cat;
mod check;
mod list;
#[cfg(test)]
mod tests;

const IN_USE: &str = "Nothing is changed, and a server may be at work on the folder meanwhile. What it is writing at that moment is \
                      left out, or may not be durable yet.";

/// Look into the event log of a data folder.
#[derive(Debug, clap::Args)]
#[command(after_help = IN_USE)]
pub struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LogCommand {
    /// Print the changes that the log holds, one JSON object a line.
    #[command(display_order = 3)]
    Cat(cat::CatArgs),
    /// Prove every byte of the log.
    #[command(display_order = 1)]
    Check(check::CheckArgs),
    /// List the segments, and what each of them holds.
    #[command(display_order = 2)]
    Ls(list::ListArgs),
}

/// Which folder.
#[derive(Debug, clap::Args)]
struct FolderArgs {
    /// The data folder of a server, or the folder `log` in it.
    #[arg(value_name = "DATA-DIR")]
    dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Where the folder can't be read or holds no event log.
pub fn run(args: &LogArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = run_to(args, &mut out);
    match done.and_then(|code| out.flush().map(|()| code).context("print")) {
        // Whoever reads has enough, as `head` does.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(ExitCode::SUCCESS)
        }
        done => done,
    }
}

fn run_to(args: &LogArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match &args.command {
        LogCommand::Cat(args) => cat::run(args, out),
        LogCommand::Check(args) => check::run(args, out),
        LogCommand::Ls(args) => list::run(args, out),
    }
}

/// A log's folder.
#[derive(Debug)]
struct Folder {
    disk: OsDisk,
    epoch: EpochFile,
    /// The numbers of the segments, lowest first.
    numbers: Vec<u64>,
}

/// A segment that was read.
#[derive(Debug)]
struct Segment {
    file: Arc<OsFile>,
    header: SegmentHeader,
    index: SegmentIndex,
    file_bytes: u64,
}

impl Folder {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        // A data folder has no epoch's file of its own, and a log's folder no log.
        let below = dir.join(LOG_FOLDER);
        let dir = if dir.join(EPOCH_FILE).exists() || !below.is_dir() { dir } else { &below };
        let disk = OsDisk::open(dir).with_context(|| format!("open {}", dir.display()))?;
        let epoch = EpochFile::read(&disk)?.ok_or(OpenError::NoLog).with_context(|| format!("look into {}", dir.display()))?;
        let files = walbus::disk::Disk::list(&disk).with_context(|| format!("list {}", dir.display()))?;
        let mut numbers: Vec<u64> = files.iter().filter_map(|(name, _)| segment_number(name)).collect();
        numbers.sort_unstable();
        Ok(Self { disk, epoch, numbers })
    }

    /// Whether it is the segment being written, or the one that was when the server stopped.
    fn is_last(&self, number: u64) -> bool {
        self.numbers.last() == Some(&number)
    }

    /// What a segment holds: by its index where it has a right one, else by its records.
    fn segment(&self, number: u64) -> Result<Segment, OpenError> {
        let (file, header) = self.header(number)?;
        let file_bytes = file.len().map_err(OpenError::io("read", &file_of(number)))?;
        let beside = if self.is_last(number) { None } else { read_index(&self.disk, number)? };
        let index = match beside.and_then(|bytes| SegmentIndex::parse(&bytes, &header)) {
            Some(index) => index,
            None => scan(&file, &header, Settings::default().index_every_bytes, u64::MAX, |_, _, _, _| Ok(()))?.index,
        };
        Ok(Segment { file, header, index, file_bytes })
    }

    fn header(&self, number: u64) -> Result<(Arc<OsFile>, SegmentHeader), OpenError> {
        let (file, header) = read_header(&self.disk, number)?;
        if header.epoch != self.epoch.epoch {
            let (held, wanted) = (header.epoch, self.epoch.epoch);
            return Err(OpenError::OtherEpoch { file: file_of(number), held, wanted });
        }
        if header.system_id != self.epoch.identity.system_id {
            let reason = format!("it is of the cluster with system identifier {}", header.system_id);
            return Err(Damage::new(&file_of(number), 0, reason).into());
        }
        Ok((file, header))
    }
}
