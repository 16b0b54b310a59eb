#![allow(clippy::indexing_slicing, clippy::as_conversions, clippy::cast_possible_truncation)]

use super::*;
use bytes::BufMut;
use proptest::prelude::*;

fn frame(tag: u8, body: &[u8]) -> BytesMut {
    let mut buf = BytesMut::new();
    buf.put_u8(tag);
    buf.put_u32(body.len() as u32 + 4);
    buf.put_slice(body);
    buf
}

fn parse(tag: u8, body: &[u8]) -> Result<Message, ProtocolError> {
    take_frame(&mut frame(tag, body), MESSAGE_BYTES_MAX).unwrap().unwrap().parse()
}

#[test]
fn more_bytes_are_asked_for_until_the_message_is_whole() {
    let whole = frame(b'd', b"payload");
    for cut in 0..whole.len() {
        let mut buf = BytesMut::from(&whole[..cut]);
        assert_eq!(take_frame(&mut buf, 100), Ok(None));
        assert_eq!(buf.len(), cut, "nothing is taken of half a message");
        assert_eq!(frame_bytes(&buf, 100), Ok(if cut < 5 { 5 } else { whole.len() }));
    }
    let mut buf = whole.clone();
    buf.put_slice(b"dnext");
    let frame = take_frame(&mut buf, 100).unwrap().unwrap();
    assert_eq!((frame.tag, &frame.body[..], &buf[..]), (b'd', &b"payload"[..], &b"dnext"[..]));
}

#[test]
fn bodies_share_the_buffer() {
    let mut buf = frame(b'd', b"payload");
    let start = buf.as_ptr();
    let taken = take_frame(&mut buf, 100).unwrap().unwrap();
    assert_eq!(taken.body.as_ptr(), start.wrapping_add(5));
}

#[test]
fn garbage_is_told_before_its_length_is_waited_for() {
    assert_eq!(take_frame(&mut BytesMut::from("x"), 100), Err(ProtocolError::UnknownType(b'x')));
    let message = "CopyData";
    assert_eq!(
        take_frame(&mut BytesMut::from(&b"d\0\0\0\x65"[..]), 100),
        Err(ProtocolError::TooLong { message, length: 101, limit: 100 })
    );
    assert_eq!(
        take_frame(&mut BytesMut::from(&b"d\xFF\xFF\xFF\xFF"[..]), 100),
        Err(ProtocolError::TooLong { message, length: 0xFFFF_FFFF, limit: 100 })
    );
    assert!(matches!(take_frame(&mut BytesMut::from(&b"d\0\0\0\x03"[..]), 100), Err(ProtocolError::Malformed { .. })));
}

#[test]
fn an_error_has_its_fields() {
    let body = b"SFEHLER\0VERROR\0C58P01\0Mgone\0Dwhole\0Hwait\0Fslot.c\0L12\0\0";
    let Ok(Message::ErrorResponse(error)) = parse(b'E', body) else { panic!("no error") };
    assert_eq!(error.severity, "ERROR");
    assert_eq!(error.code, SqlState::UNDEFINED_FILE);
    assert_eq!(error.to_string(), "ERROR: gone (SQLSTATE 58P01); detail: whole; hint: wait");
    for broken in
        [&b"SERROR\0Mgone\0\0"[..], b"SERROR\0C58P01\0\0", b"C58P01\0Mgone\0\0", b"SERROR\0C58P01\0Mgone\0", b"SERROR\0C5\0\0"]
    {
        assert!(matches!(parse(b'E', broken), Err(ProtocolError::Malformed { message: "ErrorResponse", .. })), "{broken:?}");
    }
}

#[test]
fn rows_have_texts_and_nulls() {
    let description = [&b"\0\x02name\0"[..], &[0; 18], b"lsn\0", &[0; 18]].concat();
    assert_eq!(parse(b'T', &description), Ok(Message::RowDescription(vec!["name".into(), "lsn".into()])));
    let row = b"\0\x02\0\0\0\x02ab\xFF\xFF\xFF\xFF";
    assert_eq!(parse(b'D', row), Ok(Message::DataRow(vec![Some(Bytes::from_static(b"ab")), None])));
    for broken in [&b"\0\x02\0\0\0\x02ab"[..], b"\0\x01\0\0\0\x03ab", b"\0\x01\0\0\0\x01ab", b"\0", b"\0\x01\xFF\xFF\xFF\xFE"] {
        assert!(parse(b'D', broken).is_err(), "{broken:?}");
    }
}

