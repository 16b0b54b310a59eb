//! Data folders as they were: what a host that died may come back with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use walbus::Lsn;

use super::Postgres;
use super::template::{copy_folder, remove_folder};

/// A copy of a data folder, or of a whole volume, at one moment, as a crash at that moment would have left it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) path: PathBuf,
}

impl Snapshot {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Postgres {
    /// Copies its data folder as it is at one moment, its server running or not.
    ///
    /// Every process of the server is stopped while the copy is made, so that no file changes beneath it: the copy is what the
    /// kernel would give after a SIGKILL at that moment, on any file system, without a snapshot of the disk.
    ///
    /// # Errors
    /// Where the copy fails.
    pub async fn snapshot(&mut self) -> Result<Snapshot> {
        self.snapshots += 1;
        let path = self.scratch.path().join(format!("snapshot-{}", self.snapshots));
        if !self.runs() {
            copy_folder(&self.data, &path).await?;
            return Ok(Snapshot { path });
        }
        let data = self.data.clone();
        let process = self.process()?;
        // The postmaster first: stopped, it starts no other.
        process.signal_all(Signal::STOP)?;
        let copied = copy_folder(&data, &path).await;
        process.signal_all(Signal::CONT)?;
        copied.map(|()| Snapshot { path })
    }

    /// Puts an older data folder in place of the present one: the host died, and what came back is what it had then. The present
    /// one is kept beside it, and its path is given: what was lost.
    ///
    /// # Errors
    /// Where the server runs, or the copy fails.
    pub async fn restore(&mut self, snapshot: &Snapshot) -> Result<PathBuf> {
        if self.runs() {
            bail!("the server runs: kill or stop it first");
        }
        let lost = self.scratch.path().join("lost");
        remove_folder(&lost).await?;
        rustix::fs::rename(&self.data, &lost).context("set the data folder aside")?;
        copy_folder(&snapshot.path, &self.data).await?;
        Ok(lost)
    }

    /// Removes the segments of its WAL that start at `lsn` or behind it: a disk that lost its newest files.
    ///
    /// # Errors
    /// Where the server runs, or a file can't be removed.
    pub fn remove_wal_from(&mut self, lsn: Lsn) -> Result<()> {
        if self.runs() {
            bail!("the server runs: kill or stop it first");
        }
        for segment in self.segments()? {
            if segment.start(self.segment_size) >= lsn {
                std::fs::remove_file(self.segment_file(segment)).context("remove a segment")?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot's files.
    ///
    /// # Errors
    /// Where they can't be removed.
    pub async fn forget(&self, snapshot: Snapshot) -> Result<()> {
        remove_folder(&snapshot.path).await
    }
}
