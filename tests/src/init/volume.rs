//! Volumes as they were: what a host that died may come back with.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};

use super::Init;
use crate::postgres::{Snapshot, copy_folder, remove_folder};
use crate::process::stop_all;

impl Init {
    /// Copies its volume as it is at one moment, all of it being stopped meanwhile: what the kernel would give after a SIGKILL then.
    ///
    /// # Errors
    /// Where it does not run, or the copy fails.
    pub async fn snapshot(&mut self) -> Result<Snapshot> {
        self.snapshots += 1;
        let path = self.scratch.path().join(format!("snapshot-{}", self.snapshots));
        let volume = self.volume.clone();
        let process = self.process()?;
        process.check_runs()?;
        let others = stop_all(process.pid())?;
        let copied = copy_folder(&volume, &path).await;
        for pid in &others {
            // One may have been ending when it was stopped.
            kill_process(*pid, Signal::CONT).ok();
        }
        process.signal(Signal::CONT)?;
        copied.map(|()| Snapshot { path })
    }

    /// Puts an older volume in place of the present one, which is gone.
    ///
    /// # Errors
    /// Where it runs, or the copy fails.
    pub async fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.check_ended()?;
        remove_folder(&self.volume).await?;
        copy_folder(&snapshot.path, &self.volume).await
    }

    /// Removes a snapshot's files.
    ///
    /// # Errors
    /// Where they can't be removed.
    pub async fn forget(&self, snapshot: Snapshot) -> Result<()> {
        remove_folder(&snapshot.path).await
    }

    /// Removes the last `count` of its segments of WAL by name, or all that it has: a disk that lost its newest files.
    ///
    /// # Errors
    /// Where it runs, or a file can't be removed.
    pub fn remove_last_wal(&mut self, count: usize) -> Result<()> {
        self.check_ended()?;
        let mut segments: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(self.volume.join("wal")).context("read the folder of WAL")? {
            let path = entry?.path();
            let is_segment = |name: &str| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_segment) {
                segments.push(path);
            }
        }
        segments.sort();
        for segment in segments.iter().rev().take(count) {
            std::fs::remove_file(segment).with_context(|| format!("remove {}", segment.display()))?;
        }
        Ok(())
    }

    /// Leaves all its files where they are, for good, and says where.
    pub fn keep(&mut self) -> PathBuf {
        self.scratch.keep();
        self.scratch.path().to_owned()
    }

    fn check_ended(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None))) {
            bail!("beyond-pg runs: kill or stop it first");
        }
        Ok(())
    }
}
