//! What a folder holds, found by reading it: there is no other record of it.
//!
//! The end of the WAL is where the last complete, CRC-valid record ends. It is looked for from the last whole segment on, through the
//! partial ones behind it: after a crash there can be two, one full and not yet named, and the next.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::disk::{Disk, DiskFile};
use crate::ident::Timeline;
use crate::index::SegmentFacts;
use crate::lsn::Lsn;
use crate::proto::history::History;
use crate::proto::wal::{Decoder, PageHeader, WalEvent};
use crate::segment::{Segment, SegmentName, SegmentSize, WalFile};

use super::{Held, Identity};

/// How much is read of a file at a time.
const READ_BYTES: usize = 1 << 20;
/// The length of the header that a segment starts with.
const HEADER_BYTES: usize = 40;

/// What a folder holds.
#[derive(Debug)]
pub struct Scan {
    /// Whose WAL.
    pub identity: Identity,
    /// How far it reaches.
    pub held: Held,
    /// All segments, and whether each is whole.
    pub segments: BTreeMap<Segment, bool>,
    /// The timelines whose history is there.
    pub histories: BTreeSet<Timeline>,
    /// What was found in the segments that were read.
    pub facts: Vec<(Segment, SegmentFacts)>,
    /// Decoders as they stood at segment starts.
    pub(super) checkpoints: Vec<Decoder>,
    /// Partial segments that were read: to be made durable.
    partial: Vec<Segment>,
    /// The end of the last record, if that is a segment switch.
    switch_end: Option<Lsn>,
    /// A whole segment in which a damaged record was found.
    pub damaged: Option<DamagedSegment>,
}

/// A segment under its final name that does not hold what it should. What is behind it is still good, but `check` should be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSegment {
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub problem: String,
}

/// Why a folder can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system says no.
    #[error("{doing} {name}")]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file.
        name: String,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// There are WAL files but none has a header that is known.
    #[error(
        "{name} is named as a WAL segment, but does not start as one of PostgreSQL 15 to 18. Move it away, or use another --data-dir"
    )]
    NoHeader {
        /// The newest of them.
        name: String,
    },
    /// A file of WAL has not the size of a segment.
    #[error(
        "{name} is {len} bytes long, but segments here are {expected}: it is damaged, or of another cluster. Move it away, or use another \
         --data-dir"
    )]
    WrongLength {
        /// The file.
        name: String,
        /// Its length in bytes.
        len: u64,
        /// The size of the segments.
        expected: u64,
    },
}

