//! What an archive holds of one cluster, read from its store as it is needed.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use walbus::archive::index::SegmentIndex;
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, StoreError};
use walbus::pgdata::BackupHistory;
use walbus::proto::history::History;
use walbus::proto::wal::PageHeader;
use walbus::{Segment, SegmentSize, SystemId, Timeline};

use crate::fetch::complete_end;
use crate::plan::{Chain, Held, Inventory, Link};

/// How many small objects are asked for at once.
const REQUESTS: usize = 32;

/// How many segments are kept in memory: reading goes back by one where a record lies on both sides of a boundary.
const KEPT: usize = 4;

/// What an archive holds of one cluster.
#[derive(Debug)]
pub struct Holdings {
    archive: Archive,
    inventory: Inventory,
    /// Paths below the cluster's folder that are none of an archive's.
    foreign: Vec<String>,
    /// A data folder's `pg_wal`, for segments that are there alone.
    folder: Option<PathBuf>,
    recent: Mutex<VecDeque<(Link, Bytes)>>,
}

/// A base backup that the archive knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownBackup {
    /// The segment in which its replay starts, and how far into it, in bytes.
    pub at: (Segment, u32),
    /// What its backup history file says.
    pub history: BackupHistory,
}

impl Holdings {
    /// Reads the names of what is held of `system`, and its timeline histories.
    ///
    /// # Errors
    /// Where the store gives no answer, a history can't be read, or nothing is held of the cluster.
    pub async fn open(archive: Archive, system: SystemId, size: Option<SegmentSize>) -> anyhow::Result<Self> {
        let listing = archive.list(system, None).await.context("list the archive")?;
        let names: Vec<ObjectName> = listing.objects.into_iter().map(|object| object.name).collect();
        if names.is_empty() {
            bail!("{}", nothing_of(&archive, system).await);
        }
        let size = match size {
            Some(size) => size,
            None => segment_size(&archive, &names).await?,
        };
        let mut inventory = Inventory::new(system, size);
        for name in &names {
            inventory.add(name);
            if let ObjectName::History { timeline, .. } = name {
                let history = read_history(&archive, name, *timeline).await?;
                inventory.histories.insert(*timeline, history);
            }
        }
        inventory.beyond_partial = beyond_partial(&archive, &inventory).await?;
        Ok(Self { archive, inventory, foreign: listing.foreign, folder: None, recent: Mutex::default() })
    }

    /// Reads segments that a chain has from a folder there.
    #[must_use]
    pub fn with_folder(mut self, pg_wal: &Path) -> Self {
        self.folder = Some(pg_wal.to_owned());
        self
    }

