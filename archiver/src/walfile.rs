//! Whether a file is what its name says: asked before it is put into the archive, and again when it comes back. Pure.

use walbus::archive::layout::ObjectName;
use walbus::proto::history::{History, HistoryError};
use walbus::proto::wal::{MAX_RECORD_BYTES, PAGE_BYTES, PageHeader, RECORD_HEADER_BYTES, Scan};
use walbus::{Lsn, Segment, SegmentName, SegmentSize, SystemId};

/// The longest backup history file; Postgres' own have a few hundred bytes.
const BACKUP_BYTES_MAX: usize = 64 << 10;

/// A file that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalFileError {
    /// A backup history file is empty, or far too long.
    #[error("it has {0} bytes, which no backup history file has")]
    Backup(usize),
    /// A timeline history is none.
    #[error("it is no timeline history: {0}")]
    History(#[from] HistoryError),
    /// The name is for another segment size.
    #[error("its name is of no segment of {0}, the cluster's wal_segment_size")]
    Name(SegmentSize),
    /// Its first page is none.
    #[error("its first page is none of Postgres 15 to 18: magic number {found:#06X}")]
    Page {
        /// The magic number.
        found: u16,
    },
    /// Its first page is another segment's.
    #[error("its first page is at {found}, its name says {expected}: it is another segment, perhaps one that was recycled")]
    PageAddress {
        /// Where the segment of that name starts.
        expected: Lsn,
        /// What the page says.
        found: Lsn,
    },
    /// It is a part of a segment, filled up with zeros.
    #[error(
        "it is no whole segment: its WAL ends at {end}, and zeros follow without a segment switch, as where fetch gave a part of it. It is \
         archived once WAL has filled it"
    )]
    Part {
        /// The end of its last complete record.
        end: Lsn,
    },
    /// It is cut off, or has grown.
    #[error("it has {found} bytes, the cluster's segments have {expected}")]
    Size {
        /// The segment size.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// It is another cluster's.
    #[error("it is of the cluster {found}, not of {expected}")]
    System {
        /// The cluster of the data folder.
        expected: SystemId,
        /// The cluster of the first page.
        found: SystemId,
    },
    /// It is of a later timeline than its name.
    #[error("its first page is of timeline {found}, later than its name says")]
    Timeline {
        /// What the page says.
        found: u32,
    },
}

/// A file of Postgres, checked: what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalFile {
    /// A backup history file.
    Backup,
    /// A timeline history.
    History(History),
    /// A timeline's last segment, not full.
    Partial(Segment),
    /// A whole segment.
    Segment(Segment),
}

/// Checks that `content` is the file that `name` says, of the cluster `system` with segments of `size`.
///
/// # Errors
/// Where it is another.
pub fn check(name: &ObjectName, content: &[u8], system: SystemId, size: SegmentSize) -> Result<WalFile, WalFileError> {
    match name {
        ObjectName::Segment { segment, .. } => check_segment(segment, content, system, size).map(WalFile::Segment),
        ObjectName::Partial { segment, .. } => check_segment(segment, content, system, size).map(WalFile::Partial),
        ObjectName::History { timeline, .. } => Ok(WalFile::History(History::parse(*timeline, content)?)),
        ObjectName::Backup { .. } | ObjectName::Index { .. } | ObjectName::Marker | ObjectName::Tail { .. } => {
            if content.is_empty() || content.len() > BACKUP_BYTES_MAX {
                Err(WalFileError::Backup(content.len()))
            } else {
                Ok(WalFile::Backup)
            }
        }
    }
}

fn check_segment(name: &SegmentName, content: &[u8], system: SystemId, size: SegmentSize) -> Result<Segment, WalFileError> {
    check_fetched(name, content, content.len() as u64, system, size)
}

/// Checks a segment of `bytes` bytes by its start, as [`check`] does: for one that is not in memory.
///
/// # Errors
/// Where it is another.
pub fn check_fetched(
    name: &SegmentName,
    start: &[u8],
    bytes: u64,
    system: SystemId,
    size: SegmentSize,
) -> Result<Segment, WalFileError> {
    if bytes != size.bytes() {
        return Err(WalFileError::Size { expected: size.bytes(), found: bytes });
    }
    check_start(name, start, system, size)
}

