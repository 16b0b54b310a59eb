//! The bytes below are written down field by field from the manual, not made by the encoder.

use proptest::prelude::*;

use super::*;
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// The bytes of all parts, one after the other.
fn bytes(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

/// Parses outside of a stream, and checks that the same bytes are written again.
fn read(payload: &Bytes) -> Message {
    read_as(payload, false, false, None)
}

fn read_as(payload: &Bytes, streamed: bool, abort_info: bool, xid: Option<u32>) -> Message {
    let (found, message) = Message::parse(payload, streamed, abort_info).unwrap();
    assert_eq!(found, xid);
    let mut again = Vec::new();
    message.encode(xid, &mut again);
    assert_eq!(again, payload[..], "{message:?} is written as it was read");
    message
}

fn problem(payload: &[u8]) -> String {
    Message::parse(&Bytes::copy_from_slice(payload), false, false).unwrap_err().to_string()
}

const LSN: [u8; 8] = [0, 0, 0, 1, 0x01, 0x6B, 0x37, 0x40];
const END: [u8; 8] = [0, 0, 0, 1, 0x01, 0x6B, 0x37, 0x70];
const TIME: [u8; 8] = [0, 2, 0xD1, 0, 0, 0, 0, 5];
const LATER: [u8; 8] = [0, 2, 0xD1, 0, 0, 0, 0, 9];
const XID: [u8; 4] = [0, 0, 2, 0xEE];
const OID: [u8; 4] = [0, 0, 0x40, 0x01];
/// NULL, `12` as text, unchanged, three bytes in binary.
const ROW: &[u8] = b"\x00\x04nt\x00\x00\x00\x0212ub\x00\x00\x00\x03\x00\xFFz";

const AT: Lsn = Lsn(0x1_016B_3740);
const BEHIND: Lsn = Lsn(0x1_016B_3770);
const WHEN: PgTime = PgTime(0x0002_D100_0000_0005);
const AFTER: PgTime = PgTime(0x0002_D100_0000_0009);

fn row() -> Tuple {
    Tuple::of(&[Value::Null, Value::Text(b"12"), Value::Unchanged, Value::Binary(b"\x00\xFFz")]).unwrap()
}

#[test]
fn names_that_are_not_utf8_lose_nothing() {
    let names: [(&[u8], &str); 5] = [
        (b"caf\xE9", r"caf\xe9"),
        (b"\xE9\xFF", r"\xe9\xff"),
        (b"a\\\xE9", r"a\\\xe9"),
        (b"a\\xe9", r"a\xe9"),
        ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
    ];
    for (name, read) in names {
        let payload = bytes(&[b"R", &OID, b"public\0", name, b"\0d\x00\x00"]);
        let Ok((_, Message::Relation(relation))) = Message::parse(&payload, false, false) else { panic!("{name:?}") };
        assert_eq!(relation.name, read);
    }
}

#[test]
fn begin_and_commit() {
    let begin = read(&bytes(&[b"B", &LSN, &TIME, &XID]));
    assert_eq!(begin, Message::Begin(Begin { final_lsn: AT, commit_time: WHEN, xid: 750 }));
    let commit = read(&bytes(&[b"C\0", &LSN, &END, &TIME]));
    assert_eq!(commit, Message::Commit(Commit { commit_lsn: AT, end_lsn: BEHIND, commit_time: WHEN }));
    assert!(problem(&bytes(&[b"C\x01", &LSN, &END, &TIME])).contains("flags"));
    assert!(problem(&bytes(&[b"B", &[0; 8], &TIME, &XID])).contains("0/0"));
    assert!(problem(&bytes(&[b"B", &LSN, &TIME, &[0; 4]])).contains("xid is 0"));
}

#[test]
fn origin() {
    let origin = read(&bytes(&[b"O", &LSN, b"pg_16401\0"]));
    assert_eq!(origin, Message::Origin(Origin { commit_lsn: AT, name: "pg_16401".into() }));
    // A streamed transaction has no commit yet, there or here.
    let streamed = read_as(&bytes(&[b"O", &[0; 8], b"there\0"]), true, false, None);
    assert_eq!(streamed, Message::Origin(Origin { commit_lsn: Lsn::INVALID, name: "there".into() }));
}

#[test]
fn relation() {
    let columns = b"\x00\x02\x01id\0\x00\x00\x00\x17\xFF\xFF\xFF\xFF\x00price\0\x00\x00\x06\xA4\x00\x0A\x00\x06";
    let payload = bytes(&[b"R", &OID, b"public\0items\0d", columns]);
    let id = Column { key: true, name: "id".into(), type_oid: 23, type_modifier: -1 };
    let price = Column { key: false, name: "price".into(), type_oid: 1700, type_modifier: (10 << 16) + 6 };
    let expected = Relation {
        oid: 16385,
        schema: "public".into(),
        name: "items".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![id, price],
    };
    assert_eq!(read(&payload), Message::Relation(expected.clone()));
    let streamed = bytes(&[b"R", &XID, &payload[1..]]);
    assert_eq!(read_as(&streamed, true, false, Some(750)), Message::Relation(expected));
    for (letter, identity) in [(b"f", ReplicaIdentity::Full), (b"i", ReplicaIdentity::Index), (b"n", ReplicaIdentity::Nothing)] {
        let Message::Relation(relation) = read(&bytes(&[b"R", &OID, b"public\0none\0", letter, &[0, 0]])) else { panic!() };
        assert_eq!((relation.replica_identity, relation.columns.len()), (identity, 0));
    }
    assert!(problem(&bytes(&[b"R", &OID, b"public\0none\0x\x00\x00"])).contains("replica identity"));
    assert!(problem(&bytes(&[b"R", &OID, b"public\0none\0d\x00\x01\x02a\0\x00\x00\x00\x17\xFF\xFF\xFF\xFF"])).contains("flags"));
    assert!(problem(&bytes(&[b"R", &OID, b"public\0none\0d\xFF\xFF"])).contains("at most 1664"));
    assert!(problem(&bytes(&[b"R", &OID, b"public\0none"])).contains("zero byte"));
    assert!(problem(&bytes(&[b"R", &OID, &[b'x'; NAME_BYTES_MAX + 1], b"\0none\0d\x00\x00"])).contains("1025 bytes of a name"));
}

#[test]
fn an_empty_schema_is_pg_catalog() {
    let Message::Relation(relation) = read(&bytes(&[b"R", &OID, b"\0pg_class\0n\x00\x00"])) else { panic!() };
    assert_eq!((relation.schema.as_str(), relation.name.as_str()), ("pg_catalog", "pg_class"));
}

#[test]
fn types() {
    let expected = Type { oid: 16385, schema: "public".into(), name: "mood".into() };
    assert_eq!(read(&bytes(&[b"Y", &OID, b"public\0mood\0"])), Message::Type(expected.clone()));
    assert_eq!(read_as(&bytes(&[b"Y", &XID, &OID, b"public\0mood\0"]), true, false, Some(750)), Message::Type(expected));
}

#[test]
fn inserts() {
    let expected = Insert { relation: 16385, new: row() };
    assert_eq!(read(&bytes(&[b"I", &OID, b"N", ROW])), Message::Insert(expected.clone()));
    assert_eq!(read_as(&bytes(&[b"I", &XID, &OID, b"N", ROW]), true, false, Some(750)), Message::Insert(expected));
    assert!(problem(&bytes(&[b"I", &OID, b"K", ROW])).contains("no new row"));
}

#[test]
fn updates_with_and_without_an_old_row() {
    let key = Tuple::of(&[Value::Text(b"7"), Value::Null]).unwrap();
    let old = b"\x00\x02t\x00\x00\x00\x017n";
    for (old_bytes, old) in [
        (Vec::new(), None),
        ([b"K", &old[..]].concat(), Some(Old::Key(key.clone()))),
        ([b"O", &old[..]].concat(), Some(Old::Full(key))),
    ] {
        let expected = Update { relation: 16385, old, new: row() };
        let plain = bytes(&[b"U", &OID, &old_bytes, b"N", ROW]);
        assert_eq!(read(&plain), Message::Update(expected.clone()));
        let streamed = bytes(&[b"U", &XID, &plain[1..]]);
        assert_eq!(read_as(&streamed, true, false, Some(750)), Message::Update(expected));
    }
    assert!(problem(&bytes(&[b"U", &OID, b"K", old])).contains("ends early"));
    assert!(problem(&bytes(&[b"U", &OID, b"K", old, b"O", ROW])).contains("no new row"));
    assert!(problem(&bytes(&[b"U", &OID, b"X", ROW])).contains("no new row"));
}

#[test]
fn deletes() {
    assert_eq!(read(&bytes(&[b"D", &OID, b"K", ROW])), Message::Delete(Delete { relation: 16385, old: Old::Key(row()) }));
    let full = read_as(&bytes(&[b"D", &XID, &OID, b"O", ROW]), true, false, Some(750));
    assert_eq!(full, Message::Delete(Delete { relation: 16385, old: Old::Full(row()) }));
    assert!(problem(&bytes(&[b"D", &OID, b"N", ROW])).contains("no old row"));
}

#[test]
fn truncates() {
    for (flags, cascade, restart_identity) in [(0, false, false), (1, true, false), (2, false, true), (3, true, true)] {
        let expected = Truncate { cascade, restart_identity, relations: vec![16385, 1] };
        let payload = bytes(&[b"T\x00\x00\x00\x02", &[flags], &OID, &[0, 0, 0, 1]]);
        assert_eq!(read(&payload), Message::Truncate(expected.clone()));
        let streamed = bytes(&[b"T", &XID, &payload[1..]]);
        assert_eq!(read_as(&streamed, true, false, Some(750)), Message::Truncate(expected));
    }
    assert!(problem(&bytes(&[b"T\x00\x00\x00\x01\x04", &OID])).contains("flags"));
    assert!(problem(b"T\xFF\xFF\xFF\xFF\x00").contains("negative"));
    assert!(problem(&bytes(&[b"T\x7F\xFF\xFF\xFF\x00", &OID])).contains("number of relations"));
    assert!(problem(&bytes(&[b"T\x00\x00\x00\x01\x00", &OID, &OID])).contains("number of relations"));
}

#[test]
fn logical_messages() {
    for (flags, transactional) in [(0, false), (1, true)] {
        let expected = LogicalMessage { transactional, lsn: AT, prefix: "audit".into(), content: Bytes::from_static(b"\x00hi") };
        let payload = bytes(&[b"M", &[flags], &LSN, b"audit\0\x00\x00\x00\x03\x00hi"]);
        assert_eq!(read(&payload), Message::LogicalMessage(expected.clone()));
        let streamed = bytes(&[b"M", &XID, &payload[1..]]);
        assert_eq!(read_as(&streamed, true, false, Some(750)), Message::LogicalMessage(expected));
    }
    assert!(problem(&bytes(&[b"M\x02", &LSN, b"audit\0\x00\x00\x00\x00"])).contains("flags"));
    assert!(problem(&bytes(&[b"M\x00", &LSN, b"audit\0\xFF\xFF\xFF\xFE"])).contains("negative"));
    assert!(problem(&bytes(&[b"M\x00", &LSN, b"audit\0\x00\x00\x00\x02x"])).contains("ends early"));
}

#[test]
fn streams() {
    for (byte, first_segment) in [(0, false), (1, true)] {
        let start = read(&bytes(&[b"S", &XID, &[byte]]));
        assert_eq!(start, Message::StreamStart(StreamStart { xid: 750, first_segment }));
    }
    assert_eq!(read_as(&bytes(&[b"E"]), true, false, None), Message::StreamStop);
    let commit = Commit { commit_lsn: AT, end_lsn: BEHIND, commit_time: WHEN };
    let stream_commit = read(&bytes(&[b"c", &XID, b"\0", &LSN, &END, &TIME]));
    assert_eq!(stream_commit, Message::StreamCommit(StreamCommit { xid: 750, commit }));
    let subxid = [0, 0, 2, 0xF0];
    let abort = bytes(&[b"A", &XID, &subxid]);
    assert_eq!(read(&abort), Message::StreamAbort(StreamAbort { xid: 750, subxid: 752, aborted: None }));
    let parallel = bytes(&[&abort, &LSN, &TIME]);
    let aborted = Some(AbortedAt { lsn: AT, time: WHEN });
    let expected = Message::StreamAbort(StreamAbort { xid: 750, subxid: 752, aborted });
    assert_eq!(read_as(&parallel, false, true, None), expected);
    assert!(problem(&parallel).contains("left behind"));
    assert!(Message::parse(&abort, false, true).unwrap_err().to_string().contains("ends early"));
    let crashed = read_as(&bytes(&[&abort, &[0; 16]]), false, true, None);
    assert!(matches!(crashed, Message::StreamAbort(StreamAbort { aborted: Some(at), .. }) if !at.lsn.is_valid()));
    assert!(problem(&bytes(&[b"S", &XID, b"\x02"])).contains("neither"));
}

#[test]
fn prepared_transactions() {
    let gid = "move 7".to_owned();
    let fields = bytes(&[&LSN, &END, &TIME, &XID, b"move 7\0"]);
    let begin = BeginPrepare { prepare_lsn: AT, end_lsn: BEHIND, prepare_time: WHEN, xid: 750, gid: gid.clone() };
    assert_eq!(read(&bytes(&[b"b", &fields])), Message::BeginPrepare(begin));
    let prepare = Prepare { prepare_lsn: AT, end_lsn: BEHIND, prepare_time: WHEN, xid: 750, gid: gid.clone() };
    assert_eq!(read(&bytes(&[b"P\0", &fields])), Message::Prepare(prepare.clone()));
    assert_eq!(read(&bytes(&[b"p\0", &fields])), Message::StreamPrepare(StreamPrepare(prepare)));
    let commit = CommitPrepared { commit_lsn: AT, end_lsn: BEHIND, commit_time: WHEN, xid: 750, gid: gid.clone() };
    assert_eq!(read(&bytes(&[b"K\0", &fields])), Message::CommitPrepared(commit));
    let rollback =
        RollbackPrepared { prepare_end_lsn: AT, rollback_end_lsn: BEHIND, prepare_time: WHEN, rollback_time: AFTER, xid: 750, gid };
    assert_eq!(read(&bytes(&[b"r\0", &LSN, &END, &TIME, &LATER, &XID, b"move 7\0"])), Message::RollbackPrepared(rollback));
    for tag in [b"P", b"p", b"K"] {
        assert!(problem(&bytes(&[tag, b"\x01", &fields])).contains("flags"));
    }
    assert!(problem(&bytes(&[b"b", &LSN, &END, &TIME, &XID, &[b'g'; 200], b"\0"])).contains("200 bytes of a gid"));
}

#[test]
fn a_row_gives_its_columns_and_shares_the_payload() {
    let payload = bytes(&[b"I", &OID, b"N", ROW]);
    let Message::Insert(insert) = read(&payload) else { panic!() };
    let mut values = insert.new.values();
    assert_eq!((values.len(), insert.new.columns()), (4, 4));
    assert_eq!(values.next(), Some(Value::Null));
    let Some(Value::Text(text)) = values.next() else { panic!() };
    assert_eq!(values.next(), Some(Value::Unchanged));
    assert_eq!(values.next(), Some(Value::Binary(b"\x00\xFFz")));
    assert_eq!((values.len(), values.next()), (0, None));
    assert!(payload.as_ptr_range().contains(&text.as_ptr()), "no copy");
    assert_eq!(insert.new.share(text), Bytes::from_static(b"12"));
}

#[test]
fn what_is_wrong_with_a_row_is_named() {
    let insert = |row: &[u8]| problem(&bytes(&[b"I", &OID, b"N", row]));
    assert!(insert(b"\x00\x01x").contains("unknown kind of column 'x' (0x78)"));
    assert!(insert(b"\x00\x01t\xFF\xFF\xFF\xFF").contains("a length is negative"));
    assert!(insert(b"\x00\x01t\x00\x00\x00\x02a").contains("ends early"));
    assert!(insert(b"\x00\x02n").contains("ends early"));
    assert!(insert(b"\x00\x01nn").contains("left behind"));
    assert!(insert(b"\xFF\xFFn").contains("65535 columns, at most 1664"));
    assert_eq!(Tuple::of(&vec![Value::Null; 1665]), None);
}

#[test]
fn unknown_messages_are_named() {
    assert_eq!(Message::parse(&Bytes::new(), false, false), Err(PgoutputError::Empty));
    assert_eq!(Message::parse(&Bytes::from_static(b"Z"), false, false), Err(PgoutputError::UnknownMessage(b'Z')));
    let known = (0..=u8::MAX).filter(|tag| name(*tag).is_some()).count();
    assert_eq!(known, 19, "as many as the manual has");
}

fn parser(version: ProtoVersion, streaming: Streaming) -> Parser {
    Parser::new(version, streaming).unwrap()
}

#[test]
fn xids_are_there_between_start_and_stop_alone() {
    let mut parser = parser(ProtoVersion::V2, Streaming::On);
    let start = bytes(&[b"S", &XID, b"\x01"]);
    let plain = bytes(&[b"I", &OID, b"N", ROW]);
    let streamed = bytes(&[b"I", &XID, &OID, b"N", ROW]);
    assert_eq!(parser.parse(&plain).unwrap().xid, None);
    parser.parse(&start).unwrap();
    assert!(parser.in_stream());
    assert_eq!(parser.parse(&streamed).unwrap().xid, Some(750));
    assert_eq!(parser.parse(&bytes(&[b"O", &[0; 8], b"o\0"])).unwrap().xid, None);
    parser.parse(&bytes(&[b"E"])).unwrap();
    assert!(!parser.in_stream());
    assert_eq!(parser.parse(&plain).unwrap().xid, None);
}

#[test]
fn order_is_kept() {
    let start = bytes(&[b"S", &XID, b"\x01"]);
    let mut outside = parser(ProtoVersion::V4, Streaming::Parallel);
    let error = outside.parse(&bytes(&[b"E"])).unwrap_err();
    assert_eq!(error, PgoutputError::OutOfPlace { message: "Stream Stop", problem: "none was started" });
    outside.parse(&start).unwrap();
    for tag in [b"S", b"B", b"C", b"c", b"A", b"b", b"P", b"K", b"r", b"p"] {
        let error = outside.clone().parse(&bytes(&[tag])).unwrap_err();
        assert!(matches!(error, PgoutputError::OutOfPlace { message, .. } if Some(message) == name(tag[0])), "{error}");
    }
}

#[test]
fn versions_and_options_are_kept() {
    let asked = |version, streaming, tag: &[u8]| {
        let error = parser(version, streaming).parse(&bytes(&[tag])).unwrap_err();
        if let PgoutputError::NotAsked { needs, .. } = error { Some(needs) } else { None }
    };
    for tag in [b"S", b"E", b"c", b"A"] {
        assert_eq!(asked(ProtoVersion::V1, Streaming::Off, tag), Some("proto_version 2"));
        // Postgres 18 sends an abort without being asked.
        let wanted = (tag != b"A").then_some("the option streaming");
        assert_eq!(asked(ProtoVersion::V4, Streaming::Off, tag), wanted);
        assert_eq!(asked(ProtoVersion::V2, Streaming::On, b"A"), None);
    }
    for tag in [b"b", b"P", b"K", b"r", b"p"] {
        assert_eq!(asked(ProtoVersion::V2, Streaming::On, tag), Some("proto_version 3"));
        assert_eq!(asked(ProtoVersion::V3, Streaming::On, tag), None);
    }
    assert!(Parser::new(ProtoVersion::V1, Streaming::On).is_err());
    assert!(Parser::new(ProtoVersion::V3, Streaming::Parallel).is_err());
}

#[test]
fn an_abort_has_its_place_with_parallel_streaming() {
    let abort = bytes(&[b"A", &XID, &XID, &LSN, &TIME]);
    let Message::StreamAbort(parsed) = parser(ProtoVersion::V4, Streaming::Parallel).parse(&abort).unwrap().message else {
        panic!()
    };
    assert_eq!(parsed.aborted, Some(AbortedAt { lsn: AT, time: WHEN }));
    assert!(parser(ProtoVersion::V4, Streaming::On).parse(&abort).is_err());
}

proptest! {
    #[test]
    fn a_message_cut_short_or_drawn_out_is_none(cut in 0usize..100, more: u8) {
        let whole = bytes(&[b"U", &OID, b"O", ROW, b"N", ROW]);
        prop_assert!(Message::parse(&whole, false, false).is_ok());
        prop_assert!(Message::parse(&whole.slice(..cut.min(whole.len() - 1)), false, false).is_err());
        prop_assert!(Message::parse(&bytes(&[&whole, &[more]]), false, false).is_err());
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(
        tag in prop::sample::select(b"ABCDEIKMOPRSTUYbcpr".to_vec()),
        rest in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'N'), Just(b't'), any::<u8>()], 0..80),
        streamed: bool,
        abort_info: bool,
    ) {
        let payload = bytes(&[&[tag], &rest]);
        if let Ok((xid, message)) = Message::parse(&payload, streamed, abort_info) {
            let mut again = Vec::new();
            message.encode(xid, &mut again);
            let (second, same) = Message::parse(&again.into(), streamed, abort_info).unwrap();
            prop_assert_eq!((second, same), (xid, message));
        }
    }
}
