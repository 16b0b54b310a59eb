//! Recovery to a point: exact to the row at each boundary, refused where it can't be, taken back, and the archive proven and pruned.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod block;
mod keys;
mod parameters;

use std::fs;
use std::path::{Path, PathBuf};

use harness::pitr::{Archive, Base, Story};
use harness::{Postgres, ShiftedClock, StopMode};
use serde_json::Value;

/// A story over a promotion: a base backup and a copy of one moment, commits whose times go back and forth.
async fn story(version: u32) -> Story {
    let mut story = Story::begin(version).await.unwrap();
    for shift_s in [0, 5, -30] {
        story.commit(shift_s * 1_000_000, 1000).await.unwrap();
    }
    story.back_up().await.unwrap();
    story.commit(0, 1_200_000).await.unwrap();
    story.snapshot().await.unwrap();
    story.commit(7_000_000, 1000).await.unwrap();
    story.commit(-4_000_000, 1000).await.unwrap();
    story.roll_back(0).await.unwrap();
    story.commit_prepared(2_000_000, 90).await.unwrap();
    story.name("before").await.unwrap();
    story.commit(0, 2_200_000).await.unwrap();
    story.promote().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.commit(60_000_000, 1000).await.unwrap();
    story.archived().await.unwrap();
    story
}

async fn rows_after(story: &Story, base: &Base, args: &[&str]) -> Vec<i64> {
    let mut restored = story.restore(base, args).await.unwrap();
    restored.recover().await.unwrap();
    restored.rows().await.unwrap()
}

/// A moment as the program takes it, by the primary's own arithmetic.
async fn text(story: &Story, unix_us: i64) -> String {
    let sql = format!(
        "SET timezone = 'UTC'; SELECT to_char(to_timestamp(0) + {unix_us} * interval '1 microsecond', 'YYYY-MM-DD HH24:MI:SS.US')"
    );
    story.primary.value(&sql).await.unwrap() + "+00"
}

async fn exact(version: u32) {
    let story = story(version).await;
    let [backup, snapshot] = story.bases.as_slice() else { panic!("two bases") };

    // Around one commit, by position.
    let at = 5;
    let xid = story.events[at].xid.to_string();
    let located = story.archive.json(&["locate", "--xid", &xid]).await.unwrap();
    let (lsn, end) = (located["lsn"].as_str().unwrap(), located["end"].as_str().unwrap());
    let (with, without) = (story.rows_before(at + 1), story.rows_before(at));
    assert_eq!(rows_after(&story, backup, &["--target-lsn", lsn]).await, with);
    assert_eq!(rows_after(&story, backup, &["--target-lsn", lsn, "--exclusive"]).await, without);
    assert_eq!(rows_after(&story, snapshot, &["--target-lsn", end, "--exclusive", "--action", "promote"]).await, with);

    // Around two moments: a later commit is of an earlier time.
    for (base, at, exclusive) in [(snapshot, 4, false), (backup, 4, true), (snapshot, 5, false), (backup, 5, true)] {
        let time_us = story.events[at].to_us;
        let time = text(&story, time_us).await;
        let count = story.count_at(time_us, !exclusive, base.begun).unwrap();
        let args = ["--target-time", &time, "--exclusive"];
        let args = if exclusive { &args[..] } else { &args[..2] };
        if count >= base.consistent {
            assert_eq!(rows_after(&story, base, args).await, story.rows_before(count), "{args:?}");
        } else {
            assert!(story.refusal(base, args).await.unwrap().contains("older base"));
        }
    }

    // A prepared transaction with many subtransactions; a name; over the promotion.
    let prepared = story.events[7].xid.to_string();
    assert_eq!(rows_after(&story, backup, &["--target-xid", &prepared]).await, story.rows_before(8));
    assert_eq!(rows_after(&story, snapshot, &["--target-name", "before"]).await, story.rows_before(8));
    let promoted = story.events[9].xid.to_string();
    assert_eq!(rows_after(&story, snapshot, &["--target-xid", &promoted]).await, story.rows_before(10));
    assert_eq!(rows_after(&story, backup, &["--target-xid", &promoted, "--exclusive"]).await, story.rows_before(9));

    // Both ends.
    assert_eq!(rows_after(&story, snapshot, &["--latest"]).await, story.rows_before(story.events.len()));
    assert_eq!(rows_after(&story, backup, &["--immediate"]).await, story.rows_before(backup.consistent));
    assert_eq!(rows_after(&story, snapshot, &["--immediate"]).await, story.rows_before(snapshot.consistent));
}

