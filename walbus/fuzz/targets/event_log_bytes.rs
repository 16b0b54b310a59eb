//! The files of an event log, as bytes: a record, a segment's header, an index, the epoch's file. Each also with its checksum put right, so
//! that what is behind it is reached. What is read is written again as it was.
#![no_main]

use cdc::log::layout::{RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, parse_record};
use cdc::log::{Epoch, EpochFile, SegmentIndex};
use libfuzzer_sys::fuzz_target;
use walbus::{Lsn, Position, SystemId};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 4 {
        0 => record(data),
        1 => segment(data),
        2 => index(data),
        _ => epoch(data),
    }
});

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

fn record(data: &[u8]) {
    drop(parse_record(data, 1));
    let Some(header) = data.first_chunk::<RECORD_HEADER_BYTES>() else { return };
    let Ok(Some(header)) = RecordHeader::parse(header, 1) else { return };
    let end = RECORD_HEADER_BYTES + header.payload_bytes as usize;
    if end > data.len() {
        assert!(parse_record(data, 1).is_err(), "a record that is cut is none");
        return;
    }
    let mut sealed = data[..end].to_vec();
    let right = crc(&sealed[4..]);
    sealed[..4].copy_from_slice(&right);
    sealed.resize(header.record_bytes() as usize, 0);
    let (again, payload) = parse_record(&sealed, 1).unwrap().expect("a header is no end");
    assert_eq!(again, header);
    let mut written = Vec::new();
    again.write(&payload, &mut written);
    assert_eq!(written, sealed);
}

fn segment(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<SEGMENT_HEADER_BYTES>() else { return };
    drop(SegmentHeader::parse(bytes));
    let mut sealed = *bytes;
    let right = crc(&sealed[..SEGMENT_HEADER_BYTES - 4]);
    sealed[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&right);
    if let Ok(header) = SegmentHeader::parse(&sealed) {
        assert_eq!(SegmentHeader::parse(&header.encode()), Ok(header));
    }
}

fn index(data: &[u8]) {
    let at = |lsn| Position { commit_lsn: Lsn(lsn), ordinal: 0 };
    let header = SegmentHeader {
        epoch: Epoch::new([0; 16]),
        system_id: SystemId(0),
        number: 1,
        before: at(0),
        complete: at(0),
        complete_end_lsn: Lsn(0),
        time_max: 0,
        batches_at: 128,
    };
    drop(SegmentIndex::parse(data, &header));
    // The mark of the segment's header, and both checksums.
    let split = SegmentIndex::SUMMARY_BYTES;
    if data.len() < split + 4 {
        return;
    }
    let mut sealed = data.to_vec();
    sealed[20..24].copy_from_slice(&header.encode()[SEGMENT_HEADER_BYTES - 4..]);
    sealed[24..40].fill(0);
    let right = crc(&sealed[..split - 4]);
    sealed[split - 4..split].copy_from_slice(&right);
    let end = sealed.len() - 4;
    let right = crc(&sealed[split..end]);
    sealed[end..].copy_from_slice(&right);
    if let Some(index) = SegmentIndex::parse(&sealed, &header) {
        assert_eq!(SegmentIndex::parse(&index.encode(), &header), Some(index.clone()));
        assert!(index.offset_for(at(7)) == 128 || data.len() > split + 4);
        drop(index.offset_for_time(7));
    }
}

fn epoch(data: &[u8]) {
    drop(EpochFile::parse(data));
    if data.len() < 4 {
        return;
    }
    let mut sealed = data.to_vec();
    let end = sealed.len() - 4;
    let right = crc(&sealed[..end]);
    sealed[end..].copy_from_slice(&right);
    if let Ok(file) = EpochFile::parse(&sealed) {
        assert_eq!(file.encode(), sealed);
    }
}
