//! The simulator over receiver, log and ledger: a primary, a link and a disk that fail in every way they can, by seed.
//!
//! `SIM_SEEDS=1000` says how many seeds, `SIM_SEED=17` runs one alone and tells each step.
//!
//! What is checked, at every loss of power and at the end of each seed: all that was acknowledged to a client is found again, byte for byte,
//! by opening the folder as a new process does.

#![allow(clippy::unwrap_used, reason = "a test")]

mod sim {
    pub(crate) mod primary;
    pub(crate) mod sink;
}

use std::time::Duration;

use sim::primary::{Acknowledged, Primary, Sending, ToSink};
use sim::sink::{self, Down, Sink};
use walbus::SegmentSize;
use walbus::ledger::Report;
use walbus::receive::Scan;
use walbus::sim::{DiskFaults, Random, SimDisk, SimLink};

/// A defect put in on purpose, to prove that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    AcknowledgesBeforeFsync,
    NoDirSync,
}

const STEPS: u64 = 800;

struct World {
    random: Random,
    size: SegmentSize,
    bug: Bug,
    tell: bool,
    now: Duration,
    primary: Primary,
    older: Primary,
    disk: SimDisk,
    sink: Option<Sink>,
    connection: Option<Connection>,
    acknowledged: Vec<Acknowledged>,
    reports: u64,
    refusals: u64,
}

struct Connection {
    sending: Sending,
    to_sink: SimLink<ToSink>,
    to_primary: SimLink<Report>,
}

/// What a seed came to.
#[derive(Debug, Default)]
struct Outcome {
    acknowledged: usize,
    refusals: u64,
    timelines: u32,
}

impl World {
    fn new(seed: u64, bug: Bug, tell: bool) -> Self {
        let mut random = Random::new(seed);
        let size = SegmentSize::new(1 << 20).unwrap();
        let primary = Primary::new(size);
        let disk = SimDisk::new(random.next());
        let faults = DiskFaults {
            sync_fails_per_million: if random.chance(1, 3) { 20_000 } else { 0 },
            ignores_dir_sync: bug == Bug::NoDirSync,
            ..DiskFaults::default()
        };
        disk.set_faults(faults);
        Self {
            random,
            size,
            bug,
            tell,
            now: Duration::ZERO,
            older: primary.clone(),
            primary,
            disk,
            sink: None,
            connection: None,
            acknowledged: Vec::new(),
            reports: 0,
            refusals: 0,
        }
    }

    fn run(mut self) -> Result<Outcome, String> {
        for step in 0..STEPS {
            self.now += Duration::from_micros(self.random.below(500));
            self.step().map_err(|problem| format!("step {step}: {problem}"))?;
            if self.tell {
                self.audit().map_err(|problem| format!("after step {step}: {problem}"))?;
            }
        }
        self.down(true)?;
        Ok(Outcome { acknowledged: self.acknowledged.len(), refusals: self.refusals, timelines: self.primary.wal.timeline().get() })
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{:>8} us: {}", self.now.as_micros(), what());
        }
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(1000) {
            0..200 => self.primary.insert(&mut self.random),
            200..300 => self.primary.flush(&mut self.random),
            300..500 => self.send(),
            500..700 => self.receive()?,
            700..800 => self.begin_flush(),
            800..900 => self.finish_flush()?,
            900..970 => self.hear(),
            970..975 => self.cut(),
            975..979 => self.down(false)?,
            979..983 => self.down(true)?,
            983..986 => self.crash_primary(),
            986..990 => self.older = self.primary.clone(),
            990..992 => self.lose_host()?,
            992 => self.promote(),
            _ => {}
        }
        if self.connection.is_none() && self.random.chance(1, 5) {
            self.connect()?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), String> {
        let sink = match self.sink.take() {
            Some(sink) => sink,
            None => match Sink::start(&self.disk, self.size, self.bug) {
                Ok(sink) => sink,
                Err(_) => return Ok(()),
            },
        };
        let sink = self.sink.insert(sink);
        match sink.connect(&self.primary, self.size) {
            Ok(start) => {
                let sending = Sending { timeline: start.timeline, sent: start.at, ended: false };
                let delay = Duration::from_micros(self.random.below(2000));
                self.connection = Some(Connection { sending, to_sink: SimLink::new(delay), to_primary: SimLink::new(delay) });
                let held = sink.receiver.held();
                self.say(|| format!("connected at {} on timeline {}, holding {held:?}", start.at, start.timeline));
            }
            Err(Down::Refused(why)) => {
                self.refusals += 1;
                self.say(|| format!("refused: {why}"));
                // A person brings the WAL back that was lost: what the sink tells them to do.
                self.recover()?;
            }
            Err(Down::Fsync) => self.sink = None,
        }
        Ok(())
    }

