//! Whole recoveries, over a disk in memory and a sink in memory.

use super::chain::Walk;
use super::error::RecoverError;
use super::folder::read_whole;
use super::guard;
use super::plan::Refusal;
use super::record::Record;
use walbus::{Lsn, Timeline};

mod kill;
mod world;

use world::{MB, World, files};

#[test]
fn an_older_folder_gets_all_that_the_sink_has() {
    let world = World::new();
    let report = world.recover().unwrap();
    assert_eq!(report.target, world.complete.to_string());
    assert_eq!((report.new.len(), report.overwritten.len(), report.identical), (2, 1, 1), "{report:?}");
    assert_eq!(report.gained_bytes, world.complete.0 - world.local_end.0);
    assert_eq!(world.chain_end(), world.complete);
    for number in 1..=4 {
        assert!(world.local_segment(number) == world.sink_segment(number), "segment {number}");
    }
    let record = Record::read(&world.folders.pgdata).unwrap();
    assert_eq!((record.target.as_str(), record.system_id.as_str()), (world.complete.to_string().as_str(), "7"));
    assert_eq!(record.tail.is_in(&world.folders.wal).unwrap(), Some(true));
    assert!(!guard::is_up(&world.folders.pgdata).unwrap());
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    let world = World::new();
    world.recover().unwrap();
    let before = files(&world.folders.wal);
    let report = world.recover().unwrap();
    assert_eq!((report.identical, report.written_bytes, report.gained_bytes), (4, 0, 0));
    assert_eq!(files(&world.folders.wal), before);
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let mut world = World::new();
    let before = world.all_files();
    world.dry_run = true;
    let told = world.recover().unwrap();
    assert_eq!(world.all_files(), before);
    world.dry_run = false;
    let mut done = world.recover().unwrap();
    done.dry_run = true;
    assert_eq!(told, done);
}

#[test]
fn the_folder_s_own_wal_behind_the_sink_s_end_stays() {
    let mut world = World::new();
    world.write_local(world.builder.end());
    let before = files(&world.folders.wal);
    // The sink lags: it has less than the folder.
    world.set_sink_end(world.record_end_near(2 * MB + MB / 2));
    let report = world.recover().unwrap();
    assert_eq!(report.target, world.builder.end().to_string());
    assert_eq!(report.ahead_bytes, world.builder.end().0 - world.complete.0);
    assert_eq!(files(&world.folders.wal), before);
}

#[test]
fn a_hole_is_filled_and_what_is_behind_the_sink_s_end_stays() {
    let mut world = World::new();
    world.write_local(world.builder.end());
    world.set_sink_end(world.record_end_near(3 * MB + MB / 2));
    // Torn twice: in a segment below the sink's end, and in the one that holds it, before it.
    world.overwrite_local(2, 8192 * 10, &[0; 8192]);
    world.overwrite_local(3, 8192 * 3, &[0; 8192]);
    let report = world.recover().unwrap();
    assert_eq!(report.target, world.builder.end().to_string());
    assert_eq!(world.chain_end(), world.builder.end());
    for number in 1..=4 {
        assert!(world.local_segment(number) == world.whole_segment(number), "segment {number}");
    }
}

#[test]
fn a_folder_that_went_its_own_way_is_refused_and_untouched() {
    let world = World::new();
    let diverged = world.diverged_from(world.local_end);
    world.write_local_bytes(&diverged);
    let before = world.all_files();
    let Err(RecoverError::Refused(Refusal::Contradicts { at, folder, sink })) = world.recover() else { panic!("not refused") };
    assert_eq!((folder, sink), (diverged.end(), world.complete));
    assert!(at >= world.local_end && at < diverged.end(), "{at}");
    assert_eq!(world.all_files(), before);
}

#[test]
fn a_folder_that_made_a_checkpoint_on_its_own_way_is_refused() {
    let world = World::new();
    let mut diverged = world.diverged_from(world.local_end);
    let redo = diverged.filler(9, 64);
    let checkpoint = diverged.checkpoint(redo.lsn);
    diverged.filler(9, 900);
    world.write_local_bytes(&diverged);
    world.write_control(redo.lsn, checkpoint.lsn, false);
    assert!(matches!(world.recover(), Err(RecoverError::Refused(Refusal::Contradicts { .. }))));
    // And where its own WAL is gone as well, the sink has no such checkpoint.
    for number in 1..=4 {
        world.remove_local(number);
    }
    let before = world.all_files();
    let refused = world.recover();
    assert!(matches!(refused, Err(RecoverError::Refused(Refusal::CheckpointOther { .. }))), "{refused:?}");
    assert_eq!(world.all_files(), before);
}

