//! Puts what [`Received`] gives into the archive, several at once, and tries again where the store is away.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};
use walbus::archive::layout::ObjectName;
use walbus::archive::store::{Archive, Put, StoreError};
use walbus::clock::{Clock, SystemClock};
use walbus::{Lsn, Segment, SegmentSize, SystemId, WalFile};

use super::metrics::{Metrics, Uploaded};
use super::received::{Delete, Id, Received, Supersedes, Upload};
use crate::push;
use crate::serve::engine::Opener;
use crate::serve::outage::{Notice, Outage};

/// Whose WAL it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster {
    pub(super) system: SystemId,
    pub(super) size: SegmentSize,
}

/// What runs, and whether the store answers.
pub(super) struct Stow {
    open: Opener,
    archive: Archive,
    reopen: bool,
    pub(super) outage: Outage,
    clock: SystemClock,
    pub(super) metrics: Arc<Metrics>,
    work: JoinSet<(Id, Uploaded, anyhow::Result<()>)>,
    deleting: JoinSet<()>,
}

impl Stow {
    pub(super) fn new(open: Opener, clock: SystemClock, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let archive = open()?;
        let (work, deleting) = (JoinSet::new(), JoinSet::new());
        Ok(Self { open, archive, reopen: false, outage: Outage::default(), clock, metrics, work, deleting })
    }

    pub(super) const fn archive(&self) -> &Archive {
        &self.archive
    }

    pub(super) fn now(&self) -> std::time::Duration {
        self.clock.monotonic()
    }

    /// The time as Postgres counts it.
    pub(super) fn time(&self) -> walbus::PgTime {
        self.clock.now()
    }

    /// How many uploads run.
    pub(super) fn running(&self) -> usize {
        self.work.len()
    }

    /// Starts what is to be started.
    pub(super) fn turn(&mut self, received: &mut Received, cluster: Cluster) {
        let now = self.now();
        while let Some(notice) = self.outage.poll_notice(now) {
            match notice {
                Notice::Began(reason) => warn!(reason, "the store does not answer as it should; the slot keeps WAL on the server"),
                Notice::Ended(after) => info!(after_s = after.as_secs(), "the store answers again"),
                Notice::Lasts(time, reason) => {
                    error!(
                        for_s = time.as_secs(),
                        reason, "the store still does not answer as it should; the slot keeps WAL on the server"
                    );
                }
            }
        }
        if std::mem::take(&mut self.reopen) {
            match (self.open)() {
                Ok(archive) => self.archive = archive,
                Err(error) => warn!("the archive's settings can't be read again: {error:#}"),
            }
        }
        while let Some((id, upload)) = received.poll_upload(now, &self.outage) {
            let archive = self.archive.clone();
            let uploaded = Uploaded::of(&upload);
            self.work.spawn(async move { (id, uploaded, Box::pin(put(&archive, cluster, upload)).await) });
        }
        while self.deleting.try_join_next().is_some() {}
        while let Some(superseded) = received.poll_delete() {
            let archive = self.archive.clone();
            self.deleting.spawn(async move {
                if let Err(error) = Box::pin(delete(&archive, cluster, superseded)).await {
                    // It holds nothing that is not elsewhere, and the segment's end takes it along.
                    warn!(%error, "a superseded tail can't be deleted now");
                }
            });
        }
    }

    /// Waits for an upload to end, and takes it in; never, while none runs. Cancellation-safe.
    ///
    /// # Errors
    /// What must not be gone on after: other content under the same name, or WAL that is none.
    pub(super) async fn stored(&mut self, received: &mut Received) -> anyhow::Result<()> {
        let Some(joined) = self.work.join_next().await else { return std::future::pending().await };
        let (id, uploaded, put) = joined.context("an upload died")?;
        let now = self.now();
        let error = match put {
            Ok(()) => {
                self.metrics.uploaded(&uploaded);
                self.outage.handle_answer(now);
                received.handle_uploaded(id, true);
                return Ok(());
            }
            Err(error) => error.downcast::<StoreError>()?,
        };
        self.metrics.failed(&error);
        if matches!(error, StoreError::Conflict { .. } | StoreError::Damaged { .. }) {
            return Err(error).context("nothing more is archived from this server");
        }
        self.outage.handle_failure(now, &error.to_string(), crate::serve::chance());
        self.reopen |= !error.is_retry();
        received.handle_uploaded(id, false);
        Ok(())
    }

