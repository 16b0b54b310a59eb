//! The names of the archive's objects.

use std::fmt;

use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::segment::{SegmentName, WalFile};

/// The marker's name below the archive's prefix.
const MARKER: &str = "beyond-pg-archive";
/// What all objects but the marker end in.
const SUFFIX: &str = ".zst";

/// What an object is, by its path below the archive's prefix. Paths and names are one to one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// `SYSTEM/TLI/SEGMENT.OFFSET.backup.zst`: a backup history file, which says where a base backup starts.
    Backup {
        /// The cluster.
        system: SystemId,
        /// The segment in which the backup starts.
        segment: SegmentName,
        /// How far into it, in bytes.
        offset: u32,
    },
    /// `SYSTEM/history/TLI.history.zst`: how that timeline came about.
    History {
        /// The cluster.
        system: SystemId,
        /// The timeline.
        timeline: Timeline,
    },
    /// `SYSTEM/TLI/SEGMENT.idx.zst`: what is in a segment.
    Index {
        /// The cluster.
        system: SystemId,
        /// The segment.
        segment: SegmentName,
    },
    /// `beyond-pg-archive`: says that this prefix is an archive. The one object that is no envelope.
    Marker,
    /// `SYSTEM/TLI/SEGMENT.partial.zst`: a timeline's last segment, as Postgres archives it at a promotion.
    Partial {
        /// The cluster.
        system: SystemId,
        /// The segment.
        segment: SegmentName,
    },
    /// `SYSTEM/TLI/SEGMENT.zst`: a whole segment.
    Segment {
        /// The cluster.
        system: SystemId,
        /// The segment.
        segment: SegmentName,
    },
    /// `SYSTEM/TLI/SEGMENT.tail/LSN.zst`: a segment's bytes from its start up to that LSN.
    Tail {
        /// The cluster.
        system: SystemId,
        /// The segment.
        segment: SegmentName,
        /// Where the bytes end.
        end: Lsn,
    },
}

impl ObjectName {
    /// The object for a file that Postgres hands to `archive_command` or asks `restore_command` for, by the file's name; `None` for a
    /// name that Postgres gives to no such file.
    #[must_use]
    pub fn of_file(system: SystemId, name: &str) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(".backup") {
            let (segment, offset) = stem.split_once('.')?;
            return Some(Self::Backup { system, segment: segment.parse().ok()?, offset: hex32(offset)? });
        }
        Some(match WalFile::parse(name)? {
            WalFile::History(timeline) => Self::History { system, timeline },
            WalFile::Partial(segment) => Self::Partial { system, segment },
            WalFile::Segment(segment) => Self::Segment { system, segment },
        })
    }

    /// The name of the file as Postgres has it; `None` for what is no file of Postgres.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        match self {
            Self::Backup { segment, offset, .. } => Some(format!("{segment}.{offset:08X}.backup")),
            Self::History { timeline, .. } => Some(WalFile::History(*timeline).name()),
            Self::Partial { segment, .. } => Some(WalFile::Partial(segment.clone()).name()),
            Self::Segment { segment, .. } => Some(segment.to_string()),
            Self::Index { .. } | Self::Marker | Self::Tail { .. } => None,
        }
    }

    /// The name of the object at this path below the archive's prefix; `None` for a path that no object of an archive has.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        if path == MARKER {
            return Some(Self::Marker);
        }
        let (system, rest) = path.strip_suffix(SUFFIX)?.split_once('/')?;
        let system = parse_system(system)?;
        let (folder, name) = rest.split_once('/')?;
        if folder == "history" {
            let Some(WalFile::History(timeline)) = WalFile::parse(name) else { return None };
            return Some(Self::History { system, timeline });
        }
        let parsed = if let Some((segment, end)) = name.split_once(".tail/") {
            Self::Tail { system, segment: segment.parse().ok()?, end: Lsn(hex64(end)?) }
        } else if let Some(segment) = name.strip_suffix(".idx") {
            Self::Index { system, segment: segment.parse().ok()? }
        } else {
            Self::of_file(system, name)?
        };
        // The folder is the name's first eight digits, so that no segment lies in two places.
        (parsed.segment()?.timeline_digits() == folder).then_some(parsed)
    }

    /// The cluster; `None` for the marker.
    #[must_use]
    pub const fn system(&self) -> Option<SystemId> {
        match self {
            Self::Backup { system, .. }
            | Self::History { system, .. }
            | Self::Index { system, .. }
            | Self::Partial { system, .. }
            | Self::Segment { system, .. }
            | Self::Tail { system, .. } => Some(*system),
            Self::Marker => None,
        }
    }

    /// The segment that the object is, or is about; `None` for the marker and a history.
    #[must_use]
    pub const fn segment(&self) -> Option<&SegmentName> {
        match self {
            Self::Backup { segment, .. }
            | Self::Index { segment, .. }
            | Self::Partial { segment, .. }
            | Self::Segment { segment, .. }
            | Self::Tail { segment, .. } => Some(segment),
            Self::History { .. } | Self::Marker => None,
        }
    }

    /// Whether the object holds only what can be made again from others, so that it may be replaced and deleted.
    #[must_use]
    pub const fn is_derived(&self) -> bool {
        matches!(self, Self::Index { .. } | Self::Tail { .. })
    }
}

