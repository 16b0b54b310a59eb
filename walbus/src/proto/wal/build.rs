//! Writes valid WAL, for tests and the simulator.

use super::crc;
use super::event::Parameters;
use super::field::{length, wide};
use super::page::{FLAG_CONTRECORD, FLAG_LONG, FLAG_OVERWRITE_CONTRECORD, PAGE_BYTES, WalVersion};
use super::record::{RM_XACT, RM_XLOG, XLOG_SWITCH};
use crate::ident::{PgTime, SystemId, Timeline};
use crate::lsn::Lsn;
use crate::segment::SegmentSize;

/// `XACT_XINFO_HAS_SUBXACTS`.
const XINFO_SUBXACTS: u32 = 0x2;
/// `XACT_XINFO_HAS_TWOPHASE`.
const XINFO_TWOPHASE: u32 = 0x10;

/// Writes WAL as a primary does, from a segment's start on, into memory.
///
/// A timeline change and a crash leave the same traces as Postgres' do: the page on which a timeline ends keeps the old one's
/// number, a record lost in a crash is followed by a flagged page.
#[derive(Debug, Clone)]
pub struct WalBuilder {
    segment: SegmentSize,
    start: Lsn,
    timeline: Timeline,
    system: SystemId,
    version: WalVersion,
    bytes: Vec<u8>,
    records: Vec<Built>,
}

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Where it starts.
    pub lsn: Lsn,
    /// Its end, a multiple of 8; the segment's end behind a segment switch.
    pub end: Lsn,
}

