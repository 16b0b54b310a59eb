//! The store that holds an archive: S3 and what speaks its protocol, Google's and Azure's by feature, or a folder.
//!
//! An object is never replaced by other content, and a missing one is only called missing where the archive's marker is found: a wrong
//! bucket or prefix answers in the same way.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::envelope::{Encryption, HEADER_BYTES, Header, OpenError, Sealing, UnpackError, open, seal, unpack};
use super::key::Keys;
use super::layout::{self, ObjectName};
use crate::ident::{PgTime, SystemId, Timeline};
use crate::segment::SegmentName;

mod error;
mod locate;
mod profile;
mod retry;

pub use error::{GetError, StoreError};
pub use locate::{s3_endpoint, s3_region};

/// What the marker says.
const MARKER: &[u8] = b"{\"format\":1}\n";

/// How many objects are listed by one call, with ten requests to S3.
const LIST_BATCH: usize = if cfg!(test) { 3 } else { 10_000 };

/// How an archive is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// The keys: where there is one, objects are encrypted.
    pub keys: Keys,
    /// zstd's level for what is put, `None` to store it as it is.
    pub level: Option<i32>,
    /// How long one call may take, with all its attempts.
    pub timeout: Duration,
    /// Whether a call tries again what may come right by itself. A daemon, which has many calls under way, does that over all of them.
    pub retries: bool,
    /// Whether a store may be spoken to without TLS that is not on this machine.
    pub allow_http: bool,
    /// The process' variables: credentials, region and endpoint as the stores' own tools find them.
    pub variables: Vec<(String, String)>,
}

impl Options {
    /// What the programs do unless they are told otherwise: zstd at level 1, no encryption, a minute.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            keys: Keys::none(),
            level: Some(1),
            timeout: Duration::from_secs(60),
            retries: true,
            allow_http: false,
            variables: variables.into_iter().collect(),
        }
    }
}

/// An archive in a store. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// As it is shown: it has no secrets.
    url: String,
    /// The folder, where the store is one.
    folder: Option<PathBuf>,
    options: Options,
    /// The marker was found: what is not there is not there.
    proven: AtomicBool,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there.
    Created,
    /// It was there, with the same content.
    Same,
}

/// What [`Archive::probe`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// There was no archive: there is one now.
    Created,
    /// An archive.
    Found,
}

/// An object that is ready to be put.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its header.
    pub header: Header,
    /// All its bytes.
    pub object: Bytes,
}

/// An object, as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub name: ObjectName,
    /// Its length in the store.
    pub stored_bytes: u64,
    /// When it was put, by the store's clock.
    pub modified: PgTime,
}

/// What lies below a folder of the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The archive's objects, in the order of their paths.
    pub objects: Vec<Listed>,
    /// The paths of what is none of the archive's.
    pub foreign: Vec<String>,
}

impl Archive {
    /// The archive at `url`: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///folder`. Nothing is asked of
    /// the store yet.
    ///
    /// # Errors
    /// [`StoreError::Settings`] where the URL or the variables make no sense; [`StoreError::Credentials`] where a profile has none.
    pub fn open(url: &str, options: Options) -> Result<Self, StoreError> {
        let place = locate::place(url, &options)?;
        Ok(Self::at(place, options))
    }

    /// The archive in a store that is at hand, under `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Settings`] where the prefix can be no path.
    pub fn with_store(store: Arc<dyn ObjectStore>, prefix: &str, options: Options) -> Result<Self, StoreError> {
        let prefix = Path::parse(prefix).map_err(|error| StoreError::Settings { problem: error.to_string() })?;
        let url = format!("{store}/{prefix}");
        Ok(Self::at(locate::Place { store, prefix, url, folder: None }, options))
    }

    fn at(place: locate::Place, options: Options) -> Self {
        let locate::Place { store, prefix, url, folder } = place;
        Self { inner: Arc::new(Inner { store, prefix, url, folder, options, proven: AtomicBool::new(false) }) }
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The keys that it was opened with.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.options.keys
    }

