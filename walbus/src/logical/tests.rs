mod feedback;
mod random;
mod recorded;
mod server;

use bytes::Bytes;
use server::{Seen, insert, message, relation, text};

use super::*;
use crate::ident::PgTime;
use crate::lsn::Lsn;
use crate::proto::pgoutput::{
    Begin, BeginPrepare, Commit, CommitPrepared, Message, Origin, Parser, Prepare, ProtoVersion, RollbackPrepared, StreamAbort,
    StreamCommit, StreamPrepare, StreamStart, Streaming, Truncate, Type,
};

const NOW: PgTime = PgTime(7);

/// A session with an assembler behind it.
struct Session {
    parser: Parser,
    assembler: Assembler<MemorySpool>,
    spool: MemorySpool,
}

impl Session {
    fn new(limits: Limits) -> Self {
        let spool = MemorySpool::new(usize::MAX);
        let assembler = Assembler::new(spool.clone(), limits, Lsn::INVALID);
        Self { parser: parser(), assembler, spool }
    }

    fn reconnect(&mut self, durable: Lsn) {
        self.parser = parser();
        self.assembler.handle_reconnect(durable);
    }

    fn try_send(&mut self, xid: Option<u32>, message: &Message) -> Result<Step<MemoryFile>, LogicalError> {
        let mut payload = Vec::new();
        message.encode(xid, &mut payload);
        let payload = Bytes::from(payload);
        let parsed = self.parser.parse(&payload)?;
        self.assembler.handle(parsed, &payload)
    }

    fn send(&mut self, message: &Message) -> Step<MemoryFile> {
        self.try_send(None, message).unwrap()
    }

    /// A part of transaction `xid`.
    fn stream(&mut self, xid: u32, first_segment: bool, part: &[(u32, Message)]) {
        self.send(&start(xid, first_segment));
        for (xid, message) in part {
            assert!(matches!(self.try_send(Some(*xid), message).unwrap(), Step::Nothing));
        }
        self.send(&Message::StreamStop);
    }

    /// Sends what commits a kept transaction, and gives what is in it.
    fn committed(&mut self, message: &Message) -> Seen {
        match self.send(message) {
            Step::Committed(mut replay) => Seen::of(&mut replay),
            other => panic!("{other:?}"),
        }
    }
}

fn parser() -> Parser {
    Parser::new(ProtoVersion::V4, Streaming::On).unwrap()
}

fn small() -> Limits {
    Limits { memory_bytes: 0, subtransactions: 1 }
}

const fn commit(lsn: u64) -> Commit {
    Commit { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_time: NOW }
}

const fn begin(xid: u32, lsn: u64) -> Message {
    Message::Begin(Begin { final_lsn: Lsn(lsn), commit_time: NOW, xid })
}

const fn start(xid: u32, first_segment: bool) -> Message {
    Message::StreamStart(StreamStart { xid, first_segment })
}

const fn stream_commit(xid: u32, lsn: u64) -> Message {
    Message::StreamCommit(StreamCommit { xid, commit: commit(lsn) })
}

const fn abort(xid: u32, subxid: u32) -> Message {
    Message::StreamAbort(StreamAbort { xid, subxid, aborted: None })
}

fn prepare(xid: u32, lsn: u64) -> Prepare {
    Prepare { prepare_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), prepare_time: NOW, xid, gid: format!("gid {xid}") }
}

fn begin_prepare(xid: u32, lsn: u64) -> Message {
    let Prepare { prepare_lsn, end_lsn, prepare_time, xid, gid } = prepare(xid, lsn);
    Message::BeginPrepare(BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid })
}

fn commit_prepared(xid: u32, lsn: u64) -> Message {
    let Commit { commit_lsn, end_lsn, commit_time } = commit(lsn);
    Message::CommitPrepared(CommitPrepared { commit_lsn, end_lsn, commit_time, xid, gid: format!("gid {xid}") })
}

fn rollback_prepared(xid: u32, lsn: u64) -> RollbackPrepared {
    RollbackPrepared {
        prepare_end_lsn: Lsn(1),
        rollback_end_lsn: Lsn(lsn),
        prepare_time: NOW,
        rollback_time: NOW,
        xid,
        gid: format!("gid {xid}"),
    }
}