#[test]
fn every_step_of_authentication_is_told() {
    use Authentication as A;
    for (body, expected) in [
        (&b"\0\0\0\0"[..], A::Ok),
        (b"\0\0\0\x03", A::CleartextPassword),
        (b"\0\0\0\x05salt", A::Md5Password(*b"salt")),
        (b"\0\0\0\x07", A::Gss),
        (b"\0\0\0\x09", A::Sspi),
        (b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", A::Sasl(vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()])),
        (b"\0\0\0\x0Br=x", A::SaslContinue(Bytes::from_static(b"r=x"))),
        (b"\0\0\0\x0Cv=x", A::SaslFinal(Bytes::from_static(b"v=x"))),
        (b"\0\0\0\x63what", A::Unknown(99)),
    ] {
        assert_eq!(parse(b'R', body), Ok(Message::Authentication(expected)));
    }
    assert!(parse(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0").is_err());
    assert!(parse(b'R', b"\0\0\0\0x").is_err());
}

#[test]
fn a_lower_protocol_is_told_in_both_spellings() {
    let expected = Message::NegotiateProtocolVersion { minor: 0, unknown_options: vec!["_pq_.x".into()] };
    assert_eq!(parse(b'v', b"\0\0\0\0\0\0\0\x01_pq_.x\0"), Ok(expected.clone()));
    assert_eq!(parse(b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0"), Ok(expected));
    assert!(parse(b'v', b"\0\x03\0\0\xFF\xFF\xFF\xFF").is_err(), "a count is not memory");
}

#[test]
fn the_rest_is_told_too() {
    assert_eq!(parse(b'C', b"SELECT\0"), Ok(Message::CommandComplete("SELECT".into())));
    assert_eq!(parse(b'W', b"\0\0\0"), Ok(Message::CopyBothResponse));
    assert_eq!(parse(b'W', b"\0\0\x01\0\0"), Ok(Message::CopyBothResponse));
    assert_eq!(parse(b'c', b""), Ok(Message::CopyDone));
    assert_eq!(parse(b'Z', b"I"), Ok(Message::ReadyForQuery));
    assert_eq!(parse(b'S', b"a\0b\0"), Ok(Message::ParameterStatus { name: "a".into(), value: "b".into() }));
    assert_eq!(parse(b'K', b"\0\0\0\x01abcd"), Ok(Message::BackendKeyData { pid: 1, key: Bytes::from_static(b"abcd") }));
    assert_eq!(parse(b'A', b"\0\0\0\x01x\0\0"), Ok(Message::NotificationResponse));
    assert_eq!(parse(b'd', b"x"), Ok(Message::CopyData(Bytes::from_static(b"x"))));
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = take_frame(&mut buf, 1000) {
            drop(frame.parse());
        }
    }

    #[test]
    fn any_body_is_an_answer_or_an_error(tag in prop::sample::select(&b"ACcDdEIKNRSTvWZ"[..]), body: Vec<u8>) {
        drop(parse(tag, &body));
    }

    #[test]
    fn messages_come_out_as_they_went_in(bodies: Vec<Vec<u8>>, cut: prop::sample::Index) {
        let wire: Vec<u8> = bodies.iter().flat_map(|body| frame(b'd', body)).collect();
        let cut = cut.index(wire.len() + 1);
        let mut buf = BytesMut::from(&wire[..cut]);
        let mut out = Vec::new();
        while let Some(frame) = take_frame(&mut buf, 1 << 20).unwrap() {
            out.push(frame.body.to_vec());
        }
        buf.put_slice(&wire[cut..]);
        while let Some(frame) = take_frame(&mut buf, 1 << 20).unwrap() {
            out.push(frame.body.to_vec());
        }
        prop_assert_eq!(out, bodies);
        prop_assert!(buf.is_empty());
    }
}