impl WalBuilder {
    /// Writes from the start of the segment that holds `at`, on timeline 1 of Postgres 18.
    #[must_use]
    pub fn new(segment: SegmentSize, at: Lsn, system: SystemId) -> Self {
        Self {
            segment,
            start: segment.floor(at),
            timeline: Timeline::FIRST,
            system,
            version: WalVersion::V18,
            bytes: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Writes pages of this version. Records do not depend on it.
    #[must_use]
    pub const fn with_version(mut self, version: WalVersion) -> Self {
        self.version = version;
        self
    }

    /// Writes on this timeline from the first page on.
    #[must_use]
    pub const fn with_timeline(mut self, timeline: Timeline) -> Self {
        self.timeline = timeline;
        self
    }

    /// Where the WAL starts.
    #[must_use]
    pub const fn start(&self) -> Lsn {
        self.start
    }

    /// Where the WAL ends: the last record's end, or the start.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + wide(self.bytes.len()))
    }

    /// The timeline of the next page.
    #[must_use]
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// All that was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written from `from` up to `to`, as far as there is any.
    #[must_use]
    pub fn between(&self, from: Lsn, to: Lsn) -> &[u8] {
        let offset = |lsn: Lsn| usize::try_from(lsn.bytes_after(self.start)).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.get(offset(from)..offset(to)).unwrap_or_default()
    }

    /// The complete records, in order.
    #[must_use]
    pub fn records(&self) -> &[Built] {
        &self.records
    }

    /// Appends a record with this main data.
    pub fn record(&mut self, rmid: u8, info: u8, xid: u32, main: &[u8]) -> Built {
        let prev = self.records.last().map_or(Lsn::INVALID, |last| last.lsn);
        let lsn = self.append(&encode(rmid, info, xid, prev, main));
        self.complete(lsn)
    }

    /// Appends a record of `total_bytes`, at least 24, that means nothing to the decoder. For 25, 26 and 282 to 284 it is of 24 and
    /// 281: that the main data's length takes 2 bytes, or 5 from 256 on, leaves these out.
    pub fn filler(&mut self, xid: u32, total_bytes: u32) -> Built {
        let body = length(total_bytes.saturating_sub(24));
        let main = if body >= 261 { body - 5 } else { body.saturating_sub(2).min(255) };
        let main: Vec<u8> = (0..=u8::MAX).cycle().skip(usize::try_from(xid % 251).unwrap_or(0)).take(main).collect();
        self.record(10, 0, xid, &main)
    }

    /// Appends a commit.
    pub fn commit(&mut self, xid: u32, time: PgTime) -> Built {
        self.record(RM_XACT, 0x00, xid, &time.0.to_le_bytes())
    }

    /// Appends a rollback.
    pub fn abort(&mut self, xid: u32, time: PgTime) -> Built {
        self.record(RM_XACT, 0x20, xid, &time.0.to_le_bytes())
    }

    /// Appends a prepared transaction's commit, with as many subtransactions, whose numbers follow its own.
    pub fn commit_prepared(&mut self, xid: u32, time: PgTime, subtransactions: u32) -> Built {
        let mut main = time.0.to_le_bytes().to_vec();
        main.extend((XINFO_SUBXACTS | XINFO_TWOPHASE).to_le_bytes());
        main.extend(subtransactions.to_le_bytes());
        (1..=subtransactions).for_each(|number| main.extend((xid + number).to_le_bytes()));
        main.extend(xid.to_le_bytes());
        self.record(RM_XACT, 0x80 | 0x30, 0, &main)
    }

    /// Appends the end of a base backup whose replay starts at `start`.
    pub fn backup_end(&mut self, start: Lsn) -> Built {
        self.record(RM_XLOG, 0x50, 0, &start.0.to_le_bytes())
    }

    /// Appends a restore point. Of its name, 63 bytes are kept.
    pub fn restore_point(&mut self, name: &str, time: PgTime) -> Built {
        let mut main = time.0.to_le_bytes().to_vec();
        main.extend(name.bytes().take(63));
        main.resize(72, 0);
        self.record(RM_XLOG, 0x70, 0, &main)
    }

    /// Appends a change of settings.
    pub fn parameter_change(&mut self, parameters: Parameters, is_minimal: bool) -> Built {
        let Parameters { max_connections, max_worker_processes, max_wal_senders, .. } = parameters;
        let (prepared, locks) = (parameters.max_prepared_transactions, parameters.max_locks_per_transaction);
        let fields = [max_connections, max_worker_processes, max_wal_senders, prepared, locks, u32::from(!is_minimal), 0];
        let main: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();
        self.record(RM_XLOG, 0x60, 0, &main)
    }

    /// Appends a checkpoint's record that names `redo`.
    pub fn checkpoint(&mut self, redo: Lsn) -> Built {
        let main = self.checkpoint_data(redo, self.timeline);
        self.record(RM_XLOG, 0x10, 0, &main)
    }

    /// Appends a shutdown's record.
    pub fn shutdown(&mut self) -> Built {
        let lsn = self.next_record();
        let main = self.checkpoint_data(lsn, self.timeline);
        self.record(RM_XLOG, 0x00, 0, &main)
    }

    /// Appends a segment switch, and zeros up to the segment's end.
    pub fn switch(&mut self) -> Built {
        let built = self.record(RM_XLOG, XLOG_SWITCH, 0, &[]);
        let end = self.segment.ceil(built.end);
        self.bytes.resize(usize::try_from(end.0 - self.start.0).unwrap_or(0), 0);
        self.complete(built.lsn)
    }

    /// Begins a later timeline here, as a promotion does.
    pub fn promote(&mut self, timeline: Timeline, time: PgTime) -> Built {
        let previous = std::mem::replace(&mut self.timeline, timeline);
        let mut main = time.0.to_le_bytes().to_vec();
        main.extend(timeline.get().to_le_bytes());
        main.extend(previous.get().to_le_bytes());
        main.extend([0; 8]);
        self.record(RM_XLOG, 0x90, 0, &main)
    }

    /// Begins a record of `total_bytes`, loses all of it from its second page on in a crash, and goes on there as Postgres does
    /// when it has recovered. Gives where the lost record starts, and the record that says so; `None`, and nothing is written,
    /// where a record of that length would not reach a second page.
    pub fn lose_contrecord(&mut self, total_bytes: u32, time: PgTime) -> Option<(Lsn, Built)> {
        let before = self.bytes.len();
        let lost = self.filler(7, total_bytes);
        self.records.pop();
        let page = lost.lsn.0 - lost.lsn.0 % u64::from(PAGE_BYTES) + u64::from(PAGE_BYTES);
        if lost.end.0 <= page {
            self.bytes.truncate(before);
            return None;
        }
        self.bytes.truncate(usize::try_from(page - self.start.0).unwrap_or(0));
        self.page_header(FLAG_OVERWRITE_CONTRECORD, 0);
        let mut main = lost.lsn.0.to_le_bytes().to_vec();
        main.extend(time.0.to_le_bytes());
        Some((lost.lsn, self.record(RM_XLOG, 0xD0, 0, &main)))
    }

    /// Forgets what was written behind the last record that ends at or before `to`: a crash that lost it.
    pub fn truncate(&mut self, to: Lsn) {
        self.records.retain(|built| built.end <= to);
        let end = self.records.last().map_or(self.start, |last| last.end);
        self.bytes.truncate(usize::try_from(end.0 - self.start.0).unwrap_or(0));
    }

    /// Notes a record that ends where the WAL does.
    fn complete(&mut self, lsn: Lsn) -> Built {
        let built = Built { lsn, end: self.end() };
        match self.records.last_mut().filter(|last| last.lsn == lsn) {
            Some(last) => *last = built,
            None => self.records.push(built),
        }
        built
    }

    /// Where the next record will start.
    fn next_record(&self) -> Lsn {
        let end = self.end();
        match (self.segment.offset(end), end.0 % u64::from(PAGE_BYTES)) {
            (0, _) => Lsn(end.0 + 40),
            (_, 0) => Lsn(end.0 + 24),
            _ => end,
        }
    }

    /// Writes a record's bytes, page headers among them, and the padding behind. Gives where it starts.
    fn append(&mut self, mut record: &[u8]) -> Lsn {
        if self.end().0.is_multiple_of(u64::from(PAGE_BYTES)) {
            self.page_header(0, 0);
        }
        let lsn = self.end();
        while !record.is_empty() {
            let in_page = self.end().0 % u64::from(PAGE_BYTES);
            if in_page == 0 {
                self.page_header(FLAG_CONTRECORD, u32::try_from(record.len()).unwrap_or(u32::MAX));
                continue;
            }
            let room = usize::try_from(u64::from(PAGE_BYTES) - in_page).unwrap_or(0);
            let (here, rest) = record.split_at_checked(room).unwrap_or((record, &[]));
            self.bytes.extend_from_slice(here);
            record = rest;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        lsn
    }

    fn page_header(&mut self, flags: u16, remaining: u32) {
        let page = self.end();
        let is_first = self.segment.offset(page) == 0;
        let flags = if is_first { flags | FLAG_LONG } else { flags };
        self.bytes.extend(self.version.magic().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.get().to_le_bytes());
        self.bytes.extend(page.0.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(self.system.0.to_le_bytes());
            self.bytes.extend(u32::try_from(self.segment.bytes()).unwrap_or(0).to_le_bytes());
            self.bytes.extend(PAGE_BYTES.to_le_bytes());
        }
    }

    /// The content of a checkpoint's record: 88 bytes, of which the decoder reads the first 16.
    fn checkpoint_data(&self, redo: Lsn, previous: Timeline) -> Vec<u8> {
        let mut main = redo.0.to_le_bytes().to_vec();
        main.extend(self.timeline.get().to_le_bytes());
        main.extend(previous.get().to_le_bytes());
        main.resize(88, 0);
        main
    }
}

/// A record's bytes.
fn encode(rmid: u8, info: u8, xid: u32, prev: Lsn, main: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    match (u8::try_from(main.len()), u32::try_from(main.len())) {
        (Ok(0), _) => {}
        (Ok(len), _) => body.extend([255, len]),
        (_, len) => {
            body.push(254);
            body.extend(len.unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    body.extend_from_slice(main);
    let mut record = u32::try_from(body.len() + 24).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    record.extend(xid.to_le_bytes());
    record.extend(prev.0.to_le_bytes());
    record.extend([info, rmid, 0, 0, 0, 0, 0, 0]);
    record.extend(body);
    let crc = record.first_chunk().map_or(0, |header| crc::of_record(header, &record));
    if let Some(field) = record.get_mut(20..24) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    record
}