#[tokio::test]
async fn exact_to_the_row_on_15() {
    exact(15).await;
}

#[tokio::test]
async fn exact_to_the_row_on_16() {
    exact(16).await;
}

#[tokio::test]
async fn exact_to_the_row_on_17() {
    exact(17).await;
}

#[tokio::test]
async fn exact_to_the_row_on_18() {
    exact(18).await;
}

fn auto_conf(cluster: &Postgres) -> String {
    fs::read_to_string(cluster.data().join("postgresql.auto.conf")).unwrap()
}

/// What Postgres itself does with a copy of one moment and a target before its own WAL's end: why that is refused.
async fn before_its_own_end(version: u32) {
    let mut story = Story::begin(version).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.snapshot().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    let base = &story.bases[0];
    let xid = story.events[1].xid.to_string();
    let refused = story.refusal(base, &["--target-xid", &xid]).await.unwrap();
    assert!(refused.contains("before this folder's consistent point") && refused.contains("older base"), "{refused}");

    // The same by hand.
    let mut cluster = story.copy(base).await.unwrap();
    let command = format!("cp {}/%f %p", story.primary.wal().display());
    cluster.append_settings(&[("recovery_target_name", ""), ("restore_command", &command), ("recovery_target_xid", &xid)]).unwrap();
    fs::write(cluster.data().join("recovery.signal"), "").unwrap();
    harness::Account::current().give(&cluster.data().join("recovery.signal")).unwrap();
    assert!(cluster.start().await.is_err());
    assert!(cluster.log().contains("requested recovery stop point is before consistent recovery point"), "{}", cluster.log());
}

#[tokio::test]
async fn postgres_15_fails_before_its_own_end() {
    before_its_own_end(15).await;
}

#[tokio::test]
async fn postgres_18_fails_before_its_own_end() {
    before_its_own_end(18).await;
}

#[tokio::test]
async fn what_can_t_be_reached_is_refused_with_what_can() {
    let mut story = story(18).await;
    let (backup, snapshot) = (story.bases[0].clone(), story.bases[1].clone());

    let early = story.events[0].xid.to_string();
    let refused = story.refusal(&backup, &["--target-xid", &early]).await.unwrap();
    assert!(refused.contains("is not reached") && refused.contains("newest commit"), "{refused}");
    let past = text(&story, story.events[0].to_us - 60_000_000).await;
    let refused = story.refusal(&backup, &["--target-time", &past]).await.unwrap();
    assert!(refused.contains("Use an older base"), "{refused}");
    let future = text(&story, story.events[0].to_us + 3_600_000_000).await;
    let refused = story.refusal(&snapshot, &["--target-time", &future]).await.unwrap();
    assert!(refused.contains("--latest"), "{refused}");
    let refused = story.refusal(&snapshot, &["--target-lsn", "FF/0"]).await.unwrap();
    assert!(refused.contains("the WAL ends before it"), "{refused}");
    let refused = story.refusal(&snapshot, &["--latest", "--timeline", "7"]).await.unwrap();
    assert!(refused.contains("history of timeline 7"), "{refused}");
    let refused = story.refusal(&snapshot, &["--latest", "--action", "pause"]).await.unwrap();
    assert!(refused.contains("--latest has no target"), "{refused}");

    // A server that runs, and a standby's copy.
    let output = story.run_restore(story.primary.data(), &["--latest"]).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("a server runs on this folder"), "{output:?}");
    let copy = story.copy(&snapshot).await.unwrap();
    fs::write(copy.data().join("standby.signal"), "").unwrap();
    let output = story.run_restore(copy.data(), &["--latest"]).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("standby.signal"), "{output:?}");

    // A hole.
    let last = story.events.last().unwrap().xid.to_string();
    let gone = segments(&story).into_iter().rev().nth(1).unwrap();
    fs::remove_file(&gone).unwrap();
    let refused = story.refusal(&snapshot, &["--target-xid", &last]).await.unwrap();
    assert!(refused.contains("lacks a segment") && refused.contains(&name(&gone)), "{refused}");
    story.primary.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn settings_are_taken_back() {
    let story = story(18).await;
    let base = &story.bases[0];
    let cluster = story.copy(base).await.unwrap();
    let before = auto_conf(&cluster);
    let dry = story.run_restore(cluster.data(), &["--latest", "--dry-run"]).await.unwrap();
    let report: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert!(report["dry_run"] == true && report["settings"].as_str().unwrap().contains("restore_command"), "{report}");
    assert_eq!(auto_conf(&cluster), before);
    for target in [["--target-name", "before"], ["--target-lsn", "0/3000000"]] {
        // The second one is refused, and leaves the first one's settings.
        story.run_restore(cluster.data(), &target).await.unwrap();
        assert!(
            auto_conf(&cluster).contains("recovery_target_name = 'before'") && !auto_conf(&cluster).contains("has_not_finished")
        );
        assert!(cluster.data().join("recovery.signal").exists());
    }
    let undo = story.run_restore(cluster.data(), &["--undo"]).await.unwrap();
    assert!(undo.status.success(), "{undo:?}");
    assert_eq!(auto_conf(&cluster), before);
    assert!(!cluster.data().join("recovery.signal").exists());
}

