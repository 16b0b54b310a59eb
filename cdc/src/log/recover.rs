//! What a folder holds after a stop of any kind, made whole and durable again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::watch;
use walbus::Position;
use walbus::disk::{Disk, DiskFile, is_full, write_whole};

use super::epoch::{EpochFile, remove_segments};
use super::index::{SegmentIndex, Summary};
use super::layout::{NO_TIME, SegmentHeader};
use super::names::{CUT_FILE, SPARE_PREFIX, TEMPORARY_SUFFIX, file_of, index_number, index_of, segment_number};
use super::reader::read_index;
use super::ring::Ring;
use super::scan::{Rest, SCAN_BYTES, Scanned, read_header, rest_of, scan};
use super::schemas::SchemaSet;
use super::state::{Place, Sealed, State};
use super::writer::{Complete, Spare, Tail, Writer, begin_segment};
use super::{Damage, Identity, OpenError, Settings, Shared};

/// A segment as it lies in the folder.
#[derive(Debug)]
struct Found<D: Disk> {
    file: Arc<D::File>,
    header: SegmentHeader,
}

pub(super) fn open<D: Disk>(
    disk: Arc<D>,
    settings: Settings,
    identity: &Identity,
) -> Result<(Arc<Shared<D>>, Writer<D>), OpenError> {
    let epoch = EpochFile::read(&*disk)?.ok_or(OpenError::NoLog)?;
    check_identity(&epoch.identity, identity)?;
    clear(&*disk, &epoch)?;
    let mut found = find_segments(&*disk, &epoch)?;
    let mut sealed = VecDeque::new();
    let tail = if let Some(last) = recover_last(&*disk, settings, &mut found)? {
        for segment in &found {
            sealed.push_back(sealed_segment(&*disk, settings, segment)?);
        }
        check_chain(sealed.iter().map(|sealed| &sealed.summary).chain([&last.index.summary]))?;
        last
    } else {
        first_segment(&*disk, settings, &epoch)?
    };
    let (complete, summary) = (tail.complete, tail.index.summary);
    let visible = Place { segment: summary.header.number, offset: summary.end };
    let state = State {
        head: complete.position,
        end_lsn: complete.end_lsn,
        visible,
        sealed,
        current: tail.index.clone(),
        current_bytes: tail.file.len().map_err(OpenError::io("read", &file_of(summary.header.number)))?,
        ring: Ring::new(complete.position, settings.ring_bytes),
    };
    let shared = Shared {
        disk,
        settings,
        epoch: epoch.epoch,
        system_id: epoch.identity.system_id,
        state: RwLock::new(state),
        head: watch::Sender::new(complete.position),
        large: Arc::default(),
        retaining: Mutex::new(()),
    };
    let shared = Arc::new(shared);
    let writer = Writer::new(Arc::clone(&shared), Tail { complete: Complete { place: visible, ..complete }, ..tail });
    Ok((shared, writer))
}

fn check_identity(held: &Identity, wanted: &Identity) -> Result<(), OpenError> {
    if held.system_id != wanted.system_id {
        return Err(OpenError::OtherCluster { held: held.system_id, wanted: wanted.system_id });
    }
    if held.slot != wanted.slot {
        return Err(OpenError::OtherSlot { held: held.slot.clone(), wanted: wanted.slot.clone() });
    }
    Ok(())
}

/// Removes what a stop has left: spares, of which it is not known whether their zeros are durable, small files that were not whole, the epoch
/// before, and indexes without their segment.
fn clear<D: Disk>(disk: &D, epoch: &EpochFile) -> Result<(), OpenError> {
    if epoch.retired != epoch.epoch {
        remove_segments(disk, |of| of == Some(epoch.retired))?;
    }
    let files = disk.list().map_err(OpenError::io("list", "the folder"))?;
    let is_segment = |number| files.iter().any(|(name, _)| segment_number(name) == Some(number));
    for (name, _) in &files {
        let own = name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|of| index_number(of).is_some()) || name == CUT_FILE;
        let orphan = index_number(name).is_some_and(|number| !is_segment(number));
        if own || orphan || name.starts_with(SPARE_PREFIX) {
            disk.remove(name).map_err(OpenError::io("remove", name))?;
        }
    }
    Ok(())
}

