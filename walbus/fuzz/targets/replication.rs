//! What is in a CopyData of a replication connection, in both directions.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use walbus::proto::replication::{StandbyStatus, WalsenderMessage};

fuzz_target!(|data: &[u8]| {
    let payload = Bytes::copy_from_slice(data);
    let mut again = BytesMut::new();
    match WalsenderMessage::parse(payload) {
        Ok(WalsenderMessage::Keepalive(message)) => message.encode(&mut again),
        Ok(WalsenderMessage::XLogData(message)) => message.encode(&mut again),
        Err(_) => again.extend_from_slice(data),
    }
    assert_eq!(again, data, "written as it was read");
    if let Ok(status) = StandbyStatus::parse(data) {
        let mut again = BytesMut::new();
        status.encode(&mut again);
        assert_eq!(again, data);
    }
});
