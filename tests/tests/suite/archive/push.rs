//! `push`: 0 only for what the store has acknowledged and has.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Fault, Postgres, Refuse, When, eventually};
use tokio::time::Instant;

use super::{Segment, Stage, TIMEOUT};

#[tokio::test]
async fn a_segment_is_there_once_it_was_acknowledged() -> Result<()> {
    let stage = Stage::set().await?;
    let segments = stage.segments().await?;
    ensure!(segments.len() >= 3, "{segments:?}");
    for segment in &segments {
        let run = stage.push(segment).await?;
        ensure!(run.ended(0, &[]) && stage.holds(segment).await?, "{run:?}");
        // Postgres forgets that it was told so when it crashes.
        let again = stage.push(segment).await?;
        ensure!(again.ended(0, &[]) && stage.holds(segment).await?, "{again:?}");
    }
    let names: Vec<_> = segments.into_iter().map(|segment| segment.name).collect();
    ensure!(stage.archiver.files(&stage.client, stage.system).await? == names);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_busy_for_a_while_is_asked_again() -> Result<()> {
    let stage = Stage::set().await?;
    let segments = stage.segments().await?;
    for (segment, refuse) in segments.iter().zip([Refuse::InternalError, Refuse::SlowDown, Refuse::TooManyRequests]) {
        let hits = stage.faults.add(When::method("PUT").of(&segment.object()).times(2), Fault::Refuse(refuse));
        let run = stage.push(segment).await?;
        ensure!(run.ended(0, &[]) && hits.count() == 2 && stage.holds(segment).await?, "{refuse:?}: {run:?}");
        stage.faults.heal();
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_stays_busy_is_told_when_time_is_up() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    for (refuse, word) in
        [(Refuse::InternalError, "500"), (Refuse::SlowDown, "SlowDown"), (Refuse::TooManyRequests, "TooManyRequests")]
    {
        let hits = stage.faults.add(When::method("PUT").of(&segment.object()), Fault::Refuse(refuse));
        let start = Instant::now();
        let run = stage.impatient().push(&segment.path).await?;
        ensure!(run.ended(1, &[word, "--timeout", &segment.name]), "{refuse:?}: {run:?}");
        ensure!(hits.count() > 1 && start.elapsed() >= Duration::from_secs(TIMEOUT.into()), "{refuse:?}");
        ensure!(stage.lacks(&segment).await?);
        stage.faults.heal();
    }
    ensure!(stage.push(&segment).await?.ended(0, &[]) && stage.holds(&segment).await?);
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_no_good_are_told_at_once() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    for (refuse, words) in
        [(Refuse::ExpiredToken, ["ExpiredToken", "renew"]), (Refuse::AccessDenied, ["AccessDenied", "credentials"])]
    {
        // At the first request, and in the middle of it all.
        for when in [When::any(), When::method("PUT").of(&segment.object())] {
            let hits = stage.faults.add(when, Fault::Refuse(refuse));
            let run = stage.push(&segment).await?;
            ensure!(run.ended(1, &words) && hits.count() == 1, "{} {run:?}", hits.count());
            ensure!(stage.lacks(&segment).await?);
            stage.faults.heal();
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_away_or_silent_is_told_when_time_is_up() -> Result<()> {
    let mut stage = Stage::set().await?;
    let segment = stage.segment().await?;
    // From the first request on, and from the segment on.
    for when in [When::any(), When::method("PUT").of(&segment.object())] {
        stage.faults.add(when, Fault::Hang);
        let run = stage.impatient().push(&segment.path).await?;
        ensure!(run.ended(1, &["--timeout"]), "{run:?}");
        stage.faults.heal();
        ensure!(stage.lacks(&segment).await?);
    }
    stage.server.kill()?;
    let away = stage.impatient().push(&segment.path).await?;
    ensure!(away.ended(1, &["--timeout"]), "{away:?}");
    let nobody = stage.impatient().by(stage.server.port()).push(&segment.path).await?;
    ensure!(nobody.ended(1, &["refused", "--timeout"]), "{nobody:?}");
    stage.server.start().await?;
    ensure!(stage.lacks(&segment).await?);
    ensure!(stage.push(&segment).await?.ended(0, &[]) && stage.holds(&segment).await?);
    Ok(())
}

#[tokio::test]
async fn a_slow_store_is_waited_for() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let hits = stage.faults.add(When::any(), Fault::Delay(Duration::from_millis(300)));
    let run = stage.push(&segment).await?;
    ensure!(run.ended(0, &[]) && hits.count() >= 3 && stage.holds(&segment).await?, "{run:?}");
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_torn_leaves_nothing_and_is_done_again() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    for bytes in [0, 1, 1000] {
        let hits = stage.faults.add(When::method("PUT").of(&segment.object()), Fault::CutRequest(bytes));
        let run = stage.impatient().push(&segment.path).await?;
        ensure!(run.ended(1, &["--timeout"]) && hits.count() > 1, "{bytes}: {run:?}");
        ensure!(stage.lacks(&segment).await?, "half an object");
        stage.faults.heal();
    }
    stage.faults.add(When::method("PUT").of(&segment.object()).times(2), Fault::CutRequest(1000));
    ensure!(stage.push(&segment).await?.ended(0, &[]) && stage.holds(&segment).await?);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_damaged_on_its_way_is_not_acknowledged() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let hits = stage.faults.add(When::method("PUT").of(&segment.object()), Fault::FlipRequest(1000));
    let run = stage.push(&segment).await?;
    ensure!(run.ended(1, &["XAmzContentSHA256Mismatch"]) && hits.count() >= 1, "{run:?}");
    ensure!(stage.lacks(&segment).await?);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_lost_is_made_up_for() -> Result<()> {
    let stage = Stage::set().await?;
    let segments = stage.segments().await?;
    // Of the marker, twice: one that puts it and one that finds it.
    let hits = stage.faults.add(When::method("PUT").of("/beyond-pg-archive").times(1), Fault::LoseAnswer);
    ensure!(stage.push(&segments[0]).await?.ended(0, &[]) && hits.count() == 1);
    let hits = stage.faults.add(When::method("PUT").of(&segments[1].name).times(3), Fault::LoseAnswer);
    let run = stage.push(&segments[1]).await?;
    ensure!(run.ended(0, &[]) && hits.count() == 3 && stage.holds(&segments[1]).await?, "{run:?}");
    // Never answered: not acknowledged, though it is there; and acknowledged when it can be known.
    let hits = stage.faults.add(When::any().of(&segments[2].object()), Fault::LoseAnswer);
    let run = stage.impatient().push(&segments[2].path).await?;
    ensure!(run.ended(1, &["--timeout"]) && hits.count() > 1 && stage.holds(&segments[2]).await?, "{run:?}");
    stage.faults.heal();
    ensure!(stage.push(&segments[2]).await?.ended(0, &[]));
    Ok(())
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_named_and_not_used() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    for probe in [true, false] {
        stage.faults.add(When::any(), Fault::IgnoreConditions);
        let run = if probe { stage.archiver.run("probe", [""; 0]).await? } else { stage.push(&segment).await? };
        ensure!(run.ended(1, &["If-None-Match", "--store"]) && stage.lacks(&segment).await?, "{run:?}");
        stage.faults.heal();
    }
    // It is asked anew by each process: a bucket's policy may change.
    ensure!(stage.push(&segment).await?.ended(0, &[]));
    stage.faults.add(When::any(), Fault::IgnoreConditions);
    let run = stage.push(&segment).await?;
    ensure!(run.ended(1, &["If-None-Match"]) && stage.holds(&segment).await?, "{run:?}");
    Ok(())
}

#[tokio::test]
async fn other_content_under_the_same_name_is_an_error_and_replaces_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    ensure!(stage.push(&segment).await?.ended(0, &[]));
    let object = stage.client.bytes(&stage.key(&segment)?).await?;
    let content = segment.content()?;
    let mut other = content.clone();
    // In the middle of a record's data: the file's form is right.
    other[500_000] ^= 1;
    std::fs::write(&segment.path, &other)?;
    let run = stage.push(&segment).await?;
    let hash = |bytes: &[u8]| walbus::archive::envelope::sha256(bytes).to_string();
    ensure!(run.ended(1, &[&segment.name, &hash(&content), &hash(&other), "never replaced"]), "{run:?}");
    ensure!(stage.client.bytes(&stage.key(&segment)?).await? == object);
    std::fs::write(&segment.path, content)?;
    ensure!(stage.push(&segment).await?.ended(0, &[]));
    Ok(())
}

#[tokio::test]
async fn what_is_there_and_is_no_object_is_not_acknowledged() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    ensure!(stage.push(&segment).await?.ended(0, &[]));
    let key = stage.key(&segment)?;
    let whole = stage.client.bytes(&key).await?;
    let mut damaged = whole.to_vec();
    damaged[20] ^= 0xFF;
    // A put that a store tore, an empty object, one of somebody else's, one whose header is damaged.
    for content in [whole.slice(..whole.len() / 2), whole.slice(..60), "".into(), "garbage".repeat(100).into(), damaged.into()] {
        stage.client.put(&key, content.clone()).await?;
        let run = stage.push(&segment).await?;
        ensure!(run.ended(1, &[&segment.object()]), "{} bytes: {run:?}", content.len());
        ensure!(stage.client.bytes(&key).await? == content, "it is left for a person to see");
    }
    Ok(())
}

#[tokio::test]
async fn files_that_are_not_what_their_names_say_are_refused() -> Result<()> {
    let stage = Stage::set().await?;
    let segments = stage.segments().await?;
    let Segment { path, name } = &segments[0];
    let content = segments[0].content()?;
    let wal = stage.cluster.wal();
    let refused = async |file: &str, content: &[u8], words: &[&str]| {
        let path = wal.join(file);
        std::fs::write(&path, content)?;
        let run = stage.archiver.push(&path).await?;
        std::fs::remove_file(&path)?;
        ensure!(run.ended(1, words), "{file}: {run:?}");
        Ok(())
    };
    refused(name, &content[..content.len() - 8192], &["bytes"]).await?;
    refused(name, &[content.as_slice(), &[0; 8192]].concat(), &["bytes"]).await?;
    refused(name, &[], &["bytes"]).await?;
    refused(name, &vec![0; content.len()], &["first page"]).await?;
    refused(name, &segments[1].content()?, &["another segment"]).await?;
    refused("0000000100000000000000F0", &content, &["another segment"]).await?;
    refused("000000010000000000FFFFFF", &content, &["segment"]).await?;
    refused("00000002.history", b"no history\n", &["timeline history"]).await?;
    refused(&format!("{name}.00000028.backup"), b"", &["backup history"]).await?;
    for strange in ["archive_status.ready", "000000010000000000000001.done", "0000000100000000000000", "x"] {
        refused(strange, &content, &["name"]).await?;
    }
    let missing = stage.archiver.push(path).await?;
    ensure!(missing.ended(1, &[name]), "{missing:?}");
    ensure!(stage.archiver.files(&stage.client, stage.system).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_segment_of_another_cluster_is_refused_and_two_clusters_can_not_meet() -> Result<()> {
    let stage = Stage::set().await?;
    let other = Postgres::version(18).wal_segment_mb(1).own_system_id().start().await?;
    other.write_wal(2 << 20).await?;
    let segment = stage.segment().await?;
    let theirs = other.wal().join(&segment.name);
    let content = std::fs::read(&theirs)?;

    // Its file in our folder: the file says whose it is.
    let kept = segment.content()?;
    std::fs::write(&segment.path, &content)?;
    let run = stage.push(&segment).await?;
    ensure!(run.ended(1, &[&other.system().await?.to_string(), &stage.system.to_string()]), "{run:?}");
    std::fs::write(&segment.path, kept)?;

    // Its own archive_command with our prefix: both are there.
    ensure!(stage.push(&segment).await?.ended(0, &[]));
    let run = stage.archiver.push(&theirs).await?;
    ensure!(run.ended(0, &[]) && stage.holds(&segment).await?, "{run:?}");
    ensure!(stage.archiver.content(&stage.client, other.system().await?, &segment.name).await?.is_some_and(|held| held == content));
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let run = stage.archiver.clone().url("s3://no-such-bucket/wal").push(&segment.path).await?;
    ensure!(run.ended(1, &["no-such-bucket", "--store"]), "{run:?}");
    let run = stage.archiver.clone().url("").push(&segment.path).await?;
    ensure!(run.ended(1, &["--store"]), "{run:?}");
    let run = stage.archiver.clone().url("ftp://bucket/wal").push(&segment.path).await?;
    ensure!(run.ended(1, &["ftp"]), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn many_at_once_put_one_object() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let runs = futures_util::future::join_all((0..5).map(|_| stage.push(&segment))).await;
    for run in runs {
        let run = run?;
        ensure!(run.ended(0, &[]), "{run:?}");
    }
    ensure!(stage.holds(&segment).await?);
    Ok(())
}

#[tokio::test]
async fn a_push_that_is_killed_leaves_all_or_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let segments = stage.segments().await?;
    // Before the store has it, and before its answer has come.
    for (segment, when, there) in [
        (&segments[0], When::method("PUT").of(&segments[0].object()), false),
        (&segments[1], When::method("GET").of(&segments[1].object()), true),
    ] {
        if there {
            ensure!(stage.push(segment).await?.ended(0, &[]));
        }
        let hits = stage.faults.add(when, Fault::Hang);
        let mut command = stage.archiver.command("push")?;
        command.arg(&segment.path);
        let mut process = harness::Process::spawn("push", command, &stage.cluster.scratch().path().join("push.log"))?;
        eventually(harness::DEADLINE, "the request", async || Ok((hits.count() > 0).then_some(()))).await?;
        process.kill_all()?;
        stage.faults.heal();
        ensure!(if there { stage.holds(segment).await? } else { stage.lacks(segment).await? });
        ensure!(stage.push(segment).await?.ended(0, &[]) && stage.holds(segment).await?);
    }
    Ok(())
}
