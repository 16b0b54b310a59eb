//! Positions, segment names and the names of WAL files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::{Lsn, SegmentName, SegmentSize, SystemId, WalFile};

fuzz_target!(|text: &str| {
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Some(file) = WalFile::parse(text) {
        assert_eq!(file.name(), text, "no two names are the same file");
    }
    if let Ok(name) = text.parse::<SegmentName>() {
        for bits in 20..=30 {
            let size = SegmentSize::new(1 << bits).unwrap();
            if let Some(segment) = name.segment(size) {
                assert_eq!(segment.name(size), name);
                assert!(segment.start(size) <= segment.end(size));
            }
        }
    }
    drop(text.parse::<SystemId>());
});