impl fmt::Display for ObjectName {
    /// The path below the archive's prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker => f.write_str(MARKER),
            Self::History { system, timeline } => write!(f, "{system}/history/{:08X}.history{SUFFIX}", timeline.get()),
            Self::Backup { system, segment, offset } => {
                write!(f, "{system}/{}/{segment}.{offset:08X}.backup{SUFFIX}", segment.timeline_digits())
            }
            Self::Index { system, segment } => write!(f, "{system}/{}/{segment}.idx{SUFFIX}", segment.timeline_digits()),
            Self::Partial { system, segment } => write!(f, "{system}/{}/{segment}.partial{SUFFIX}", segment.timeline_digits()),
            Self::Segment { system, segment } => write!(f, "{system}/{}/{segment}{SUFFIX}", segment.timeline_digits()),
            Self::Tail { system, segment, end } => {
                write!(f, "{system}/{}/{segment}.tail/{:016X}{SUFFIX}", segment.timeline_digits(), end.0)
            }
        }
    }
}

/// The folder of a timeline's segments below the archive's prefix.
#[must_use]
pub fn timeline_folder(system: SystemId, timeline: Timeline) -> String {
    format!("{system}/{:08X}", timeline.get())
}

/// The folder of a segment's tails below the archive's prefix.
#[must_use]
pub fn tail_folder(system: SystemId, segment: &SegmentName) -> String {
    format!("{system}/{}/{segment}.tail", segment.timeline_digits())
}

/// The folder of a cluster's timeline histories below the archive's prefix.
#[must_use]
pub fn history_folder(system: SystemId) -> String {
    format!("{system}/history")
}

/// The cluster whose folder has this name: a number as it is printed, without signs and leading zeros.
#[must_use]
pub fn parse_system(folder: &str) -> Option<SystemId> {
    folder.parse().ok().filter(|system: &SystemId| system.to_string() == folder)
}

/// The timeline whose folder has this name, eight upper-case hexadecimal digits.
#[must_use]
pub fn parse_timeline(folder: &str) -> Option<Timeline> {
    Timeline::new(hex32(folder)?)
}

