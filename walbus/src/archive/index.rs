//! What is in a segment: kept beside it, so that a time, a transaction or a name is found without fetching segments.

use serde::{Deserialize, Serialize};

use super::envelope::{ContentHash, sha256};
use crate::ident::{PgTime, SystemId, Timeline};
use crate::index::SegmentFacts;
use crate::lsn::Lsn;
use crate::proto::wal::{Decoder, PageHeader, Reason, Record, WalEvent, WalVersion};
use crate::segment::{Segment, SegmentSize};

mod fragment;
mod text;

pub use fragment::{FRAGMENT_BYTES_MAX, Head, JoinError, Joined, Straddling, Tail, join};

/// The only version there is.
const VERSION: u32 = 1;

/// What is in a segment. A record belongs to the segment in which it ends: recovery needs that one to replay it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentIndex {
    version: u32,
    /// The cluster.
    #[serde(with = "text::display")]
    pub system: SystemId,
    /// The timeline in the segment's name.
    #[serde(with = "text::timeline")]
    pub timeline: Timeline,
    /// The segment's first byte.
    #[serde(with = "text::display")]
    pub start: Lsn,
    /// The first byte behind it.
    #[serde(with = "text::display")]
    pub end: Lsn,
    /// The SHA-256 of the segment that this was made of.
    #[serde(with = "text::display")]
    pub sha256: ContentHash,
    /// The major version of the Postgres that wrote it; `None` where its first page is none.
    pub postgres: Option<u32>,
    /// Where the first record starts that starts in it; `None` where none does.
    #[serde(with = "text::option")]
    pub first_record: Option<Lsn>,
    /// Where the last record starts that starts and ends in it; `None` where none does.
    #[serde(with = "text::option")]
    pub last_record: Option<Lsn>,
    /// The earliest commit or rollback that starts and ends in it. Times are not monotonic in the WAL.
    #[serde(rename = "commit_time_min_unix_us", with = "text::time")]
    pub commit_time_min: Option<PgTime>,
    /// The latest one.
    #[serde(rename = "commit_time_max_unix_us", with = "text::time")]
    pub commit_time_max: Option<PgTime>,
    /// The transactions whose commit or rollback starts and ends in it; `None` where there is none.
    pub xids: Option<XidRange>,
    /// How many commits and rollbacks of prepared transactions end in it whose transaction could not be seen, and is not among
    /// [`Self::xids`]: see [`WalEvent::CommitPrepared`].
    pub prepared_unnamed: u64,
    /// Restore points in it.
    pub restore_points: Vec<NamedPoint>,
    /// How many more restore points there are that were left out.
    pub restore_points_left_out: u64,
    /// How many records end in it by which the server's settings changed that recovery must keep up with; one that comes in over the
    /// segment's start excepted.
    pub parameter_changes: u64,
    /// The timelines that begin in it.
    pub timelines: Vec<TimelineStart>,
    /// The rest of a record that comes in over the segment's start.
    pub head: Option<Head>,
    /// Whether the segment's first page says that the rest of that record was lost in a crash.
    pub head_lost: bool,
    /// The start of a record that goes out over the segment's end.
    pub tail: Option<Tail>,
    /// Whether a segment switch ended it early.
    pub switched: bool,
    /// Where its WAL stops to be valid, and why; `None` where all of it is.
    pub invalid: Option<Invalid>,
}

/// A range of transactions on the circle of 2^32 that they wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XidRange {
    /// The oldest one.
    pub min: u32,
    /// The newest one: numerically below `min` where the range goes over the wraparound.
    pub max: u32,
}

/// A named restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPoint {
    /// Its name.
    pub name: String,
    /// The end of its record.
    #[serde(with = "text::display")]
    pub end: Lsn,
    /// When it was made, by the primary's clock.
    #[serde(rename = "time_unix_us", with = "text::one_time")]
    pub time: PgTime,
}

/// Where a timeline begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineStart {
    /// The end of the record that begins it.
    #[serde(with = "text::display")]
    pub end: Lsn,
    /// The timeline.
    #[serde(with = "text::timeline")]
    pub timeline: Timeline,
}

/// Where a segment stops to be valid WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invalid {
    /// The page or record.
    #[serde(with = "text::display")]
    pub at: Lsn,
    /// What is wrong with it.
    pub reason: String,
}

/// An index that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is no index.
    #[error("it is no index of a segment: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of no segment.
    #[error("it is an index of {0} to {1}, which is no segment")]
    Range(Lsn, Lsn),
    /// Its version is not known.
    #[error("its format is version {0}; this program knows version {VERSION}: use a later one")]
    Version(u32),
}

impl XidRange {
    /// Whether `xid` is in the range.
    #[must_use]
    pub const fn contains(&self, xid: u32) -> bool {
        xid.wrapping_sub(self.min) <= self.max.wrapping_sub(self.min)
    }

    /// Whether it goes over the wraparound.
    #[must_use]
    pub const fn wraps(&self) -> bool {
        self.min > self.max
    }

    /// The range with `xid` in it as well: by Postgres' rule, of two transactions less than 2^31 apart the one ahead is the newer.
    #[must_use]
    pub const fn with(self, xid: u32) -> Self {
        if self.contains(xid) {
            self
        } else if xid.wrapping_sub(self.max) < 1 << 31 {
            Self { max: xid, ..self }
        } else {
            Self { min: xid, ..self }
        }
    }
}

/// Whether there is nothing from this offset on.
fn is_zeroed(bytes: &[u8], from: u64) -> bool {
    let behind = usize::try_from(from).ok().and_then(|from| bytes.get(from..));
    behind.is_some_and(|behind| behind.iter().all(|byte| *byte == 0))
}