#[test]
fn a_transaction_that_came_whole_passes_through() {
    let mut session = Session::new(small());
    assert!(matches!(session.send(&begin(5, 100)), Step::Begin(Begin { xid: 5, .. })));
    let origin = Origin { commit_lsn: Lsn(3), name: "there".into() };
    session.send(&Message::Origin(origin.clone()));
    session.send(&relation(1, 0));
    for ordinal in 1..=3 {
        let Step::Change(change) = session.send(&insert(1, 0, ordinal)) else { panic!() };
        assert_eq!((change.position.to_string(), change.xid), (format!("0/64:{ordinal}"), 5));
        assert_eq!(server::row(&change), (ordinal, 0));
    }
    let Step::Commit(transaction) = session.send(&Message::Commit(commit(100))) else { panic!() };
    assert_eq!((transaction.end_lsn, transaction.origin), (Lsn(108), Some(origin)));
    assert_eq!((session.assembler.memory_bytes(), session.spool.held()), (0, 0));
}

#[test]
fn a_rolled_back_subtransaction_takes_its_own_changes_and_no_others() {
    for limits in [Limits::default(), small()] {
        let mut session = Session::new(limits);
        session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1)), (11, insert(1, 0, 2)), (12, insert(1, 0, 3))]);
        session.send(&abort(10, 12));
        session.stream(10, false, &[(11, insert(1, 0, 4)), (13, insert(1, 0, 5))]);
        session.send(&abort(10, 13));
        session.stream(10, false, &[(14, insert(1, 0, 6))]);
        let seen = session.committed(&stream_commit(10, 100));
        assert_eq!(seen.ids(), [1, 2, 4, 6]);
        assert_eq!(session.spool.held(), 0);
    }
}

#[test]
fn a_subtransaction_falls_with_the_one_it_was_committed_into() {
    for limits in [Limits::default(), small()] {
        let mut session = Session::new(limits);
        // 11 is the parent of 12 and writes nothing before it.
        session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1)), (12, insert(1, 0, 2)), (11, insert(1, 0, 3))]);
        session.send(&abort(10, 12));
        session.send(&abort(10, 11));
        assert_eq!(session.committed(&stream_commit(10, 100)).ids(), [1]);
    }
}

#[test]
fn an_abort_of_what_was_never_seen_drops_nothing() {
    let mut session = Session::new(small());
    session.stream(10, true, &[(10, relation(1, 0)), (11, insert(1, 0, 1))]);
    session.send(&abort(10, 12));
    session.send(&abort(77, 78));
    session.send(&abort(77, 77));
    assert_eq!(session.committed(&stream_commit(10, 100)).ids(), [1]);
}

#[test]
fn a_rolled_back_transaction_leaves_nothing() {
    let mut session = Session::new(small());
    session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1))]);
    assert!(session.spool.held() > 0);
    session.send(&abort(10, 10));
    assert_eq!((session.spool.held(), session.assembler.open()), (0, 0));
    let error = session.try_send(None, &stream_commit(10, 100)).unwrap_err();
    assert!(matches!(error, LogicalError::UnknownTransaction { message: "Stream Commit", xid: 10 }), "{error}");
}

#[test]
fn a_logical_message_falls_with_the_subtransaction_before_it() {
    // As Postgres 18 sends it: the message is the subtransaction's, the xid on it is not.
    let mut session = Session::new(small());
    session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1)), (10, message("of 10"))]);
    session.stream(10, false, &[(11, insert(1, 0, 2)), (10, message("of 11"))]);
    session.send(&abort(10, 11));
    session.stream(10, false, &[(10, message("of 10 again"))]);
    let seen = session.committed(&stream_commit(10, 100));
    assert_eq!(seen.texts, ["of 10", "of 10 again"]);
    assert_eq!(seen.xids, [10, 10, 10]);
}

#[test]
fn relations_told_in_a_rolled_back_subtransaction_still_count() {
    for limits in [Limits::default(), small()] {
        let mut session = Session::new(limits);
        session.stream(10, true, &[(11, insert_after(1)), (11, insert(1, 0, 1))]);
        session.stream(10, false, &[(11, relation(2, 0)), (11, insert(2, 0, 2))]);
        session.send(&abort(10, 11));
        session.stream(10, false, &[(10, insert(1, 0, 3)), (10, insert(2, 0, 4))]);
        assert_eq!(session.committed(&stream_commit(10, 100)).ids(), [3, 4]);
        // And to all, once it is committed.
        session.send(&begin(20, 200));
        assert!(matches!(session.send(&insert(2, 0, 5)), Step::Change(_)));
    }
}

