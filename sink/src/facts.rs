//! Keeps what is known of whole segments beside them, so that a restart does not decode all of them again.
//!
//! `DIR/index/SEG.json` says of `SEG` what [`SegmentFacts`] holds. It is derived: lost, damaged or of an unknown form, it is made again from the
//! segment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};
use walbus::disk::{OsDisk, write_whole};
use walbus::index::{RestorePoint, SegmentFacts};
use walbus::proto::wal::Decoder;
use walbus::{Lsn, PgTime, Segment, SegmentSize, Timeline};

use crate::state::StreamState;

/// The form of the files: changed when their meaning does.
const FORM: u32 = 1;
const FOLDER: &str = "index";
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    form: u32,
    commit_time_min: Option<i64>,
    commit_time_max: Option<i64>,
    restore_points: Vec<StoredPoint>,
    restore_points_left_out: u64,
    timelines: Vec<(u64, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredPoint {
    name: String,
    end: u64,
    time: i64,
}

impl Stored {
    fn of(facts: &SegmentFacts) -> Self {
        let point = |point: &RestorePoint| StoredPoint { name: point.name.clone(), end: point.end.0, time: point.time.0 };
        Self {
            form: FORM,
            commit_time_min: facts.commit_time_min.map(|time| time.0),
            commit_time_max: facts.commit_time_max.map(|time| time.0),
            restore_points: facts.restore_points.iter().map(point).collect(),
            restore_points_left_out: facts.restore_points_left_out,
            timelines: facts.timelines.iter().map(|(end, timeline)| (end.0, timeline.get())).collect(),
        }
    }

    fn into_facts(self) -> Option<SegmentFacts> {
        let point = |point: StoredPoint| RestorePoint { name: point.name, end: Lsn(point.end), time: PgTime(point.time) };
        let timelines = self.timelines.into_iter().map(|(end, timeline)| Some((Lsn(end), Timeline::new(timeline)?)));
        let timelines = timelines.collect::<Option<_>>().filter(|_| self.form == FORM)?;
        Some(SegmentFacts {
            commit_time_min: self.commit_time_min.map(PgTime),
            commit_time_max: self.commit_time_max.map(PgTime),
            restore_points: self.restore_points.into_iter().map(point).collect(),
            restore_points_left_out: self.restore_points_left_out,
            timelines,
        })
    }
}

/// Where to say that a segment is whole.
#[derive(Debug, Clone)]
pub struct Indexer {
    sealed: mpsc::Sender<Segment>,
}

impl Indexer {
    /// Starts the thread that keeps the index of the folder. First it goes through what is held, the newest first.
    ///
    /// # Errors
    /// Where the index folder or the thread can't be made.
    pub fn start(data_dir: &Path, state: Arc<StreamState>) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let (sealed, todo) = mpsc::channel();
        let index = Index { data_dir: data_dir.to_owned(), folder: OsDisk::open(&folder)?, state };
        let work = move || {
            index.load_all();
            for segment in todo {
                index.store_what_is_known(segment);
            }
        };
        std::thread::Builder::new().name("index".into()).spawn(work)?;
        Ok(Self { sealed })
    }

    /// Keeps what the catalog knows of a segment that is whole now.
    pub fn sealed(&self, segment: Segment) {
        // Without the thread the index is not kept, and made again at the next start.
        self.sealed.send(segment).ok();
    }
}

/// The name of the file that keeps what is known of a segment, within the data folder.
#[must_use]
pub fn file_of(segment: Segment, size: SegmentSize) -> PathBuf {
    Path::new(FOLDER).join(format!("{}.json", segment.name(size)))
}

struct Index {
    data_dir: PathBuf,
    folder: OsDisk,
    state: Arc<StreamState>,
}

impl Index {
    fn load_all(&self) {
        let (size, whole) = {
            let catalog = self.state.catalog();
            let Some(identity) = catalog.identity else { return };
            let whole = catalog.segments.iter().rev().filter(|(_, held)| held.partial_end.is_none()).map(|(segment, _)| *segment);
            (identity.segment_size, whole.collect::<Vec<_>>())
        };
        for segment in whole {
            let facts = self.load(segment, size).or_else(|| {
                let made = self.make(segment, size)?;
                self.store(segment, size, &made);
                Some(made)
            });
            if let (Some(facts), Some(held)) = (facts, self.state.catalog_mut().segments.get_mut(&segment)) {
                held.facts.merge(facts);
            }
        }
    }

    fn load(&self, segment: Segment, size: SegmentSize) -> Option<SegmentFacts> {
        let content = fs::read(self.data_dir.join(file_of(segment, size))).ok()?;
        serde_json::from_slice::<Stored>(&content).ok()?.into_facts()
    }

    /// Decodes a segment. A record that began before it is passed over: it was indexed where it ends, if that is here, by the receiver alone.
    fn make(&self, segment: Segment, size: SegmentSize) -> Option<SegmentFacts> {
        let mut decoder = Decoder::new(size, segment.start(size), segment.timeline).ok()?;
        let mut facts = SegmentFacts::default();
        let mut file = fs::File::open(self.data_dir.join(segment.name(size).as_str())).ok()?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = io::Read::read(&mut file, &mut buffer).ok()?;
            let fed = decoder.push(&buffer[..read], &mut |record| {
                if let Some(event) = &record.event {
                    facts.add(record.end, event);
                }
            });
            if let Err(error) = fed {
                warn!(segment = %segment.name(size), %error, "the segment is damaged: run `beyond-pg-sink check`");
                return None;
            }
            if read == 0 {
                return Some(facts);
            }
        }
    }

    fn store_what_is_known(&self, segment: Segment) {
        let known = {
            let catalog = self.state.catalog();
            catalog.identity.and_then(|identity| Some((identity.segment_size, catalog.segments.get(&segment)?.facts.clone())))
        };
        if let Some((size, facts)) = known {
            self.store(segment, size, &facts);
        }
    }

    fn store(&self, segment: Segment, size: SegmentSize, facts: &SegmentFacts) {
        let name = format!("{}.json", segment.name(size));
        let stored = serde_json::to_vec(&Stored::of(facts)).map_err(io::Error::other);
        if let Err(error) = stored.and_then(|json| write_whole(&self.folder, &name, &json)) {
            debug!(name, %error, "the index is not kept; it is made again at the next start");
        }
    }
}