    fn send(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        for _ in 0..=self.random.below(8) {
            let Some(message) = self.primary.send(&mut connection.sending, &mut self.random) else { return };
            connection.to_sink.send(self.now, message, &mut self.random);
        }
    }

    fn receive(&mut self) -> Result<(), String> {
        let (Some(connection), Some(sink)) = (&mut self.connection, &mut self.sink) else { return Ok(()) };
        while let Some(message) = connection.to_sink.receive(self.now) {
            match sink.handle(message) {
                Ok(None) => {}
                Ok(Some(start)) => connection.sending = Sending { timeline: start.timeline, sent: start.at, ended: false },
                Err(Down::Refused(why)) => {
                    self.refusals += 1;
                    self.say(|| format!("the session ends: {why}"));
                    self.disconnect()?;
                    return self.recover();
                }
                Err(Down::Fsync) => return self.down(false),
            }
        }
        self.report();
        if self.connection.as_ref().is_some_and(|connection| connection.to_sink.is_closed()) {
            return self.disconnect();
        }
        Ok(())
    }

    fn report(&mut self) {
        let (Some(connection), Some(sink)) = (&mut self.connection, &mut self.sink) else { return };
        while let Some(report) = sink.poll_report() {
            self.reports += 1;
            connection.to_primary.send(self.now, report, &mut self.random);
        }
    }

    fn begin_flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.begin_flush();
        }
        self.report();
    }

    fn finish_flush(&mut self) -> Result<(), String> {
        if let Some(sink) = &mut self.sink
            && sink.finish_flush().is_err()
        {
            self.say(|| "an fsync failed: the sink ends".into());
            return self.down(false);
        }
        self.report();
        Ok(())
    }

    /// The primary hears reports, and answers clients.
    fn hear(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some(report) = connection.to_primary.receive(self.now) {
            let done = self.primary.acknowledge(report);
            self.acknowledged.extend(done);
        }
    }

    fn cut(&mut self) {
        self.say(|| "the link is cut".into());
        if let Some(connection) = &mut self.connection {
            connection.to_sink.cut(&mut self.random);
            connection.to_primary.cut(&mut self.random);
        }
    }

    fn disconnect(&mut self) -> Result<(), String> {
        self.connection = None;
        if let Some(sink) = &mut self.sink
            && sink.disconnect().is_err()
        {
            return self.down(false);
        }
        Ok(())
    }

    /// The sink's process dies, or its host; then what it holds is read.
    fn down(&mut self, host: bool) -> Result<(), String> {
        self.say(|| format!("the sink's {} dies", if host { "host" } else { "process" }));
        self.sink = None;
        self.connection = None;
        if host {
            self.disk.lose_power();
        }
        self.audit()
    }

    fn crash_primary(&mut self) {
        self.say(|| "the primary crashes and recovers".into());
        self.connection = None;
        self.end_session_quietly();
        self.primary.crash(&mut self.random);
    }

    fn end_session_quietly(&mut self) {
        if let Some(sink) = &mut self.sink
            && sink.disconnect().is_err()
        {
            self.sink = None;
        }
    }

    fn promote(&mut self) {
        // A standby is promoted that has all that was acknowledged: the primary's own WAL, here.
        self.connection = None;
        self.end_session_quietly();
        self.primary.promote(&mut self.random);
        self.say(|| format!("promoted to timeline {}", self.primary.wal.timeline()));
    }

    /// The primary's host is lost, its volume comes back older. Half the time somebody starts it without `recover`.
    fn lose_host(&mut self) -> Result<(), String> {
        if self.older.wal.timeline() != self.primary.wal.timeline() {
            return Ok(());
        }
        self.connection = None;
        self.end_session_quietly();
        if self.random.chance(1, 2) {
            self.say(|| "the primary's host is lost; recovered".into());
            return self.recover();
        }
        self.say(|| "the primary's host is lost; started as it is".into());
        let lost = self.primary.clone();
        self.primary.restore(&self.older, None);
        for _ in 0..self.random.below(30) {
            self.primary.insert(&mut self.random);
            self.primary.flush(&mut self.random);
        }
        // Nothing that it commits may be acknowledged before the WAL is back that it lost.
        let before = self.acknowledged.len();
        let held = self.sink.as_ref().and_then(|sink| sink.receiver.held()).map(|held| held.complete);
        let wal_to = |primary: &Primary, end| primary.wal.between(primary.wal.start(), end).to_vec();
        let lacks = held.is_some_and(|held| wal_to(&self.primary, held) != wal_to(&lost, held));
        for _ in 0..40 {
            self.now += Duration::from_micros(2000);
            if self.connection.is_none() {
                self.try_connect_once();
            }
            self.send();
            self.receive()?;
            self.begin_flush();
            self.finish_flush()?;
            self.hear();
        }
        if lacks && self.acknowledged.len() > before {
            return Err("a primary that lacks WAL that is held had commits acknowledged".into());
        }
        if lacks {
            self.connection = None;
            self.end_session_quietly();
            self.primary = lost;
            return self.recover();
        }
        Ok(())
    }

    fn try_connect_once(&mut self) {
        if self.sink.is_none() {
            self.sink = Sink::start(&self.disk, self.size, self.bug).ok();
        }
        let Some(sink) = &mut self.sink else { return };
        if let Ok(start) = sink.connect(&self.primary, self.size) {
            let sending = Sending { timeline: start.timeline, sent: start.at, ended: false };
            self.connection =
                Some(Connection { sending, to_sink: SimLink::new(Duration::ZERO), to_primary: SimLink::new(Duration::ZERO) });
        } else {
            self.refusals += 1;
        }
    }

    /// Lays what the sink holds on the older volume.
    fn recover(&mut self) -> Result<(), String> {
        self.connection = None;
        self.end_session_quietly();
        let Some(scan) = Scan::of(&self.disk).map_err(|error| error.to_string())? else { return Ok(()) };
        if scan.held.timeline == self.primary.wal.timeline() {
            let older = self.older.clone();
            self.primary.restore(&older, Some(scan.held.complete));
        }
        Ok(())
    }

    /// Opens the folder as a new process does, on a copy, and looks for all that was acknowledged.
    fn audit(&self) -> Result<(), String> {
        let Some(last) = self.acknowledged.iter().map(|commit| commit.end).max() else { return Ok(()) };
        let disk = self.disk.fork();
        disk.set_faults(DiskFaults::default());
        let scan =
            Scan::of(&disk).map_err(|error| error.to_string())?.ok_or("the folder holds nothing, but commits were acknowledged")?;
        if scan.held.complete < last {
            return Err(format!("held up to {}, but {last} was acknowledged", scan.held.complete));
        }
        for commit in &self.acknowledged {
            if sink::read_held(&disk, &scan, self.size, commit.start, commit.end) != commit.bytes {
                return Err(format!("the acknowledged commit at {} is held with other bytes", commit.start));
            }
        }
        Ok(())
    }
}

