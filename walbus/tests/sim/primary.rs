//! A primary: inserts, flushes, sends, acknowledges, crashes, loses its host, is promoted.

use walbus::ident::{PgTime, SystemId, Timeline};
use walbus::ledger::Report;
use walbus::proto::wal::WalBuilder;
use walbus::receive::Server;
use walbus::sim::Random;
use walbus::{Lsn, SegmentSize};

/// WAL that a client was told is committed: it must be found wherever the sink is asked.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Primary {
    pub(crate) wal: WalBuilder,
    pub(crate) flushed: Lsn,
    /// (timeline, where it ended), oldest first.
    pub(crate) ended: Vec<(Timeline, Lsn)>,
    waiting: Vec<(Lsn, Lsn)>,
    clock: i64,
    xid: u32,
}

/// One message of the stream.
#[derive(Debug, Clone)]
pub(crate) enum ToSink {
    Wal { start: Lsn, data: Vec<u8> },
    TimelineEnd { next: Timeline, switchpoint: Lsn },
}

/// What one connection streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) timeline: Timeline,
    pub(crate) sent: Lsn,
    pub(crate) ended: bool,
}

pub(crate) const SYSTEM: SystemId = SystemId(7_000_000_000_000_000_001);

impl Primary {
    pub(crate) fn new(size: SegmentSize) -> Self {
        let wal = WalBuilder::new(size, Lsn(size.bytes()), SYSTEM);
        let mut primary = Self { flushed: wal.end(), wal, ended: Vec::new(), waiting: Vec::new(), clock: 0, xid: 100 };
        primary.wal.checkpoint(Lsn(size.bytes()));
        primary.flushed = primary.wal.end();
        primary
    }

    pub(crate) fn server(&self, size: SegmentSize) -> Server {
        let reserved = Some((self.wal.start(), self.ended.first().map_or_else(|| self.wal.timeline(), |(timeline, _)| *timeline)));
        Server { system_id: SYSTEM, segment_size: size, timeline: self.wal.timeline(), flushed: self.flushed, reserved }
    }

    pub(crate) fn history(&self) -> String {
        self.ended.iter().map(|(timeline, end)| format!("{timeline}\t{end}\tno recovery target specified\n")).collect()
    }

    fn now(&mut self) -> PgTime {
        self.clock += 1000;
        PgTime(self.clock)
    }

    pub(crate) fn insert(&mut self, random: &mut Random) {
        self.xid += 1;
        let time = self.now();
        match random.below(20) {
            0 => drop(self.wal.restore_point("sim", time)),
            1 => drop(self.wal.switch()),
            2..5 => drop(self.wal.filler(7, 30 + u32::try_from(random.below(300_000)).unwrap())),
            5..10 => drop(self.wal.filler(self.xid, 30 + u32::try_from(random.below(12_000)).unwrap())),
            _ => {
                let built = self.wal.commit(self.xid, time);
                self.waiting.push((built.lsn, built.end));
            }
        }
    }

    /// Flushes up to a record's end, or as the walwriter does, up to a page's.
    pub(crate) fn flush(&mut self, random: &mut Random) {
        let end = self.wal.end();
        let page = Lsn(end.0 - random.below(end.0 - self.flushed.0 + 1));
        let page = Lsn(page.0 - page.0 % 8192);
        self.flushed = self.flushed.max(if random.chance(1, 2) { end } else { page });
    }

    /// The next message, if there is anything to send.
    pub(crate) fn send(&self, sending: &mut Sending, random: &mut Random) -> Option<ToSink> {
        let ended = self.ended.iter().position(|(timeline, _)| *timeline == sending.timeline);
        let limit = ended.map_or(self.flushed, |at| self.ended[at].1);
        if sending.sent >= limit {
            let at = ended.filter(|_| !sending.ended)?;
            sending.ended = true;
            let next = self.ended.get(at + 1).map_or_else(|| self.wal.timeline(), |(timeline, _)| *timeline);
            return Some(ToSink::TimelineEnd { next, switchpoint: limit });
        }
        let most = [999, 16_384, 131_072][usize::try_from(random.below(3)).unwrap()];
        let end = Lsn(limit.0.min(sending.sent.0 + most));
        let data = self.wal.between(sending.sent, end).to_vec();
        let start = std::mem::replace(&mut sending.sent, end);
        Some(ToSink::Wal { start, data })
    }

    /// The sink reports: commits below flush return to their clients.
    pub(crate) fn acknowledge(&mut self, report: Report) -> Vec<Acknowledged> {
        let reached = report.flush.min(self.flushed);
        let (done, waiting) = self.waiting.iter().partition(|(_, end)| *end <= reached);
        self.waiting = waiting;
        let done: Vec<(Lsn, Lsn)> = done;
        done.into_iter().map(|(start, end)| Acknowledged { start, end, bytes: self.wal.between(start, end).to_vec() }).collect()
    }

    /// The process dies and recovers: what was not flushed is gone, and clients that waited were told nothing.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        self.waiting.clear();
        let lost_record = self.wal.records().iter().find(|built| built.end > self.flushed).copied();
        self.wal.truncate(self.flushed);
        if let Some(lost) = lost_record
            && lost.lsn < self.flushed
            && random.chance(2, 3)
        {
            let time = self.now();
            // Recovery found a record that starts and does not end.
            self.wal.lose_contrecord(u32::try_from(lost.end.0 - lost.lsn.0).unwrap_or(30), time);
        }
        let end = self.wal.end();
        self.wal.shutdown();
        self.flushed = self.wal.end().max(end);
    }

    /// A standby that has all of it takes over.
    pub(crate) fn promote(&mut self, _random: &mut Random) {
        self.waiting.clear();
        self.wal.truncate(self.flushed);
        let end = self.wal.end();
        self.ended.push((self.wal.timeline(), end));
        let next = Timeline::new(self.wal.timeline().get() + 1).unwrap();
        let time = self.now();
        self.wal.promote(next, time);
        self.flushed = self.wal.end();
    }

    /// The host is lost and comes back with an older volume, on which the WAL of `recovered`, if any, was laid.
    pub(crate) fn restore(&mut self, older: &Self, complete: Option<Lsn>) {
        let clock = self.clock;
        if let Some(complete) = complete {
            // A switch ends its segment, whether the zeros behind it are held or not.
            let last = self.wal.records().iter().rev().find(|built| built.lsn < complete).map_or(complete, |built| built.end);
            self.wal.truncate(last);
        } else {
            *self = older.clone();
        }
        self.clock = clock;
        self.xid += 1000;
        self.waiting.clear();
        self.wal.truncate(self.wal.end());
        self.wal.shutdown();
        self.flushed = self.wal.end();
    }
}
