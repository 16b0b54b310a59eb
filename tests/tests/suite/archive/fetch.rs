//! `fetch`: 1 only for what is proven not to be there, and never a byte under the final name that is not right.

use anyhow::{Result, ensure};
use harness::{Fault, FullDisk, Postgres, Refuse, When};

use super::{Segment, Stage};

/// The exit code for doubt: above 125, which stops recovery.
const DOUBT: i32 = 130;
/// The exit code for a file that is known not to exist.
const ABSENT: i32 = 1;

/// A stage with one segment in the archive.
async fn archived() -> Result<(Stage, Segment)> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let run = stage.push(&segment).await?;
    ensure!(run.ended(0, &[]), "{run:?}");
    Ok((stage, segment))
}

#[tokio::test]
async fn what_was_pushed_comes_back() -> Result<()> {
    let (stage, segment) = archived().await?;
    let (run, content) = stage.fetch(&stage.archiver, &segment.name).await?;
    ensure!(run.ended(0, &[]) && content == Some(segment.content()?), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn only_what_is_proven_not_to_be_there_is_called_missing() -> Result<()> {
    let (stage, segment) = archived().await?;
    for name in ["0000000100000000000000F0", "00000002.history", "000000010000000000000001.00000028.backup"] {
        let (run, content) = stage.fetch(&stage.archiver, name).await?;
        ensure!(run.ended(ABSENT, &[]) && content.is_none(), "{name}: {run:?}");
    }
    // Where there is no archive, nothing is known.
    for url in ["s3://no-such-bucket/wal", "s3://archive/wall", "s3://archive"] {
        for name in [segment.name.as_str(), "00000002.history"] {
            let (run, content) = stage.fetch(&stage.archiver.clone().url(url), name).await?;
            ensure!(run.ended(DOUBT, &["--store"]) && content.is_none(), "{url}: {run:?}");
        }
    }
    // The marker is what proves it: so it is doubt when that can't be had.
    stage.faults.add(When::any().of("beyond-pg-archive"), Fault::Refuse(Refuse::AccessDenied));
    let (run, _) = stage.fetch(&stage.archiver, "0000000100000000000000F0").await?;
    ensure!(run.ended(DOUBT, &["AccessDenied"]), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn wrong_usage_is_doubt() -> Result<()> {
    let (stage, segment) = archived().await?;
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    for args in [args(&[]), args(&[&segment.name]), args(&["--frobnicate", &segment.name, "to"]), args(&["strange", "to"])] {
        let run = stage.archiver.run("fetch", &args).await?;
        ensure!(run.ended(DOUBT, &[]) && !run.stderr.is_empty(), "{args:?}: {run:?}");
    }
    let (run, _) = stage.fetch(&stage.archiver, "../../etc/passwd").await?;
    ensure!(run.ended(DOUBT, &["name"]), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_doubt() -> Result<()> {
    let (mut stage, segment) = archived().await?;
    for (fault, word) in [
        (Fault::Refuse(Refuse::AccessDenied), "AccessDenied"),
        (Fault::Refuse(Refuse::ExpiredToken), "renew"),
        (Fault::Refuse(Refuse::InternalError), "--timeout"),
        (Fault::Refuse(Refuse::SlowDown), "--timeout"),
        (Fault::Refuse(Refuse::TooManyRequests), "--timeout"),
        (Fault::Hang, "--timeout"),
        (Fault::LoseAnswer, "--timeout"),
    ] {
        stage.faults.add(When::any(), fault);
        // Of one that is there and of one that is not.
        for name in [segment.name.as_str(), "0000000100000000000000F0"] {
            let (run, content) = stage.fetch(&stage.impatient(), name).await?;
            ensure!(run.ended(DOUBT, &[word]) && content.is_none(), "{fault:?}: {run:?}");
        }
        stage.faults.heal();
    }
    stage.server.kill()?;
    for name in [segment.name.as_str(), "0000000100000000000000F0"] {
        let (run, content) = stage.fetch(&stage.impatient(), name).await?;
        ensure!(run.ended(DOUBT, &["--timeout"]) && content.is_none(), "{run:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_is_asked_again() -> Result<()> {
    let (stage, segment) = archived().await?;
    for fault in [
        Fault::Refuse(Refuse::InternalError),
        Fault::Refuse(Refuse::SlowDown),
        Fault::LoseAnswer,
        Fault::CutResponse(0),
        Fault::CutResponse(1000),
        Fault::Truncate(1000),
    ] {
        let hits = stage.faults.add(When::method("GET").times(2), fault);
        let (run, content) = stage.fetch(&stage.archiver, &segment.name).await?;
        ensure!(run.ended(0, &[]) && hits.count() == 2 && content == Some(segment.content()?), "{fault:?}: {run:?}");
        stage.faults.heal();
    }
    Ok(())
}

#[tokio::test]
async fn what_comes_damaged_or_cut_short_is_never_given() -> Result<()> {
    let (stage, segment) = archived().await?;
    let length = stage.client.bytes(&stage.key(&segment)?).await?.len() as u64;
    let mut faults = vec![Fault::Shorten(length - 1), Fault::Shorten(100), Fault::Shorten(0), Fault::Truncate(length / 2)];
    // The frame's magic, the header, what is packed, and the last byte.
    faults.extend([0, 5, 9, 20, 40, 100, 119, 121, length / 2, length - 1].map(Fault::FlipResponse));
    for fault in faults {
        stage.faults.add(When::method("GET").of(&segment.object()), fault);
        let (run, content) = stage.fetch(&stage.impatient(), &segment.name).await?;
        ensure!(run.ended(DOUBT, &[&segment.name]) && content.is_none(), "{fault:?}: {run:?}");
        stage.faults.heal();
    }
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_not_what_its_name_says_is_doubt() -> Result<()> {
    let (stage, segment) = archived().await?;
    let segments = stage.segments().await?;
    ensure!(stage.push(&segments[1]).await?.ended(0, &[]));
    let other = stage.client.bytes(&stage.key(&segments[1])?).await?;
    let key = stage.key(&segment)?;
    let whole = stage.client.bytes(&key).await?;
    for content in [other, whole.slice(..whole.len() / 2), "".into(), "garbage".into(), segment.content()?.into()] {
        stage.client.put(&key, content).await?;
        let (run, content) = stage.fetch(&stage.archiver, &segment.name).await?;
        ensure!(run.ended(DOUBT, &[&segment.name]) && content.is_none(), "{run:?}");
    }
    Ok(())
}

#[tokio::test]
async fn another_clusters_segment_is_not_there() -> Result<()> {
    let (stage, segment) = archived().await?;
    let other = Postgres::version(18).wal_segment_mb(1).own_system_id().create().await?;
    let to = other.scratch().path().join("fetched");
    let run = stage.archiver.fetch(other.data(), &segment.name, &to).await?;
    ensure!(run.ended(ABSENT, &[]) && !to.exists(), "{run:?}");
    // Put where it would look: the file says whose it is.
    let object = stage.client.bytes(&stage.key(&segment)?).await?;
    stage.client.put(&stage.archiver.key(other.system().await?, &segment.name)?, object).await?;
    let run = stage.archiver.fetch(other.data(), &segment.name, &to).await?;
    ensure!(run.ended(DOUBT, &[&stage.system.to_string()]) && !to.exists(), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_under_the_name() -> Result<()> {
    let Some(disk) = FullDisk::new(3)? else { return Ok(()) };
    let (stage, segment) = archived().await?;
    let to = disk.path().join("RECOVERYXLOG");
    for room in [0, 500_000] {
        disk.fill(room)?;
        let run = stage.archiver.fetch(stage.cluster.data(), &segment.name, &to).await?;
        ensure!(run.ended(DOUBT, &["No space left", "RECOVERYXLOG"]), "{run:?}");
        let left: Vec<_> = std::fs::read_dir(disk.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        ensure!(left.len() == 1, "the ballast alone: {left:?}");
        disk.free()?;
    }
    let run = stage.archiver.fetch(stage.cluster.data(), &segment.name, &to).await?;
    ensure!(run.ended(0, &[]) && std::fs::read(&to)? == segment.content()?, "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_is_needed_for_what_was_encrypted() -> Result<()> {
    let stage = Stage::set().await?;
    let segment = stage.segment().await?;
    let key = |name: &str, byte: u8| stage.cluster.scratch().file(name, [byte; 32]);
    let (ours, other) = (key("ours", 1)?, key("other", 2)?);
    let with = |path: &std::path::Path| stage.archiver.clone().env("BEYOND_PG_ARCHIVE_KEY_FILE", &path.to_string_lossy());
    ensure!(with(&ours).push(&segment.path).await?.ended(0, &[]));
    let object = stage.client.bytes(&stage.key(&segment)?).await?;
    ensure!(!object.windows(64).any(|window| window == &segment.content().unwrap()[..64]));
    let (run, content) = stage.fetch(&with(&ours), &segment.name).await?;
    ensure!(run.ended(0, &[]) && content == Some(segment.content()?), "{run:?}");
    for archiver in [stage.archiver.clone(), with(&other)] {
        let (run, content) = stage.fetch(&archiver, &segment.name).await?;
        ensure!(run.ended(DOUBT, &["key"]) && content.is_none(), "{run:?}");
    }
    // The same content under another key, or none, is the same content.
    ensure!(with(&other).push(&segment.path).await?.ended(0, &[]) && stage.push(&segment).await?.ended(0, &[]));
    let both = stage.archiver.clone().env("BEYOND_PG_ARCHIVE_KEY_FILE", &format!("{},{}", other.display(), ours.display()));
    ensure!(stage.fetch(&both, &segment.name).await?.0.ended(0, &[]));
    for byte in [130, object.len() as u64 - 1] {
        stage.faults.add(When::method("GET").of(&segment.object()), Fault::FlipResponse(byte));
        let (run, content) = stage.fetch(&with(&ours), &segment.name).await?;
        ensure!(run.ended(DOUBT, &[&segment.name]) && content.is_none(), "{run:?}");
        stage.faults.heal();
    }
    Ok(())
}