    /// What is held, by names.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The store.
    #[must_use]
    pub const fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Paths below the cluster's folder that are none of an archive's.
    #[must_use]
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }

    /// Takes a history from elsewhere, where the archive has none of that timeline.
    pub fn learn(&mut self, history: History) {
        self.inventory.histories.entry(history.timeline()).or_insert(history);
    }

    /// The chain along a history.
    #[must_use]
    pub fn chain_along(&self, history: History) -> Chain {
        Chain::of(&self.inventory, history)
    }

    /// The chain that leads to `timeline`.
    ///
    /// # Errors
    /// Where the timeline's history is missing.
    pub fn chain(&self, timeline: Timeline) -> anyhow::Result<Chain> {
        Ok(Chain::of(&self.inventory, self.inventory.history(timeline)?))
    }

    /// A segment's bytes, as many as are held. Cancel-safe.
    ///
    /// # Errors
    /// Where they can't be had, or are not as many as they should be.
    pub async fn bytes(&self, link: &Link) -> anyhow::Result<Bytes> {
        if let Some(bytes) =
            self.recent.lock().ok().and_then(|recent| recent.iter().find(|kept| kept.0 == *link).map(|kept| kept.1.clone()))
        {
            return Ok(bytes);
        }
        let bytes = match self.object(link) {
            Some(name) => {
                let got =
                    self.archive.get(&name).await.with_context(|| format!("read segment {}", self.inventory.name(link.segment)))?;
                got.with_context(|| {
                    format!("{} was there a moment ago and is gone: is someone pruning?", self.archive.url_of(&name))
                })?
            }
            None => self.read_folder(link)?,
        };
        let expected = link.end(self.inventory.size).bytes_after(link.segment.start(self.inventory.size));
        ensure!(
            bytes.len() as u64 == expected,
            "segment {} has {} bytes in the archive, expected {expected}: run verify",
            self.inventory.name(link.segment),
            bytes.len()
        );
        if let Ok(mut recent) = self.recent.lock() {
            recent.push_back((*link, bytes.clone()));
            while recent.len() > KEPT {
                recent.pop_front();
            }
        }
        Ok(bytes)
    }

    /// The object that holds a segment, `None` where a folder does.
    #[must_use]
    pub fn object(&self, link: &Link) -> Option<ObjectName> {
        let (system, segment) = (self.inventory.system, self.inventory.name(link.segment));
        match link.held {
            Held::Folder | Held::FolderPart(_) => None,
            Held::Partial => Some(ObjectName::Partial { system, segment }),
            Held::Tail(end) => Some(ObjectName::Tail { system, segment, end }),
            Held::Whole => Some(ObjectName::Segment { system, segment }),
        }
    }

    fn read_folder(&self, link: &Link) -> anyhow::Result<Bytes> {
        let name = self.inventory.name(link.segment);
        let folder = self.folder.as_deref().with_context(|| format!("segment {name} is in no folder"))?;
        let path = folder.join(name.as_str());
        let mut content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        if let Held::FolderPart(end) = link.held {
            content.truncate(usize::try_from(end.bytes_after(link.segment.start(self.inventory.size))).unwrap_or(usize::MAX));
        }
        Ok(content.into())
    }

    /// What is in each of these segments; `None` for a whole one without an index, and one in a folder. Those that are still being filled
    /// are read.
    ///
    /// # Errors
    /// Where the store gives no answer. An index that can't be read counts as missing: `verify --repair` makes it anew.
    pub async fn indexes(&self, links: &[Link]) -> anyhow::Result<Vec<Option<SegmentIndex>>> {
        stream::iter(links.iter().map(|link| self.index(*link))).buffered(REQUESTS).try_collect().await
    }

    /// The same, where each index is of the very bytes that are held: an index of others counts for nothing, and the segment is read.
    ///
    /// # Errors
    /// As of [`Self::indexes`], and where such a segment can't be read.
    pub async fn proven_indexes(&self, links: &[Link]) -> anyhow::Result<Vec<Option<SegmentIndex>>> {
        stream::iter(links.iter().map(|link| self.proven_index(*link))).buffered(REQUESTS).try_collect().await
    }

    async fn proven_index(&self, link: Link) -> anyhow::Result<Option<SegmentIndex>> {
        let Some(index) = self.index(link).await? else { return Ok(None) };
        let Some(name) = self.object(&link).filter(|_| link.held == Held::Whole) else { return Ok(Some(index)) };
        let header = self.archive.header(&name).await.context("read a segment's header")?;
        if header.is_some_and(|header| header.plain_sha256 == index.sha256) {
            return Ok(Some(index));
        }
        let bytes = self.bytes(&link).await?;
        Ok(Some(SegmentIndex::of(self.inventory.system, link.segment, self.inventory.size, &bytes)))
    }

    /// What is in a segment; see [`Self::indexes`].
    ///
    /// # Errors
    /// As of [`Self::indexes`].
    pub async fn index(&self, link: Link) -> anyhow::Result<Option<SegmentIndex>> {
        let (system, size) = (self.inventory.system, self.inventory.size);
        match link.held {
            Held::Folder => Ok(None),
            Held::FolderPart(_) | Held::Partial | Held::Tail(_) => {
                let bytes = self.bytes(&link).await?;
                Ok(Some(SegmentIndex::of(system, link.segment, size, &bytes)))
            }
            Held::Whole if !self.inventory.indexes.contains(&link.segment) => Ok(None),
            Held::Whole => {
                let name = ObjectName::Index { system, segment: self.inventory.name(link.segment) };
                let json = match self.archive.get(&name).await {
                    Ok(Some(json)) => json,
                    // The segment has all that was in it.
                    Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(None),
                    Err(error) => return Err(error).context("read an index"),
                };
                let index = SegmentIndex::parse(&json).ok();
                Ok(index.filter(|index| {
                    index.system == system && index.timeline == link.segment.timeline && index.start == link.segment.start(size)
                }))
            }
        }
    }

    /// The base backups that the archive knows of, by the backup history files that Postgres archives. Snapshots leave none.
    ///
    /// # Errors
    /// Where the store gives no answer or one can't be read.
    pub async fn backups(&self) -> anyhow::Result<Vec<KnownBackup>> {
        stream::iter(self.inventory.backups.iter().map(|at| self.backup(*at))).buffered(REQUESTS).try_collect().await
    }

    async fn backup(&self, at: (Segment, u32)) -> anyhow::Result<KnownBackup> {
        let name = ObjectName::Backup { system: self.inventory.system, segment: self.inventory.name(at.0), offset: at.1 };
        let text = self.archive.get(&name).await.context("read a backup history file")?;
        let text = text.with_context(|| format!("{} was there a moment ago and is gone", self.archive.url_of(&name)))?;
        let history = BackupHistory::parse(&String::from_utf8_lossy(&text))
            .with_context(|| format!("read {}", self.archive.url_of(&name)))?;
        Ok(KnownBackup { at, history })
    }
}

