//! The log on a disk that loses power at any call, tears writes and fails to sync: what was synced is there, whole and in order, and
//! nothing was ever given to a reader that is not there afterwards.
//!
//! `SIM_SEEDS=N` runs seeds 0 to N-1, `SIM_SEED=N` one of them, telling each step.

use std::sync::Arc;
use std::time::Duration;

use walbus::disk::Disk;
use walbus::sim::{DiskFaults, PowerDisk, Random, SimDisk};
use walbus::{Lsn, Position};

use super::workload::{EPOCH, Follower, START, Slot, Transaction, identity};
use crate::log::{EventLog, OpenError, Policy, Settings, Writer, start_epoch};

const SEEDS: u64 = 150;
const LIVES: u64 = 12;
const STEPS: u64 = 60;

#[derive(Debug, Default)]
struct Seen {
    cuts: u64,
    kills: u64,
    failed_syncs: u64,
    opens_cut_short: u64,
    transactions: u64,
    segments: u64,
    removed: usize,
    from_ring: u64,
    from_files: u64,
}

struct World {
    seed: u64,
    random: Random,
    disk: SimDisk,
    settings: Settings,
    followers: Vec<Follower<PowerDisk>>,
    /// The head that the last sync gave, and its end LSN: what was confirmed to the slot.
    synced: (Position, Lsn),
    seen: Seen,
    tell: bool,
}

/// How a life ends.
enum End {
    /// The process is killed: what was written can still be read.
    Kill,
    /// The power goes.
    Power,
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut random = Random::new(seed ^ 0x5EED);
        let settings = Settings {
            segment_bytes: 1024 << random.below(4),
            ring_bytes: usize::try_from(random.below(3) * 6000).unwrap(),
            index_every_bytes: 1 + random.below(800),
            spares: usize::try_from(random.below(3)).unwrap(),
        };
        let disk = SimDisk::new(seed);
        start_epoch(&disk, &identity(), EPOCH, START).unwrap();
        let start = Position { commit_lsn: START, ordinal: 0 };
        let followers = (0..3).map(|_| Follower::at(seed, start)).collect();
        Self { seed, random, disk, settings, followers, synced: (start, START), seen: Seen::default(), tell }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{}", what());
        }
    }

    /// One life of the server, from its start to its end.
    fn live(&mut self) -> Result<(), String> {
        let changes = match self.random.below(4) {
            0 => self.random.below(12),
            1 => u64::MAX,
            _ => self.random.below(300),
        };
        let disk = PowerDisk::new(&self.disk, changes);
        let failing = self.random.chance(1, 4);
        let end = match EventLog::open(Arc::new(disk.clone()), self.settings, &identity()) {
            Ok((log, mut writer)) => {
                self.opened(&log)?;
                self.work(&disk, &log, &mut writer, failing)?
            }
            Err(OpenError::Io { .. }) if disk.is_off() => {
                self.seen.opens_cut_short += 1;
                End::Power
            }
            Err(error) => return Err(format!("open: {error:?}")),
        };
        self.followers.iter_mut().for_each(Follower::disconnect);
        self.set_sync_fails(0);
        match end {
            End::Kill => self.seen.kills += 1,
            End::Power => {
                self.seen.cuts += 1;
                self.disk.lose_power();
            }
        }
        Ok(())
    }

    /// What must hold at each start.
    fn opened(&mut self, log: &EventLog<PowerDisk>) -> Result<(), String> {
        let (head, end_lsn) = (log.head(), log.durable_end_lsn());
        self.tell(|| format!("  opened: {} to {head}, confirmed {end_lsn}", log.earliest()));
        if head < self.synced.0 || end_lsn < self.synced.1 {
            return Err(format!("synced up to {} and found {head}", self.synced.0));
        }
        self.synced = (head, end_lsn);
        if let Some(follower) = self.followers.iter().find(|follower| follower.position > head) {
            return Err(format!("a reader was given {}, and the log ends at {head}", follower.position));
        }
        // All of it, through the files.
        let mut all = Follower::at(self.seed, log.earliest());
        while all.step(log, true)? {}
        if all.position != head { Err(format!("the files end at {}, and the head is {head}", all.position)) } else { Ok(()) }
    }

    fn work(
        &mut self,
        disk: &PowerDisk,
        log: &EventLog<PowerDisk>,
        writer: &mut Writer<PowerDisk>,
        failing: bool,
    ) -> Result<End, String> {
        let mut slot = Slot::behind(self.seed, log.durable_end_lsn(), Random::new(self.random.next()));
        for step in 0..STEPS {
            if failing && step == STEPS / 2 {
                self.set_sync_fails(300_000);
            }
            let dice = self.random.below(20);
            let done = match dice {
                0..=7 => {
                    let (meta, payload, schemas) = slot.batch(&Arc::clone(writer.schemas()));
                    self.tell(|| format!("  append {} to {}", meta.first, meta.last));
                    writer.append(meta, payload, &schemas)
                }
                8..=11 => writer.sync().map(|head| {
                    self.tell(|| format!("  synced up to {head}"));
                    self.synced = (head, log.durable_end_lsn());
                }),
                12 | 13 => writer.job().map_or(Ok(()), |job| job.run().map(|done| writer.finish(done))),
                14 => {
                    let keep = self.random.below(20_000);
                    let policy =
                        Policy { keep_bytes: Some(keep), keep_age: self.random.chance(1, 2).then_some(Duration::from_millis(1)) };
                    log.retain(policy, 0).map(|removed| self.seen.removed += removed.segments)
                }
                n => {
                    let follower = usize::from(n == 15) + usize::from(n > 17);
                    // One reads files only, one mostly the ring, one anything.
                    let files_only = follower == 0 || (follower == 2 && self.random.chance(1, 2));
                    while self.followers[follower].step(log, files_only)? && self.random.chance(3, 4) {}
                    Ok(())
                }
            };
            if log.head() != self.synced.0 {
                return Err(format!("the head is {}, and the last sync gave {}", log.head(), self.synced.0));
            }
            if let Err(error) = done {
                self.tell(|| format!("  failed: {error}"));
                if disk.is_off() {
                    return Ok(End::Power);
                }
                self.seen.failed_syncs += 1;
                if dice <= 11 && writer.sync().is_ok() {
                    return Err("a writer that has failed goes on".to_owned());
                }
                break;
            }
        }
        self.seen.segments = self.seen.segments.max(log.size_bytes() / self.settings.segment_bytes);
        Ok(if self.random.chance(1, 2) { End::Kill } else { End::Power })
    }

    fn set_sync_fails(&self, sync_fails_per_million: u64) {
        self.disk.set_faults(DiskFaults { sync_fails_per_million, ..DiskFaults::default() });
    }
}

