//! Decoding the same bytes in several ways.

use walbus::proto::wal::{DecodeError, Decoder, Record};
use walbus::{Lsn, Timeline};

/// All that a decoder's user can see.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub records: Vec<Record>,
    pub error: Option<DecodeError>,
    pub position: Lsn,
    pub complete_end: Lsn,
    pub last_record: Option<Lsn>,
    pub pending_record: Option<Lsn>,
    pub unverified_end: Option<Lsn>,
    pub timeline: Option<Timeline>,
}

/// Decodes at once, byte by byte, and in these chunks over and over; the same must come out.
pub fn in_any_chunks(decoder: &Decoder, wal: &[u8], chunks: &[usize]) -> Outcome {
    let at_once = decode(decoder.clone(), wal, &[usize::MAX]);
    assert_eq!(at_once, decode(decoder.clone(), wal, chunks));
    if wal.len() < 1 << 16 {
        assert_eq!(at_once, decode(decoder.clone(), wal, &[1]));
    }
    assert!(at_once.complete_end <= at_once.position);
    at_once
}

fn decode(mut decoder: Decoder, mut wal: &[u8], chunks: &[usize]) -> Outcome {
    let mut records: Vec<Record> = Vec::new();
    let mut error = None;
    for chunk in chunks.iter().cycle() {
        if wal.is_empty() || error.is_some() {
            break;
        }
        let (now, later) = wal.split_at((*chunk).min(wal.len()));
        error = decoder.push(now, &mut |record| records.push(record.clone())).err();
        wal = later;
    }
    Outcome {
        records,
        error,
        position: decoder.position(),
        complete_end: decoder.complete_end(),
        last_record: decoder.last_record(),
        pending_record: decoder.pending_record(),
        unverified_end: decoder.unverified_end(),
        timeline: decoder.page_timeline(),
    }
}
