//! Whether what a sink holds is what its primary wrote.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use walbus::{Lsn, Segment, SegmentName, Timeline};

use crate::postgres::Postgres;
use crate::sink::Sink;

/// One segment that a sink says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: SegmentName,
    /// What it is.
    pub segment: Segment,
    /// The end of what is held of it.
    pub end: Lsn,
    /// Whether that is all of it.
    pub complete: bool,
}

/// What was compared, all of it being equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Whole segments.
    pub whole: usize,
    /// Bytes of segments that are not whole.
    pub tail_bytes: u64,
}

/// What a sink says it holds; an error where it says that there are gaps.
///
/// # Errors
/// Where it does not answer, or holds WAL with gaps in it.
pub async fn held(sink: &Sink, cluster: &Postgres) -> Result<Vec<Held>> {
    let json: Value = serde_json::from_slice(&sink.bytes("/v1/segments").await?).context("read /v1/segments")?;
    ensure!(json["gaps"].as_array().context("/v1/segments has gaps")?.is_empty(), "the sink has gaps: {json}");
    let size = cluster.segment_size();
    ensure!(json["segment_size"].as_u64() == Some(size.bytes()), "another segment size: {json}");
    let mut found = Vec::new();
    for entry in json["segments"].as_array().context("/v1/segments has segments")? {
        let name: SegmentName = entry["name"].as_str().context("a segment has a name")?.parse()?;
        let segment = name.segment(size).with_context(|| format!("{name} is of another segment size"))?;
        let end: Lsn = entry["end"].as_str().context("a segment has an end")?.parse()?;
        let complete = entry["complete"].as_bool().context("a segment is complete or not")?;
        ensure!(complete == (end == segment.end(size)), "a segment is complete when it ends at its end: {entry}");
        found.push(Held { name, segment, end, complete });
    }
    Ok(found)
}

/// Compares all that a sink holds with the primary's own files, byte by byte: by its files, and by its HTTPS. The primary must have
/// been told to keep its WAL (`wal_keep_size`).
///
/// # Errors
/// Where they differ, or a file is missing: names the segment and the first byte.
pub async fn compare(sink: &Sink, cluster: &Postgres) -> Result<Compared> {
    let size = cluster.segment_size();
    let mut compared = Compared { whole: 0, tail_bytes: 0 };
    let held = held(sink, cluster).await?;
    ensure!(!held.is_empty(), "the sink holds nothing");
    for Held { name, segment, end, complete } in &held {
        let len = usize::try_from(end.0 - segment.start(size).0)?;
        let theirs = read(&cluster.segment_file(*segment))?;
        let file = if *complete { name.to_string() } else { format!("{name}.partial") };
        let ours = read(&sink.data().join(&file))?;
        ensure!(ours.len() as u64 == size.bytes(), "{file} has {} bytes", ours.len());
        same(&file, &ours[..len], &theirs[..len])?;
        let served = sink.bytes(&format!("/v1/segments/{name}")).await?;
        ensure!(served.len() as u64 == size.bytes(), "{name} is served with {} bytes", served.len());
        // More may have been flushed since the list was made, but not less.
        same(&format!("{name}, as served"), &served[..len], &theirs[..len])?;
        if *complete {
            compared.whole += 1;
        } else {
            compared.tail_bytes += len as u64;
        }
    }
    same_histories(sink, cluster).await?;
    Ok(compared)
}

/// Downloads all that a sink holds into a folder, segments under their final names; as the account of the tests.
///
/// # Errors
/// Where it can't.
pub async fn download(sink: &Sink, cluster: &Postgres, folder: &Path) -> Result<Vec<Held>> {
    let held = held(sink, cluster).await?;
    for Held { name, .. } in &held {
        let content = sink.bytes(&format!("/v1/segments/{name}")).await?;
        write(&folder.join(name.as_str()), &content)?;
    }
    Ok(held)
}

/// Reads all that a sink holds by the `pg_waldump` of the cluster's version, timeline by timeline, and checks that it reads as far
/// as the sink says that there are whole records.
///
/// # Errors
/// Where it reads less.
pub async fn waldump(sink: &Sink, cluster: &Postgres) -> Result<String> {
    let status = sink.status().await?;
    let folder = sink.scratch().path().join("waldump");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let folder = sink.scratch().folder("waldump")?;
    let held = download(sink, cluster, &folder).await?;
    let mut timelines: Vec<Timeline> = held.iter().map(|held| held.segment.timeline).collect();
    timelines.dedup();
    let mut records = String::new();
    for timeline in timelines {
        let of: Vec<&Held> = held.iter().filter(|held| held.segment.timeline == timeline).collect();
        let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
        let dump = cluster.waldump(&folder, &first.name, &last.name).await?;
        if Some(timeline) == status.timeline && !last.complete {
            // Where WAL ends on the first byte of a page, the message is another one, and tells no position.
            if let Some(end) = dump.end() {
                ensure!(end >= status.complete, "pg_waldump read to {end}, the sink said {}: {:?}", status.complete, dump.stopped);
            } else {
                ensure!(dump.stopped.as_ref().is_some_and(|text| text.contains("magic number 0000")), "{:?}", dump.stopped);
            }
        } else if last.complete {
            ensure!(dump.stopped.is_none() || dump.end().is_some(), "pg_waldump stopped: {:?}", dump.stopped);
        }
        records.push_str(&dump.records);
    }
    Ok(records)
}

async fn same_histories(sink: &Sink, cluster: &Postgres) -> Result<()> {
    let Some(timeline) = sink.status().await?.timeline else { bail!("the sink has no timeline") };
    if timeline == Timeline::FIRST {
        return Ok(());
    }
    let name = format!("{:08X}.history", timeline.get());
    let theirs = read(&cluster.wal().join(&name))?;
    same(&name, &read(&sink.data().join(&name))?, &theirs)?;
    let served = sink.bytes(&format!("/v1/history/{}", timeline.get())).await?;
    same(&format!("{name}, as served"), &served, &theirs)
}

fn same(what: &str, ours: &[u8], theirs: &[u8]) -> Result<()> {
    ensure!(ours.len() == theirs.len(), "{what}: {} bytes against the primary's {}", ours.len(), theirs.len());
    match ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) {
        None => Ok(()),
        Some(at) => bail!("{what} differs from the primary's at byte {at:#x} of {:#x}", ours.len()),
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}
