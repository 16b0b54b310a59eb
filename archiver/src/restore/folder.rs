//! The data folder that is to be recovered.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use walbus::disk::Disk;
use walbus::pgdata::{BackupLabel, OwnedDisk, Owner, read_whole};
use walbus::proto::control::Control;
use walbus::proto::history::History;
use walbus::proto::wal::{Decoder, PAGE_BYTES, Record};
use walbus::{Lsn, Segment, SegmentSize, Timeline, WalFile};

use crate::plan::Base;
use crate::walfile;

/// Its files.
#[derive(Debug)]
pub(super) struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// The folder itself.
    pub disk: OwnedDisk,
    _lock: fs::File,
}

/// What it says.
#[derive(Debug)]
pub(super) struct Local {
    /// `global/pg_control`.
    pub control: Control,
    /// What it is to recovery.
    pub base: Base,
    /// Segments of the right length in `pg_wal`.
    pub segments: Vec<Segment>,
}

/// Where the folder's own WAL ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalEnd {
    /// The end of the last complete record.
    pub end: Lsn,
    /// The segment that it ends in, and its timeline.
    pub segment: Segment,
}

impl Folder {
    /// The folder, with other commands of this program kept out of it.
    pub(super) fn open(pgdata: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(pgdata).context("find --pgdata")?;
        let owner = Owner::of(&path).with_context(|| format!("open {}", path.display()))?;
        ensure!(
            path.join("global/pg_control").is_file(),
            "{} is no data folder of Postgres: it has no global/pg_control. Check --pgdata",
            path.display()
        );
        owner.check(&path)?;
        let lock = fs::File::open(&path).context("open the data folder")?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!("another restore is at work on this folder: wait for its end"),
            Err(error) => return Err(error).context("lock the data folder"),
        }
        let disk = OwnedDisk::open(&path, owner).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { path, disk, _lock: lock })
    }

    /// Its `pg_wal`.
    pub(super) fn wal(&self) -> PathBuf {
        self.path.join("pg_wal")
    }

    /// Reads what it says.
    pub(super) fn read(&self) -> anyhow::Result<Local> {
        let control = self.control()?;
        let label = read_whole(&self.disk, "backup_label").context("read backup_label")?;
        let label = label
            .map(|text| BackupLabel::parse(&String::from_utf8_lossy(&text)))
            .transpose()
            .context("backup_label can't be used")?;
        if self.path.join("standby.signal").exists() {
            bail!(
                "standby.signal is in {}: with it the server would be a standby that never stops at a target. Remove that file if this copy \
                 is to be recovered to a point, then run restore again",
                self.path.display()
            );
        }
        let base = Base::of(&control, label.as_ref());
        let segments = self.segments(control.segment)?;
        Ok(Local { control, base, segments })
    }

    /// `global/pg_control`.
    pub(super) fn control(&self) -> anyhow::Result<Control> {
        let bytes = fs::read(self.path.join("global/pg_control")).context("read global/pg_control")?;
        Control::parse(&bytes).context("global/pg_control can't be used")
    }

    fn segments(&self, size: SegmentSize) -> anyhow::Result<Vec<Segment>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.wal()).context("list pg_wal")? {
            let entry = entry.context("list pg_wal")?;
            if let Some(WalFile::Segment(name)) = entry.file_name().to_str().and_then(WalFile::parse)
                && let Some(segment) = name.segment(size)
                && entry.metadata().context("look at pg_wal")?.len() == size.bytes()
            {
                found.push(segment);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A segment's file in `pg_wal`.
    pub(super) fn segment(&self, segment: Segment, size: SegmentSize) -> anyhow::Result<Vec<u8>> {
        let name = segment.name(size);
        fs::read(self.wal().join(name.as_str())).with_context(|| format!("read pg_wal/{name}"))
    }

    /// Whether the first page of a segment's file in `pg_wal` is that segment's.
    pub(super) fn has_begun(&self, segment: Segment, control: &Control) -> anyhow::Result<bool> {
        let name = segment.name(control.segment);
        let file = fs::File::open(self.wal().join(name.as_str())).with_context(|| format!("read pg_wal/{name}"))?;
        let mut page = Vec::new();
        file.take(u64::from(PAGE_BYTES)).read_to_end(&mut page).with_context(|| format!("read pg_wal/{name}"))?;
        Ok(walfile::check_start(&name, &page, control.system, control.segment).is_ok())
    }

    /// A timeline's history in `pg_wal`, where it is there.
    pub(super) fn history(&self, timeline: Timeline) -> anyhow::Result<Option<History>> {
        let name = WalFile::History(timeline).name();
        match fs::read(self.wal().join(&name)) {
            Ok(text) => Ok(Some(History::parse(timeline, &text).with_context(|| format!("read pg_wal/{name}"))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read pg_wal/{name}")),
        }
    }
}

impl Local {
    /// Follows the folder's own records from where replay starts, as crash recovery along `history` does: for each segment the file of the
    /// newest timeline that is there.
    pub(super) fn own_end(&self, folder: &Folder, history: &History) -> anyhow::Result<LocalEnd> {
        let size = self.control.segment;
        let mut decoder = Decoder::new(size, self.base.redo, history.timeline())?.with_system(self.control.system);
        let mut segment = Segment::containing(self.base.timeline, self.base.redo, size);
        let mut last = segment;
        while let Some(found) = self.file(history, size.number(decoder.position()), segment.timeline) {
            segment = found;
            let bytes = folder.segment(segment, size)?;
            let skip = usize::try_from(size.offset(decoder.position())).unwrap_or(usize::MAX).min(bytes.len());
            let pushed = decoder.push(&bytes[skip..], &mut |_: &Record| {});
            if size.number(decoder.complete_end()) == segment.number || decoder.complete_end() == segment.end(size) {
                last = segment;
            }
            if pushed.is_err() {
                break;
            }
        }
        ensure!(
            decoder.last_record().is_some(),
            "pg_wal of {} has no record at {}, where replay starts: the copy is not of one moment. Make a base backup with pg_basebackup, or \
             a snapshot of the whole filesystem",
            folder.path.display(),
            self.base.redo
        );
        Ok(LocalEnd { end: decoder.complete_end(), segment: last })
    }

    /// The file of segment `number` that recovery reads in `pg_wal`: of no timeline before `from`.
    fn file(&self, history: &History, number: u64, from: Timeline) -> Option<Segment> {
        let size = self.control.segment;
        let begun = |timeline: Timeline| {
            let parent = history.ancestors().iter().take_while(|ancestor| ancestor.timeline < timeline).last();
            parent.is_none_or(|parent| size.number(parent.end) <= number)
        };
        let fits = |segment: &&Segment| segment.number == number && segment.timeline >= from;
        let found =
            self.segments.iter().filter(fits).filter(|segment| history.contains(segment.timeline) && begun(segment.timeline));
        found.max_by_key(|segment| segment.timeline).copied()
    }
}

/// Removes a file, where it is there. Durable on return.
pub(super) fn remove_if_there<D: Disk>(disk: &D, name: &str) -> anyhow::Result<bool> {
    match disk.remove(name) {
        Ok(()) => {
            disk.sync_dir().with_context(|| format!("remove {name}"))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {name}")),
    }
}