/// All segments of the epoch, oldest first.
fn find_segments<D: Disk>(disk: &D, epoch: &EpochFile) -> Result<Vec<Found<D>>, OpenError> {
    let files = disk.list().map_err(OpenError::io("list", "the folder"))?;
    let mut numbers: Vec<u64> = files.iter().filter_map(|(name, _)| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut found: Vec<Found<D>> = Vec::with_capacity(numbers.len());
    for number in numbers {
        if let Some(before) = found.last()
            && before.header.number + 1 != number
        {
            return Err(Damage::new(&file_of(before.header.number + 1), 0, "the file is missing").into());
        }
        let (file, header) = read_header(disk, number)?;
        if header.epoch != epoch.epoch {
            return Err(OpenError::OtherEpoch { file: file_of(number), held: header.epoch, wanted: epoch.epoch });
        }
        if header.system_id != epoch.identity.system_id {
            return Err(OpenError::OtherCluster { held: header.system_id, wanted: epoch.identity.system_id });
        }
        found.push(Found { file, header });
    }
    Ok(found)
}

/// Takes the last segment out of `found`, with everything up to the end of its last whole transaction durable, and nothing behind that.
///
/// A transaction that is not whole may have begun some segments before: those behind its begin are removed, the last one first, so that
/// however often this is cut short, it ends in the same place. `None` where there is no segment.
fn recover_last<D: Disk>(disk: &D, settings: Settings, found: &mut Vec<Found<D>>) -> Result<Option<Tail<D>>, OpenError> {
    while let Some(last) = found.pop() {
        let number = last.header.number;
        let name = file_of(number);
        let scanned = scan(&last.file, &last.header, settings.index_every_bytes, u64::MAX, |_, _, _, _| Ok(()))?;
        let rest = rest_of(&last.file, number, scanned.end()).map_err(OpenError::io("read", &name))?;
        if let Rest::Damage(behind) = rest {
            let reason = scanned.stopped_by.map_or_else(|| "it is zeros".to_owned(), |error| error.to_string());
            let reason = format!("a record that was durable is gone, since that at {behind} was written behind it: {reason}");
            return Err(Damage::new(&name, scanned.end(), reason).into());
        }
        if let Some(cut) = whole_up_to(&scanned.index.summary) {
            // An index beside it was made when it was sealed: before segments behind it were removed.
            remove_if_there(disk, &index_of(number))?;
            return make_durable(disk, settings, last, scanned, cut, rest).map(Some);
        }
        if found.is_empty() {
            let reason = "it begins within a transaction that does not end in it, and the segment before it is missing";
            return Err(Damage::new(&name, 0, reason).into());
        }
        remove_if_there(disk, &index_of(number))?;
        disk.remove(&name).map_err(OpenError::io("remove", &name))?;
        disk.sync_dir().map_err(OpenError::io("sync", "the folder"))?;
    }
    Ok(None)
}

/// The offset behind the last whole transaction, `None` where the segment holds no end of one, and begins within one.
fn whole_up_to(summary: &Summary) -> Option<u64> {
    let header = &summary.header;
    match summary.complete_at {
        0 if header.before == header.complete => Some(header.batches_at),
        0 => None,
        offset => Some(offset),
    }
}

fn make_durable<D: Disk>(
    disk: &D,
    settings: Settings,
    segment: Found<D>,
    scanned: Scanned,
    cut: u64,
    rest: Rest,
) -> Result<Tail<D>, OpenError> {
    let name = file_of(segment.header.number);
    let failed = OpenError::io("write", &name);
    let (file, scanned) = if cut == scanned.end() && rest == Rest::Zeros {
        // A process that was killed may have left what is written and not durable; and of what a failed fsync has dropped, the kernel may
        // hold pages that it takes for clean. The same bytes once more, and one fsync, settle both.
        copy(&*segment.file, &*segment.file, scanned.durable.min(cut), cut).and_then(|()| segment.file.sync()).map_err(failed)?;
        (segment.file, scanned)
    } else {
        // Never overwritten in place: half of that could look like damage. The part that is whole goes into a file that takes the name.
        let file = disk.create_zeroed(CUT_FILE, settings.segment_bytes.max(cut)).map_err(failed)?;
        copy(&*segment.file, &file, 0, cut).and_then(|()| file.sync()).map_err(failed)?;
        disk.rename(CUT_FILE, &name).and_then(|()| disk.sync_dir()).map_err(failed)?;
        let file = Arc::new(file);
        let scanned = scan(&file, &segment.header, settings.index_every_bytes, u64::MAX, |_, _, _, _| Ok(()))?;
        (file, scanned)
    };
    assert_eq!((scanned.end(), scanned.stopped_by), (cut, None), "what was cut reads as what was kept");
    let Summary { complete, complete_end_lsn, .. } = scanned.index.summary;
    let complete = Complete { position: complete, end_lsn: complete_end_lsn, place: Place::default() };
    Ok(Tail { file, index: scanned.index, schemas: scanned.schemas, complete })
}

fn copy<F: DiskFile>(from: &F, to: &F, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; SCAN_BYTES];
    let mut at = start;
    while at < end {
        let len = usize::try_from(end - at).map_or(SCAN_BYTES, |left| left.min(SCAN_BYTES));
        let piece = &mut buffer[..len];
        if from.read_at(piece, at)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(piece, at)?;
        at += len as u64;
    }
    Ok(())
}

