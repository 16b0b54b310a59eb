//! Whether a file is what its name says: asked before it is put into the archive, and again when it comes back. Pure.

use walbus::archive::layout::ObjectName;
use walbus::proto::history::{History, HistoryError};
use walbus::proto::wal::{PAGE_BYTES, PageHeader};
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
    if content.len() as u64 != size.bytes() {
        return Err(WalFileError::Size { expected: size.bytes(), found: content.len() as u64 });
    }
    check_start(name, content, system, size)
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
    use walbus::proto::wal::WalBuilder;

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
    fn histories_and_backups_are_read() {
        let history = b"1\t0/3000000\tno recovery target specified\n";
        assert!(matches!(check(&named("00000002.history"), history, SYSTEM, SIZE), Ok(WalFile::History(_))));
        assert!(matches!(check(&named("00000002.history"), b"\0\0", SYSTEM, SIZE), Err(WalFileError::History(_))));
        let backup = named("000000010000000000000003.00000028.backup");
        assert_eq!(check(&backup, b"START WAL LOCATION: 0/3000028\n", SYSTEM, SIZE), Ok(WalFile::Backup));
        assert_eq!(check(&backup, b"", SYSTEM, SIZE), Err(WalFileError::Backup(0)));
    }
}