fn insert_after(oid: u32) -> Message {
    relation(oid, 0)
}

#[test]
fn relations_of_an_open_transaction_are_its_own() {
    let mut session = Session::new(small());
    session.send(&begin(5, 100));
    session.send(&relation(1, 1));
    session.send(&Message::Commit(commit(100)));
    session.stream(10, true, &[(10, relation(1, 2)), (10, insert(1, 2, 1)), (10, relation(2, 0)), (10, insert(2, 0, 2))]);
    session.send(&begin(6, 200));
    let Step::Change(change) = session.send(&insert(1, 1, 3)) else { panic!() };
    assert_eq!(server::row(&change), (3, 1));
    let error = session.try_send(None, &insert(2, 0, 4)).unwrap_err();
    assert!(matches!(error, LogicalError::UnknownRelation { oid: 2 }), "{error}");

    // Dropped with it.
    let mut session = Session::new(small());
    session.stream(10, true, &[(10, relation(2, 0)), (10, insert(2, 0, 2))]);
    session.send(&abort(10, 10));
    session.send(&begin(6, 200));
    assert!(matches!(session.try_send(None, &insert(2, 0, 4)), Err(LogicalError::UnknownRelation { oid: 2 })));
}

#[test]
fn a_newer_description_is_not_undone_by_the_commit_of_an_older_transaction() {
    let mut session = Session::new(small());
    session.stream(10, true, &[(10, relation(1, 1)), (10, insert(1, 1, 1))]);
    session.send(&begin(5, 100));
    session.send(&relation(1, 2));
    session.send(&Message::Commit(commit(100)));
    assert_eq!(session.committed(&stream_commit(10, 200)).rows, [(1, 1)]);
    session.send(&begin(6, 300));
    let Step::Change(change) = session.send(&insert(1, 2, 2)) else { panic!() };
    assert_eq!(server::row(&change), (2, 2));
}

#[test]
fn a_prepared_transaction_waits_for_its_commit() {
    let mut session = Session::new(small());
    session.send(&begin_prepare(5, 100));
    session.send(&relation(1, 0));
    session.send(&insert(1, 0, 1));
    assert!(matches!(session.send(&Message::Prepare(prepare(5, 100))), Step::Prepared(_)));
    session.stream(6, true, &[(6, relation(1, 0)), (6, insert(1, 0, 2))]);
    assert!(matches!(session.send(&Message::StreamPrepare(StreamPrepare(prepare(6, 150)))), Step::Prepared(_)));
    // What it was told is known to all at once.
    session.send(&begin(7, 200));
    assert!(matches!(session.send(&insert(1, 0, 3)), Step::Change(_)));
    session.send(&Message::Commit(commit(200)));
    let seen = session.committed(&commit_prepared(5, 300));
    assert_eq!((seen.ids(), seen.commit_lsn), (vec![1], Lsn(300)));
    let rolled_back = session.send(&Message::RollbackPrepared(rollback_prepared(6, 400)));
    assert!(matches!(rolled_back, Step::RolledBack { prepare_lsn: Lsn(150), .. }));
    assert_eq!((session.spool.held(), session.assembler.open()), (0, 0));
}

#[test]
fn a_prepared_transaction_keeps_what_relations_looked_like() {
    let mut session = Session::new(small());
    session.send(&begin(5, 100));
    session.send(&Message::Type(Type { oid: 70000, schema: "public".into(), name: "mood".into() }));
    session.send(&relation(1, 1));
    session.send(&Message::Commit(commit(100)));
    session.send(&begin_prepare(6, 200));
    session.send(&insert(1, 1, 1));
    session.send(&Message::Prepare(prepare(6, 200)));
    session.send(&begin(7, 300));
    session.send(&relation(1, 2));
    session.send(&Message::Commit(commit(300)));
    let Step::Committed(mut replay) = session.send(&commit_prepared(6, 400)) else { panic!() };
    let change = replay.poll_change().unwrap().unwrap();
    assert_eq!(server::row(&change), (1, 1));
    assert_eq!(replay.transaction().prepare_lsn, Some(Lsn(200)));
}