#[test]
fn a_folder_far_ahead_on_its_own_way_is_refused() {
    let mut world = World::new();
    world.set_sink_end(world.record_end_near(3 * MB));
    let mut diverged = world.diverged_from(world.local_end);
    let redo = loop {
        let built = diverged.filler(9, 4000);
        if built.lsn > world.complete {
            break built;
        }
    };
    let checkpoint = diverged.checkpoint(redo.lsn);
    world.write_local_bytes(&diverged);
    world.write_control(redo.lsn, checkpoint.lsn, false);
    let refused = world.recover();
    assert!(matches!(refused, Err(RecoverError::Refused(Refusal::Contradicts { .. }))), "{refused:?}");
}

#[test]
fn a_folder_that_is_ahead_needs_nothing() {
    let mut world = World::new();
    world.set_sink_end(world.record_end_near(3 * MB));
    let mut ahead = world.builder.clone();
    let redo = ahead.filler(9, 4000);
    let checkpoint = ahead.checkpoint(redo.lsn);
    world.write_local_bytes(&ahead);
    world.write_control(redo.lsn, checkpoint.lsn, true);
    let before = files(&world.folders.wal);
    let report = world.recover().unwrap();
    assert_eq!((report.target, report.pg_control_changed), (ahead.end().to_string(), false));
    assert_eq!(files(&world.folders.wal), before);
    // Without its checkpoint's WAL it can't start, and the sink can't help.
    world.remove_local(4);
    world.remove_local(5);
    assert!(matches!(world.recover(), Err(RecoverError::Refused(Refusal::CheckpointMissing { .. }))));
}

#[test]
fn a_folder_that_was_shut_down_in_order_is_made_to_replay() {
    let world = World::with_shutdown();
    let report = world.recover().unwrap();
    assert!(report.pg_control_changed);
    let control = read_whole(&world.folders.global, "pg_control").unwrap().unwrap();
    let control = walbus::proto::control::Control::parse(&control).unwrap();
    assert_eq!(control.state, walbus::proto::control::DbState::InProduction);
    assert_eq!(world.chain_end(), world.complete);
}

#[test]
fn a_folder_that_was_shut_down_last_stays_so() {
    let mut world = World::with_shutdown();
    world.set_sink_end(world.local_end);
    let report = world.recover().unwrap();
    assert!(!report.pg_control_changed, "{report:?}");
    assert_eq!(report.gained_bytes, 0);
}

#[test]
fn newer_wal_behind_an_older_shutdown_is_replayed_without_the_sink_too() {
    let mut world = World::with_shutdown();
    world.write_local(world.builder.end());
    // The sink has nothing behind the checkpoint.
    world.set_sink_end(world.record_end_near(MB + MB / 4));
    let report = world.recover().unwrap();
    assert!(report.pg_control_changed);
    assert_eq!(report.target, world.builder.end().to_string());
    assert!(!world.recover().unwrap().pg_control_changed);
}

#[test]
fn what_could_be_taken_for_a_continuation_is_set_aside() {
    let world = World::new();
    // A segment behind the sink's end that is at home there, and one that was recycled.
    let mut far = world.builder.clone();
    while far.end() < Lsn(6 * MB) {
        far.filler(3, 7000);
    }
    let stray = far.between(Lsn(5 * MB), Lsn(6 * MB)).to_vec();
    world.put_local(5, &stray);
    world.put_local(6, &stray);
    let report = world.recover().unwrap();
    assert_eq!(report.set_aside, [world.name(5)]);
    let names: Vec<_> = files(&world.folders.wal).into_keys().collect();
    assert!(names.contains(&format!("{}.set-aside-1", world.name(5))) && names.contains(&world.name(6)), "{names:?}");
    assert!(!names.contains(&world.name(5)));
}

