//! A disk that stops at a given change, as for a process that is killed there, or a machine whose power goes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SimDisk, SimFile};
use crate::disk::{Disk, DiskFile};

/// Counts the calls that change something, and fails them all once there were as many as it was given.
///
/// What was done before stays in the [`SimDisk`] behind it; [`SimDisk::lose_power`] there takes what was not durable.
#[derive(Debug, Clone)]
pub struct PowerDisk {
    disk: SimDisk,
    left: Arc<AtomicU64>,
    last_write_arrives: bool,
    zeroed: Arc<AtomicU64>,
}

/// A file of a [`PowerDisk`].
#[derive(Debug)]
pub struct PowerFile {
    file: SimFile,
    left: Arc<AtomicU64>,
    last_write_arrives: bool,
}

impl PowerDisk {
    /// Has power for this many changes. A write that is one too many fails, and still arrives, so that a loss of power tears it.
    #[must_use]
    pub fn new(disk: &SimDisk, changes: u64) -> Self {
        Self { disk: disk.clone(), left: Arc::new(AtomicU64::new(changes)), last_write_arrives: true, zeroed: Arc::default() }
    }

    /// Does this many changes and nothing of the next: where a process is killed between two calls.
    #[must_use]
    pub fn killed_after(disk: &SimDisk, changes: u64) -> Self {
        Self { last_write_arrives: false, ..Self::new(disk, changes) }
    }

    /// Another folder, which stops at the same call.
    #[must_use]
    pub fn beside(&self, disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), zeroed: Arc::default(), ..self.clone() }
    }

    /// Whether it has stopped.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// How many files of zeros were made.
    #[must_use]
    pub fn zeroed(&self) -> u64 {
        self.zeroed.load(Ordering::Relaxed)
    }

    fn file(&self, file: SimFile) -> PowerFile {
        PowerFile { file, left: Arc::clone(&self.left), last_write_arrives: self.last_write_arrives }
    }
}

fn spend(left: &AtomicU64) -> io::Result<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    spent.map(drop).map_err(|_| io::Error::other("the power is gone"))
}

impl Disk for PowerDisk {
    type File = PowerFile;

    fn create_zeroed(&self, name: &str, len: u64) -> io::Result<PowerFile> {
        spend(&self.left)?;
        self.zeroed.fetch_add(1, Ordering::Relaxed);
        Ok(self.file(self.disk.create_zeroed(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<PowerFile> {
        Ok(self.file(self.disk.open(name)?))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.sync_dir()
    }
}

impl DiskFile for PowerFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let spent = spend(&self.left);
        if spent.is_ok() || self.last_write_arrives {
            self.file.write_at(data, offset)?;
        }
        spent
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        spend(&self.left)?;
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