#[test]
fn the_end_of_a_prepared_transaction_that_is_not_held_is_an_answer() {
    let mut session = Session::new(small());
    let Step::NotHeld(NotHeld::Committed(transaction)) = session.send(&commit_prepared(5, 100)) else { panic!() };
    assert_eq!((transaction.gid.as_deref(), transaction.end_lsn), (Some("gid 5"), Lsn(108)));
    let rollback = rollback_prepared(5, 100);
    let Step::NotHeld(NotHeld::RolledBack(told)) = session.send(&Message::RollbackPrepared(rollback.clone())) else { panic!() };
    assert_eq!(told, rollback);
}

#[test]
fn after_a_reconnect_what_is_durable_is_skipped_and_the_rest_is_not() {
    let mut session = Session::new(Limits::default());
    session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1))]);
    session.send(&begin(5, 100));
    session.reconnect(Lsn(100));
    assert_eq!((session.assembler.open(), session.assembler.memory_bytes()), (0, 0));
    assert!(matches!(session.send(&begin(5, 100)), Step::Skipped(None)));
    session.send(&relation(1, 0));
    assert!(matches!(session.send(&insert(1, 0, 2)), Step::Skipped(None)));
    let Step::Skipped(Some(skipped)) = session.send(&Message::Commit(commit(100))) else { panic!() };
    assert_eq!((skipped.xid, skipped.commit_lsn, skipped.end_lsn), (5, Lsn(100), Lsn(108)));
    session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1))]);
    assert_eq!(session.committed(&stream_commit(10, 200)).ids(), [1]);
    session.reconnect(Lsn(200));
    session.stream(10, true, &[(10, relation(1, 0)), (10, insert(1, 0, 1))]);
    let Step::Skipped(Some(skipped)) = session.send(&stream_commit(10, 200)) else { panic!() };
    assert_eq!((skipped.xid, skipped.end_lsn, skipped.prepare_lsn), (10, Lsn(208), None));
    session.send(&begin(11, 300));
    assert!(matches!(session.send(&insert(1, 0, 3)), Step::Change(_)));
}

#[test]
fn a_prepared_transaction_that_is_skipped_says_what_it_held() {
    let mut session = Session::new(Limits::default());
    session.reconnect(Lsn(200));
    session.send(&begin_prepare(5, 100));
    session.send(&Message::Prepare(prepare(5, 100)));
    let Step::Skipped(Some(skipped)) = session.send(&commit_prepared(5, 200)) else { panic!() };
    assert_eq!((skipped.xid, skipped.prepare_lsn, skipped.end_lsn), (5, Some(Lsn(100)), Lsn(208)));
    let Step::Skipped(Some(skipped)) = session.send(&commit_prepared(4, 190)) else { panic!() };
    assert_eq!((skipped.xid, skipped.prepare_lsn, skipped.end_lsn), (4, None, Lsn(198)));
}

#[test]
fn commits_only_go_forward() {
    let mut session = Session::new(Limits::default());
    session.send(&begin(5, 100));
    session.send(&Message::Commit(commit(100)));
    for lsn in [100, 99] {
        let error = session.try_send(None, &begin(6, lsn)).unwrap_err();
        assert!(matches!(error, LogicalError::NotBehind { last: Lsn(100), .. }), "{error}");
    }
}

#[test]
fn a_message_outside_of_transactions_has_its_own_place() {
    let mut session = Session::new(Limits::default());
    let Message::LogicalMessage(mut outside) = message("outside") else { panic!() };
    (outside.transactional, outside.lsn) = (false, Lsn(200));
    let outside = Message::LogicalMessage(outside);
    session.stream(10, true, &[(10, relation(1, 0))]);
    let Step::Message(change) = session.send(&outside) else { panic!() };
    // A commit may begin where it ends.
    session.send(&begin(5, 200));
    session.send(&relation(1, 0));
    let Step::Change(next) = session.send(&insert(1, 0, 1)) else { panic!() };
    assert!(change.position < next.position);
    session.reconnect(Lsn(199));
    assert!(matches!(session.send(&outside), Step::Skipped(Some(Transaction { xid: 0, end_lsn: Lsn(200), .. }))));
    assert!(matches!(session.send(&begin(5, 200)), Step::Begin(_)));
}

