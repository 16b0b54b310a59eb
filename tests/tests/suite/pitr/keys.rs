//! An archive that was begun without a key, read with one.

use std::fs;

use harness::pitr::{Restored, Story};
use serde_json::Value;

#[tokio::test]
async fn with_a_key_plain_wal_is_restored_where_that_is_said_alone() {
    let mut story = Story::begin(18).await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.back_up().await.unwrap();
    story.commit(0, 1000).await.unwrap();
    story.archived().await.unwrap();
    let folder = story.primary.scratch().path().to_owned();
    let key = folder.join("key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    harness::Account::current().give(&key).unwrap();
    let key = key.to_str().unwrap();

    let cluster = story.copy(&story.bases[0]).await.unwrap();
    let output = story.run_restore(cluster.data(), &["--latest", "--key-file", key]).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("is not encrypted") && said.contains("--allow-plain"), "{said}");
    assert!(!cluster.data().join("recovery.signal").exists());

    // From now on encrypted: what is not is named.
    story.primary.execute("ALTER SYSTEM SET archive_command = ''").await.unwrap();
    story.primary.reload().unwrap();
    story.commit(0, 1000).await.unwrap();
    let name = story.primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await.unwrap();
    story.primary.switch_wal().await.unwrap();
    let path = story.primary.wal().join(&name);
    let output = story.archive.run(&["push", path.to_str().unwrap(), "--key-file", key]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = story.archive.run(&["verify", "--json", "--key-file", key]).await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let damaged = report["damaged"].as_array().unwrap();
    let plain = damaged.iter().filter(|one| one["problem"].to_string().contains("not encrypted")).count();
    assert!(plain > 1 && plain == damaged.len() && !report["damaged"].to_string().contains(&name), "{report}");

    let output = story.run_restore(cluster.data(), &["--latest", "--key-file", key, "--allow-plain"]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut restored = Restored { cluster, report: serde_json::from_slice(&output.stdout).unwrap() };
    restored.recover().await.unwrap();
    assert_eq!(restored.rows().await.unwrap(), story.rows_before(3));
}
