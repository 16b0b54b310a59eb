//! The whole serving side by seed: a source whose transactions are encoded into the real log on a disk that loses power at any call; and
//! clients with any filters that come and go, read the ring or the files at their own pace, lose their links at any byte, resume by position
//! or by name, acknowledge, take over each other's names and lie. Sessions, starts, feeds, cursors, classes and consumers are the real ones.
//!
//! ```text
//!   history ──▶ encode ──▶ log on a disk ──▶ cursor, class, feed ──▶ link ──▶ stream: held against the history
//!                            ▲ power, retention, epochs                 ▲ cut at any byte
//!                          server: as connection and pump drive them ◀──┴── client
//! ```
//!
//! Checked at each step: every committed transaction from a subscription's start on, whole, in commit order, of each exactly what its filter
//! passes, and nothing that is not durable; definitions before their first use on each stream; a resume leaves no gap; `TOO_FAR_BEHIND`,
//! `WRONG_EPOCH` and `AHEAD` where they must come and nowhere else; one session a name; what was acknowledged and written is found after a
//! crash, and nothing that was not acknowledged; what a subscription holds is bounded.
//!
//! `SIM_SEEDS=N` runs seeds 0 to N-1, `SIM_SEED=N` one of them, telling each step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use walbus::sim::{DiskFaults, PowerDisk, Random, SimDisk};
use walbus::{Lsn, Position, SystemId};

use self::client::{Client, NAMES, Sight};
use self::history::History;
use self::link::Link;
use self::names::Names;
use self::server::{Scene, Server};
use self::source::Source;
use crate::fanout::consumers::Consumers;
use crate::log::{EventLog, Identity, OpenError, Policy, Settings, start_epoch};

mod client;
mod history;
mod link;
mod names;
mod server;
mod source;
mod stream;
mod wanted;

const SEEDS: u64 = 100;
const LIVES: u64 = 5;
const STEPS: u64 = 250;
const CLIENTS: u64 = 5;
/// In how many rounds everything has to arrive at last.
const ROUNDS_MAX: u64 = 20_000;

/// Faults of the server, planted to prove that they would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// Acknowledged positions count as written before they are.
    AcknowledgedLazily,
    /// Where a consumer begins is not written down before it is told.
    BegunLazily,
    /// All get what the first one has asked for.
    ClassOfAnother,
    /// A stream begins without the definitions that are known.
    DefinitionsNotSent,
    /// Positions of another epoch are taken for this one's.
    EpochIgnored,
    /// A position that the log does not hold any more is answered by what it does hold.
    GapIgnored,
    /// Who has lost a name goes on.
    NameShared,
    /// Records are given out that are not durable.
    NotSynced,
    /// A resume passes over one change.
    OffByOne,
    /// More is gathered while nothing is read.
    Unbounded,
    /// Who waits for the head is never woken.
    WakeMissed,
}

/// What was met: a run in which nothing happens proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Met {
    cuts: u64,
    kills: u64,
    failed_syncs: u64,
    opens_cut_short: u64,
    epochs: u64,
    removed: u64,
    links_lost: u64,
    transactions: u64,
    parts: u64,
    forgotten: u64,
    started: u64,
    batches: u64,
    from_files: u64,
    acknowledged: u64,
    taken_over: u64,
    busy: u64,
    too_far_behind: u64,
    wrong_epoch: u64,
    ahead: u64,
    lies: u64,
    errors: u64,
}

/// An epoch, and how far it got.
struct Era {
    history: History,
    /// The head that the last sync gave, and its end LSN.
    synced: (Position, Lsn),
    earliest: Position,
    /// The earliest position for good: the removal of what is before it is durable.
    removed_to: Position,
    /// The greatest position that was handed to a connection.
    given: Position,
}

impl Era {
    fn new(history: History) -> Self {
        let start = history.start();
        Self { synced: (start, history.start_lsn), earliest: start, removed_to: start, given: start, history }
    }
}

struct World {
    seed: u64,
    random: Random,
    tell: bool,
    defect: Option<Defect>,
    disk: SimDisk,
    names_disk: SimDisk,
    settings: Settings,
    batch_bytes: usize,
    gathered_bytes: usize,
    /// The largest batch so far, in bytes.
    largest: usize,
    eras: Vec<Era>,
    /// Which of them the log is of.
    era: usize,
    names: Names,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    clients: Vec<Client>,
    seen: Met,
}

