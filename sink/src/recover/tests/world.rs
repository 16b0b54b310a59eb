//! A folder and a sink to recover it from.

use std::collections::BTreeMap;
use std::sync::Mutex;

use walbus::disk::{Disk, DiskFile, write_whole};
use walbus::proto::wal::WalBuilder;
use walbus::sim::SimDisk;
use walbus::{Lsn, PgTime, Segment, SegmentName, SegmentSize, SystemId, Timeline};

use crate::api;
use crate::client::ClientError;
use crate::recover::chain::Walk;
use crate::recover::error::RecoverError;
use crate::recover::folder::{Folders, read_local};
use crate::recover::job::{Job, Note, Progress, Remote};
use crate::recover::plan::{Ancestors, Held, Plan, plan};
use crate::recover::report::Report;

pub(super) const MB: u64 = 1 << 20;
const SIZE: SegmentSize = SegmentSize::MIN;
const SYSTEM: SystemId = SystemId(7);

/// WAL in segments 1 to 4 of 1 MB; the folder has it up to the middle of 2, the sink all of it.
pub(super) struct World<D: Disk = SimDisk> {
    pub(super) builder: WalBuilder,
    pub(super) folders: Folders<D>,
    pub(super) local_end: Lsn,
    pub(super) complete: Lsn,
    pub(super) dry_run: bool,
    pub(super) free_bytes: u64,
    /// What the sink says when it is asked once more.
    pub(super) grows_to: Option<Lsn>,
    /// The sink fails for good after so many pieces.
    pub(super) fails_after: Option<usize>,
    pub(super) jobs: usize,
    flushed: Lsn,
    ancestors: Ancestors,
    sink: BTreeMap<SegmentName, Vec<u8>>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    status: usize,
    pieces: usize,
}

/// Files by name.
pub(super) type Files = BTreeMap<String, Content>;

/// A file's content, which is not printed: it is too long.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Content(pub(super) Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, crc {:08x}", self.0.len(), crc_fast::crc32_iscsi(&self.0))
    }
}

