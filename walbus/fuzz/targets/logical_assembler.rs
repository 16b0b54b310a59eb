//! Any messages in any order: each is a step or an error, memory and spool stay within bounds, positions go forward, and a
//! transaction that is read back has what was put in. A server of any kind of malice is meant.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use walbus::logical::{Assembler, Limits, MemorySpool, Step};
use walbus::proto::pgoutput::{
    Begin, BeginPrepare, Column, Commit, CommitPrepared, Insert, Message, Parser, Prepare, ProtoVersion, Relation, ReplicaIdentity,
    RollbackPrepared, StreamAbort, StreamCommit, StreamPrepare, StreamStart, Streaming, Tuple, Value,
};
use walbus::{Lsn, PgTime, Position};

const NOW: PgTime = PgTime(0);

fuzz_target!(|data: &[u8]| {
    let Some(([memory, subtransactions], deeds)) = data.split_first_chunk() else { return };
    let limits = Limits { memory_bytes: usize::from(*memory) * 64, subtransactions: usize::from(*subtransactions % 8) };
    let spool = MemorySpool::new(1 << 20);
    let mut assembler = Assembler::new(spool.clone(), limits, Lsn::INVALID);
    let mut parser = Parser::new(ProtoVersion::V4, Streaming::On).unwrap();
    let mut last = Position::default();
    for deed in deeds.chunks_exact(3) {
        let [kind, first, second] = [deed[0], deed[1], deed[2]];
        let message = message(kind, u32::from(first % 8) + 1, second);
        let xid = parser.in_stream().then_some(u32::from(second % 16) + 1);
        let mut payload = Vec::new();
        message.encode(xid, &mut payload);
        let payload = Bytes::from(payload);
        let Ok(parsed) = parser.parse(&payload) else { continue };
        let step = match assembler.handle(parsed, &payload) {
            Ok(step) => step,
            Err(_) => {
                parser = Parser::new(ProtoVersion::V4, Streaming::On).unwrap();
                assembler.handle_reconnect(Lsn(u64::from(first)));
                last = Position::before(Lsn(u64::from(first)));
                assert_eq!((assembler.open(), spool.held()), (0, 0));
                continue;
            }
        };
        match step {
            Step::Change(change) | Step::Message(change) => {
                assert!(change.position > last);
                last = change.position;
            }
            Step::Committed(mut replay) => {
                while let Some(change) = replay.poll_change().expect("what was put in is read back") {
                    assert!(change.position > last);
                    last = change.position;
                }
            }
            _ => {}
        }
        assert!(assembler.memory_bytes() <= limits.memory_bytes);
        assert_eq!(spool.held() as u64, assembler.spooled_bytes());
    }
});

fn message(kind: u8, xid: u32, at: u8) -> Message {
    let lsn = Lsn(u64::from(at) + 1);
    let gid = format!("{xid}");
    let commit = Commit { commit_lsn: lsn, end_lsn: lsn, commit_time: NOW };
    let prepare = Prepare { prepare_lsn: lsn, end_lsn: lsn, prepare_time: NOW, xid, gid: gid.clone() };
    let relation = u32::from(kind / 32 % 2);
    match kind % 20 {
        0..=5 => Message::Insert(Insert { relation, new: Tuple::of(&[Value::Text(&vec![b'x'; usize::from(at)])]).unwrap() }),
        6 | 7 => {
            let column = Column { key: true, name: format!("c{}", at % 4), type_oid: 25, type_modifier: -1 };
            let replica_identity = ReplicaIdentity::Full;
            let (schema, name, columns) = ("s".into(), "t".into(), vec![column]);
            Message::Relation(Relation { oid: relation, schema, name, replica_identity, columns })
        }
        8 | 9 => Message::StreamStart(StreamStart { xid, first_segment: at % 2 == 0 }),
        10 | 11 => Message::StreamStop,
        12 => Message::StreamCommit(StreamCommit { xid, commit }),
        13 | 14 => Message::StreamAbort(StreamAbort { xid, subxid: u32::from(at % 16) + 1, aborted: None }),
        15 => Message::Begin(Begin { final_lsn: lsn, commit_time: NOW, xid }),
        16 => Message::Commit(commit),
        17 if at % 2 == 0 => Message::StreamPrepare(StreamPrepare(prepare)),
        17 => Message::BeginPrepare(BeginPrepare { prepare_lsn: lsn, end_lsn: lsn, prepare_time: NOW, xid, gid }),
        18 => Message::Prepare(prepare),
        _ if at % 3 == 0 => Message::RollbackPrepared(RollbackPrepared {
            prepare_end_lsn: lsn,
            rollback_end_lsn: lsn,
            prepare_time: NOW,
            rollback_time: NOW,
            xid,
            gid,
        }),
        _ => Message::CommitPrepared(CommitPrepared { commit_lsn: lsn, end_lsn: lsn, commit_time: NOW, xid, gid }),
    }
}