    /// Where an object is, to be shown.
    #[must_use]
    pub fn url_of(&self, name: &ObjectName) -> String {
        format!("{}/{name}", self.inner.url)
    }

    fn path(&self, name: &ObjectName) -> Path {
        self.below(&name.to_string())
    }

    fn below(&self, path: &str) -> Path {
        path.split('/').fold(self.inner.prefix.clone(), |path, part| path.join(part))
    }
}

/// Writing.
impl Archive {
    /// Proves that the store keeps to conditions: to be called once in a process before the first [`Self::put`]. One request where the
    /// archive exists; where it does not, it is made.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] where the store puts an object in place of another though it was told not to; as of [`Self::put`].
    pub async fn probe(&self) -> Result<Probe, StoreError> {
        let found = if self.put_marker().await? {
            if self.put_marker().await? {
                let problem = format!(
                    "{} ignores If-None-Match: it replaces what is there. Nothing is archived to it, since nobody could tell whether \
                     another cluster's WAL is lost by that. Use a store with conditional writes, or name another with --store",
                    self.url()
                );
                return Err(StoreError::Unsupported { problem });
            }
            Probe::Created
        } else {
            Probe::Found
        };
        self.inner.proven.store(true, Ordering::Relaxed);
        Ok(found)
    }

    /// Puts the marker, and says whether it was not there.
    async fn put_marker(&self) -> Result<bool, StoreError> {
        let path = self.path(&ObjectName::Marker);
        // A file system keeps to conditions: there, a look does, and spares each push a sync.
        if self.inner.folder.is_some() && self.retrying("get", &path, || self.get_once(&path)).await?.is_some() {
            return Ok(false);
        }
        self.retrying("put", &path, || self.create(&path, Bytes::from_static(MARKER))).await
    }