impl Scan {
    /// Reads the folder. `None` where it holds no WAL.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn of<D: Disk>(disk: &D) -> Result<Option<Self>, OpenError> {
        let files = disk.list().map_err(|source| OpenError::Io { doing: "list", name: "the data folder".into(), source })?;
        let Some(identity) = identify(disk, &files)? else { return Ok(None) };
        let mut scan = Self::list(identity, &files)?;
        let mut timeline = scan.newest_timeline();
        while let Some(candidate) = timeline {
            if scan.read(disk, candidate)? {
                return Ok(Some(scan));
            }
            timeline = scan.segments.keys().map(|segment| segment.timeline).filter(|tli| *tli < candidate).max();
        }
        Ok(None)
    }

    fn list(identity: Identity, files: &[(String, u64)]) -> Result<Self, OpenError> {
        let size = identity.segment_size;
        let (mut segments, mut histories) = (BTreeMap::new(), BTreeSet::new());
        for (file, len) in files {
            let (name, whole) = match WalFile::parse(file) {
                Some(WalFile::History(timeline)) => {
                    histories.insert(timeline);
                    continue;
                }
                Some(WalFile::Partial(name)) => (name, false),
                Some(WalFile::Segment(name)) => (name, true),
                None => continue,
            };
            let wrong = || OpenError::WrongLength { name: file.clone(), len: *len, expected: size.bytes() };
            let segment = name.segment(size).filter(|_| *len == size.bytes()).ok_or_else(wrong)?;
            // Of a name that is there twice the whole one counts.
            *segments.entry(segment).or_insert(whole) |= whole;
        }
        let nowhere = Held { timeline: Timeline::FIRST, oldest: Lsn::INVALID, complete: Lsn::INVALID, end: Lsn::INVALID };
        let (facts, checkpoints, partial) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { identity, held: nowhere, segments, histories, facts, checkpoints, partial, switch_end: None, damaged: None })
    }

    fn newest_timeline(&self) -> Option<Timeline> {
        self.segments.keys().map(|segment| segment.timeline).max()
    }

    /// Finds the end of a timeline's WAL. `false` where there is less of it than its parent timeline holds: a promotion that was not received to
    /// the point where the timelines part.
    fn read<D: Disk>(&mut self, disk: &D, timeline: Timeline) -> Result<bool, OpenError> {
        let mine = self.segments.iter().filter(|(segment, _)| segment.timeline == timeline);
        let mut first = None;
        for (segment, whole) in mine {
            if *whole || first.is_none() {
                first = Some(*segment);
            }
        }
        let Some(mut first) = first else { return Ok(false) };
        let mut found = self.read_from(disk, first)?;
        // A record can be longer than a segment: look further back for one that is complete.
        while !found
            && let Some(before) =
                first.number.checked_sub(1).map(|number| Segment { number, timeline }).filter(|s| self.is_whole(*s))
        {
            first = before;
            found = self.read_from(disk, first)?;
        }
        if let Some((parent, switchpoint)) = self.parent(disk, timeline)
            && (self.held.complete < switchpoint || !self.continues(disk, timeline, parent, switchpoint)?)
        {
            return Ok(false);
        }
        Ok(found || self.is_whole(first))
    }

    /// Whether a timeline's first segment begins as its parent's does. One that was never flushed may be torn, also where no record's CRC tells:
    /// in the rest of a record that began in the segment before.
    fn continues<D: Disk>(&self, disk: &D, timeline: Timeline, parent: Timeline, switchpoint: Lsn) -> Result<bool, OpenError> {
        let size = self.identity.segment_size;
        let [mine, before] = [timeline, parent].map(|timeline| Segment::containing(timeline, switchpoint, size));
        let (Some(false), Some(before_is_whole)) = (self.segments.get(&mine), self.segments.get(&before)) else { return Ok(true) };
        let mut left = size.offset(switchpoint);
        let mut pieces = [vec![0; READ_BYTES], vec![0; READ_BYTES]];
        let names = [file_name(mine, size, false), file_name(before, size, *before_is_whole)];
        while left > 0 {
            let len = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            for (name, piece) in names.iter().zip(&mut pieces) {
                let read = disk.open(name).and_then(|file| file.read_at(&mut piece[..len], size.offset(switchpoint) - left));
                read.map_err(|source| OpenError::Io { doing: "read", name: name.clone(), source })?;
            }
            if pieces[0][..len] != pieces[1][..len] {
                return Ok(false);
            }
            left -= len as u64;
        }
        Ok(true)
    }

    fn is_whole(&self, segment: Segment) -> bool {
        self.segments.get(&segment) == Some(&true)
    }

    /// Reads from the start of a segment to the end of the WAL. `false` where no record is complete, or one that began before the segment runs
    /// on into what may be torn: its CRC can't be checked from here.
    fn read_from<D: Disk>(&mut self, disk: &D, first: Segment) -> Result<bool, OpenError> {
        let size = self.identity.segment_size;
        let mut decoder = self.decoder(first.timeline, first.start(size));
        (self.switch_end, self.damaged) = (None, None);
        (self.facts, self.checkpoints, self.partial) = (Vec::new(), vec![decoder.clone()], Vec::new());
        let mut segment = first;
        let mut end = first.start(size);
        while let Some(whole) = self.segments.get(&segment).copied() {
            let problem = self.read_segment(disk, segment, whole, &mut decoder)?;
            if whole {
                end = segment.end(size);
            } else {
                self.partial.push(segment);
            }
            if let Some(problem) = problem {
                if !whole {
                    break;
                }
                // What a whole segment holds was acknowledged, whatever has become of it: go on behind it.
                self.damaged = Some(DamagedSegment { name: segment.name(size).to_string(), problem });
                decoder = self.decoder(segment.timeline, segment.end(size));
            }
            segment = segment.next();
            self.checkpoints.push(decoder.clone());
        }
        let unchecked = decoder.unverified_end().is_some_and(|end| self.is_whole(first) && end > first.end(size));
        let mut complete = decoder.complete_end();
        if let Some(switch_end) = self.switch_end.filter(|_| end < complete) {
            // Behind a switch come zeros up to the segment's end, and a partial segment has them whether they have come or not.
            complete = switch_end;
        }
        self.held =
            Held { timeline: first.timeline, oldest: self.oldest_before(first).start(size), complete, end: end.max(complete) };
        self.checkpoints.retain(|kept| kept.position() >= size.floor(complete));
        Ok(decoder.last_record().is_some() && !unchecked || self.damaged.is_some())
    }

    /// The first of the whole segments before `segment`, without a hole.
    fn oldest_before(&self, segment: Segment) -> Segment {
        let before = |segment: &Segment| {
            let before = Segment { number: segment.number.checked_sub(1)?, timeline: segment.timeline };
            self.is_whole(before).then_some(before)
        };
        std::iter::successors(Some(segment), before).last().unwrap_or(segment)
    }

    fn decoder(&self, timeline: Timeline, start: Lsn) -> Decoder {
        super::decoder(self.identity, timeline, start)
    }

    /// Feeds a segment to the decoder; gives what ended it early.
    fn read_segment<D: Disk>(
        &mut self,
        disk: &D,
        segment: Segment,
        whole: bool,
        decoder: &mut Decoder,
    ) -> Result<Option<String>, OpenError> {
        let size = self.identity.segment_size;
        let name = file_name(segment, size, whole);
        let file = disk.open(&name).map_err(|source| OpenError::Io { doing: "open", name: name.clone(), source })?;
        let mut facts = SegmentFacts::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut offset = 0;
        let mut problem = None;
        while offset < size.bytes() && problem.is_none() {
            let read =
                file.read_at(&mut buffer, offset).map_err(|source| OpenError::Io { doing: "read", name: name.clone(), source })?;
            let fed = decoder.push(&buffer[..read], &mut |record| {
                if let Some(event) = &record.event {
                    facts.add(record.end, event);
                }
                self.switch_end = matches!(record.event, Some(WalEvent::Switch)).then_some(record.end);
            });
            problem = fed.err().map(|error| error.to_string());
            offset += read as u64;
        }
        self.facts.push((segment, facts));
        Ok(problem)
    }

    /// Which timeline it left and where, by its history file.
    fn parent<D: Disk>(&self, disk: &D, timeline: Timeline) -> Option<(Timeline, Lsn)> {
        let file = self.histories.contains(&timeline).then(|| disk.open(&WalFile::History(timeline).name()).ok()).flatten()?;
        let mut content = vec![0; usize::try_from(file.len().ok()?).ok()?];
        file.read_at(&mut content, 0).ok()?;
        History::parse(timeline, &content).ok()?.ancestors().last().map(|parent| (parent.timeline, parent.end))
    }

    /// Makes durable what was found, and names what is whole.
    ///
    /// The bytes are written again first: after an fsync that failed in an earlier life the kernel may hold them as clean, and an fsync
    /// alone would not bring them to the disk.
    pub(super) fn make_durable<D: Disk>(&self, disk: &D, size: SegmentSize) -> io::Result<Vec<Segment>> {
        let mut sealed = Vec::new();
        for segment in &self.partial {
            let partial = file_name(*segment, size, false);
            let file = disk.open(&partial)?;
            let held = self.held.complete.min(segment.end(size)).bytes_after(segment.start(size));
            let mut buffer = vec![0; READ_BYTES];
            let mut offset = 0;
            while offset < held {
                let read = file.read_at(&mut buffer, offset)?;
                let len = usize::try_from(held - offset).map_or(read, |left| left.min(read));
                file.write_at(&buffer[..len], offset)?;
                offset += len as u64;
            }
            file.sync()?;
            if self.held.complete >= segment.end(size) {
                disk.rename(&partial, segment.name(size).as_str())?;
                // One by one: a whole segment proves that those before it are.
                disk.sync_dir()?;
                sealed.push(*segment);
            }
        }
        disk.sync_dir()?;
        Ok(sealed)
    }
}

