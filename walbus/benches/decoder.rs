//! How fast WAL is decoded.
//!
//! `BEYOND_WAL_DIR=DIR cargo bench -p walbus --bench decoder` takes the segments of timeline 1 in DIR, such as a `pg_wal` of 16 MB
//! segments; without it, WAL of small records is made, as pgbench writes it.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say but where")]

use std::fs;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walbus::proto::wal::{Decoder, WalBuilder};
use walbus::{Lsn, PgTime, SegmentSize, SystemId, Timeline, WalFile};

/// What walsender puts into one message at most (`MAX_SEND_SIZE`).
const MESSAGE_BYTES: usize = 128 << 10;

fn real(folder: &str) -> (Lsn, Vec<u8>) {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| matches!(WalFile::parse(name), Some(WalFile::Segment(_)))).collect();
    names.sort();
    let Some(WalFile::Segment(first)) = WalFile::parse(&names[0]) else { unreachable!("filtered above") };
    let start = first.segment(SegmentSize::DEFAULT).unwrap().start(SegmentSize::DEFAULT);
    // The last one is not full.
    let full = names.iter().take(names.len() - 1);
    (start, full.flat_map(|name| fs::read(format!("{folder}/{name}")).unwrap()).collect())
}

fn made() -> (Lsn, Vec<u8>) {
    let mut wal = WalBuilder::new(SegmentSize::DEFAULT, Lsn(16 << 20), SystemId(1));
    for xid in 1.. {
        for size in [54, 72, 64, 74, 79, 54, 64] {
            wal.filler(xid, size);
        }
        wal.commit(xid, PgTime(i64::from(xid)));
        if wal.bytes().len() > 64 << 20 {
            break;
        }
    }
    (wal.start(), wal.bytes().to_vec())
}

fn decode(start: Lsn, wal: &[u8], chunk: usize) -> u64 {
    let mut decoder = Decoder::new(SegmentSize::DEFAULT, start, Timeline::FIRST).unwrap();
    let mut records = 0;
    for part in wal.chunks(chunk) {
        decoder
            .push(part, &mut |record| {
                records += 1;
                black_box(record);
            })
            .unwrap();
    }
    records
}

fn decoder(criterion: &mut Criterion) {
    let (start, wal) = std::env::var("BEYOND_WAL_DIR").map_or_else(|_| made(), |folder| real(&folder));
    println!("{} MB, {} records", wal.len() >> 20, decode(start, &wal, MESSAGE_BYTES));
    let mut group = criterion.benchmark_group("decoder");
    group.throughput(Throughput::Bytes(wal.len() as u64)).sample_size(20);
    for chunk in [MESSAGE_BYTES, 8192, 512] {
        group.bench_function(format!("chunks of {chunk}"), |bencher| bencher.iter(|| decode(start, &wal, chunk)));
    }
    group.finish();
}

criterion_group!(benches, decoder);
criterion_main!(benches);