/// Upper-case hexadecimal digits only, exactly as many as are printed.
fn hex(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn hex32(text: &str) -> Option<u32> {
    hex(text, 8).and_then(|number| u32::try_from(number).ok())
}

fn hex64(text: &str) -> Option<u64> {
    hex(text, 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);

    fn segment() -> SegmentName {
        "0000000A0000000100000002".parse().unwrap()
    }

    #[test]
    fn paths_are_those_of_the_format() {
        let segment = segment();
        let paths = [
            (ObjectName::Marker, "beyond-pg-archive".to_owned()),
            (ObjectName::Segment { system: SYSTEM, segment: segment.clone() }, format!("{SYSTEM}/0000000A/{segment}.zst")),
            (ObjectName::Index { system: SYSTEM, segment: segment.clone() }, format!("{SYSTEM}/0000000A/{segment}.idx.zst")),
            (ObjectName::Partial { system: SYSTEM, segment: segment.clone() }, format!("{SYSTEM}/0000000A/{segment}.partial.zst")),
            (
                ObjectName::Backup { system: SYSTEM, segment: segment.clone(), offset: 0x28 },
                format!("{SYSTEM}/0000000A/{segment}.00000028.backup.zst"),
            ),
            (
                ObjectName::Tail { system: SYSTEM, segment: segment.clone(), end: Lsn(0x1_0200_1F00) },
                format!("{SYSTEM}/0000000A/{segment}.tail/0000000102001F00.zst"),
            ),
            (
                ObjectName::History { system: SYSTEM, timeline: Timeline::new(10).unwrap() },
                format!("{SYSTEM}/history/0000000A.history.zst"),
            ),
        ];
        for (name, path) in paths {
            assert_eq!(name.to_string(), path);
            assert_eq!(ObjectName::parse(&path), Some(name));
        }
    }

    #[test]
    fn files_of_postgres_have_their_objects() {
        for file in ["0000000A0000000100000002", "0000000A0000000100000002.partial", "0000000A.history"] {
            assert_eq!(ObjectName::of_file(SYSTEM, file).and_then(|name| name.file_name()).as_deref(), Some(file));
        }
        let backup = "0000000A0000000100000002.00000028.backup";
        let name = ObjectName::of_file(SYSTEM, backup).unwrap();
        assert_eq!(name, ObjectName::Backup { system: SYSTEM, segment: segment(), offset: 0x28 });
        assert_eq!(name.file_name().as_deref(), Some(backup));
        for other in
            ["", "RECOVERYXLOG", "0000000A0000000100000002.idx", "0000000A0000000100000002.28.backup", "x/0000000A.history"]
        {
            assert_eq!(ObjectName::of_file(SYSTEM, other), None, "{other}");
        }
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "",
            "beyond-pg-archive.zst",
            "7/0000000A/0000000A0000000100000002",
            "7/0000000B/0000000A0000000100000002.zst",
            "7/0000000a/0000000A0000000100000002.zst",
            "07/0000000A/0000000A0000000100000002.zst",
            "+7/0000000A/0000000A0000000100000002.zst",
            "7/0000000A/0000000A.history.zst",
            "7/history/0000000A0000000100000002.zst",
            "7/0000000A/0000000A0000000100000002.tail/102001F00.zst",
            "7/0000000A/x/0000000A0000000100000002.zst",
            "x/7/0000000A/0000000A0000000100000002.zst",
            "7/00000000/000000000000000100000002.zst",
        ] {
            assert_eq!(ObjectName::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_leads_back_to_its_name(system: u64, tli in 1u32.., high: u32, low: u32, offset: u32, end: u64) {
            let (system, timeline) = (SystemId(system), Timeline::new(tli).unwrap());
            let segment: SegmentName = format!("{tli:08X}{high:08X}{low:08X}").parse().unwrap();
            for name in [
                ObjectName::Backup { system, segment: segment.clone(), offset },
                ObjectName::History { system, timeline },
                ObjectName::Index { system, segment: segment.clone() },
                ObjectName::Partial { system, segment: segment.clone() },
                ObjectName::Segment { system, segment: segment.clone() },
                ObjectName::Tail { system, segment: segment.clone(), end: Lsn(end) },
            ] {
                prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name.clone()));
                prop_assert!(name.segment().is_none_or(|segment| segment.timeline() == timeline));
            }
        }

        #[test]
        fn what_is_read_is_printed_as_it_was(path in "[0-9A-Fa-z./]{0,60}") {
            if let Some(name) = ObjectName::parse(&path) {
                prop_assert_eq!(name.to_string(), path);
            }
        }
    }
}