fn file_name(segment: Segment, size: SegmentSize, whole: bool) -> String {
    let name = segment.name(size);
    if whole { name.to_string() } else { WalFile::Partial(name).name() }
}

/// Whose WAL the folder holds, by the header of its newest segment that has one.
fn identify<D: Disk>(disk: &D, files: &[(String, u64)]) -> Result<Option<Identity>, OpenError> {
    let mut names: Vec<(SegmentName, &String)> = files
        .iter()
        .filter_map(|(file, _)| match WalFile::parse(file)? {
            WalFile::Partial(name) | WalFile::Segment(name) => Some((name, file)),
            WalFile::History(_) => None,
        })
        .collect();
    names.sort();
    let mut unreadable = None;
    for (_, file) in names.iter().rev() {
        let mut header = [0; HEADER_BYTES];
        let read = disk.open(file).and_then(|open| open.read_at(&mut header, 0));
        read.map_err(|source| OpenError::Io { doing: "read", name: (*file).clone(), source })?;
        let parsed = PageHeader::parse(&header).filter(|header| header.version().is_some());
        if let Some(long) = parsed.and_then(|header| header.long)
            && let Ok(segment_size) = SegmentSize::new(u64::from(long.segment_bytes))
        {
            return Ok(Some(Identity { system_id: long.system, segment_size }));
        }
        // A partial segment of zeros alone was made and never written.
        if header != [0; HEADER_BYTES] {
            unreadable.get_or_insert_with(|| (*file).clone());
        }
    }
    unreadable.map_or(Ok(None), |name| Err(OpenError::NoHeader { name }))
}