fn run(seed: u64, bug: Bug, tell: bool) -> Result<Outcome, String> {
    // An assertion of the product's own that fails is a finding as well.
    std::panic::catch_unwind(|| World::new(seed, bug, tell).run()).unwrap_or_else(|_| Err("a panic".into()))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn what_was_acknowledged_is_always_found_again() {
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", run(seed, Bug::None, true).unwrap());
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(100);
    let mut total = Outcome::default();
    for seed in 0..seeds {
        let outcome =
            run(seed, Bug::None, false).unwrap_or_else(|problem| panic!("seed {seed}: {problem}; again with SIM_SEED={seed}"));
        total.acknowledged += outcome.acknowledged;
        total.refusals += outcome.refusals;
        total.timelines = total.timelines.max(outcome.timelines);
    }
    println!(
        "{seeds} seeds: {} commits acknowledged and found, {} sessions refused, up to timeline {}",
        total.acknowledged, total.refusals, total.timelines
    );
    // A simulation in which nothing happens proves nothing.
    assert!(total.acknowledged as u64 > seeds * 5 && total.refusals > seeds / 10 && total.timelines > 1, "{total:?}");
}

fn seeds_that_find(bug: Bug) -> usize {
    (0..200).filter(|seed| run(*seed, bug, false).is_err()).count()
}

#[test]
fn acknowledging_before_the_fsync_is_found() {
    let found = seeds_that_find(Bug::AcknowledgesBeforeFsync);
    println!("acknowledging before the fsync: found by {found} of 200 seeds");
    assert!(found > 0);
}

#[test]
fn a_missing_sync_of_the_folder_is_found() {
    let found = seeds_that_find(Bug::NoDirSync);
    println!("a folder that is not synced: found by {found} of 200 seeds");
    assert!(found > 0);
}

#[test]
fn a_seed_is_replayed_exactly() {
    let twice = [(); 2].map(|()| format!("{:?}", run(3, Bug::None, false)));
    assert_eq!(twice[0], twice[1]);
}