/// The whole segments in the archive, in the order of their names.
fn segments(story: &Story) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.file_name().unwrap().len() == 28 {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(story.archive.folder(), &mut found);
    found.sort_by_key(|path| path.file_name().unwrap().to_owned());
    found
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_archive_is_proven_and_pruned() {
    let mut story = story(17).await;
    let verify = async |args: &[&str]| {
        let output = story.archive.run(&[&["verify", "--json"], args].concat()).await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(output.status.success(), report["whole"] == true, "{report}");
        report
    };
    let state = story.archive.folder().join("state.json").display().to_string();
    assert_eq!(verify(&["--full", "--state", &state]).await["damaged"], serde_json::json!([]));
    let again = verify(&["--state", &state]).await;
    assert!(again["whole"] == true && again["checked"] == 0 && again["passed_over"].as_u64() > Some(5), "{again}");

    let window = story.archive.json(&["window"]).await.unwrap();
    let timelines = window["timelines"].as_array().unwrap();
    assert_eq!(timelines.len(), 2, "{window}");
    assert!(
        timelines.iter().all(|timeline| timeline["gaps"] == serde_json::json!([]) && timeline["bases"][0]["usable"] == true),
        "{window}"
    );
    assert_eq!(timelines[1]["ranges"][0]["restore_points"], 1);

    // An index that is gone is made again; a byte that is wrong is found where it is.
    let segments = segments(&story);
    let index = segments[3].with_extension("idx.zst");
    fs::remove_file(&index).unwrap();
    assert!(verify(&[]).await["index_missing"][0].as_str().unwrap().contains(&name(&segments[3])));
    assert_eq!(verify(&["--repair"]).await["index_repaired"], 1);
    assert_eq!(verify(&["--full"]).await["whole"], true);
    let content = fs::read(&segments[4]).unwrap();
    let mut broken = content.clone();
    *broken.last_mut().unwrap() ^= 1;
    fs::write(&segments[4], &broken).unwrap();
    assert!(verify(&["--full"]).await["damaged"][0]["object"].as_str().unwrap().contains(&name(&segments[4])));
    fs::write(&segments[4], &content).unwrap();
    rustix::fs::rename(&segments[4], segments[4].with_extension("kept")).unwrap();
    let gap = verify(&[]).await;
    assert!(gap["gaps"][0]["first"] == name(&segments[4]).as_str() && gap["foreign"].as_array().unwrap().len() == 1, "{gap}");
    rustix::fs::rename(segments[4].with_extension("kept"), &segments[4]).unwrap();

    // Pruned down to what a new base needs: it restores, and the older one is refused.
    story.back_up().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    let window = story.archive.json(&["window", "--timeline", "2"]).await.unwrap();
    let start = window["timelines"][0]["bases"][1]["start"].as_str().unwrap().to_owned();
    let refused = story.archive.run(&["prune", "--keep-base", "FF/0", "--apply"]).await.unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nothing was deleted"), "{refused:?}");
    let said = story.archive.json(&["prune", "--keep-base", &start]).await.unwrap();
    assert!(said["applied"] == false && segments[0].exists() && said["bases_lost"].as_array().unwrap().len() == 1, "{said}");
    let done = story.archive.json(&["prune", "--keep-base", &start, "--apply"]).await.unwrap();
    assert!(done["objects"] == said["objects"] && !segments[0].exists(), "{done}");
    assert_eq!(story.archive.json(&["verify", "--full"]).await.unwrap()["whole"], true);
    assert_eq!(rows_after(&story, &story.bases[2], &["--latest"]).await, story.rows_before(story.events.len()));
    assert!(story.refusal(&story.bases[0], &["--latest"]).await.unwrap().contains("has no WAL"));
}

#[tokio::test]
async fn what_is_known_to_be_whole_is_passed_over_and_no_more() {
    let mut story = story(18).await;
    let state = story.archive.folder().join("state.json").display().to_string();
    let verify = async |archive: &Archive, full: bool| {
        let args = ["verify", "--json", "--state", &state, "--full"];
        let output = archive.run(&args[..if full { 5 } else { 4 }]).await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(output.status.success(), report["whole"] == true, "{report}");
        let count = |name: &str| report[name].as_u64().unwrap();
        (count("checked"), count("passed_over"), report)
    };
    let (all, none, _) = verify(&story.archive, false).await;
    assert!(all > 5 && none == 0, "{all} {none}");
    // What is new alone is looked at; what was only looked at is read when all is to be read, and once.
    story.commit(0, 2_200_000).await.unwrap();
    story.archived().await.unwrap();
    let (new, known, report) = verify(&story.archive, false).await;
    assert!(new >= 4 && known == all && report["whole"] == true, "{report}");
    let (read, passed, _) = verify(&story.archive, true).await;
    assert_eq!((read, passed), (all + new, 0));
    assert_eq!(verify(&story.archive, true).await.0, 0);
    assert_eq!(verify(&story.archive, false).await.0, 0);
    // What has changed is looked at again, as long as it is not whole.
    let segments = segments(&story);
    let content = fs::read(&segments[2]).unwrap();
    let mut broken = content.clone();
    *broken.last_mut().unwrap() ^= 1;
    fs::write(&segments[2], &broken).unwrap();
    for _ in 0..2 {
        let (read, _, report) = verify(&story.archive, true).await;
        assert!(read >= 1 && report["damaged"][0]["object"].as_str().unwrap().contains(&name(&segments[2])), "{report}");
    }
    fs::write(&segments[2], &content).unwrap();
    assert_eq!(verify(&story.archive, true).await.2["whole"], true);
    // What is gone was known, and is a gap all the same.
    fs::remove_file(&segments[2]).unwrap();
    let (_, _, report) = verify(&story.archive, false).await;
    assert!(report["gaps"][0]["first"] == name(&segments[2]).as_str(), "{report}");
}

#[tokio::test]
async fn what_is_older_than_an_age_is_pruned() {
    let mut story = Story::begin(18).await.unwrap();
    let hours = |hours: i64| hours * 3_600_000_000;
    // Three days of it, with base backups between.
    story.commit(0, 1000).await.unwrap();
    story.back_up().await.unwrap();
    story.commit(hours(24), 1_200_000).await.unwrap();
    story.back_up().await.unwrap();
    story.commit(hours(48), 1_200_000).await.unwrap();
    story.commit(hours(72), 1000).await.unwrap();
    story.archived().await.unwrap();
    let before = segments(&story);
    let clock = ShiftedClock::new().await.unwrap();
    clock.shift_us(hours(72)).unwrap();
    let run = async |args: &[&str]| {
        let mut command = story.archive.command(&[&["prune", "--json"], args].concat()).unwrap();
        command.envs(clock.environment());
        harness::program::output(command).await.unwrap()
    };
    let prune = async |args: &[&str]| {
        let output = run(args).await;
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    // Of three days ago and a bit there is no base: nobody knows what is needed.
    let refused = run(&["--keep-age", "80h", "--apply"]).await;
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("nothing was deleted") && segments(&story) == before, "{refused}");
    // The first base reaches the moment before the second commit, the second one every moment since.
    let bases = story.archive.json(&["window"]).await.unwrap()["timelines"][0]["bases"].clone();
    let said = prune(&["--keep-age", "60h"]).await;
    assert!(said["keep_from"] == bases[0]["start"] && said["bases_lost"] == serde_json::json!([]), "{said}");
    let said = prune(&["--keep-age", "36h"]).await;
    assert!(said["keep_from"] == bases[1]["start"] && said["applied"] == false && segments(&story) == before, "{said}");
    let done = prune(&["--keep-age", "36h", "--apply"]).await;
    assert!(done["objects"] == said["objects"] && done["bases_lost"][0]["start"] == bases[0]["start"], "{done}");
    assert!(segments(&story).len() < before.len());
    assert_eq!(story.archive.json(&["verify", "--full"]).await.unwrap()["whole"], true);
    assert_eq!(rows_after(&story, &story.bases[1], &["--latest"]).await, story.rows_before(4));
    let time = text(&story, story.events[2].from_us).await;
    assert_eq!(rows_after(&story, &story.bases[1], &["--target-time", &time]).await, story.rows_before(3));
    assert!(story.refusal(&story.bases[0], &["--latest"]).await.unwrap().contains("has no WAL"));
    // The same again finds nothing to do.
    assert_eq!(prune(&["--keep-age", "36h", "--apply"]).await["objects"], serde_json::json!([]));
}

#[tokio::test]
async fn a_paused_recovery_goes_on_to_a_later_target() {
    let story = story(18).await;
    let base = &story.bases[0];
    let xid = |at: usize| story.events[at].xid.to_string();
    let mut restored = story.restore(base, &["--target-xid", &xid(4)]).await.unwrap();
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(5));
    restored.cluster.stop(StopMode::Fast).await.unwrap();

    let folder = restored.cluster.data().to_owned();
    let said = async |args: &[&str]| {
        let output = story.run_restore(&folder, args).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = said(&["--target-xid", &xid(3)]).await;
    assert!(code == Some(1) && (text.contains("consistent point") || text.contains("is not reached")), "{text}");
    let (code, text) = said(&["--undo"]).await;
    assert!(code == Some(1) && text.contains("recovery has begun"), "{text}");
    let (code, text) = said(&["--target-xid", &xid(8), "--action", "promote"]).await;
    assert!(code == Some(0) && text.contains("\"folder\": \"recovering\""), "{text}");
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(9));

    // Over now: the settings can go, and a statement that wrote the file anew in between does not keep them.
    restored.cluster.execute("ALTER SYSTEM SET work_mem = '5MB'").await.unwrap();
    restored.cluster.stop(StopMode::Fast).await.unwrap();
    assert_eq!(said(&["--undo"]).await.0, Some(0));
    let conf = auto_conf(&restored.cluster);
    assert!(conf.contains("work_mem") && !conf.contains("recovery_target") && !conf.contains("restore_command"), "{conf}");
    restored.cluster.start().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(9));
}

