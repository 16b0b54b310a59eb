//! The names of the log's files.

/// Where the log is, in a data folder.
pub const LOG_FOLDER: &str = "log";
/// The epoch's file.
pub(super) const EPOCH_FILE: &str = "epoch";
/// A segment that is made shorter, before it takes the name of the old one.
pub(super) const CUT_FILE: &str = "cut.tmp";
/// Zeroed files that wait to become segments.
pub(super) const SPARE_PREFIX: &str = "spare.";
/// What a small file has behind its name until it is whole.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

const SEGMENT_SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".idx";
const DIGITS: usize = 16;

/// The file of the segment with this number.
pub(super) fn file_of(number: u64) -> String {
    format!("{number:016x}{SEGMENT_SUFFIX}")
}

/// The index beside the segment with this number.
pub(super) fn index_of(number: u64) -> String {
    format!("{number:016x}{INDEX_SUFFIX}")
}

/// The number of a segment with this name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    number(name, SEGMENT_SUFFIX)
}

/// The number of the segment that an index of this name is of.
pub(super) fn index_number(name: &str) -> Option<u64> {
    number(name, INDEX_SUFFIX)
}

fn number(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let plain = digits.len() == DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(file_of(0x1F), "000000000000001f.log");
        for number in [1, 0x1F, u64::MAX] {
            assert_eq!(segment_number(&file_of(number)), Some(number));
            assert_eq!(index_number(&index_of(number)), Some(number));
            assert_eq!(segment_number(&index_of(number)), None);
        }
        for name in ["1.log", "000000000000001F.log", "000000000000001f.log.tmp", "+00000000000001f.log", "epoch", ".log"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
