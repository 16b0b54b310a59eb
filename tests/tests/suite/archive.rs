//! `push` and `fetch` against real S3 servers, with all that goes wrong on the way: nothing is ever said to be archived that is not,
//! and nothing is ever said to be missing that may be there.

mod crash;
mod fetch;
mod postgres;
mod push;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::archiver::Run;
use harness::s3::Client;
use harness::{Archiver, Faults, Postgres, S3};
use walbus::SystemId;

/// How many seconds those have who are to give up.
const TIMEOUT: u32 = 2;

/// A cluster with some whole segments, an S3 that keeps what it has acknowledged, and a link between that can be broken.
struct Stage {
    cluster: Postgres,
    system: SystemId,
    server: S3,
    faults: Faults,
    /// The server itself, as a test sees it.
    client: Client,
    /// By the link.
    archiver: Archiver,
}

impl Stage {
    async fn set() -> Result<Self> {
        let cluster = Postgres::version(18).wal_segment_mb(1).setting("wal_keep_size", "1GB").start().await?;
        cluster.write_wal(4 << 20).await?;
        let server = S3::start_new().await?;
        let faults = Faults::before(server.port())?;
        let (client, archiver) = (server.client()?, Archiver::at(faults.port()));
        Ok(Self { system: cluster.system().await?, cluster, server, faults, client, archiver })
    }

    /// The segments that Postgres has done with, in order.
    async fn segments(&self) -> Result<Vec<Segment>> {
        let current = self.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        let size = self.cluster.segment_size();
        let names = self.cluster.segments()?.into_iter().map(|segment| segment.name(size).to_string());
        let done = names.filter(|name| *name < current);
        Ok(done.map(|name| Segment { path: self.cluster.wal().join(&name), name }).collect())
    }

    async fn segment(&self) -> Result<Segment> {
        self.segments().await?.into_iter().next().context("there is a whole segment")
    }

    /// The same archiver, that gives up on a store soon.
    fn impatient(&self) -> Archiver {
        self.archiver.clone().timeout(TIMEOUT)
    }

    async fn push(&self, segment: &Segment) -> Result<Run> {
        self.archiver.push(&segment.path).await
    }

    /// Fetches a file of the cluster to a place of its own, and gives what is there then.
    async fn fetch(&self, archiver: &Archiver, name: &str) -> Result<(Run, Option<Vec<u8>>)> {
        let to = self.cluster.scratch().path().join("fetched");
        std::fs::remove_file(&to).ok();
        let run = archiver.fetch(self.cluster.data(), name, &to).await?;
        let left: Vec<_> = std::fs::read_dir(self.cluster.scratch().path())?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?;
        ensure!(!left.iter().any(|name| name.starts_with("fetched.")), "something temporary is left: {left:?}");
        Ok((run, std::fs::read(&to).ok()))
    }

    /// The archive has just this of it.
    async fn holds(&self, segment: &Segment) -> Result<bool> {
        let held = self.archiver.content(&self.client, self.system, &segment.name).await?;
        Ok(held.is_some_and(|held| segment.content().is_ok_and(|content| held == content)))
    }

    /// The archive has no object of that name.
    async fn lacks(&self, segment: &Segment) -> Result<bool> {
        Ok(self.client.get(&self.key(segment)?).await?.is_none())
    }

    fn key(&self, segment: &Segment) -> Result<String> {
        self.archiver.key(self.system, &segment.name)
    }
}

/// A whole segment of the cluster.
#[derive(Debug, Clone)]
struct Segment {
    name: String,
    path: PathBuf,
}

impl Segment {
    fn content(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))
    }

    /// What the object's name ends in; that of its index ends otherwise.
    fn object(&self) -> String {
        format!("{}.zst", self.name)
    }
}