/// A base backup that a standby gave, and a copy of the standby itself.
async fn of_a_standby(version: u32) {
    let mut story = Story::begin(version).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    let mut standby = Postgres::version(version).wal_segment_mb(1).standby_of(&story.primary).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    let caught_up = async |story: &Story, standby: &Postgres| {
        let end = story.primary.flush_lsn().await.unwrap();
        harness::eventually(harness::DEADLINE, "the standby to catch up", async || {
            Ok((standby.lsn("SELECT pg_last_wal_replay_lsn()").await? >= end).then_some(()))
        })
        .await
        .unwrap();
    };
    caught_up(&story, &standby).await;
    story.back_up_of(&standby).await.unwrap();
    story.commit(0, 1_500_000).await.unwrap();
    caught_up(&story, &standby).await;
    story.snapshot_of(&mut standby).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    let xid = story.events[3].xid.to_string();
    for (base, folder) in story.bases.iter().zip(["backup", "recovering"]) {
        let mut restored = story.restore(base, &["--target-xid", &xid]).await.unwrap();
        assert_eq!(restored.report["folder"], folder);
        restored.recover().await.unwrap();
        assert_eq!(restored.rows().await.unwrap(), story.rows_before(4), "{folder}");
        assert_eq!(rows_after(&story, base, &["--latest"]).await, story.rows_before(5), "{folder}");
    }
    // What a standby has replayed and not written yet is not in its folder: its consistent point is the one in pg_control.
    let early = story.events[1].xid.to_string();
    match story.restore(&story.bases[1], &["--target-xid", &early]).await {
        Ok(mut restored) => {
            restored.recover().await.unwrap();
            assert_eq!(restored.rows().await.unwrap(), story.rows_before(2));
        }
        Err(refused) => assert!(
            format!("{refused:#}").contains("is not reached") || format!("{refused:#}").contains("older base"),
            "{refused:#}"
        ),
    }
}

#[tokio::test]
async fn bases_of_a_standby_on_15() {
    of_a_standby(15).await;
}

#[tokio::test]
async fn bases_of_a_standby_on_18() {
    of_a_standby(18).await;
}
