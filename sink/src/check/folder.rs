//! What files there are, and of what cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use walbus::proto::control::Control;
use walbus::proto::history::History;
use walbus::proto::wal::{PageHeader, WalVersion};
use walbus::{Lsn, Segment, SegmentName, SegmentSize, SystemId, Timeline, WalFile};

use super::Finding;

/// A folder of WAL.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    identity: Option<Identity>,
    segments: BTreeMap<Segment, SegmentFile>,
    histories: BTreeMap<Timeline, History>,
    /// `../global/pg_control`, where this is a server's `pg_wal`.
    pub(super) control: Option<Control>,
    /// Whether it is a server's `pg_wal`, in which segments are made or kept for later use.
    pub(super) is_pg_wal: bool,
}

/// Whose WAL it is, by the first segment whose start can be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) system: SystemId,
    pub(super) version: WalVersion,
    pub(super) segment: SegmentSize,
}

/// A segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) name: String,
    /// Its length in bytes.
    pub(super) len: u64,
    pub(super) is_partial: bool,
}

impl Folder {
    pub(super) fn read(dir: &Path, findings: &mut Vec<Finding>) -> anyhow::Result<Self> {
        let mut segments = Vec::new();
        let mut histories = BTreeMap::new();
        let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some(file) = WalFile::parse(&name) else { continue };
            let about = entry.metadata().with_context(|| format!("look at {name}"))?;
            if !about.is_file() {
                findings.push(Finding::error(&name, None, "is no regular file, but has the name of one with WAL"));
                continue;
            }
            match file {
                WalFile::History(timeline) => {
                    let text = fs::read(entry.path()).with_context(|| format!("read {name}"))?;
                    match History::parse(timeline, &text) {
                        Ok(history) => drop(histories.insert(timeline, history)),
                        Err(error) => findings.push(Finding::error(&name, None, error.to_string())),
                    }
                }
                WalFile::Partial(of) => segments.push((of, SegmentFile { name, len: about.len(), is_partial: true })),
                WalFile::Segment(of) => segments.push((of, SegmentFile { name, len: about.len(), is_partial: false })),
            }
        }
        if segments.is_empty() && histories.is_empty() {
            bail!("{} holds no WAL: no file in it is named like a segment or a history", dir.display());
        }
        segments.sort_by(|(a, _), (b, _)| a.cmp(b));
        let data = dir.parent().map(|data| data.join("global/pg_control")).filter(|_| dir.join("archive_status").is_dir());
        let mut folder = Self {
            dir: dir.to_owned(),
            identity: None,
            segments: BTreeMap::new(),
            histories,
            control: None,
            is_pg_wal: data.is_some(),
        };
        folder.control = data.and_then(|path| fs::read(path).ok()).and_then(|bytes| Control::parse(&bytes).ok());
        folder.identity = folder.identify(&segments, findings)?;
        folder.place(segments, findings);
        Ok(folder)
    }

    /// Finds whose WAL it is by the first file that says so.
    fn identify(&self, files: &[(SegmentName, SegmentFile)], findings: &mut Vec<Finding>) -> anyhow::Result<Option<Identity>> {
        for (_, file) in files {
            let mut start = Vec::new();
            self.open(&file.name)?.take(40).read_to_end(&mut start).with_context(|| format!("read {}", file.name))?;
            let Some(header) = PageHeader::parse(&start) else { continue };
            let (Some(version), Some(long)) = (header.version(), header.long) else { continue };
            let Ok(segment) = SegmentSize::new(u64::from(long.segment_bytes)) else { continue };
            return Ok(Some(Identity { system: long.system, version, segment }));
        }
        if let Some((_, file)) = files.first() {
            let problem = "neither it nor any other segment here starts with a page of Postgres 15 to 18: nothing can be checked";
            findings.push(Finding::error(&file.name, None, problem));
        }
        Ok(None)
    }

    /// Puts the segments in order, and compares lengths.
    fn place(&mut self, files: Vec<(SegmentName, SegmentFile)>, findings: &mut Vec<Finding>) {
        let Some(size) = self.identity.map(|identity| identity.segment) else { return };
        for (name, file) in files {
            let Some(segment) = name.segment(size) else {
                let problem = format!("has a name for smaller segments than {size}, the size that segments here have");
                findings.push(Finding::error(&file.name, None, problem));
                continue;
            };
            let bytes = size.bytes();
            if file.len > bytes || !file.is_partial && file.len != bytes {
                findings.push(Finding::error(&file.name, None, format!("has {} bytes, expected {bytes}", file.len)));
            }
            match self.segments.get(&segment) {
                None => drop(self.segments.insert(segment, file)),
                Some(other) => {
                    let (whole, partial) = if other.is_partial { (&file, other) } else { (other, &file) };
                    let problem = format!("is left over: {} is there as well, and was checked instead", whole.name);
                    findings.push(Finding::warning(&partial.name, None, problem));
                    let whole = whole.clone();
                    self.segments.insert(segment, whole);
                }
            }
        }
    }

    pub(super) const fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// The timelines of which there are segments.
    pub(super) fn timelines(&self) -> BTreeSet<Timeline> {
        self.segments.keys().map(|segment| segment.timeline).collect()
    }

    /// The segments of a timeline, in order.
    pub(super) fn segments(&self, of: Timeline) -> Vec<(Segment, &SegmentFile)> {
        self.segments.iter().filter(|(segment, _)| segment.timeline == of).map(|(segment, file)| (*segment, file)).collect()
    }

    pub(super) fn segment(&self, segment: Segment) -> Option<&SegmentFile> {
        self.segments.get(&segment)
    }

    pub(super) const fn histories(&self) -> &BTreeMap<Timeline, History> {
        &self.histories
    }

    /// The last position at which a timeline whose history is here leaves `timeline`.
    pub(super) fn last_switchpoint(&self, timeline: Timeline) -> Option<Lsn> {
        self.histories.values().filter_map(|history| history.switchpoint(timeline)).max()
    }

    pub(super) fn open(&self, name: &str) -> anyhow::Result<File> {
        File::open(self.dir.join(name)).with_context(|| format!("open {name}"))
    }

    /// What a file holds from `offset` on, at most `len` bytes.
    pub(super) fn read_at(&self, name: &str, offset: u64, len: usize) -> anyhow::Result<Vec<u8>> {
        let file = self.open(name)?;
        let mut bytes = vec![0; len];
        let mut have = 0;
        while let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset + have as u64).with_context(|| format!("read {name}"))? {
                0 => break,
                read => have += read,
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }
}
