//! A disk that tells written from durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Random;
use crate::disk::{Disk, DiskFile};

/// The unit in which a write tears.
const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFaults {
    /// Of a million syncs of files, how many fail. What such a sync was to make durable is lost by then, as with Linux: it can be read until
    /// the power goes, and no later sync brings it to the disk.
    pub sync_fails_per_million: u64,
    /// How many bytes fit, `None` for any number.
    pub room: Option<u64>,
    /// A planted defect: syncs of the folder do nothing.
    pub ignores_dir_sync: bool,
    /// A planted defect: syncs of files do nothing.
    pub ignores_sync: bool,
}

/// A folder of files in memory. Clones are the same folder, as another process sees it.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    random: Random,
    faults: DiskFaults,
    files: Vec<FileState>,
    /// What a process sees.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct NameChange {
    removed: Option<String>,
    set: Option<(String, usize)>,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.removed {
            names.remove(name);
        }
        if let Some((name, file)) = &self.set {
            names.insert(name.clone(), *file);
        }
    }
}

impl SimDisk {
    /// An empty folder.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            faults: DiskFaults::default(),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Says what goes wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    /// Another folder with the same content, written and durable: what happens to the one is nothing to the other.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// Loses what was not synced: of each unsynced write, all, none or some sectors are left, and of each unsynced change of a name either all
    /// or nothing, each by itself.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State { random, files, names, durable_names, unsynced_names, .. } = &mut *state;
        for change in unsynced_names.drain(..) {
            if random.chance(1, 2) {
                change.apply(durable_names);
            }
        }
        names.clone_from(durable_names);
        for file in files {
            for (offset, data) in std::mem::take(&mut file.unsynced) {
                match random.below(3) {
                    0 => {}
                    1 => put(&mut file.durable, offset, &data),
                    _ => tear(&mut file.durable, offset, &data, random),
                }
            }
            file.content.clone_from(&file.durable);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// Leaves some of the sectors that `data` touches.
fn tear(content: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < data.len() {
        let sector_end = ((offset + at) / SECTOR + 1) * SECTOR - offset;
        let end = sector_end.min(data.len());
        if random.chance(1, 2) {
            put(content, offset + at, &data[at..end]);
        }
        at = end;
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn room_for(&self, more: u64) -> bool {
        let held: u64 = self.names.values().map(|file| self.files[*file].content.len() as u64).sum();
        self.faults.room.is_none_or(|room| held + more <= room)
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create_zeroed(&self, name: &str, len: u64) -> io::Result<SimFile> {
        let mut state = self.state();
        if !state.room_for(len) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?];
        let file = state.files.len();
        state.files.push(FileState { content: zeros.clone(), durable: zeros, unsynced: Vec::new() });
        state.change(NameChange { removed: None, set: Some((name.to_owned(), file)) });
        Ok(SimFile { state: Arc::clone(&self.state), file })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let file = *self.state().names.get(name).ok_or_else(|| not_found(name))?;
        Ok(SimFile { state: Arc::clone(&self.state), file })
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        Ok(state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].content.len() as u64)).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = *state.names.get(from).ok_or_else(|| not_found(from))?;
        state.change(NameChange { removed: Some(from.to_owned()), set: Some((to.to_owned(), file)) });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(name) {
            return Err(not_found(name));
        }
        state.change(NameChange { removed: Some(name.to_owned()), set: None });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.faults.ignores_dir_sync {
            let State { durable_names, unsynced_names, .. } = &mut *state;
            for change in unsynced_names.drain(..) {
                change.apply(durable_names);
            }
        }
        Ok(())
    }
}

/// One open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    file: usize,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, usize) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), self.file)
    }
}

fn offset_in_memory(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for SimFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset_in_memory(offset)?;
        self.with(|state, file| {
            put(&mut state.files[file].content, offset, data);
            state.files[file].unsynced.push((offset, data.to_vec()));
        });
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = offset_in_memory(offset)?;
        Ok(self.with(|state, file| {
            let content = state.files[file].content.get(offset..).unwrap_or_default();
            let len = content.len().min(buf.len());
            buf[..len].copy_from_slice(&content[..len]);
            len
        }))
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, file| {
            if state.faults.ignores_sync {
                return Ok(());
            }
            let unsynced = std::mem::take(&mut state.files[file].unsynced);
            let fails = state.faults.sync_fails_per_million;
            if state.random.chance(fails, 1_000_000) {
                return Err(io::Error::other("a simulated failure of fdatasync"));
            }
            for (offset, data) in unsynced {
                put(&mut state.files[file].durable, offset, &data);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|state, file| state.files[file].content.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &SimDisk, name: &str) -> Vec<u8> {
        let mut buf = vec![9; 2048];
        let read = disk.open(name).unwrap().read_at(&mut buf, 0).unwrap();
        buf.truncate(read);
        buf
    }

    #[test]
    fn what_is_synced_outlives_the_power() {
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            let file = disk.create_zeroed("a", 2048).unwrap();
            file.write_at(&[1; 1024], 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir().unwrap();
            file.write_at(&[2; 1024], 1024).unwrap();
            disk.rename("a", "b").unwrap();
            disk.lose_power();
            let name = disk.list().unwrap().remove(0).0;
            assert_eq!(content(&disk, &name)[..1024], [1; 1024], "seed {seed}");
        }
    }

    #[test]
    fn what_is_not_synced_can_be_lost_kept_or_torn() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = SimDisk::new(seed);
            let file = disk.create_zeroed("a", 1024).unwrap();
            disk.sync_dir().unwrap();
            file.write_at(&[1; 1024], 0).unwrap();
            disk.lose_power();
            seen.insert(content(&disk, "a").chunks(SECTOR).map(|sector| sector[0]).collect::<Vec<_>>());
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_failed_sync_is_not_mended_by_the_next() {
        let disk = SimDisk::new(1);
        let file = disk.create_zeroed("a", 512).unwrap();
        disk.sync_dir().unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        disk.set_faults(DiskFaults { sync_fails_per_million: 1_000_000, ..DiskFaults::default() });
        assert!(file.sync().is_err());
        disk.set_faults(DiskFaults::default());
        file.sync().unwrap();
        assert_eq!(content(&disk, "a"), [1; 512]);
        disk.lose_power();
        assert_eq!(content(&disk, "a"), [0; 512]);
    }

    #[test]
    fn a_full_disk_says_so() {
        let disk = SimDisk::new(1);
        disk.set_faults(DiskFaults { room: Some(1000), ..DiskFaults::default() });
        disk.create_zeroed("a", 600).unwrap();
        assert_eq!(disk.create_zeroed("b", 600).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