#[test]
fn a_damaged_record_is_refused_before_anything_is_changed() {
    for (what, offset) in [("a record's byte", 8192 * 9 + 300), ("a page's header", 8192 * 9 + 8)] {
        let mut world = World::new();
        world.damage_sink(3, offset);
        let before = world.all_files();
        let refused = world.recover();
        assert!(matches!(refused, Err(RecoverError::Refused(Refusal::Broken { .. }))), "{what}: {refused:?}");
        assert_eq!(world.all_files(), before, "{what}");
    }
}

#[test]
fn a_sink_that_grows_meanwhile_is_told_and_postgres_kept_from_starting() {
    let mut world = World::new();
    world.set_sink_end(world.record_end_near(4 * MB));
    world.grows_to = Some(world.builder.end());
    let failed = world.recover();
    assert!(matches!(failed, Err(RecoverError::Grew { .. })), "{failed:?}");
    assert!(guard::is_up(&world.folders.pgdata).unwrap());
    assert_eq!(world.chain_end(), world.local_end);
    world.set_sink_end(world.builder.end());
    world.grows_to = None;
    world.recover().unwrap();
    assert!(!guard::is_up(&world.folders.pgdata).unwrap());
    assert_eq!(world.chain_end(), world.builder.end());
}

#[test]
fn a_sink_that_goes_away_leaves_the_folder_guarded_until_the_next_run() {
    let mut world = World::new();
    world.fails_after = Some(3);
    assert!(matches!(world.recover(), Err(RecoverError::Sink(_))));
    assert!(guard::is_up(&world.folders.pgdata).unwrap());
    world.fails_after = None;
    world.recover().unwrap();
    assert_eq!(world.chain_end(), world.complete);
    assert!(!guard::is_up(&world.folders.pgdata).unwrap());
}

#[test]
fn a_refusal_leaves_the_guard_of_an_earlier_run() {
    let mut world = World::new();
    world.fails_after = Some(3);
    world.recover().unwrap_err();
    world.fails_after = None;
    world.damage_sink(3, 8192 * 9 + 300);
    assert!(matches!(world.recover(), Err(RecoverError::Refused(_))));
    assert!(guard::is_up(&world.folders.pgdata).unwrap());
}

#[test]
fn no_room_is_told_before_anything_is_changed() {
    let mut world = World::new();
    world.free_bytes = 2 * MB;
    let before = world.all_files();
    let Err(RecoverError::NoRoom { needed, free }) = world.recover() else { panic!("there was room") };
    assert_eq!((needed, free), (4 * MB, 2 * MB));
    assert_eq!(world.all_files(), before);
}

#[test]
fn a_tail_segment_that_postgres_has_removed_is_told_from_another_one() {
    let world = World::new();
    world.recover().unwrap();
    let record = Record::read(&world.folders.pgdata).unwrap();
    world.overwrite_local(4, record.tail.bytes - 1, &[0xEE]);
    assert_eq!(record.tail.is_in(&world.folders.wal).unwrap(), Some(false));
    world.remove_local(4);
    assert_eq!(record.tail.is_in(&world.folders.wal).unwrap(), None);
}

#[test]
fn a_promotion_is_followed_where_pg_control_says_so() {
    let world = World::promoted();
    let report = world.recover().unwrap();
    assert!(report.history_written);
    assert_eq!(world.chain_end(), world.complete);
    let history = read_whole(&world.folders.wal, "00000002.history").unwrap().unwrap();
    assert_eq!(super::history::ancestors(Timeline::new(2).unwrap(), &history).unwrap().len(), 1);
}

#[test]
fn pieces_that_only_the_folder_has_are_checked_too() {
    let world = World::new();
    let mut world = world;
    world.forget_sink_segment(1);
    world.overwrite_local(1, 8192 * 20 + 100, &[0xEE; 16]);
    assert!(matches!(world.recover(), Err(RecoverError::Refused(Refusal::Broken { .. }))));
    world.put_local(1, &world.whole_segment(1));
    let report = world.recover().unwrap();
    assert_eq!(report.kept, [world.name(1)]);
    assert_eq!(world.chain_end(), world.complete);
}

#[test]
fn a_walk_ends_where_the_wal_does() {
    let world = World::new();
    let mut walk = Walk::new(&world.plan()).unwrap();
    walk.follow(&world.folders.wal, &world.plan()).unwrap();
    assert_eq!((walk.complete(), walk.seen.checkpoint), (world.local_end, Some(true)));
}
