//! The sink's process over a simulated disk: the receiver, its log and its ledger, driven as the program does.

use std::sync::Arc;

use walbus::ident::{SystemId, Timeline};
use walbus::ledger::{ApplyAs, Report};
use walbus::log::{FlushDone, FlushJob};
use walbus::proto::history::History;
use walbus::receive::{Identity, ReceiveError, Receiver, Refusal, Scan, Start, Taken};
use walbus::sim::SimDisk;
use walbus::{Lsn, Segment, SegmentSize};

use crate::Bug;
use crate::sim::primary::{Primary, SYSTEM, ToSink};

#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) disk: SimDisk,
    pub(crate) receiver: Receiver<SimDisk>,
    job: Option<FlushJob<SimDisk>>,
    bug: Bug,
}

/// Why a sink's process, or its session, is over.
#[derive(Debug)]
pub(crate) enum Down {
    /// A failed fsync: the process ends.
    Fsync,
    /// The stream is refused or contradicts what is held.
    Refused(String),
}

impl Sink {
    pub(crate) fn start(disk: &SimDisk, size: SegmentSize, bug: Bug) -> Result<Self, Down> {
        let scan = Scan::of(disk).expect("a simulated folder can be read");
        let identity = Identity { system_id: SystemId(SYSTEM.0), segment_size: size };
        let receiver = Receiver::open(Arc::new(disk.clone()), identity, scan).map_err(|_| Down::Fsync)?;
        Ok(Self { disk: disk.clone(), receiver, job: None, bug })
    }

    pub(crate) fn connect(&mut self, primary: &Primary, size: SegmentSize) -> Result<Start, Down> {
        let server = primary.server(size);
        let history = (server.timeline > Timeline::FIRST).then(|| self.keep_history(primary)).transpose()?;
        let start = self.receiver.plan(&server, history.as_ref()).map_err(refused)?;
        self.receiver.begin(start, ApplyAs::Nothing);
        Ok(start)
    }

    fn keep_history(&self, primary: &Primary) -> Result<History, Down> {
        let text = primary.history();
        let timeline = primary.wal.timeline();
        walbus::disk::write_whole(&self.disk, &walbus::WalFile::History(timeline).name(), text.as_bytes())
            .map_err(|_| Down::Fsync)?;
        Ok(History::parse(timeline, text.as_bytes()).expect("a history that is right"))
    }

    /// Ends a session as the program does: what was taken is made durable.
    pub(crate) fn disconnect(&mut self) -> Result<(), Down> {
        if self.receiver.ledger().is_some() {
            self.flush_whole()?;
            self.receiver.end_session();
        }
        Ok(())
    }

    fn flush_whole(&mut self) -> Result<(), Down> {
        self.finish_flush()?;
        self.begin_flush();
        self.finish_flush()
    }

    pub(crate) fn handle(&mut self, message: ToSink) -> Result<Option<Start>, Down> {
        match message {
            ToSink::Wal { start, data } => self.take(start, &data).map(|()| None),
            ToSink::TimelineEnd { next, switchpoint } => {
                self.flush_whole()?;
                let start = self.receiver.end_timeline(next, switchpoint).map_err(refused)?;
                self.receiver.begin(start, ApplyAs::Nothing);
                Ok(Some(start))
            }
        }
    }

    fn take(&mut self, mut at: Lsn, mut data: &[u8]) -> Result<(), Down> {
        loop {
            match self.receiver.handle_wal(at, data) {
                Ok(Taken::All) => return Ok(()),
                Ok(Taken::UpTo(taken, _)) => {
                    (at, data) = (Lsn(at.0 + taken as u64), &data[taken..]);
                    let spare = self.receiver.log_mut().spare_job().run().expect("there is room");
                    self.receiver.log_mut().add_spare(spare);
                }
                Err(ReceiveError::Diverged { .. }) => return Err(Down::Refused("diverged".into())),
                Err(error) => return Err(Down::Refused(format!("{error}: {error:?}"))),
            }
        }
    }

    pub(crate) fn begin_flush(&mut self) {
        if self.job.is_none() && self.receiver.ledger().is_some() {
            let job = self.receiver.begin_flush();
            if self.bug == Bug::AcknowledgesBeforeFsync {
                self.receiver.finish_flush(&FlushDone { sealed: Vec::new() });
            }
            self.job = Some(job);
        }
    }

    pub(crate) fn finish_flush(&mut self) -> Result<(), Down> {
        if let Some(job) = self.job.take() {
            let done = job.run().map_err(|_| Down::Fsync)?;
            if self.bug != Bug::AcknowledgesBeforeFsync {
                self.receiver.finish_flush(&done);
            }
        }
        Ok(())
    }

    pub(crate) fn poll_report(&mut self) -> Option<Report> {
        self.receiver.ledger_mut().and_then(walbus::ledger::Ledger::poll_report)
    }
}

fn refused(refusal: Refusal) -> Down {
    Down::Refused(refusal.to_string())
}

/// What a folder gives back of `start..end` on any timeline that holds it whole, newest first.
pub(crate) fn read_held(disk: &SimDisk, scan: &Scan, size: SegmentSize, start: Lsn, end: Lsn) -> Vec<u8> {
    use walbus::disk::{Disk, DiskFile};
    let mut bytes = Vec::new();
    let mut at = start;
    while at < end {
        let number = size.number(at);
        let segment = scan.segments.keys().rev().find(|segment| segment.number == number && segment.timeline <= scan.held.timeline);
        let Some(segment) = segment.copied() else { return bytes };
        let piece = end.min(Segment::end(segment, size)).0 - at.0;
        let name = segment.name(size).to_string();
        let file = disk.open(&name).or_else(|_| disk.open(&format!("{name}.partial"))).expect("a scanned file is there");
        let mut buffer = vec![0; usize::try_from(piece).expect("a piece fits")];
        let read = file.read_at(&mut buffer, size.offset(at)).expect("a simulated file can be read");
        bytes.extend_from_slice(&buffer[..read]);
        at = Lsn(at.0 + piece);
    }
    bytes
}
