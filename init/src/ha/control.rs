//! What a data folder says of its cluster while no server runs.

/// Of `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The cluster, which its standbys and copies share.
    pub system_id: u64,
    /// The timeline of its last checkpoint.
    pub timeline: u32,
    /// Whether it is in the recovery of a standby or of a base backup: `pg_rewind` leaves it so when it is through.
    pub is_in_archive_recovery: bool,
}

/// `DB_IN_ARCHIVE_RECOVERY`.
const IN_ARCHIVE_RECOVERY: u32 = 5;

impl Control {
    /// Reads the file `global/pg_control`; `None` where it is none of a version that is known. Source: `src/include/catalog/pg_control.h`
    /// of 15 to 18: the identifier, the version of the file at 8, the state at 16, and the copy of the checkpoint from 40 on, in which the timeline is the
    /// second field.
    #[must_use]
    #[expect(clippy::host_endian_bytes, reason = "the server writes it in the order of its machine")]
    pub fn parse(file: &[u8]) -> Option<Self> {
        let system_id = u64::from_ne_bytes(*file.first_chunk()?);
        let version = u32::from_ne_bytes(*file.get(8..)?.first_chunk()?);
        let state = u32::from_ne_bytes(*file.get(16..)?.first_chunk()?);
        let timeline = u32::from_ne_bytes(*file.get(48..)?.first_chunk()?);
        let is_in_archive_recovery = state == IN_ARCHIVE_RECOVERY;
        ((1300..=1800).contains(&version) && timeline != 0).then_some(Self { system_id, timeline, is_in_archive_recovery })
    }
}

/// The newest timeline of which one of these files of `pg_wal` is the history.
#[must_use]
pub fn newest_history<'a>(names: impl Iterator<Item = &'a str>) -> Option<u32> {
    let timeline = |name: &str| {
        let digits = name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok()
    };
    names.filter_map(timeline).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::host_endian_bytes, reason = "as the server writes it")]
    fn the_file_is_read_where_it_is_known() {
        let mut file = vec![0; 8192];
        file[..8].copy_from_slice(&77_u64.to_ne_bytes());
        file[8..12].copy_from_slice(&1800_u32.to_ne_bytes());
        file[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        let control = Control { system_id: 77, timeline: 3, is_in_archive_recovery: false };
        assert_eq!(Control::parse(&file), Some(control));
        file[16..20].copy_from_slice(&5_u32.to_ne_bytes());
        assert_eq!(Control::parse(&file), Some(Control { is_in_archive_recovery: true, ..control }));
        file[8..12].copy_from_slice(&9999_u32.to_ne_bytes());
        assert_eq!(Control::parse(&file), None);
        assert_eq!(Control::parse(&file[..40]), None);
    }

    #[test]
    fn histories_say_how_far_timelines_go() {
        let names = ["0000000A.history", "00000003.history", "00000010000000000000000F", "xyz.history", "archive_status"];
        assert_eq!(newest_history(names.into_iter()), Some(10));
        assert_eq!(newest_history(std::iter::empty()), None);
    }
}