fn remove_if_there<D: Disk>(disk: &D, name: &str) -> Result<(), OpenError> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(OpenError::io("remove", name)(error)),
        _ => Ok(()),
    }
}

/// What is known of a sealed segment: by its index, which is made again where it is missing or wrong.
fn sealed_segment<D: Disk>(disk: &D, settings: Settings, segment: &Found<D>) -> Result<Sealed, OpenError> {
    let Found { file, header } = segment;
    let name = file_of(header.number);
    let file_bytes = file.len().map_err(OpenError::io("read", &name))?;
    let beside = read_index(disk, header.number)?;
    if let Some(index) = beside.and_then(|bytes| SegmentIndex::parse(&bytes, header)) {
        return Ok(Sealed { summary: index.summary, file_bytes, index: None });
    }
    let scanned = scan(file, header, settings.index_every_bytes, u64::MAX, |_, _, _, _| Ok(()))?;
    if let Some(error) = scanned.stopped_by {
        return Err(Damage::new(&name, scanned.end(), error).into());
    }
    let written = write_whole(disk, &index_of(header.number), &scanned.index.encode());
    // A full disk keeps nobody from reading: the index stays in memory then.
    let index = match written {
        Ok(()) => None,
        Err(error) if is_full(&error) => Some(Arc::new(scanned.index.clone())),
        Err(error) => return Err(OpenError::io("write", &index_of(header.number))(error)),
    };
    Ok(Sealed { summary: scanned.index.summary, file_bytes, index })
}

/// Proves that each segment begins where the one before it ends.
pub(super) fn check_chain<'a>(summaries: impl Iterator<Item = &'a Summary>) -> Result<(), Damage> {
    let mut before: Option<&Summary> = None;
    for summary in summaries {
        if let Some(before) = before {
            let ends = (before.last, before.complete, before.complete_end_lsn, before.header.time_max.max(before.time_max));
            let header = &summary.header;
            let begins = (header.before, header.complete, header.complete_end_lsn, header.time_max);
            if ends != begins {
                let reason = format!("it ends at {}, and the segment behind it begins at {}", before.last, header.before);
                return Err(Damage::new(&file_of(before.header.number), before.end, reason));
            }
        }
        before = Some(summary);
    }
    Ok(())
}

/// The first segment of an epoch.
fn first_segment<D: Disk>(disk: &D, settings: Settings, epoch: &EpochFile) -> Result<Tail<D>, OpenError> {
    let position = Position { commit_lsn: epoch.start_lsn, ordinal: 0 };
    let header = SegmentHeader {
        epoch: epoch.epoch,
        system_id: epoch.identity.system_id,
        number: 1,
        before: position,
        complete: position,
        complete_end_lsn: epoch.start_lsn,
        time_max: NO_TIME,
        batches_at: 0,
    };
    let name = format!("{SPARE_PREFIX}0");
    let first = file_of(1);
    let failed = OpenError::io("write", &first);
    let file = disk.create_zeroed(&name, settings.segment_bytes).map_err(failed)?;
    let schemas = SchemaSet::default();
    let (file, header, _) = begin_segment(disk, Spare { name, file }, header, &schemas).map_err(failed)?;
    let complete = Complete { position, end_lsn: epoch.start_lsn, place: Place::default() };
    Ok(Tail { file, index: SegmentIndex::new(header), schemas, complete })
}
