//! A disk whose power goes at a given call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walbus::disk::{Disk, DiskFile};
use walbus::sim::{SimDisk, SimFile};

/// Counts the calls that change something, and fails them all once there were as many as it was given.
#[derive(Debug, Clone)]
pub(crate) struct PowerDisk {
    disk: SimDisk,
    left: Arc<AtomicU64>,
    /// How many files of zeros were made.
    pub(crate) zeroed: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct PowerFile {
    file: SimFile,
    left: Arc<AtomicU64>,
}

impl PowerDisk {
    /// Has power for this many changes.
    pub(crate) fn new(disk: &SimDisk, changes: u64) -> Self {
        Self { disk: disk.clone(), left: Arc::new(AtomicU64::new(changes)), zeroed: Arc::default() }
    }

    /// Another folder, of which the power goes at the same call.
    pub(crate) fn beside(&self, disk: &SimDisk) -> Self {
        Self { disk: disk.clone(), left: Arc::clone(&self.left), zeroed: Arc::default() }
    }

    /// Whether the power has gone.
    pub(crate) fn is_off(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
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
        Ok(PowerFile { file: self.disk.create_zeroed(name, len)?, left: Arc::clone(&self.left) })
    }

    fn open(&self, name: &str) -> io::Result<PowerFile> {
        Ok(PowerFile { file: self.disk.open(name)?, left: Arc::clone(&self.left) })
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
        // The last write may still get through in part: the simulator tears what was not synced.
        let spent = spend(&self.left);
        self.file.write_at(data, offset)?;
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