/// Checks that a segment, checked already, is no part that was filled up with zeros. WAL that is invalid in another way passes.
///
/// # Errors
/// [`WalFileError::Part`].
pub fn check_whole(segment: Segment, content: &[u8], size: SegmentSize) -> Result<(), WalFileError> {
    let zeros = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if zeros == content.len() {
        return Ok(());
    }
    let start = segment.start(size);
    let Ok(mut scan) = Scan::new(size, start, segment.timeline) else { return Ok(()) };
    scan.feed(content, &mut |_| ());
    let found = scan.finish();
    let Some(stopped) = &found.reason else { return Ok(()) };
    // A switch that begins in the segment before is no more here than its last bytes.
    let header = PageHeader::parse(content);
    if found.last_record.is_none() && header.is_some_and(|header| header.is_contrecord() && header.remaining < RECORD_HEADER_BYTES)
    {
        return Ok(());
    }
    let at = usize::try_from(stopped.lsn.bytes_after(start)).unwrap_or(usize::MAX);
    let is_part = if stopped.is_unwritten() {
        zeros <= at
    } else {
        // Torn within its last record: nothing is written behind where that was to end.
        let page = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
        zeros <= record_end(content, at) && content.len() - zeros >= page
    };
    if is_part { Err(WalFileError::Part { end: found.complete_end }) } else { Ok(()) }
}

/// Where the record at offset `at` ends, by the length that it says it has.
fn record_end(content: &[u8], at: usize) -> usize {
    let bytes = content.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let page = u64::from(PAGE_BYTES);
    let (mut left, mut at) = (u64::from(bytes.clamp(RECORD_HEADER_BYTES, MAX_RECORD_BYTES)), at as u64);
    // Each page that it goes on to has a header of 24 bytes first.
    while at % page + left > page {
        left -= page - at % page;
        at = at - at % page + page + 24;
    }
    usize::try_from(at + left).unwrap_or(usize::MAX)
}

