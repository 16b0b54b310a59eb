//! A message of pgoutput, of any version: what is read is written again as something that reads the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use walbus::proto::pgoutput::{Message, Tuple};

fuzz_target!(|data: &[u8]| {
    let Some((options, payload)) = data.split_first() else { return };
    let (streamed, abort_info) = (options & 1 != 0, options & 2 != 0);
    let payload = Bytes::copy_from_slice(payload);
    let Ok((xid, message)) = Message::parse(&payload, streamed, abort_info) else { return };
    // A name that is not UTF-8 is written as it was escaped, which may be too long for one.
    if format!("{message:?}").contains(r"\\x") {
        return;
    }
    let mut again = BytesMut::new();
    message.encode(xid, &mut again);
    let again = again.freeze();
    assert_eq!(Message::parse(&again, streamed, abort_info), Ok((xid, message.clone())), "written as it was read");
    // The one thing that has two spellings is the schema pg_catalog.
    if !matches!(message, Message::Relation(_) | Message::Type(_)) {
        assert_eq!(again, payload);
    }
    if let Message::Insert(insert) = &message {
        let values: Vec<_> = insert.new.values().collect();
        assert_eq!(values.len(), usize::from(insert.new.columns()), "as many columns as announced");
        assert_eq!(Tuple::of(&values).as_ref(), Some(&insert.new));
    }
});
