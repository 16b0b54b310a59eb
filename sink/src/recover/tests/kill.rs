//! Killed at every step, and the power lost at every step.

use walbus::sim::PowerDisk;

use super::world::{Files, World, files};
use crate::recover::error::RecoverError;
use crate::recover::folder::Folders;
use crate::recover::guard;

type State = (Files, Files, Files);

/// What Postgres and `--verify` see: all but what was set aside.
fn state(world: &World) -> State {
    let (pgdata, mut wal, global) = world.all_files();
    wal.retain(|name, _| !name.contains(".set-aside-"));
    (pgdata, wal, global)
}

/// Started at this moment, Postgres would not lose in silence what the sink holds, nor find a half of it.
fn is_safe(world: &World, before: &State, after: &State, step: &str) {
    let end = world.chain_end();
    assert!(end == world.local_end || end == world.complete, "{step}: the chain ends at {end}");
    if !guard::is_up(&world.folders.pgdata).unwrap() {
        let (pgdata, wal, global) = state(world);
        let not_begun = (&global, &pgdata["postgresql.auto.conf"]) == (&before.2, &before.0["postgresql.auto.conf"])
            && before.1.iter().all(|(name, content)| wal.get(name) == Some(content));
        assert!(not_begun || (pgdata, wal, global) == *after, "{step}: half done and not guarded");
    }
}

fn killed_at_every_step(make: impl Fn() -> World, power_lost: bool) {
    let reference = make();
    let before = state(&reference);
    reference.recover().unwrap();
    let after = state(&reference);
    assert_ne!(before, after);
    for step in 0.. {
        let mut world = make();
        // One thread, so that the steps are the same each time.
        world.jobs = 1;
        let pgdata = PowerDisk::killed_after(&world.folders.pgdata, step);
        let (global, wal) = (pgdata.beside(&world.folders.global), pgdata.beside(&world.folders.wal));
        let folders = Folders { pgdata, global, wal };
        let outcome = world.recover_in(&folders);
        if power_lost {
            for disk in [&world.folders.pgdata, &world.folders.global, &world.folders.wal] {
                disk.lose_power();
            }
        }
        is_safe(&world, &before, &after, &format!("step {step}"));
        if outcome.is_ok() {
            assert!(state(&world) == after, "step {step}: not durable at the end");
            assert!(step > 30, "only {step} steps");
            return;
        }
        assert!(matches!(outcome, Err(RecoverError::Folder { .. })), "step {step}: {outcome:?}");
        world.jobs = 3;
        world.recover().unwrap();
        assert!(state(&world) == after, "step {step}: the second run ends elsewhere");
        assert!(!files(&world.folders.wal).keys().any(|name| name.starts_with("xlogtemp")), "step {step}: leftovers");
    }
}

/// With something to set aside, too.
fn with_stray() -> World {
    let world = World::new();
    let mut far = world.builder.clone();
    while far.end() < walbus::Lsn(6 << 20) {
        far.filler(3, 7000);
    }
    world.put_local(5, far.between(walbus::Lsn(5 << 20), walbus::Lsn(6 << 20)));
    world
}

#[test]
fn killed_at_any_step_it_ends_in_the_same_place() {
    killed_at_every_step(with_stray, false);
}

#[test]
fn without_power_at_any_step_it_ends_in_the_same_place() {
    killed_at_every_step(with_stray, true);
}

#[test]
fn without_power_at_any_step_of_a_folder_that_was_shut_down() {
    killed_at_every_step(World::with_shutdown, true);
}

#[test]
fn without_power_at_any_step_across_a_promotion() {
    killed_at_every_step(World::promoted, true);
}