    /// Makes an object of a file's content: packs, encrypts and hashes it, on a thread for such work.
    ///
    /// # Errors
    /// [`StoreError::Settings`] where zstd knows no such level.
    pub async fn seal(&self, plain: Bytes) -> Result<Sealed, StoreError> {
        let inner = Arc::clone(&self.inner);
        let sealed = tokio::task::spawn_blocking(move || {
            let key = inner.options.keys.sealing().map(|key| random().map(|salt| (key, salt))).transpose()?;
            seal(&plain, &Sealing { level: inner.options.level, key })
        });
        let (header, object) = sealed
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| StoreError::Settings { problem: format!("pack an object: {error}; look at --compress") })?;
        Ok(Sealed { header, object: object.into() })
    }

    /// Puts an object unless it is there. `Ok` is said when the store has acknowledged it: it is durable by the store's word, and on a
    /// folder synced with all that leads to it. Cancel-safe: what was under way may come to be there all the same.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where another content is there, [`StoreError::Damaged`] where what is there is no object, and the others
    /// by what the store says.
    pub async fn put(&self, name: &ObjectName, plain: Bytes) -> Result<Put, StoreError> {
        let sealed = self.seal(plain).await?;
        self.put_sealed(name, &sealed).await
    }

    /// [`Self::put`] of what [`Self::seal`] made.
    ///
    /// # Errors
    /// As of [`Self::put`].
    pub async fn put_sealed(&self, name: &ObjectName, sealed: &Sealed) -> Result<Put, StoreError> {
        let path = self.path(name);
        self.retrying("put", &path, || self.put_once(&path, sealed)).await
    }

    async fn put_once(&self, path: &Path, sealed: &Sealed) -> Result<Put, StoreError> {
        if self.create(path, sealed.object.clone()).await? {
            return Ok(Put::Created);
        }
        let Some(present) = self.header_once(path).await? else {
            let problem = "the store said that it is there, and then that it is not".to_owned();
            return Err(StoreError::Retry { doing: "put", object: self.shown(path), problem });
        };
        if !present.same_content(&sealed.header) {
            return Err(StoreError::Conflict {
                object: self.shown(path),
                ours: sealed.header.plain_sha256,
                ours_bytes: sealed.header.plain_bytes,
                theirs: present.plain_sha256,
                theirs_bytes: present.plain_bytes,
            });
        }
        // Whoever put it may have died before it was durable.
        self.make_durable(path, 0).await?;
        Ok(Put::Same)
    }

    /// Puts an object, and says whether it was not there.
    async fn create(&self, path: &Path, object: Bytes) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.store.put_opts(path, object.into(), options).await {
            Ok(_) => self.make_durable(path, 2).await.map(|()| true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(StoreError::of(error, "put", self.shown(path))),
        }
    }

    /// Puts an object in place of what is there: only for what can be made again, an index or a tail.
    ///
    /// # Errors
    /// [`StoreError::Settings`] for every other object; as of [`Self::put`].
    pub async fn replace(&self, name: &ObjectName, plain: Bytes) -> Result<(), StoreError> {
        if !name.is_derived() {
            return Err(StoreError::Settings { problem: format!("{} holds WAL: it is never replaced", self.url_of(name)) });
        }
        let sealed = self.seal(plain).await?;
        let path = self.path(name);
        self.retrying("put", &path, || async {
            let put = self.inner.store.put(&path, sealed.object.clone().into()).await;
            put.map_err(|error| StoreError::of(error, "put", self.shown(&path)))?;
            self.make_durable(&path, 2).await
        })
        .await
    }

    /// Deletes an object; where it is not there, all is well. What may be deleted is the caller's to know.
    ///
    /// # Errors
    /// By what the store says.
    pub async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let path = self.path(name);
        self.retrying("delete", &path, || async {
            match self.inner.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(StoreError::of(error, "delete", self.shown(&path))),
            }
        })
        .await
    }

    /// In a folder: syncs an object's file and all folders that lead to it, so that its name is as durable as its content. Where the
    /// library has just put it, it has synced the file and its folder: `but` the first two are left out then. The folders above may have
    /// been made by another process that has not synced them yet.
    async fn make_durable(&self, path: &Path, but: usize) -> Result<(), StoreError> {
        let Some(folder) = self.inner.folder.clone() else { return Ok(()) };
        let file = path.parts().fold(folder.clone(), |path, part| path.join(part.as_ref()));
        let synced = tokio::task::spawn_blocking(move || {
            let paths = file.ancestors().take_while(|path| path.starts_with(&folder)).skip(but);
            paths.map(std::fs::File::open).try_for_each(|file| file?.sync_all())
        });
        synced.await.map_err(std::io::Error::other).flatten().map_err(|error| StoreError::Retry {
            doing: "sync",
            object: self.shown(path),
            problem: error.to_string(),
        })
    }
}