/// How a life ends.
enum End {
    /// The process is killed: what was written can still be read.
    Kill,
    /// The power goes.
    Power,
}

/// One life of the server.
struct Life {
    disk: PowerDisk,
    server: Server,
    source: Source,
}

fn identity() -> Identity {
    Identity { system_id: SystemId(42), slot: "slot".into() }
}

fn pick(random: &mut Random, of: usize) -> usize {
    usize::try_from(random.below(of as u64)).unwrap()
}

impl World {
    fn new(seed: u64, tell: bool, defect: Option<Defect>) -> Self {
        let mut random = Random::new(seed ^ 0xFA_0007);
        let settings = Settings {
            segment_bytes: 2048 << random.below(4),
            ring_bytes: pick(&mut random, 3) * 9000,
            index_every_bytes: 1 + random.below(800),
            spares: pick(&mut random, 3),
        };
        let disk = SimDisk::new(seed);
        let history = History::new(seed, 0, Lsn(1000));
        start_epoch(&disk, &identity(), history.epoch, history.start_lsn).unwrap();
        let clients = (0..CLIENTS).map(|_| Client::new(&mut random)).collect();
        let mut world = Self {
            seed,
            tell,
            defect,
            disk,
            names_disk: SimDisk::new(seed ^ 1),
            settings,
            batch_bytes: 200 << random.below(4),
            gathered_bytes: 300 << random.below(4),
            largest: 0,
            eras: vec![Era::new(history)],
            era: 0,
            names: Names::default(),
            links: BTreeMap::new(),
            next_link: 0,
            clients,
            seen: Met::default(),
            random,
        };
        world.set_sync_fails(0);
        world
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{}", what());
        }
    }

    fn set_sync_fails(&mut self, sync_fails_per_million: u64) {
        let ignores_sync = self.defect == Some(Defect::NotSynced);
        self.disk.set_faults(DiskFaults { sync_fails_per_million, ignores_sync, ..DiskFaults::default() });
        self.names_disk.set_faults(DiskFaults { sync_fails_per_million, ..DiskFaults::default() });
    }

    /// One life of the server, from its start to its end.
    fn live(&mut self) -> Result<(), String> {
        let changes = match self.random.below(6) {
            0 => self.random.below(15),
            1 | 2 => u64::MAX,
            _ => self.random.below(400),
        };
        let disk = PowerDisk::new(&self.disk, changes);
        let end = match self.begin(&disk)? {
            None => {
                self.seen.opens_cut_short += 1;
                End::Power
            }
            Some(mut life) => self.work(&mut life)?,
        };
        self.set_sync_fails(0);
        for link in self.links.values_mut() {
            link.lose(&mut self.random);
        }
        match end {
            End::Kill => self.seen.kills += 1,
            End::Power => {
                self.seen.cuts += 1;
                self.disk.lose_power();
                self.names_disk.lose_power();
            }
        }
        Ok(())
    }

    /// The server starts, in a new epoch now and then; `None` where the power has gone before it was up.
    fn begin(&mut self, disk: &PowerDisk) -> Result<Option<Life>, String> {
        let new_epoch = self.random.chance(1, 8);
        if new_epoch {
            // A slot that was made anew may begin anywhere, also where positions of the one before mean something else.
            let number = u8::try_from(self.eras.len()).unwrap();
            let history = History::new(self.seed, number, Lsn(1000 + self.random.below(9000)));
            let begun = start_epoch(disk, &identity(), history.epoch, history.start_lsn);
            self.eras.push(Era::new(history));
            match begun {
                Ok(()) => self.era = self.eras.len() - 1,
                Err(_) if disk.is_off() => return Ok(None),
                Err(error) => return Err(format!("a new epoch: {error:?}")),
            }
        }
        let (log, writer) = match EventLog::open(Arc::new(disk.clone()), self.settings, &identity()) {
            Ok(opened) => opened,
            Err(OpenError::Io { .. }) if disk.is_off() => return Ok(None),
            Err(error) => return Err(format!("open: {error:?}")),
        };
        let consumers = Consumers::open(Arc::new(disk.beside(&self.names_disk)), 100).map_err(|error| format!("{error:?}"))?;
        self.opened(&log)?;
        self.names.open(&consumers.list())?;
        let source = Source::new(writer, self.batch_bytes, log.durable_end_lsn());
        let server = Server::new(log, consumers, self.gathered_bytes, self.defect);
        Ok(Some(Life { disk: disk.clone(), server, source }))
    }

    /// What must hold at each start.
    fn opened(&mut self, log: &EventLog<PowerDisk>) -> Result<(), String> {
        let era = self.eras.iter().position(|era| era.history.epoch == log.epoch()).ok_or("an epoch that nobody began")?;
        if era < self.era {
            return Err(format!("epoch {} was begun, and {} is found", self.eras[self.era].history.epoch, log.epoch()));
        }
        self.seen.epochs += u64::from(era > 0);
        self.era = era;
        let era = &mut self.eras[era];
        let (head, end_lsn) = (log.head(), log.durable_end_lsn());
        if head < era.synced.0 || end_lsn < era.synced.1 || head < era.given {
            return Err(format!("synced up to {}, given up to {}, and found {head}", era.synced.0, era.given));
        }
        if !era.history.is_boundary(head) {
            return Err(format!("the head is {head}, where no transaction ends"));
        }
        // A removal that was cut short may have come to nothing.
        (era.synced, era.earliest) = ((head, end_lsn), era.removed_to);
        let (earliest, epoch) = (log.earliest(), log.epoch());
        self.tell(|| format!("  opened: epoch {epoch}, {earliest} to {head}"));
        self.check_earliest(log)
    }

    fn check_earliest(&mut self, log: &EventLog<PowerDisk>) -> Result<(), String> {
        let (earliest, era) = (log.earliest(), &mut self.eras[self.era]);
        if earliest < era.earliest || earliest > log.head() || !era.history.is_boundary(earliest) {
            return Err(format!("the earliest position was {} and is {earliest}", era.earliest));
        }
        era.earliest = earliest;
        Ok(())
    }

    fn work(&mut self, life: &mut Life) -> Result<End, String> {
        let failing = self.random.chance(1, 5);
        for step in 0..STEPS {
            if failing && step == STEPS / 2 {
                self.set_sync_fails(100_000);
            }
            if let Err(error) = self.step(life)? {
                self.tell(|| format!("  failed: {error}"));
                if life.disk.is_off() {
                    return Ok(End::Power);
                }
                self.seen.failed_syncs += 1;
                break;
            }
        }
        Ok(if self.random.chance(1, 2) { End::Kill } else { End::Power })
    }

    /// One step; the inner error is the disk's, and ends the process.
    fn step(&mut self, life: &mut Life) -> Result<std::io::Result<()>, String> {
        let log = life.server.log.clone();
        let done = match self.random.below(40) {
            0..=5 => {
                let era = &mut self.eras[self.era];
                life.source.advance(&mut era.history, &mut self.random, &mut self.largest, &mut self.seen)
            }
            6..=8 => life.source.writer.sync().map(|head| self.eras[self.era].synced = (head, log.durable_end_lsn())),
            9 => life.source.job(),
            10 if self.random.chance(1, 3) => self.retain(&log),
            11 => self.write_acknowledged(life),
            12 if self.random.chance(1, 6) => self.remove_consumer(life),
            12 => {
                life.source.prune(log.earliest());
                Ok(())
            }
            13 if self.random.chance(1, 4) => {
                life.source.lose_session(&mut self.eras[self.era].history);
                Ok(())
            }
            14 => {
                self.lose_link();
                Ok(())
            }
            15..=25 => {
                self.serve(life)?;
                Ok(())
            }
            _ => {
                self.act(life)?;
                Ok(())
            }
        };
        let head = log.head();
        if head != self.eras[self.era].synced.0 {
            return Err(format!("the head is {head}, and the last sync gave {}", self.eras[self.era].synced.0));
        }
        self.check_earliest(&log)?;
        // What else is tried without power is no matter: nobody hears of it.
        if life.disk.is_off() { Ok(Err(std::io::Error::other("the power is gone"))) } else { Ok(done) }
    }

    fn retain(&mut self, log: &EventLog<PowerDisk>) -> std::io::Result<()> {
        let keep_bytes = Some(self.random.below(60_000));
        let policy = Policy { keep_bytes, keep_age: self.random.chance(1, 6).then_some(Duration::from_millis(1)) };
        let removed = log.retain(policy, 1_010_000)?;
        self.seen.removed += removed.segments as u64;
        self.eras[self.era].removed_to = log.earliest();
        self.tell(|| format!("  removed {removed:?}"));
        Ok(())
    }

    fn write_acknowledged(&mut self, life: &Life) -> std::io::Result<()> {
        if self.defect == Some(Defect::AcknowledgedLazily) && self.random.chance(1, 2) {
            self.names.written();
            return Ok(());
        }
        match life.server.consumers.write_changed() {
            Ok(_all) => self.names.written(),
            // The server says so and goes on: it is tried again.
            Err(error) if life.disk.is_off() => return Err(error),
            Err(_) => self.seen.failed_syncs += 1,
        }
        Ok(())
    }

    fn remove_consumer(&mut self, life: &Life) -> std::io::Result<()> {
        use crate::fanout::consumers::DropError;
        let name = NAMES[pick(&mut self.random, NAMES.len())];
        match life.server.consumers.remove(name) {
            Ok(()) => self.names.removed(name, true),
            Err(DropError::Busy) => assert!(self.names.is_busy(name), "{name} has no session"),
            Err(DropError::NotThere) => assert!(self.names.place(name).is_none(), "{name} is there"),
            Err(DropError::Io(error)) => {
                self.names.removed(name, false);
                return Err(error);
            }
        }
        Ok(())
    }

    fn lose_link(&mut self) {
        let at = pick(&mut self.random, self.clients.len());
        if let Some(link) = self.clients[at].link.and_then(|id| self.links.get_mut(&id)) {
            link.lose(&mut self.random);
            self.seen.links_lost += 1;
        }
    }

    /// Some connection's turn at the server.
    fn serve(&mut self, life: &mut Life) -> Result<(), String> {
        let connections = life.server.connections();
        if connections.is_empty() {
            return Ok(());
        }
        let id = connections[pick(&mut self.random, connections.len())];
        let most = 1 + pick(&mut self.random, 400);
        let era = &mut self.eras[self.era];
        let mut scene = Scene {
            history: &era.history,
            links: &mut self.links,
            names: &mut self.names,
            durable: era.synced.0,
            largest: self.largest,
            given: &mut era.given,
            seen: &mut self.seen,
        };
        life.server.hear(id, most, &mut scene)?;
        for _ in 0..1 + self.random.below(6) {
            life.server.pump(id, &mut scene)?;
        }
        // That a pump has ended is heard of some time later.
        if self.random.chance(1, 2) { life.server.join(id, &mut scene) } else { Ok(()) }
    }

    /// Some client's turn.
    fn act(&mut self, life: &mut Life) -> Result<(), String> {
        let at = pick(&mut self.random, self.clients.len());
        let client = &mut self.clients[at];
        // What is under way may be of an epoch that is over.
        let of = client.epoch().and_then(|epoch| self.eras.iter().position(|era| era.history.epoch == epoch));
        let era = &self.eras[of.unwrap_or(self.era)];
        let mut sight = Sight {
            history: &era.history,
            links: &mut self.links,
            durable: era.synced.0,
            random: &mut self.random,
            seen: &mut self.seen,
        };
        if client.link.is_none() {
            self.next_link += 1;
            client.connect(self.next_link, &mut sight);
            life.server.accept(self.next_link);
        }
        for _ in 0..4 {
            client.act(&mut sight).map_err(|error| format!("client {at}: {error}"))?;
        }
        Ok(())
    }

    /// At last without a fault: everything arrives.
    fn finish(&mut self) -> Result<(), String> {
        let disk = PowerDisk::new(&self.disk, u64::MAX);
        let era = self.eras.len();
        let mut life = loop {
            if let Some(life) = self.begin(&disk)? {
                break life;
            }
        };
        assert!(self.eras.len() <= era + 1);
        self.clients.iter_mut().for_each(Client::settle);
        let goal = self.random.below(60);
        for round in 0..ROUNDS_MAX {
            let era = &mut self.eras[self.era];
            if round < goal {
                let done = life.source.advance(&mut era.history, &mut self.random, &mut self.largest, &mut self.seen);
                done.map_err(|error| error.to_string())?;
            } else if round == goal {
                let done = life.source.complete(&mut era.history, &mut self.largest, &mut self.seen);
                done.map_err(|error| error.to_string())?;
            }
            if round <= goal {
                let head = life.source.writer.sync().map_err(|error| error.to_string())?;
                era.synced = (head, life.server.log.durable_end_lsn());
            }
            self.serve(&mut life)?;
            self.act(&mut life)?;
            let (epoch, head) = (life.server.log.epoch(), life.server.log.head());
            let mut aims = self.clients.iter().flat_map(|client| &client.aims);
            if round > goal && aims.all(|aim| aim.wanted.is_forbidden() || aim.kept == Some((epoch, head))) {
                self.seen.transactions = self.eras[self.era].history.between(Position::default(), head).count() as u64;
                return Ok(());
            }
        }
        let kept: Vec<_> = self.clients.iter().flat_map(|client| &client.aims).map(|aim| aim.kept).collect();
        Err(format!("the log ends at {}, and clients get no further than {kept:?}", life.server.log.head()))
    }
}