#[test]
fn what_is_out_of_place_is_named() {
    let row = insert(1, 0, 1);
    let cases: [(&[Message], &Message, &str); 9] = [
        (&[], &row, "Insert message of pgoutput out of place: no transaction has begun"),
        (&[], &relation(1, 0), "Relation message"),
        (&[], &Message::Commit(commit(1)), "Commit message"),
        (&[begin(5, 100)], &begin(6, 200), "Begin message"),
        (&[begin(5, 100)], &Message::Commit(commit(101)), "not the one that Begin announced"),
        (&[begin(5, 100)], &start(6, true), "Stream Start message"),
        (&[begin_prepare(5, 100)], &Message::Prepare(prepare(5, 101)), "Prepare message"),
        (&[start(5, true), Message::StreamStop], &start(5, true), "of which one has come"),
        (&[], &start(5, false), "no part has come"),
    ];
    for (before, wrong, expected) in cases {
        let mut session = Session::new(small());
        for message in before {
            session.send(message);
        }
        let error = session.try_send(None, wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_row_that_does_not_fit_its_relation_is_an_error() {
    let mut session = Session::new(small());
    session.send(&begin(5, 100));
    session.send(&relation(1, 0));
    let error = session.try_send(None, &insert(1, 1, 1)).unwrap_err().to_string();
    assert_eq!(error, "a row of public.t1 has 2 columns, its relation 1");
    let truncate = Message::Truncate(Truncate { cascade: false, restart_identity: false, relations: vec![1, 9] });
    let error = session.try_send(None, &truncate).unwrap_err().to_string();
    assert!(error.contains("OID 9"), "{error}");
}

#[test]
fn a_full_spool_is_told() {
    let spool = MemorySpool::new(100);
    let mut session = Session::new(small());
    session.assembler = Assembler::new(spool.clone(), small(), Lsn::INVALID);
    session.send(&start(10, true));
    session.try_send(Some(10), &relation(1, 0)).unwrap();
    let error = (0..10).find_map(|id| session.try_send(Some(10), &insert(1, 0, id)).err()).unwrap();
    assert!(matches!(&error, LogicalError::Spool(io) if io.kind() == std::io::ErrorKind::StorageFull), "{error}");
    session.reconnect(Lsn::INVALID);
    assert_eq!(spool.held(), 0);
}

#[test]
fn a_large_transaction_takes_little_memory() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let mut session = Session::new(limits);
    session.send(&start(10, true));
    session.try_send(Some(10), &relation(1, 0)).unwrap();
    for id in 0..300_000 {
        session.try_send(Some(10 + id % 2), &insert(1, 0, id)).unwrap();
        assert!(session.assembler.memory_bytes() <= limits.memory_bytes);
    }
    session.send(&Message::StreamStop);
    assert!(session.spool.held() > 5 << 20);
    let Step::Committed(mut replay) = session.send(&stream_commit(10, 100)) else { panic!() };
    for id in 0..300_000 {
        assert_eq!(server::row(&replay.poll_change().unwrap().unwrap()).0, id);
    }
    assert!(replay.poll_change().unwrap().is_none());
    assert_eq!(session.spool.held(), 0, "given back when it is read");
}

#[test]
fn a_definition_is_announced_before_its_first_use_and_when_it_changes() {
    let mut announced = Announced::default();
    let mut cache = RelationCache::default();
    let mut tell = |version| {
        let Message::Relation(relation) = relation(1, version) else { panic!() };
        cache.handle_relation(0, relation)
    };
    let ((first, new), (again, same)) = (tell(0), tell(0));
    assert!(new && !same && std::sync::Arc::ptr_eq(&first, &again));
    assert!(announced.needs(&first) && !announced.needs(&again));
    let (second, changed) = tell(1);
    assert!(changed && announced.needs(&second) && !announced.needs(&second));
    assert!(announced.needs(&first), "back again");
    let copy = std::sync::Arc::new(first.as_ref().clone());
    assert!(!announced.needs(&copy), "the same content");
}

#[test]
fn columns_have_the_names_of_their_types() {
    let mut cache = RelationCache::default();
    cache.handle_type(1, Type { oid: 25, schema: "public".into(), name: "mood".into() });
    let Message::Relation(relation) = relation(1, 0) else { panic!() };
    let (definition, _) = cache.handle_relation(2, relation);
    assert_eq!(definition.types[0].as_ref().map(|named| named.name.as_str()), Some("mood"));
    assert_eq!(text(b"x").columns(), 1);
}