pub(super) fn files<D: Disk>(disk: &D) -> Files {
    let read = |(name, len): (String, u64)| {
        let mut content = vec![0; usize::try_from(len).unwrap()];
        disk.open(&name).unwrap().read_at(&mut content, 0).unwrap();
        (name, Content(content))
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

fn fill(builder: &mut WalBuilder, to: u64) {
    let mut xid = 10;
    while builder.end() < Lsn(to) {
        xid += 1;
        builder.filler(xid, 200 + xid * 37 % 9000);
        builder.commit(xid, PgTime(i64::from(xid)));
    }
}

/// `pg_control` of Postgres 18.
fn control(redo: Lsn, checkpoint: Lsn, shut_down: bool, timelines: (u32, u32)) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &SYSTEM.0.to_le_bytes());
    put(8, &1800_u32.to_le_bytes());
    put(12, &202_506_291_u32.to_le_bytes());
    put(16, &if shut_down { 1_u32 } else { 6 }.to_le_bytes());
    put(32, &checkpoint.0.to_le_bytes());
    put(40, &redo.0.to_le_bytes());
    put(48, &timelines.0.to_le_bytes());
    put(52, &timelines.0.to_le_bytes());
    put(144, &timelines.1.to_le_bytes());
    put(216, &8192_u32.to_le_bytes());
    put(224, &8192_u32.to_le_bytes());
    put(228, &u32::try_from(SIZE.bytes()).unwrap().to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[..292]);
    bytes[292..296].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl World {
    pub(super) fn new() -> Self {
        Self::over(SimDisk::new)
    }

    /// The folder is of a server that was shut down in order, and started again since.
    pub(super) fn with_shutdown() -> Self {
        let mut builder = WalBuilder::new(SIZE, Lsn(MB), SYSTEM);
        fill(&mut builder, MB + MB / 3);
        let shutdown = builder.shutdown();
        fill(&mut builder, 4 * MB + MB / 3);
        let mut world = Self::of(builder, shutdown.end, SimDisk::new);
        world.write_control(shutdown.lsn, shutdown.lsn, true);
        world.local_end = shutdown.end;
        world
    }

    /// The folder's last checkpoint is on timeline 1, and it was promoted to 2 since.
    pub(super) fn promoted() -> Self {
        let mut builder = WalBuilder::new(SIZE, Lsn(MB), SYSTEM);
        builder.filler(1, 100);
        let redo = builder.filler(2, 300);
        let checkpoint = builder.checkpoint(redo.lsn);
        fill(&mut builder, 2 * MB + MB / 3);
        let switch = builder.end();
        let two = Timeline::new(2).unwrap();
        builder.promote(two, PgTime(5));
        fill(&mut builder, 4 * MB + MB / 3);
        let mut world = Self::of(builder, switch, SimDisk::new);
        let content = control(redo.lsn, checkpoint.lsn, false, (1, 2));
        write_whole(&world.folders.global, "pg_control", &content).unwrap();
        world.ancestors = vec![(Timeline::FIRST, switch)];
        // The file of timeline 2 that holds the switch is among what was lost.
        world.local_end = world.record_end_near(2 * MB);
        let renamed = |(name, bytes): (SegmentName, Vec<u8>)| {
            let segment = name.segment(SIZE).unwrap();
            let timeline = if segment.number >= SIZE.number(switch) { two } else { Timeline::FIRST };
            (Segment { timeline, ..segment }.name(SIZE), bytes)
        };
        world.sink = std::mem::take(&mut world.sink).into_iter().map(renamed).collect();
        world
    }
}

impl<D: Disk> World<D> {
    /// The usual world over other disks.
    pub(super) fn over(disk: impl Fn(u64) -> D) -> Self {
        let mut builder = WalBuilder::new(SIZE, Lsn(MB), SYSTEM);
        builder.filler(1, 100);
        let redo = builder.filler(2, 300);
        let checkpoint = builder.checkpoint(redo.lsn);
        fill(&mut builder, 4 * MB + MB / 3);
        let near = builder.records().iter().find(|built| built.end > Lsn(2 * MB + MB / 4)).unwrap().end;
        let world = Self::of(builder, near, disk);
        world.write_control(redo.lsn, checkpoint.lsn, false);
        world
    }

    fn of(builder: WalBuilder, local_end: Lsn, disk: impl Fn(u64) -> D) -> Self {
        let folders = Folders { pgdata: disk(1), global: disk(2), wal: disk(3) };
        write_whole(&folders.pgdata, "postgresql.auto.conf", b"work_mem = '8MB'\n").unwrap();
        let mut world = Self {
            builder,
            folders,
            local_end,
            complete: Lsn::INVALID,
            flushed: Lsn::INVALID,
            dry_run: false,
            free_bytes: u64::MAX,
            grows_to: None,
            fails_after: None,
            jobs: 3,
            ancestors: Vec::new(),
            sink: BTreeMap::new(),
            asked: Mutex::default(),
        };
        world.set_sink_end(world.builder.end());
        world.write_local(local_end);
        world
    }

    pub(super) fn name(&self, number: u64) -> String {
        Segment { number, timeline: Timeline::FIRST }.name(SIZE).to_string()
    }

    /// The sink has all records up to `complete`, and half of the next one.
    pub(super) fn set_sink_end(&mut self, complete: Lsn) {
        self.complete = complete;
        let mut torn = self.builder.clone();
        torn.filler(4, 3000);
        self.flushed = Lsn(complete.0 + 1000);
        let last = SIZE.number(Lsn(self.flushed.0 - 1));
        let of = |number| {
            let (start, end) = (Lsn(number * MB), Lsn((number + 1) * MB));
            let mut bytes = torn.between(start, end.min(self.flushed)).to_vec();
            bytes.resize(usize::try_from(MB).unwrap(), 0);
            (Segment { number, timeline: Timeline::FIRST }.name(SIZE), bytes)
        };
        self.sink = (1..=last).map(of).collect();
    }

    pub(super) fn record_end_near(&self, lsn: u64) -> Lsn {
        self.builder.records().iter().rev().find(|built| built.end <= Lsn(lsn)).unwrap().end
    }

    /// The folder has the WAL up to there; behind it is a recycled segment's old content.
    pub(super) fn write_local(&self, end: Lsn) {
        let mut cut = self.builder.clone();
        cut.truncate(end);
        assert_eq!(cut.end(), end);
        self.write_local_bytes(&cut);
    }

    pub(super) fn write_local_bytes(&self, builder: &WalBuilder) {
        for number in 1..=SIZE.number(Lsn(builder.end().0 - 1)) {
            let mut bytes = builder.between(Lsn(number * MB), Lsn((number + 1) * MB)).to_vec();
            self.pad(number, &mut bytes);
            self.put_local(number, &bytes);
        }
    }

    pub(super) fn put_local(&self, number: u64, bytes: &[u8]) {
        write_whole(&self.folders.wal, &self.name(number), bytes).unwrap();
    }

    pub(super) fn overwrite_local(&self, number: u64, offset: u64, bytes: &[u8]) {
        let file = self.folders.wal.open(&self.name(number)).unwrap();
        file.write_at(bytes, offset).unwrap();
        file.sync().unwrap();
    }

    pub(super) fn remove_local(&self, number: u64) {
        drop(self.folders.wal.remove(&self.name(number)));
    }

    pub(super) fn local_segment(&self, number: u64) -> Vec<u8> {
        files(&self.folders.wal).remove(&self.name(number)).unwrap().0
    }

    pub(super) fn sink_segment(&self, number: u64) -> Vec<u8> {
        self.sink[&self.name(number).parse().unwrap()].clone()
    }

    /// As the primary had it.
    pub(super) fn whole_segment(&self, number: u64) -> Vec<u8> {
        let mut bytes = self.builder.between(Lsn(number * MB), Lsn((number + 1) * MB)).to_vec();
        self.pad(number, &mut bytes);
        bytes
    }

    /// Fills up with what another segment has there, as in a file that was recycled.
    fn pad(&self, number: u64, bytes: &mut Vec<u8>) {
        let other = Lsn(if number == 1 { 2 * MB } else { MB });
        let from = Lsn(other.0 + bytes.len() as u64);
        bytes.extend_from_slice(self.builder.between(from, Lsn(other.0 + MB)));
    }

    pub(super) fn damage_sink(&mut self, number: u64, offset: usize) {
        let name = self.name(number).parse().unwrap();
        self.sink.get_mut(&name).unwrap()[offset] ^= 0x10;
    }

    pub(super) fn forget_sink_segment(&mut self, number: u64) {
        self.sink.remove(&self.name(number).parse().unwrap());
    }

    /// Other WAL than the sink's from there on.
    pub(super) fn diverged_from(&self, at: Lsn) -> WalBuilder {
        let mut diverged = self.builder.clone();
        diverged.truncate(at);
        for xid in 1000..1100 {
            diverged.filler(xid, 555);
        }
        diverged
    }

    pub(super) fn write_control(&self, redo: Lsn, checkpoint: Lsn, shut_down: bool) {
        let content = control(redo, checkpoint, shut_down, (1, 0));
        write_whole(&self.folders.global, "pg_control", &content).unwrap();
    }

    pub(super) fn all_files(&self) -> (Files, Files, Files) {
        (files(&self.folders.pgdata), files(&self.folders.wal), files(&self.folders.global))
    }

    pub(super) fn plan(&self) -> Plan {
        let held = Held::parse(&self.status_at(self.flushed), &self.listing(), self.ancestors.clone()).unwrap();
        plan(&read_local(&self.folders).unwrap(), &held).unwrap()
    }

    /// How far Postgres would replay.
    pub(super) fn chain_end(&self) -> Lsn {
        let plan = self.plan();
        let mut walk = Walk::new(&plan).unwrap();
        walk.follow(&self.folders.wal, &plan).unwrap();
        walk.complete()
    }

    pub(super) fn recover(&self) -> Result<Report, RecoverError> {
        self.recover_in(&self.folders)
    }

    /// Recovers the folder, seen through other disks.
    pub(super) fn recover_in<E: Disk>(&self, folders: &Folders<E>) -> Result<Report, RecoverError> {
        *self.asked.lock().unwrap() = Asked::default();
        let job = Job {
            folders,
            remote: self,
            progress: &Silent,
            refuse_running: &|| Ok(()),
            free_bytes: &|| Ok(self.free_bytes),
            jobs: self.jobs,
            dry_run: self.dry_run,
            note: Note { sink: "https://sink".to_owned(), time: 0 },
        };
        job.run()
    }

    fn timeline(&self) -> u32 {
        u32::try_from(self.ancestors.len()).unwrap() + 1
    }

    fn status_at(&self, flushed: Lsn) -> api::Status {
        api::Status {
            version: String::new(),
            state: api::State::UpstreamBehind,
            problem: None,
            system_id: Some(SYSTEM.to_string()),
            segment_size: Some(SIZE.bytes()),
            timeline: Some(self.timeline()),
            slot: String::new(),
            received: Some(flushed.to_string()),
            written: Some(flushed.to_string()),
            flushed: Some(flushed.to_string()),
            complete: Some(self.complete.to_string()),
            server_end: None,
            lag_bytes: 0,
            last_commit_time: None,
            oldest: None,
            held_bytes: 0,
            alarm: true,
        }
    }

    fn listing(&self) -> api::Segments {
        let entry = |name: &SegmentName| {
            let segment = name.segment(SIZE).unwrap();
            let end = segment.end(SIZE).min(self.flushed);
            api::SegmentEntry {
                name: name.to_string(),
                timeline: segment.timeline.get(),
                start: segment.start(SIZE).to_string(),
                end: end.to_string(),
                complete: end == segment.end(SIZE),
                commit_time_min: None,
                commit_time_max: None,
                restore_points: Vec::new(),
            }
        };
        api::Segments {
            system_id: SYSTEM.to_string(),
            segment_size: SIZE.bytes(),
            segments: self.sink.keys().map(entry).collect(),
            gaps: Vec::new(),
            histories: Vec::new(),
        }
    }
}

impl<D: Disk> Remote for World<D> {
    fn status(&self) -> Result<api::Status, RecoverError> {
        let mut asked = self.asked.lock().unwrap();
        asked.status += 1;
        let flushed = self.grows_to.filter(|_| asked.status > 1);
        Ok(self.status_at(flushed.unwrap_or(self.flushed)))
    }

    fn segments(&self) -> Result<api::Segments, RecoverError> {
        Ok(self.listing())
    }

    fn history(&self, _: Timeline) -> Result<Vec<u8>, RecoverError> {
        let line = |(timeline, at): &(Timeline, Lsn)| format!("{timeline}\t{at}\tno recovery target specified\n");
        Ok(self.ancestors.iter().map(line).collect::<String>().into_bytes())
    }

    fn segment(&self, name: &SegmentName, take: &mut dyn FnMut(&[u8]) -> Result<(), RecoverError>) -> Result<(), RecoverError> {
        for piece in self.sink[name].chunks(600_000) {
            let mut asked = self.asked.lock().unwrap();
            asked.pieces += 1;
            if self.fails_after.is_some_and(|after| asked.pieces > after) {
                return Err(ClientError::Retry("the sink is gone".to_owned()).into());
            }
            drop(asked);
            take(piece)?;
        }
        Ok(())
    }
}

struct Silent;

impl Progress for Silent {
    fn start(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
