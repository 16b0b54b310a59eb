//! The block of settings: what is taken back is ours alone, whatever was done to the files meanwhile.

use std::fs;

use harness::pitr::Story;
use harness::{Postgres, StopMode};

use super::auto_conf;

/// A story with one base and a few commits behind it.
async fn story(version: u32) -> Story {
    let mut story = Story::begin(version).await.unwrap();
    // What a user has set by ALTER SYSTEM, under names that the block has as well.
    for sql in ["hot_standby = 'on'", "recovery_target_action = 'shutdown'", "archive_mode = 'always'"] {
        story.primary.execute(&format!("ALTER SYSTEM SET {sql}")).await.unwrap();
    }
    story.commit(0, 1000).await.unwrap();
    story.back_up().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    story
}

async fn undo(story: &Story, cluster: &Postgres) -> (bool, String) {
    let output = story.run_restore(cluster.data(), &["--undo"]).await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The same statements on a server that was never restored: what the file has to be.
async fn expected(story: &Story, statements: &[&str]) -> String {
    let mut cluster = story.copy(&story.bases[0]).await.unwrap();
    // A crash's copy starts by itself; a base backup does once it has its WAL.
    let output = story.run_restore(cluster.data(), &["--latest"]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let path = cluster.data().join("postgresql.auto.conf");
    let text = auto_conf(&cluster);
    cluster.start().await.unwrap();
    cluster.psql("SELECT 1").await.unwrap();
    // Without the block, as a user would have it.
    let (before, rest) = text.split_once("# beyond-pg-archiver restore: begin\n").unwrap();
    let (_, after) = rest.split_once("# beyond-pg-archiver restore: end\n").unwrap();
    fs::write(&path, format!("{before}{after}")).unwrap();
    for sql in statements {
        cluster.execute(sql).await.unwrap();
    }
    cluster.stop(StopMode::Immediate).await.unwrap();
    auto_conf(&cluster)
}

async fn exact(version: u32) {
    let story = story(version).await;
    let last = story.events[1].xid.to_string();
    let untouched = auto_conf(&story.copy(&story.bases[0]).await.unwrap());
    assert!(untouched.contains("archive_mode = 'always'"), "{untouched}");

    // Taken back before the start.
    let cluster = story.copy(&story.bases[0]).await.unwrap();
    let output = story.run_restore(cluster.data(), &["--target-xid", &last]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(auto_conf(&cluster).contains("archive_mode = 'on'"));
    assert_eq!(undo(&story, &cluster).await, (true, "{\n  \"undone\": true\n}\n".to_owned()));
    assert_eq!(auto_conf(&cluster), untouched);
    assert_eq!(undo(&story, &cluster).await, (true, "{\n  \"undone\": false\n}\n".to_owned()));

    // After a recovery that is over, nothing else changed.
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &last, "--action", "promote"]).await.unwrap();
    restored.recover().await.unwrap();
    restored.cluster.stop(StopMode::Fast).await.unwrap();
    assert!(undo(&story, &restored.cluster).await.0);
    assert_eq!(auto_conf(&restored.cluster), untouched);

    // And after ALTER SYSTEM has written the file anew: names of ours, names of the user's, names of both.
    let statements =
        ["ALTER SYSTEM SET work_mem = '5MB'", "ALTER SYSTEM RESET recovery_target_action", "ALTER SYSTEM SET jit = off"];
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &last, "--action", "promote"]).await.unwrap();
    restored.recover().await.unwrap();
    for sql in statements {
        restored.cluster.execute(sql).await.unwrap();
    }
    assert!(!auto_conf(&restored.cluster).contains("restore: begin"), "the comments are gone");
    restored.cluster.stop(StopMode::Fast).await.unwrap();
    assert!(undo(&story, &restored.cluster).await.0);
    assert_eq!(auto_conf(&restored.cluster), expected(&story, &statements).await);
    restored.cluster.start().await.unwrap();
    assert_eq!(restored.cluster.value("SHOW archive_mode").await.unwrap(), "always");
}

#[tokio::test]
async fn only_what_is_ours_is_taken_back_on_15() {
    exact(15).await;
}

#[tokio::test]
async fn only_what_is_ours_is_taken_back_on_18() {
    exact(18).await;
}

#[tokio::test]
async fn a_recovery_that_is_not_over_keeps_its_settings_whatever_was_written_anew() {
    let story = story(18).await;
    let xid = |at: usize| story.events[at].xid.to_string();
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &xid(1)]).await.unwrap();
    restored.recover().await.unwrap();
    restored.cluster.execute("ALTER SYSTEM SET work_mem = '5MB'").await.unwrap();
    restored.cluster.stop(StopMode::Fast).await.unwrap();
    for _ in 0..2 {
        let (undone, said) = undo(&story, &restored.cluster).await;
        assert!(!undone && said.contains("recovery has begun"), "{said}");
        // Nor where it was set to go on: what an earlier run began is ours.
        let output = story.run_restore(restored.cluster.data(), &["--target-xid", &xid(2)]).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let conf = auto_conf(&restored.cluster);
        assert_eq!((conf.matches("restore_command = ").count(), conf.matches("work_mem").count()), (1, 1), "{conf}");
    }
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(3));
}

#[tokio::test]
async fn a_signal_of_the_user_s_own_stays() {
    let story = story(18).await;
    let cluster = story.copy(&story.bases[0]).await.unwrap();
    let signal = cluster.data().join("recovery.signal");
    fs::write(&signal, "mine\n").unwrap();
    for _ in 0..2 {
        let output = story.run_restore(cluster.data(), &["--latest"]).await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert!(undo(&story, &cluster).await.0);
    assert_eq!(fs::read_to_string(&signal).unwrap(), "mine\n");
}