async fn read_history(archive: &Archive, name: &ObjectName, timeline: Timeline) -> anyhow::Result<History> {
    let text = archive.get(name).await.context("read a timeline history")?;
    let text = text.with_context(|| format!("{} was there a moment ago and is gone", archive.url_of(name)))?;
    Ok(History::parse(timeline, &text)?)
}

/// The segments whose longest tail reaches further than their `.partial`. Few have both.
async fn beyond_partial(archive: &Archive, inventory: &Inventory) -> anyhow::Result<BTreeSet<Segment>> {
    let (system, size) = (inventory.system, inventory.size);
    let mut beyond = BTreeSet::new();
    for segment in inventory.partial.iter().filter(|segment| !inventory.whole.contains(segment)) {
        let Some(end) = inventory.tails.get(segment).and_then(|ends| ends.last().copied()) else { continue };
        let name = inventory.name(*segment);
        let partial = ObjectName::Partial { system, segment: name.clone() };
        let tail = ObjectName::Tail { system, segment: name, end };
        let (partial, tail) = match (archive.get(&partial).await, archive.get(&tail).await) {
            // Which of them is damaged is told by who reads it, and `verify` must get so far.
            (Err(StoreError::Damaged { .. }), _) | (_, Err(StoreError::Damaged { .. })) => continue,
            (partial, tail) => (partial.context("read a .partial")?, tail.context("read a tail")?),
        };
        if let (Some(partial), Some(tail)) = (partial, tail)
            && complete_end(&tail, *segment, size) > complete_end(&partial, *segment, size)
        {
            beyond.insert(*segment);
        }
    }
    Ok(beyond)
}

/// The size of the cluster's segments: any whole one has it.
async fn segment_size(archive: &Archive, names: &[ObjectName]) -> anyhow::Result<SegmentSize> {
    let is_full = |name: &&ObjectName| matches!(name, ObjectName::Partial { .. } | ObjectName::Segment { .. });
    let mut damaged = None;
    // From the newest on: what can't be read of old ones is told by who reads them.
    for name in names.iter().rev().filter(is_full) {
        match archive.header(name).await {
            Ok(Some(header)) => {
                return SegmentSize::new(header.plain_bytes).with_context(|| format!("the length of {}", archive.url_of(name)));
            }
            Err(error @ StoreError::Damaged { .. }) => damaged = Some(error),
            Ok(None) => bail!("{} is gone", archive.url_of(name)),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(damaged) = damaged {
        return Err(damaged.into());
    }
    let Some(name) = names.iter().find(|name| matches!(name, ObjectName::Tail { .. })) else {
        bail!("the archive holds no segment of this cluster yet")
    };
    let bytes = archive.get(name).await?.with_context(|| format!("{} is gone", archive.url_of(name)))?;
    let long = PageHeader::parse(&bytes)
        .and_then(|header| header.long)
        .with_context(|| format!("{} has no page", archive.url_of(name)))?;
    Ok(SegmentSize::new(long.segment_bytes.into())?)
}

async fn nothing_of(archive: &Archive, system: SystemId) -> String {
    let others = match archive.systems().await {
        Ok(systems) if systems.is_empty() => "it is empty".to_owned(),
        Ok(systems) => {
            let systems: Vec<String> = systems.iter().map(ToString::to_string).collect();
            format!("it has some of: {}", systems.join(", "))
        }
        Err(error) => error.to_string(),
    };
    format!("{} holds nothing of the cluster with system identifier {system} ({others}): check --store and --pgdata", archive.url())
}
