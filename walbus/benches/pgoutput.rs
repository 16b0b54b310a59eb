//! How fast the messages of logical replication are parsed, and put together to transactions.
//!
//! `cargo bench -p walbus --no-default-features --features sim --bench pgoutput`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to say but where")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use walbus::logical::{Assembler, Limits, MemorySpool, Step};
use walbus::proto::pgoutput::{
    Begin, Column, Commit, Insert, Message, Parser, ProtoVersion, Relation, ReplicaIdentity, StreamCommit, StreamStart, Streaming,
    Tuple, Value,
};
use walbus::{Lsn, PgTime};

const ROWS: u32 = 10_000;

fn payload(xid: Option<u32>, message: &Message) -> Bytes {
    let mut payload = Vec::new();
    message.encode(xid, &mut payload);
    payload.into()
}

/// Rows of four columns, as pgbench's accounts have them.
fn rows(xid: Option<u32>) -> Vec<Bytes> {
    let row = |id: u32| {
        let id = id.to_string();
        let values = [Value::Text(id.as_bytes()), Value::Text(b"1"), Value::Text(b"-4711"), Value::Text(b"a filler of some bytes")];
        payload(xid, &Message::Insert(Insert { relation: 16385, new: Tuple::of(&values).unwrap() }))
    };
    (0..ROWS).map(row).collect()
}

fn relation() -> Message {
    let column = |name: &str| Column { key: false, name: name.into(), type_oid: 25, type_modifier: -1 };
    let columns = ["aid", "bid", "abalance", "filler"].map(column).into();
    let (schema, name) = ("public".into(), "accounts".into());
    Message::Relation(Relation { oid: 16385, schema, name, replica_identity: ReplicaIdentity::Default, columns })
}

const fn commit() -> Commit {
    Commit { commit_lsn: Lsn(100), end_lsn: Lsn(108), commit_time: PgTime(1) }
}

fn whole() -> Vec<Bytes> {
    let mut sent = vec![
        payload(None, &Message::Begin(Begin { final_lsn: Lsn(100), commit_time: PgTime(1), xid: 7 })),
        payload(None, &relation()),
    ];
    sent.extend(rows(None));
    sent.push(payload(None, &Message::Commit(commit())));
    sent
}

fn streamed() -> Vec<Bytes> {
    let mut sent =
        vec![payload(None, &Message::StreamStart(StreamStart { xid: 7, first_segment: true })), payload(Some(7), &relation())];
    sent.extend(rows(Some(7)));
    sent.push(payload(None, &Message::StreamStop));
    sent.push(payload(None, &Message::StreamCommit(StreamCommit { xid: 7, commit: commit() })));
    sent
}

fn parser() -> Parser {
    Parser::new(ProtoVersion::V4, Streaming::On).unwrap()
}

/// Parses and assembles all, and counts the changes.
fn assemble(sent: &[Bytes], limits: Limits) -> usize {
    let mut parser = parser();
    let mut assembler = Assembler::new(MemorySpool::new(usize::MAX), limits, Lsn::INVALID);
    let mut changes = 0;
    for payload in sent {
        let parsed = parser.parse(payload).unwrap();
        match assembler.handle(parsed, payload).unwrap() {
            Step::Change(change) => {
                black_box(change);
                changes += 1;
            }
            Step::Committed(mut replay) => {
                while let Some(change) = replay.poll_change().unwrap() {
                    black_box(change);
                    changes += 1;
                }
            }
            _ => {}
        }
    }
    changes
}

fn pgoutput(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pgoutput");
    group.throughput(Throughput::Elements(u64::from(ROWS))).sample_size(20);
    let inserts = rows(None);
    group.bench_function("parse", |bencher| {
        bencher.iter_batched_ref(
            parser,
            |parser| inserts.iter().for_each(|payload| drop(black_box(parser.parse(payload).unwrap()))),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("parse and read the columns", |bencher| {
        bencher.iter_batched_ref(
            parser,
            |parser| {
                for payload in &inserts {
                    let Message::Insert(insert) = parser.parse(payload).unwrap().message else { unreachable!("all are inserts") };
                    for value in insert.new.values() {
                        black_box(value);
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
    let (whole, streamed) = (whole(), streamed());
    let spooled = Limits { memory_bytes: 64 << 10, ..Limits::default() };
    for (name, sent, limits) in [
        ("assemble a whole transaction", &whole, Limits::default()),
        ("assemble a streamed transaction, in memory", &streamed, Limits::default()),
        ("assemble a streamed transaction, spooled", &streamed, spooled),
    ] {
        assert_eq!(assemble(sent, limits), ROWS as usize);
        group.bench_function(name, |bencher| bencher.iter(|| assemble(sent, limits)));
    }
    group.finish();
}

criterion_group!(benches, pgoutput);
criterion_main!(benches);
