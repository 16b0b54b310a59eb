//! Objects in a folder.
//!
//! ```text
//!   buckets/BUCKET/KEY      an object; its key percent-encoded, so that it is one name
//!   incoming/N              a body on its way; removed at the start
//!   uploads/ID/PART         parts of an object to be
//! ```
//!
//! An object appears under its name whole, by one `link` or `rename`, and is durable before it is acknowledged.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::answer::{Refusal, RefusalKind};
use super::list::encode;

/// The longest name of a file.
const NAME_MAX: usize = 255;

/// What is known of an object beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) size: u64,
    /// With its quotes.
    pub(super) etag: String,
    pub(super) modified_ns: i128,
}

impl Object {
    fn of(file: &File) -> std::io::Result<Self> {
        let meta = file.metadata()?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        // Says whether it is another object, and no more: nobody may take it for a hash.
        let etag = format!("\"{:016x}{:016x}\"", meta.ino(), modified_ns);
        Ok(Self { size: meta.len(), etag, modified_ns })
    }

    fn modified(&self) -> Timestamp {
        Timestamp::from_nanosecond(self.modified_ns).unwrap_or_default()
    }

    /// When it was put, as headers have it.
    pub(super) fn http_date(&self) -> String {
        self.modified().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// When it was put, as lists have it.
    pub(super) fn iso_date(&self) -> String {
        self.modified().strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
    }
}

/// A body that has no name yet; gone when dropped.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    path: PathBuf,
    written: u64,
}

impl Draft {
    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Renamed, it is gone already.
        std::fs::remove_file(&self.path).ok();
    }
}

/// All buckets.
#[derive(Debug)]
pub(super) struct Store {
    buckets: PathBuf,
    incoming: PathBuf,
    uploads: PathBuf,
    sync: bool,
    next: AtomicU64,
}

impl Store {
    /// # Errors
    /// Where the folder can't be used.
    pub(super) fn open(folder: &Path, sync: bool) -> Result<Self> {
        let incoming = folder.join("incoming");
        // Of a process that was killed: nobody was told that these are held.
        if incoming.exists() {
            std::fs::remove_dir_all(&incoming).with_context(|| format!("empty {}", incoming.display()))?;
        }
        let store =
            Self { buckets: folder.join("buckets"), incoming, uploads: folder.join("uploads"), sync, next: AtomicU64::new(0) };
        for path in [&store.buckets, &store.incoming, &store.uploads] {
            std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        }
        Ok(store)
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.join(bucket).is_dir()
    }

    pub(super) fn create_bucket(&self, bucket: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(self.buckets.join(bucket))?;
        self.sync_folder(&self.buckets)
    }

    pub(super) fn draft(&self) -> std::io::Result<Draft> {
        let path = self.incoming.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(Draft { file: File::create_new(&path)?, path, written: 0 })
    }

    /// Gives a body its name; `None` where there is one of that name and none was to be.
    pub(super) fn commit(&self, draft: Draft, bucket: &str, key: &str, if_absent: bool) -> Result<Option<Object>, Refusal> {
        let path = self.path(bucket, key)?;
        if self.sync {
            draft.file.sync_data()?;
        }
        let object = Object::of(&draft.file)?;
        if if_absent {
            // One of many that try at once gets it.
            match std::fs::hard_link(&draft.path, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
                linked => linked?,
            }
        } else {
            rustix::fs::rename(&draft.path, &path).map_err(std::io::Error::from)?;
        }
        self.sync_folder(&self.buckets.join(bucket))?;
        Ok(Some(object))
    }

