//! Settings that were raised on the primary between the base and the target: recovery with the base's own would pause for good, or end.

use std::fs;
use std::time::Duration;

use harness::pitr::{Restored, Story};
use harness::{StopMode, eventually};

use super::auto_conf;

/// A base backup and a copy of one moment; then a commit, settings that are raised, one of them lowered again, and another commit.
async fn raised(version: u32) -> Story {
    let mut story = Story::begin(version).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.back_up().await.unwrap();
    story.snapshot().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    let raised = [("max_connections", "170"), ("max_worker_processes", "21"), ("max_locks_per_transaction", "80")];
    story.primary.append_settings(&raised).unwrap();
    story.primary.restart().await.unwrap();
    story.commit(0, 2_200_000).await.unwrap();
    story.primary.append_settings(&[("max_worker_processes", "8")]).unwrap();
    story.primary.restart().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    story
}

/// How many there are of a setting's lines in the block.
fn lines(conf: &str, name: &str) -> Vec<String> {
    conf.lines().filter_map(|line| line.strip_prefix(&format!("{name} = "))).map(str::to_owned).collect()
}

async fn keeps_up(version: u32) {
    let story = raised(version).await;
    let last = story.events.last().unwrap().xid.to_string();
    for base in &story.bases {
        let mut restored = story.restore(base, &["--target-xid", &last]).await.unwrap();
        let conf = auto_conf(&restored.cluster);
        for (name, needed) in
            [("max_connections", "'170'"), ("max_worker_processes", "'21'"), ("max_locks_per_transaction", "'80'")]
        {
            assert_eq!(lines(&conf, name), [needed]);
            let said = restored.report["warnings"].to_string();
            assert!(said.contains(&format!("{name} = {}", needed.trim_matches('\''))), "{said}");
        }
        assert!(lines(&conf, "max_wal_senders").is_empty() && lines(&conf, "max_prepared_transactions").is_empty(), "{conf}");
        restored.recover().await.unwrap();
        assert_eq!(restored.rows().await.unwrap(), story.rows_before(4));
        restored.cluster.stop(StopMode::Fast).await.unwrap();
    }

    // Before the change nothing is needed.
    let early = story.events[1].xid.to_string();
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &early]).await.unwrap();
    assert!(lines(&auto_conf(&restored.cluster), "max_connections").is_empty());
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(2));

    // Of what the copy is configured with, nothing is lowered.
    let cluster = story.copy(&story.bases[0]).await.unwrap();
    cluster.append_settings(&[("max_connections", "171"), ("max_worker_processes", "20")]).unwrap();
    let output = story.run_restore(cluster.data(), &["--latest"]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let conf = auto_conf(&cluster);
    assert!(lines(&conf, "max_connections").is_empty() && lines(&conf, "max_worker_processes") == ["'21'"], "{conf}");
    let mut restored = Restored { cluster, report: serde_json::from_slice(&output.stdout).unwrap() };
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(4));

    without_them(&story).await;
}

/// What Postgres does where the block does not have them.
async fn without_them(story: &Story) {
    let last = story.events.last().unwrap().xid.to_string();
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &last]).await.unwrap();
    let path = restored.cluster.data().join("postgresql.auto.conf");
    let conf = fs::read_to_string(&path).unwrap();
    fs::write(&path, conf.lines().filter(|line| !line.starts_with("max_")).flat_map(|line| [line, "\n"]).collect::<String>())
        .unwrap();
    // It takes queries, and replays nothing more; or it does not even start.
    let started = restored.cluster.start().await;
    let text = "insufficient parameter settings";
    eventually(Duration::from_secs(30), "Postgres to say that it can't go on", async || {
        Ok(restored.cluster.log().contains(text).then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {started:?}\n{}", restored.cluster.log()));
}

#[tokio::test]
async fn settings_raised_on_the_way_are_raised_here_on_15() {
    keeps_up(15).await;
}

#[tokio::test]
async fn settings_raised_on_the_way_are_raised_here_on_18() {
    keeps_up(18).await;
}

#[tokio::test]
async fn wal_that_lacks_changes_is_refused() {
    let mut story = Story::begin(18).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.back_up().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.primary.append_settings(&[("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")]).unwrap();
    story.primary.restart().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.primary.append_settings(&[("wal_level", "replica"), ("max_wal_senders", "10"), ("archive_mode", "on")]).unwrap();
    story.primary.restart().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    let xid = |at: usize| story.events[at].xid.to_string();
    for args in [&["--target-xid", &xid(2)][..], &["--target-xid", &xid(3)], &["--latest"]] {
        let refused = story.refusal(&story.bases[0], args).await.unwrap();
        assert!(refused.contains("wal_level = minimal") && refused.contains("before that"), "{refused}");
    }
    let mut restored = story.restore(&story.bases[0], &["--target-xid", &xid(1)]).await.unwrap();
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(2));
}

/// As on Debian: nothing of the configuration is in the folder.
#[tokio::test]
async fn a_configuration_outside_of_the_folder_is_asked_for_and_read() {
    let story = raised(18).await;
    let cluster = story.copy(&story.bases[0]).await.unwrap();
    let etc = cluster.data().with_file_name("etc");
    fs::create_dir_all(etc.join("conf.d")).unwrap();
    let own = cluster.data().join("postgresql.conf");
    fs::write(etc.join("postgresql.conf"), fs::read_to_string(&own).unwrap() + "include_dir = 'conf.d'\n").unwrap();
    fs::remove_file(&own).unwrap();
    fs::write(etc.join("conf.d/site.conf"), "max_connections = 500 # many\narchive_mode = 'always'\n").unwrap();

    let run = async |args: &[&str]| {
        let output = story.run_restore(cluster.data(), &[&["--latest", "--dry-run"], args].concat()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["settings"].as_str().unwrap().to_owned(), report["warnings"].to_string())
    };
    let (settings, warnings) = run(&[]).await;
    assert!(warnings.contains("--config-file") && !settings.contains("archive_mode"), "{warnings}");
    // Nothing of it is known: what is needed is written.
    assert_eq!(lines(&settings, "max_connections"), ["'170'"]);
    let (settings, warnings) = run(&["--config-file", etc.join("postgresql.conf").to_str().unwrap()]).await;
    assert!(!warnings.contains("--config-file"), "{warnings}");
    assert!(lines(&settings, "max_connections").is_empty() && lines(&settings, "archive_mode") == ["'on'"], "{settings}");
    assert_eq!(lines(&settings, "max_worker_processes"), ["'21'"]);
}
