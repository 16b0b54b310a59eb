//! Segments and their indexes.

use std::collections::BTreeSet;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use walbus::archive::index::{SegmentIndex, join};
use walbus::archive::store::StoreError;
use walbus::proto::wal::{Decoder, Record};
use walbus::{Segment, Timeline};

use super::{Check, progress};
use crate::plan::{Chain, Held, Link};

/// Looks whether each of these segments has an index that is of it, and that fits the one before. Makes those that are missing where that
/// is wanted.
pub(super) async fn check_indexes(check: &mut Check<'_>, chains: &[Chain], segments: &BTreeSet<Segment>) -> anyhow::Result<()> {
    let mut all: BTreeSet<Segment> = segments.clone();
    // Those before them as well, to see that they fit.
    all.extend(segments.iter().filter_map(|segment| Some(Segment { number: segment.number.checked_sub(1)?, ..*segment })));
    all.retain(|segment| check.holdings.inventory().whole.contains(segment));
    let links: Vec<Link> = all.iter().map(|segment| Link { segment: *segment, held: Held::Whole }).collect();
    let mut indexes = check.holdings.indexes(&links).await?;
    for (at, link) in links.iter().enumerate() {
        if !segments.contains(&link.segment) {
            continue;
        }
        let header = check.holdings.archive().header(&check.object(link.segment)).await?;
        let is_of_it = |index: &SegmentIndex| header.as_ref().is_some_and(|header| header.plain_sha256 == index.sha256);
        if !indexes[at].as_ref().is_some_and(is_of_it) {
            indexes[at] = if check.args.repair { Some(make(check, link).await?) } else { None };
        }
        match &indexes[at] {
            None => check.index_wrong(link.segment),
            Some(index) => {
                if let Some(invalid) = &index.invalid {
                    check.damage(link.segment, format!("no valid WAL at {}: {}", invalid.at, invalid.reason));
                }
            }
        }
    }
    for chain in chains {
        fit(check, chain, &links, &indexes);
    }
    Ok(())
}

/// Whether what goes out of a segment comes into the next, along a chain.
fn fit(check: &mut Check<'_>, chain: &Chain, links: &[Link], indexes: &[Option<SegmentIndex>]) {
    let index = |link: &Link| links.iter().position(|known| known.segment == link.segment).and_then(|at| indexes[at].as_ref());
    let chained: Vec<&Link> = chain.links().collect();
    for pair in chained.windows(2) {
        let [before, after] = pair else { continue };
        if before.segment.number + 1 != after.segment.number {
            continue;
        }
        let (Some(first), Some(second)) = (index(before), index(after)) else { continue };
        let problem = match &first.tail {
            Some(tail) => join(tail, second).err().map(|error| error.to_string()),
            None if second.head.is_some()
                && first.head.as_ref().is_none_or(|head| head.end.is_some())
                && first.invalid.is_none() =>
            {
                Some("it goes on with a record that the segment before does not begin".to_owned())
            }
            None => None,
        };
        if let Some(problem) = problem {
            check.damage(after.segment, problem);
        }
    }
}

/// Makes a segment's index.
async fn make(check: &mut Check<'_>, link: &Link) -> anyhow::Result<SegmentIndex> {
    let bytes = check.holdings.bytes(link).await?;
    let inventory = check.holdings.inventory();
    let index = SegmentIndex::of(inventory.system, link.segment, inventory.size, &bytes);
    put(check, link.segment, &index).await?;
    Ok(index)
}

async fn put(check: &mut Check<'_>, segment: Segment, index: &SegmentIndex) -> anyhow::Result<()> {
    let name = check.index_object(segment);
    check.holdings.archive().replace(&name, index.encode()?.into()).await.with_context(|| format!("write {name}"))?;
    check.report.index_repaired += 1;
    Ok(())
}

/// Reads every one of these segments, along the chains that they are on: hash, records, index.
pub(super) async fn check(check: &mut Check<'_>, chains: &[Chain], segments: &BTreeSet<Segment>) -> anyhow::Result<()> {
    let bar = progress(segments.len());
    let mut left = segments.clone();
    for chain in chains {
        // The one before each: a record may begin there.
        let wanted = |link: &&Link| {
            let next = |number| left.iter().any(|segment| segment.number == number);
            left.contains(&link.segment) || link.held == Held::Whole && next(link.segment.number + 1)
        };
        let links: Vec<Link> = chain.links().filter(wanted).copied().collect();
        let mut reader = Reader { timeline: chain.timeline(), decoder: None };
        let holdings = check.holdings;
        let contents = stream::iter(links.iter().map(|link| async move {
            let object = holdings.object(link).context("a segment of the archive")?;
            Ok::<_, anyhow::Error>((link, holdings.archive().get(&object).await))
        }));
        let mut contents = std::pin::pin!(contents.buffered(check.args.jobs.into()));
        while let Some(got) = contents.next().await {
            let (link, got) = got?;
            let is_new = left.remove(&link.segment);
            bar.inc(u64::from(is_new));
            match got {
                Ok(Some(bytes)) => reader.take(check, link, &bytes, is_new).await?,
                Ok(None) => reader.decoder = None,
                Err(StoreError::Damaged { problem, .. }) => {
                    reader.decoder = None;
                    check.damage(link.segment, problem);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Follows the records of a chain.
struct Reader {
    timeline: Timeline,
    decoder: Option<Decoder>,
}

impl Reader {
    async fn take(&mut self, check: &mut Check<'_>, link: &Link, bytes: &Bytes, is_new: bool) -> anyhow::Result<()> {
        let inventory = check.holdings.inventory();
        let (system, size) = (inventory.system, inventory.size);
        let start = link.segment.start(size);
        let goes_on = self.decoder.take().filter(|decoder| decoder.position() == start);
        let mut decoder = match goes_on {
            Some(decoder) => decoder,
            None => Decoder::new(size, start, self.timeline)?.with_system(system),
        };
        match decoder.push(bytes, &mut |_: &Record| {}) {
            Ok(()) => self.decoder = Some(decoder),
            // Of one that is not whole, the end is where its records end.
            Err(_) if link.held != Held::Whole => {}
            Err(error) => check.damage(link.segment, error.to_string()),
        }
        if is_new && link.held == Held::Whole {
            let index = SegmentIndex::of(system, link.segment, size, bytes);
            if check.holdings.index(*link).await?.as_ref() != Some(&index) {
                if check.args.repair {
                    put(check, link.segment, &index).await?;
                } else {
                    check.index_wrong(link.segment);
                }
            }
        }
        Ok(())
    }
}