    pub(super) fn open_object(&self, bucket: &str, key: &str) -> Result<Option<(File, Object)>, Refusal> {
        match File::open(self.path(bucket, key)?) {
            Ok(file) => {
                let object = Object::of(&file)?;
                Ok(Some((file, object)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an object; that there is none is no fault.
    pub(super) fn delete(&self, bucket: &str, key: &str) -> Result<(), Refusal> {
        match std::fs::remove_file(self.path(bucket, key)?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(self.sync_folder(&self.buckets.join(bucket))?),
        }
    }

    /// All objects of a bucket, in the order of their keys' bytes.
    pub(super) fn objects(&self, bucket: &str) -> Result<Vec<(String, Object)>, Refusal> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.buckets.join(bucket))? {
            let entry = entry?;
            let name = entry.file_name();
            let key =
                name.to_str().and_then(decode).ok_or_else(|| std::io::Error::other(format!("{} is no key", name.display())))?;
            match File::open(entry.path()) {
                Ok(file) => found.push((key, Object::of(&file)?)),
                // Deleted since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(found)
    }

    /// A folder for the parts of a new upload, and its name.
    pub(super) fn create_upload(&self) -> std::io::Result<String> {
        loop {
            let id = format!("upload-{}", self.next.fetch_add(1, Ordering::Relaxed));
            match std::fs::create_dir(self.uploads.join(&id)) {
                // Of an earlier process.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| id),
            }
        }
    }

    /// The folder of an upload.
    pub(super) fn upload(&self, id: &str) -> Result<PathBuf, Refusal> {
        let path = self.uploads.join(id);
        let is_one = id.strip_prefix("upload-").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        if is_one && path.is_dir() { Ok(path) } else { Err(RefusalKind::NoSuchUpload.into()) }
    }

    fn path(&self, bucket: &str, key: &str) -> Result<PathBuf, Refusal> {
        // No name begins with a dot, so that none is that of a folder.
        let name = encode(key).replace('/', "%2F");
        let name = name.strip_prefix('.').map_or_else(|| name.clone(), |rest| format!("%2E{rest}"));
        if name.len() > NAME_MAX { Err(RefusalKind::KeyTooLong.into()) } else { Ok(self.buckets.join(bucket).join(name)) }
    }

    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        if self.sync { File::open(folder)?.sync_all() } else { Ok(()) }
    }
}

/// So many bytes of a file, from the first on.
pub(super) fn read(file: &File, (first, length): (u64, u64)) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, first)?;
    Ok(bytes)
}

fn decode(name: &str) -> Option<String> {
    let encoded = name.replace("%2F", "/");
    super::call::percent_decode(&encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, key: &str, content: &[u8], if_absent: bool) -> Option<Object> {
        let mut draft = store.draft().unwrap();
        draft.write(content).unwrap();
        store.commit(draft, "bucket", key, if_absent).unwrap()
    }

    #[test]
    fn what_is_put_is_there_after_another_start() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), true).unwrap();
        store.create_bucket("bucket").unwrap();
        let keys = [".", "../..", "a%2Fb", "a/b", "é +&"];
        for key in keys {
            put(&store, key, key.as_bytes(), true).unwrap();
        }
        std::mem::forget(store.draft().unwrap());
        drop(store);
        let store = Store::open(folder.path(), true).unwrap();
        assert_eq!(store.objects("bucket").unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);
        for key in keys {
            let (file, object) = store.open_object("bucket", key).unwrap().unwrap();
            assert_eq!(read(&file, (0, object.size)).unwrap(), key.as_bytes());
        }
        assert_eq!(std::fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    }

    #[test]
    fn one_of_many_puts_if_absent_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), false).unwrap();
        store.create_bucket("bucket").unwrap();
        for round in 0..20 {
            let key = format!("key-{round}");
            let created = std::thread::scope(|scope| {
                let tries: Vec<_> = (0..4).map(|_| scope.spawn(|| put(&store, &key, b"x", true).is_some())).collect();
                tries.into_iter().map(|one| one.join().unwrap()).filter(|created| *created).count()
            });
            assert_eq!(created, 1);
        }
        let first = put(&store, "key", b"1", false).unwrap();
        let second = put(&store, "key", b"2", false).unwrap();
        assert!(first.etag != second.etag, "an overwritten object has another tag");
    }

    #[test]
    fn dates_are_as_their_readers_want_them() {
        let object = Object { size: 0, etag: String::new(), modified_ns: 1_000_000_000_000_000_000 };
        assert_eq!(object.http_date(), "Sun, 09 Sep 2001 01:46:40 GMT");
        assert_eq!(object.iso_date(), "2001-09-09T01:46:40.000Z");
    }
}
