//! The headers of pages and records, and the walk over a record's block headers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::proto::wal::{Body, PageHeader, RecordHeader, rmgr_name};

fuzz_target!(|data: &[u8]| {
    if let Some(header) = PageHeader::parse(data) {
        assert_eq!(header.is_long(), header.long.is_some());
    }
    let Some(header) = data.first_chunk().map(RecordHeader::parse) else { return };
    assert!(rmgr_name(header.rmid).is_none_or(|name| !name.is_empty()));
    for total in [header.total_bytes, u32::try_from(data.len()).unwrap_or(u32::MAX)] {
        if let Ok(body) = Body::walk(data, total) {
            let end = body.main_at + usize::try_from(body.main_bytes).unwrap();
            assert!(end == usize::try_from(total).unwrap() && body.images <= body.blocks && body.blocks <= 33);
        }
    }
});
