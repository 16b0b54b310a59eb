//! Where transactions wait that do not fit into memory.

use std::fmt::Debug;
use std::io;

/// Makes files for [`SpoolFile`].
///
/// Nothing that is spooled has to outlive the process: what is not confirmed is sent again.
pub trait Spool: Debug {
    /// A file of one transaction.
    type File: SpoolFile;

    /// A new, empty file.
    ///
    /// # Errors
    /// Of the operating system, [`io::ErrorKind::StorageFull`] where there is no room.
    fn create(&mut self) -> io::Result<Self::File>;
}

/// What one transaction has spooled. Dropping it gives its room back.
pub trait SpoolFile: Debug {
    /// Puts `data` behind what is there.
    ///
    /// # Errors
    /// Of the operating system; what the file holds from its former end on is not known then.
    fn append(&mut self, data: &[u8]) -> io::Result<()>;

    /// Reads into `buf` from `offset` and gives how many bytes were read: fewer than asked only at the end.
    ///
    /// # Errors
    /// Of the operating system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Drops what lies behind the first `len` bytes, and gives its room back.
    ///
    /// # Errors
    /// Of the operating system.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// A spool in memory, for tests and the simulator, which counts what it holds and can be full.
#[cfg(any(test, feature = "sim"))]
#[derive(Debug, Clone)]
pub struct MemorySpool {
    held: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    capacity: usize,
}

#[cfg(any(test, feature = "sim"))]
impl MemorySpool {
    /// A spool with room for so many bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { held: std::sync::Arc::default(), capacity }
    }

    /// How many bytes all files hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(any(test, feature = "sim"))]
impl Spool for MemorySpool {
    type File = MemoryFile;

    fn create(&mut self) -> io::Result<MemoryFile> {
        Ok(MemoryFile { content: Vec::new(), spool: self.clone() })
    }
}

/// A file of a [`MemorySpool`].
#[cfg(any(test, feature = "sim"))]
#[derive(Debug)]
pub struct MemoryFile {
    content: Vec<u8>,
    spool: MemorySpool,
}

#[cfg(any(test, feature = "sim"))]
impl SpoolFile for MemoryFile {
    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        if self.spool.held() + data.len() > self.spool.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.spool.held.fetch_add(data.len(), std::sync::atomic::Ordering::Relaxed);
        self.content.extend_from_slice(data);
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.content.get(offset..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let before = self.content.len();
        self.content.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.spool.held.fetch_sub(before - self.content.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(any(test, feature = "sim"))]
impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.spool.held.fetch_sub(self.content.len(), std::sync::atomic::Ordering::Relaxed);
    }
}