    /// Waits for what is being deleted.
    pub(super) async fn finish(&mut self) {
        while self.deleting.join_next().await.is_some() {}
    }
}

impl std::fmt::Debug for Stow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stow").field("outage", &self.outage).finish_non_exhaustive()
    }
}

async fn put(archive: &Archive, cluster: Cluster, upload: Upload) -> anyhow::Result<()> {
    let Cluster { system, size } = cluster;
    let (file, content) = match upload {
        Upload::History(timeline, content) => (WalFile::History(timeline).name(), content),
        Upload::Segment(segment, content) => (segment.name(size).to_string(), content),
        Upload::Tail(segment, end, content, supersedes) => {
            let name = ObjectName::Tail { system, segment: segment.name(size), end };
            match archive.put(&name, content.clone()).await {
                // A record that was never whole has become another one. All that are whole were compared before.
                Err(StoreError::Conflict { .. }) => archive.replace(&name, content).await?,
                put => drop(put?),
            }
            if supersedes == Supersedes::Longer {
                delete_longer(archive, cluster, segment, end).await?;
            }
            debug!(tail = %name, "stored");
            return Ok(());
        }
    };
    let put = push::archive_file(&checked(&file, content, cluster)?, archive).await?;
    if put == Put::Created {
        info!(file, "stored");
    } else {
        debug!(file, "was there");
    }
    Ok(())
}

/// Deletes the tails of a segment that end behind `end`, where one that ends there is stored and has all that is complete in them.
async fn delete_longer(archive: &Archive, cluster: Cluster, segment: Segment, end: Lsn) -> Result<(), StoreError> {
    for tail in archive.list_tails(cluster.system, &segment.name(cluster.size)).await?.objects {
        if matches!(tail.name, ObjectName::Tail { end: of, .. } if of > end) {
            archive.delete(&tail.name).await?;
        }
    }
    Ok(())
}

fn checked(file: &str, content: Bytes, cluster: Cluster) -> anyhow::Result<push::File> {
    push::File::check(file, content, cluster.system, cluster.size).with_context(|| format!("what the server sent as {file}"))
}

async fn delete(archive: &Archive, cluster: Cluster, superseded: Delete) -> Result<(), StoreError> {
    let Cluster { system, size } = cluster;
    match superseded {
        Delete::AllTails(segment) => {
            for tail in archive.list_tails(system, &segment.name(size)).await?.objects {
                archive.delete(&tail.name).await?;
            }
            Ok(())
        }
        Delete::Tail(segment, end) => archive.delete(&ObjectName::Tail { system, segment: segment.name(size), end }).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Timeline;
    use walbus::archive::store::Options;

    #[tokio::test]
    async fn of_tails_that_were_torn_none_is_left_that_is_longer() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(&format!("file://{}", folder.path().display()), Options::new([])).unwrap();
        archive.probe().await.unwrap();
        let cluster = Cluster { system: SystemId(7), size: SegmentSize::MIN };
        let segment = Segment { number: 4, timeline: Timeline::FIRST };
        let at = |offset: u64| Lsn(4 * cluster.size.bytes() + offset);
        let tail = |offset, supersedes| Upload::Tail(segment, at(offset), Bytes::from(vec![1; 50]), supersedes);
        for offset in [20, 30, 40] {
            put(&archive, cluster, tail(offset, Supersedes::Nothing)).await.unwrap();
        }
        let ends = async || {
            let tails = archive.list_tails(cluster.system, &segment.name(cluster.size)).await.unwrap().objects;
            let end = |name| if let ObjectName::Tail { end, .. } = name { end } else { panic!("{name}") };
            tails.into_iter().map(|listed| end(listed.name)).collect::<Vec<_>>()
        };
        assert_eq!(ends().await, [at(20), at(30), at(40)]);
        put(&archive, cluster, tail(25, Supersedes::Longer)).await.unwrap();
        assert_eq!(ends().await, [at(20), at(25)]);
    }
}