/// One seed, from its start to its end.
fn run(seed: u64, tell: bool, defect: Option<Defect>) -> Result<Met, String> {
    let mut world = World::new(seed, tell, defect);
    for life in 0..LIVES {
        world.tell(|| format!("life {life}"));
        world.live().map_err(|error| format!("seed {seed}, life {life}: {error}"))?;
    }
    world.tell(|| "at last".to_owned());
    world.finish().map_err(|error| format!("seed {seed}, at last: {error}"))?;
    Ok(world.seen)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

impl Met {
    /// Everything with a name.
    const fn all(&self) -> [(&'static str, u64); 21] {
        [
            ("cuts of the power", self.cuts),
            ("kills", self.kills),
            ("failed syncs", self.failed_syncs),
            ("starts cut short", self.opens_cut_short),
            ("starts in a later epoch", self.epochs),
            ("segments removed", self.removed),
            ("links lost", self.links_lost),
            ("transactions", self.transactions),
            ("parts of transactions", self.parts),
            ("definitions forgotten", self.forgotten),
            ("subscriptions", self.started),
            ("batches", self.batches),
            ("reads of files", self.from_files),
            ("acknowledgements", self.acknowledged),
            ("names taken over", self.taken_over),
            ("names in use", self.busy),
            ("too far behind", self.too_far_behind),
            ("another epoch", self.wrong_epoch),
            ("ahead", self.ahead),
            ("acknowledgements beyond what was sent", self.lies),
            ("errors told", self.errors),
        ]
    }
}

#[test]
fn subscribers_get_all_that_they_should_and_nothing_else() {
    if let Some(seed) = number("SIM_SEED") {
        run(seed, true, None).unwrap();
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut all = Met::default().all();
    for seed in 0..seeds {
        // Read where a test panics: an assertion has no seed.
        println!("seed {seed}");
        let seen = run(seed, false, None).unwrap_or_else(|error| panic!("{error}; replay it by SIM_SEED={seed}"));
        for (sum, (_, one)) in all.iter_mut().zip(seen.all()) {
            sum.1 += one;
        }
    }
    println!("seeds 0 to {}: {all:?}", seeds - 1);
    let never = all.iter().find(|(_, count)| *count < seeds / 5);
    assert!(never.is_none(), "what was hardly met: {never:?}");
}

#[test]
fn planted_defects_are_noticed() {
    let defects = [
        Defect::AcknowledgedLazily,
        Defect::BegunLazily,
        Defect::ClassOfAnother,
        Defect::DefinitionsNotSent,
        Defect::EpochIgnored,
        Defect::GapIgnored,
        Defect::NameShared,
        Defect::NotSynced,
        Defect::OffByOne,
        Defect::Unbounded,
        Defect::WakeMissed,
    ];
    for defect in defects {
        let found = (0..60).find_map(|seed| {
            let outcome = std::panic::catch_unwind(|| run(seed, false, Some(defect)));
            match outcome {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error),
                Err(_panic) => Some(format!("seed {seed}: an assertion")),
            }
        });
        println!("{defect:?}: {found:?}");
        assert!(found.is_some(), "{defect:?} would not be noticed");
    }
}