fn run(seed: u64, tell: bool) -> Result<Seen, String> {
    let mut world = World::new(seed, tell);
    for life in 0..LIVES {
        world.tell(|| format!("life {life}"));
        world.live().map_err(|error| format!("seed {seed}, life {life}: {error}"))?;
    }
    // At last without a fault: everything arrives.
    let (log, mut writer) = EventLog::open(Arc::new(PowerDisk::new(&world.disk, u64::MAX)), world.settings, &identity())
        .map_err(|error| format!("seed {seed}, at the end: {error:?}"))?;
    world.opened(&log).map_err(|error| format!("seed {seed}, at the end: {error}"))?;
    let mut slot = Slot::behind(seed, log.durable_end_lsn(), Random::new(seed));
    let wanted = Transaction::of(seed, (log.head().commit_lsn.0.saturating_sub(2000)) / 100 + 5).end();
    while log.head() < wanted {
        let (meta, payload, schemas) = slot.batch(&Arc::clone(writer.schemas()));
        writer.append(meta, payload, &schemas).map_err(|error| error.to_string())?;
        writer.sync().map_err(|error| error.to_string())?;
    }
    for follower in &mut world.followers {
        while follower.step(&log, false).map_err(|error| format!("seed {seed}, at the end: {error}"))? {}
        assert_eq!(follower.position, log.head(), "seed {seed}");
        world.seen.from_ring += follower.from_ring;
        world.seen.from_files += follower.from_files;
    }
    world.seen.transactions = log.head().commit_lsn.0.saturating_sub(1900) / 100;
    Ok(world.seen)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_was_synced_is_there_whole_and_in_order() {
    if let Some(seed) = number("SIM_SEED") {
        run(seed, true).unwrap();
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut all = Seen::default();
    for seed in 0..seeds {
        // Read where a test panics: an assertion has no seed.
        println!("seed {seed}");
        let seen = run(seed, false).unwrap_or_else(|error| panic!("{error}; replay it by SIM_SEED={seed}"));
        all.cuts += seen.cuts;
        all.kills += seen.kills;
        all.failed_syncs += seen.failed_syncs;
        all.opens_cut_short += seen.opens_cut_short;
        all.transactions += seen.transactions;
        all.segments = all.segments.max(seen.segments);
        all.removed += seen.removed;
        all.from_ring += seen.from_ring;
        all.from_files += seen.from_files;
    }
    println!("seeds 0 to {}: {all:?}", seeds - 1);
    let met = [all.cuts, all.kills, all.failed_syncs, all.opens_cut_short, all.transactions, all.from_ring, all.from_files];
    assert!(met.iter().all(|count| *count > seeds / 10) && all.removed > 0 && all.segments > 2, "every fault was met: {all:?}");
}

#[test]
fn a_folder_that_is_not_synced_is_noticed() {
    let found = (0..40).find(|seed| {
        let lost = std::panic::catch_unwind(|| {
            let mut world = World::new(*seed, false);
            world.disk.set_faults(DiskFaults { ignores_dir_sync: true, ..DiskFaults::default() });
            let open = |disk: &SimDisk| EventLog::open(Arc::new(disk.clone()), world.settings, &identity());
            let (log, mut writer) = open(&world.disk).unwrap();
            let mut slot = Slot::behind(*seed, log.durable_end_lsn(), Random::new(*seed));
            for _ in 0..40 {
                let (meta, payload, schemas) = slot.batch(&Arc::clone(writer.schemas()));
                writer.append(meta, payload, &schemas).unwrap();
            }
            world.synced.0 = writer.sync().unwrap();
            world.disk.lose_power();
            open(&world.disk).is_ok_and(|(log, _)| log.head() == world.synced.0)
        });
        !lost.unwrap_or(false)
    });
    println!("noticed with seed {found:?}");
    assert!(found.is_some(), "the simulator would not notice a folder that is not synced");
}

#[test]
fn files_other_than_the_log_s_are_left_alone() {
    let disk = SimDisk::new(1);
    start_epoch(&disk, &identity(), EPOCH, START).unwrap();
    for name in ["consumers.json", "consumers.json.tmp", "lock", "0.log"] {
        disk.create_zeroed(name, 1).unwrap();
    }
    drop(EventLog::open(Arc::new(disk.clone()), Settings::default(), &identity()).unwrap());
    let names: Vec<_> = disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["0.log", "0000000000000001.log", "consumers.json", "consumers.json.tmp", "epoch", "lock"]);
}
