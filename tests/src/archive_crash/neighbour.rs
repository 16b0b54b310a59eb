//! A second cluster that archives to the same prefix: its segments have the same names.

use anyhow::{Context, Result, ensure};

use super::{CATCH_UP, PUSH_SECONDS, PUSH_SECONDS_PATIENT};
use crate::archiver::Archiver;
use crate::postgres::Postgres;
use crate::s3::Client;
use crate::wait::eventually;

/// The second cluster.
#[derive(Debug)]
pub(super) struct Neighbour {
    cluster: Postgres,
    archiver: Archiver,
}

impl Neighbour {
    pub(super) async fn start(version: u32, archiver: &Archiver) -> Result<Self> {
        let setup = Postgres::version(version).wal_segment_mb(1).own_system_id();
        // It keeps what it wrote, to be compared.
        let cluster = setup.setting("archive_mode", "on").setting("wal_keep_size", "1GB").start().await?;
        let mut neighbour = Self { cluster, archiver: archiver.clone() };
        neighbour.cluster.archive_by(&archiver.clone().timeout(PUSH_SECONDS)).await?;
        Ok(neighbour)
    }

    pub(super) async fn write(&self) -> Result<()> {
        self.cluster.write_wal(1 << 20).await
    }

    /// Waits until all of it is archived, and says how many files are, each as it was written.
    pub(super) async fn verify(&mut self, client: &Client) -> Result<usize> {
        let last = self.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
        self.cluster.switch_wal().await?;
        self.cluster.archive_by(&self.archiver.clone().timeout(PUSH_SECONDS_PATIENT)).await?;
        eventually(CATCH_UP, "the neighbour's WAL to be archived", async || {
            self.cluster.reload()?;
            let archived = self.cluster.value("SELECT last_archived_wal FROM pg_stat_archiver").await?;
            Ok((archived >= last).then_some(()))
        })
        .await
        .with_context(|| self.cluster.log())?;
        let (system, size) = (self.cluster.system().await?, self.cluster.segment_size());
        let mut files = 0;
        for segment in self.cluster.segments()? {
            let name = segment.name(size).to_string();
            if name > last {
                continue;
            }
            let held = self.archiver.content(client, system, &name).await?;
            let held = held.with_context(|| format!("the neighbour was told that {name} is archived, and it is not there"))?;
            ensure!(held == std::fs::read(self.cluster.segment_file(segment))?, "the neighbour's {name} is another");
            files += 1;
        }
        Ok(files)
    }

    pub(super) fn keep(&mut self) -> std::path::PathBuf {
        self.cluster.keep().to_owned()
    }
}