/// Reading.
impl Archive {
    /// An object's plain content, checked; `None` only where it is proven not to be there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where it is not what was put, [`StoreError::Settings`] where its key or the whole archive is missing, and the
    /// others by what the store says.
    pub async fn get(&self, name: &ObjectName) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(name);
        let Some(object) = self.object(&path).await? else { return Ok(None) };
        let inner = Arc::clone(&self.inner);
        let opened = tokio::task::spawn_blocking(move || open(&object, &inner.options.keys));
        match opened.await {
            Ok(Ok((_, plain))) => Ok(Some(plain.into())),
            Ok(Err(error)) => Err(StoreError::of_open(error, self.shown(&path))),
            Err(error) => Err(StoreError::Retry { doing: "open", object: self.shown(&path), problem: error.to_string() }),
        }
    }

    /// Writes an object's plain content to what `make` gives, piece by piece, and gives that back when all was written and checked; `None`
    /// only where the object is proven not to be there, and `make` is not called then. What was written of an object that is damaged is the
    /// caller's to throw away.
    ///
    /// # Errors
    /// As of [`Self::get`]; [`GetError::Write`] where it can't be written.
    pub async fn get_into<W: Write + Send + 'static>(
        &self,
        name: &ObjectName,
        make: impl FnOnce() -> std::io::Result<W> + Send + 'static,
    ) -> Result<Option<W>, GetError> {
        let path = self.path(name);
        let Some(object) = self.object(&path).await? else { return Ok(None) };
        let inner = Arc::clone(&self.inner);
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut out = make().map_err(UnpackError::Write)?;
            unpack(&object, &inner.options.keys, &mut out).map(|_| out)
        });
        match unpacked.await {
            Ok(Ok(out)) => Ok(Some(out)),
            Ok(Err(UnpackError::Open(error))) => Err(StoreError::of_open(error, self.shown(&path)).into()),
            Ok(Err(UnpackError::Write(error))) => Err(GetError::Write(error)),
            Err(error) => Err(StoreError::Retry { doing: "open", object: self.shown(&path), problem: error.to_string() }.into()),
        }
    }

    /// An object as it is stored; `None` only where it is proven not to be there.
    async fn object(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        match self.retrying("get", path, || self.get_once(path)).await? {
            Some(object) => Ok(Some(object)),
            None => self.prove_absent().await.map(|()| None),
        }
    }

    async fn get_once(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let got = match self.inner.store.get(path).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(StoreError::of(error, "get", self.shown(path))),
        };
        let size = got.meta.size;
        let bytes = got.bytes().await.map_err(|error| StoreError::of(error, "get", self.shown(path)))?;
        if bytes.len() as u64 != size {
            // The connection was cut, and nobody said so.
            let problem = format!("{} of {size} bytes came", bytes.len());
            return Err(StoreError::Retry { doing: "get", object: self.shown(path), problem });
        }
        Ok(Some(bytes))
    }

    /// An object's header, without its content; `None` only where the object is proven not to be there. The object has the length that the
    /// header says.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn header(&self, name: &ObjectName) -> Result<Option<Header>, StoreError> {
        let path = self.path(name);
        match self.retrying("get", &path, || self.header_once(&path)).await? {
            Some(header) => Ok(Some(header)),
            None => self.prove_absent().await.map(|()| None),
        }
    }

    async fn header_once(&self, path: &Path) -> Result<Option<Header>, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { object: self.shown(path), problem };
        let options = GetOptions { range: Some(GetRange::Bounded(0..HEADER_BYTES as u64)), ..GetOptions::default() };
        let got = match self.inner.store.get_opts(path, options).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => {
                // No range lies in an empty object, and each store says so in words of its own.
                return match self.inner.store.head(path).await {
                    Ok(meta) if meta.size == 0 => Err(damaged("it is empty".to_owned())),
                    _ => Err(StoreError::of(error, "get", self.shown(path))),
                };
            }
        };
        let size = got.meta.size;
        let bytes = got.bytes().await.map_err(|error| StoreError::of(error, "get", self.shown(path)))?;
        let header = Header::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
        let header = header.ok_or_else(|| damaged(format!("it is cut off after {size} bytes")))?;
        if header.object_bytes() != size {
            return Err(damaged(format!("it has {size} bytes, its header says {}", header.object_bytes())));
        }
        if header.encryption == Encryption::None && !self.keys().take_plain() {
            return Err(StoreError::of_open(OpenError::Plain, self.shown(path)));
        }
        Ok(Some(header))
    }

    /// Makes sure that there is an archive, so that what was not found is not there.
    async fn prove_absent(&self) -> Result<(), StoreError> {
        if self.inner.proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = self.path(&ObjectName::Marker);
        let problem = match self.retrying("get", &path, || self.get_once(&path)).await? {
            Some(content) if content.trim_ascii() == MARKER.trim_ascii() => {
                self.inner.proven.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Some(_) => format!("{} is not of format 1, which this program knows: use a later one", self.shown(&path)),
            None => format!(
                "there is no archive at {}: its marker, {}, is not there. Look at --store (BEYOND_PG_ARCHIVE_STORE); a new archive is made \
                 by the first push, or by probe",
                self.url(),
                ObjectName::Marker
            ),
        };
        Err(StoreError::Settings { problem })
    }

    /// All objects of a cluster, or those of one of its timelines (segments, not histories), in the order of their paths.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn list(&self, system: SystemId, timeline: Option<Timeline>) -> Result<Listing, StoreError> {
        let folder = timeline.map_or_else(|| system.to_string(), |timeline| layout::timeline_folder(system, timeline));
        self.list_folder(&folder).await
    }

    /// The timeline histories of a cluster.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn list_histories(&self, system: SystemId) -> Result<Listing, StoreError> {
        self.list_folder(&layout::history_folder(system)).await
    }

    /// The tails of a segment, the shortest first.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn list_tails(&self, system: SystemId, segment: &SegmentName) -> Result<Listing, StoreError> {
        self.list_folder(&layout::tail_folder(system, segment)).await
    }

    async fn list_folder(&self, folder: &str) -> Result<Listing, StoreError> {
        let below = self.below(folder);
        let mut found: Vec<ObjectMeta> = Vec::new();
        loop {
            let after = found.last().map(|meta| meta.location.clone());
            let part = self.retrying("list", &below, || self.list_part(&below, after.as_ref())).await?;
            let is_last = part.len() < self.list_batch();
            if !is_last && !part.is_sorted_by(|a, b| a.location < b.location) {
                let problem =
                    format!("{} lists objects in no order: what is there can't be told for sure. Use another store", self.url());
                return Err(StoreError::Unsupported { problem });
            }
            found.extend(part);
            if is_last {
                break;
            }
        }
        self.prove_absent().await?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        let mut listing = Listing::default();
        for meta in found {
            let path = self.relative(&meta.location);
            match ObjectName::parse(&path) {
                Some(name) => listing.objects.push(Listed {
                    name,
                    stored_bytes: meta.size,
                    modified: PgTime::from_unix_micros(meta.last_modified.timestamp_micros()),
                }),
                None => listing.foreign.push(path),
            }
        }
        Ok(listing)
    }

    /// Up to [`Self::list_batch`] objects of a folder, those behind `after`.
    async fn list_part(&self, below: &Path, after: Option<&Path>) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = match after {
            Some(after) => self.inner.store.list_with_offset(Some(below), after),
            None => self.inner.store.list(Some(below)),
        };
        let part = listed.take(self.list_batch()).try_collect().await;
        part.map_err(|error| StoreError::of(error, "list", self.shown(below)))
    }

    /// How many objects one call lists, so that the time of a call is enough for any archive. A folder's have no order, and are listed at
    /// once.
    fn list_batch(&self) -> usize {
        if self.inner.folder.is_some() { usize::MAX } else { LIST_BATCH }
    }

    /// The clusters that have objects here.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn systems(&self) -> Result<Vec<SystemId>, StoreError> {
        let folders = self.folders(&self.inner.prefix).await?;
        Ok(folders.iter().filter_map(|name| layout::parse_system(name)).collect())
    }

    /// The timelines of a cluster that have segments here, in order.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn timelines(&self, system: SystemId) -> Result<Vec<Timeline>, StoreError> {
        let folders = self.folders(&self.below(&system.to_string())).await?;
        let mut timelines: Vec<_> = folders.iter().filter_map(|name| layout::parse_timeline(name)).collect();
        timelines.sort_unstable();
        Ok(timelines)
    }

    /// The names of the folders right below a path.
    async fn folders(&self, below: &Path) -> Result<Vec<String>, StoreError> {
        let listed = self
            .retrying("list", below, || async {
                let listed = self.inner.store.list_with_delimiter(Some(below)).await;
                listed.map_err(|error| StoreError::of(error, "list", self.shown(below)))
            })
            .await?;
        self.prove_absent().await?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename()).map(str::to_owned).collect())
    }

    /// A path of the store as one below the archive's prefix.
    fn relative(&self, path: &Path) -> String {
        let parts = path.prefix_match(&self.inner.prefix).into_iter().flatten();
        parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    }

    /// Where a path of the store is, to be shown.
    fn shown(&self, path: &Path) -> String {
        format!("{}/{}", self.inner.url, self.relative(path)).trim_end_matches('/').to_owned()
    }
}

/// 32 bytes of chance.
fn random() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