impl SegmentIndex {
    /// What is in `segment`, whose bytes these are. Of bytes that are no valid WAL to their end, what stands before that counts.
    #[must_use]
    pub fn of(system: SystemId, segment: Segment, size: SegmentSize, bytes: &[u8]) -> Self {
        Self::with_hash(system, segment, size, bytes, sha256(bytes))
    }

    /// The same, for a caller who has hashed the bytes already.
    #[must_use]
    pub fn with_hash(system: SystemId, segment: Segment, size: SegmentSize, bytes: &[u8], sha256: ContentHash) -> Self {
        let start = segment.start(size);
        let mut index = Self::empty(system, segment, size, sha256);
        let mut facts = SegmentFacts::default();
        let decoder = Decoder::new(size, start, segment.timeline).map(|decoder| decoder.with_system(system));
        let read = decoder.and_then(|mut decoder| {
            decoder.push(bytes, &mut |record| index.add(record, &mut facts))?;
            index.tail = decoder.pending_record().and_then(|record| Tail::of(bytes, start, record));
            Ok(())
        });
        let failed = read.err();
        index.invalid = failed.as_ref().map(|error| Invalid { at: error.lsn, reason: error.reason.to_string() });
        if let Some(header) = PageHeader::parse(bytes) {
            index.postgres = header.version().map(WalVersion::major);
            index.head_lost = header.is_overwrite_contrecord();
            // Behind where it stops to be valid, nothing is believed.
            let limit = index.invalid.as_ref().map_or(index.end, |invalid| invalid.at);
            index.head = Head::of(bytes, index.start, index.end, &header).filter(|head| head.end.unwrap_or(index.end) <= limit);
        }
        let unwritten_from = failed.filter(|error| error.reason == Reason::Unwritten).map(|error| error.lsn);
        if let Some((head, at)) = index.head.as_ref().zip(unwritten_from)
            && head.end == Some(at)
            && head.is_switch()
            && is_zeroed(bytes, at.bytes_after(start))
        {
            (index.switched, index.invalid) = (true, None);
        }
        index.first_record = index.first_record.or_else(|| index.tail.as_ref().map(|tail| tail.record));
        index.take(facts);
        index
    }

    /// Takes note of a record that starts and ends in the segment.
    fn add(&mut self, record: &Record, facts: &mut SegmentFacts) {
        self.first_record.get_or_insert(record.lsn);
        self.last_record = Some(record.lsn);
        let Some(event) = &record.event else { return };
        match event {
            WalEvent::Abort { .. } | WalEvent::Commit { .. } => self.add_xid(record.xid),
            WalEvent::AbortPrepared { xid: Some(xid), .. } | WalEvent::CommitPrepared { xid: Some(xid), .. } => self.add_xid(*xid),
            WalEvent::AbortPrepared { xid: None, .. } | WalEvent::CommitPrepared { xid: None, .. } => self.prepared_unnamed += 1,
            WalEvent::ParameterChange { .. } => self.parameter_changes += 1,
            WalEvent::Switch => self.switched = true,
            _ => {}
        }
        facts.add(record.end, event);
    }

    fn add_xid(&mut self, xid: u32) {
        if xid != 0 {
            self.xids = Some(self.xids.map_or(XidRange { min: xid, max: xid }, |range| range.with(xid)));
        }
    }

    /// The version of Postgres that wrote it.
    fn version(&self) -> Option<WalVersion> {
        let versions = [WalVersion::V15, WalVersion::V16, WalVersion::V17, WalVersion::V18];
        versions.into_iter().find(|version| Some(version.major()) == self.postgres)
    }

    fn take(&mut self, facts: SegmentFacts) {
        self.commit_time_min = facts.commit_time_min;
        self.commit_time_max = facts.commit_time_max;
        self.restore_points = facts
            .restore_points
            .into_iter()
            .map(|point| NamedPoint { name: point.name, end: point.end, time: point.time })
            .collect();
        self.restore_points_left_out = facts.restore_points_left_out;
        self.timelines = facts.timelines.into_iter().map(|(end, timeline)| TimelineStart { end, timeline }).collect();
    }

    /// The index as JSON: the plain content of its object.
    ///
    /// # Errors
    /// Never; the library's signature has one.
    pub fn encode(&self) -> Result<Vec<u8>, IndexError> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads an index.
    ///
    /// # Errors
    /// Where it is none, or of another version.
    pub fn parse(json: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let version = serde_json::from_slice::<Versioned>(json)?.version;
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        let index: Self = serde_json::from_slice(json)?;
        match SegmentSize::new(index.end.bytes_after(index.start)) {
            Ok(size) if size.offset(index.start) == 0 => Ok(index),
            _ => Err(IndexError::Range(index.start, index.end)),
        }
    }

    fn empty(system: SystemId, segment: Segment, size: SegmentSize, sha256: ContentHash) -> Self {
        Self {
            version: VERSION,
            system,
            timeline: segment.timeline,
            start: segment.start(size),
            end: segment.end(size),
            sha256,
            postgres: None,
            first_record: None,
            last_record: None,
            commit_time_min: None,
            commit_time_max: None,
            xids: None,
            prepared_unnamed: 0,
            restore_points: Vec::new(),
            restore_points_left_out: 0,
            parameter_changes: 0,
            timelines: Vec::new(),
            head: None,
            head_lost: false,
            tail: None,
            switched: false,
            invalid: None,
        }
    }
}

#[cfg(test)]
mod tests;