/// Checks the first page alone: for the start of a segment.
///
/// # Errors
/// Where it is not the start of that segment.
pub fn check_start(name: &SegmentName, content: &[u8], system: SystemId, size: SegmentSize) -> Result<Segment, WalFileError> {
    let segment = name.segment(size).ok_or(WalFileError::Name(size))?;
    let header =
        PageHeader::parse(content).ok_or_else(|| WalFileError::Size { expected: size.bytes(), found: content.len() as u64 })?;
    let long = header.long.filter(|long| header.version().is_some() && long.page_bytes == PAGE_BYTES);
    let long = long.ok_or(WalFileError::Page { found: header.magic })?;
    if long.system != system {
        return Err(WalFileError::System { expected: system, found: long.system });
    }
    if u64::from(long.segment_bytes) != size.bytes() {
        return Err(WalFileError::Size { expected: size.bytes(), found: long.segment_bytes.into() });
    }
    let expected = segment.start(size);
    if header.address != expected {
        return Err(WalFileError::PageAddress { expected, found: header.address });
    }
    if header.timeline == 0 || header.timeline > segment.timeline.get() {
        return Err(WalFileError::Timeline { found: header.timeline });
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::proto::wal::{WalBuilder, WalVersion};

    const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);
    const SIZE: SegmentSize = SegmentSize::MIN;

    fn segment() -> Vec<u8> {
        let mut wal = WalBuilder::new(SIZE, Lsn(SIZE.bytes() * 3), SYSTEM);
        wal.filler(5, 100);
        wal.switch();
        wal.bytes().to_vec()
    }

    fn named(file: &str) -> ObjectName {
        ObjectName::of_file(SYSTEM, file).unwrap()
    }

    #[test]
    fn a_segment_is_what_its_name_says() {
        let content = segment();
        let name = named("000000010000000000000003");
        let found = check(&name, &content, SYSTEM, SIZE);
        assert_eq!(found, Ok(WalFile::Segment(Segment { number: 3, timeline: walbus::Timeline::FIRST })));
        // On a new timeline, the first segment begins with what the old one had.
        assert!(check(&named("000000020000000000000003"), &content, SYSTEM, SIZE).is_ok());
        assert!(matches!(check(&named("000000010000000000000003.partial"), &content, SYSTEM, SIZE), Ok(WalFile::Partial(_))));
    }

    #[test]
    fn what_it_is_not_is_told() {
        let content = segment();
        let name = named("000000010000000000000003");
        assert_eq!(
            check(&named("000000010000000000000004"), &content, SYSTEM, SIZE),
            Err(WalFileError::PageAddress { expected: Lsn(SIZE.bytes() * 4), found: Lsn(SIZE.bytes() * 3) })
        );
        assert_eq!(check(&name, &content, SystemId(8), SIZE), Err(WalFileError::System { expected: SystemId(8), found: SYSTEM }));
        assert_eq!(check(&name, &content[..4096], SYSTEM, SIZE), Err(WalFileError::Size { expected: SIZE.bytes(), found: 4096 }));
        assert_eq!(check(&name, &vec![0; content.len()], SYSTEM, SIZE), Err(WalFileError::Page { found: 0 }));
        assert_eq!(
            check(&named("000000010000000000000103"), &vec![0; 16 << 20], SYSTEM, SegmentSize::DEFAULT),
            Err(WalFileError::Name(SegmentSize::DEFAULT))
        );
        let mut later = content.clone();
        later[4] = 9;
        assert_eq!(check(&name, &later, SYSTEM, SIZE), Err(WalFileError::Timeline { found: 9 }));
    }

    #[test]
    fn a_part_that_was_filled_up_with_zeros_is_no_whole_segment() {
        let number = Segment { number: 3, timeline: walbus::Timeline::FIRST };
        let whole = |content: &[u8]| check_whole(number, content, SIZE);
        for version in [WalVersion::V15, WalVersion::V16, WalVersion::V17, WalVersion::V18] {
            let mut wal = WalBuilder::new(SIZE, number.start(SIZE), SYSTEM).with_version(version);
            let ends: Vec<Lsn> = (0..3000).map(|xid| wal.filler(xid, 100 + xid % 700).end).collect();
            let full = &wal.bytes()[..1 << 20];
            assert_eq!((whole(full), wal.bytes().len() > full.len()), (Ok(()), true), "its last record goes on in the next");
            let part = |upto: usize| [&full[..upto], &vec![0; full.len() - upto][..]].concat();
            let offset = |end: &Lsn| usize::try_from(end.bytes_after(number.start(SIZE))).unwrap();
            for end in ends[..1200].iter().step_by(101) {
                assert_eq!(whole(&part(offset(end))), Err(WalFileError::Part { end: *end }));
            }
            for upto in (100..500_000).step_by(29_989) {
                assert!(matches!(whole(&part(upto)), Err(WalFileError::Part { .. })), "torn at {upto}");
            }
            // Damaged half-way, and not at its end.
            let mut damaged = full.to_vec();
            damaged[500_000] ^= 1;
            assert_eq!(whole(&damaged), Ok(()));
            damaged[400_000..500_000].fill(0);
            assert_eq!(whole(&damaged), Ok(()), "a hole");
        }
    }

    #[test]
    fn what_lies_behind_a_switch_is_zeros_with_page_headers_or_without() {
        let number = Segment { number: 3, timeline: walbus::Timeline::FIRST };
        for version in [WalVersion::V15, WalVersion::V16, WalVersion::V17, WalVersion::V18] {
            let mut wal = WalBuilder::new(SIZE, number.start(SIZE), SYSTEM).with_version(version);
            wal.filler(5, 9000);
            wal.switch();
            let mut content = wal.bytes().to_vec();
            assert_eq!(check_whole(number, &content, SIZE), Ok(()));
            let mut damaged = content.clone();
            damaged[3000] ^= 1;
            assert_eq!(check_whole(number, &damaged, SIZE), Ok(()), "the switch behind it can't be seen");
            for page in (16_384..content.len()).step_by(8192) {
                let (magic, address) = (content[..2].to_vec(), number.start(SIZE).0 + page as u64);
                content[page..page + 2].copy_from_slice(&magic);
                content[page + 4] = 1;
                content[page + 8..page + 16].copy_from_slice(&address.to_le_bytes());
            }
            assert_eq!(check_whole(number, &content, SIZE), Ok(()));
            // A switch that begins in the segment before leaves 16 bytes or fewer.
            let mut over = WalBuilder::new(SIZE, Lsn(SIZE.bytes() * 2), SYSTEM).with_version(version);
            while SIZE.bytes() - SIZE.offset(over.end()) > 2000 {
                over.filler(1, 1000);
            }
            let left = u32::try_from(SIZE.bytes() - SIZE.offset(over.end())).unwrap();
            over.filler(1, left / 8 * 8 - 8);
            assert_eq!(SIZE.bytes() - SIZE.offset(over.end()), 8);
            over.switch();
            assert_eq!(check_whole(number, &over.bytes()[1 << 20..], SIZE), Ok(()));
        }
    }

    #[test]
    fn histories_and_backups_are_read() {
        let history = b"1\t0/3000000\tno recovery target specified\n";
        assert!(matches!(check(&named("00000002.history"), history, SYSTEM, SIZE), Ok(WalFile::History(_))));
        assert!(matches!(check(&named("00000002.history"), b"\0\0", SYSTEM, SIZE), Err(WalFileError::History(_))));
        let backup = named("000000010000000000000003.00000028.backup");
        assert_eq!(check(&backup, b"START WAL LOCATION: 0/3000028\n", SYSTEM, SIZE), Ok(WalFile::Backup));
        assert_eq!(check(&backup, b"", SYSTEM, SIZE), Err(WalFileError::Backup(0)));
    }
}
