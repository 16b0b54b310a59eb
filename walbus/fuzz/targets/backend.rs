//! Messages of the frontend/backend protocol, cut out of a stream.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use walbus::proto::backend::take_frame;

/// The greatest message taken here, in bytes.
const LIMIT: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    let mut left = buffer.len();
    while let Ok(Some(frame)) = take_frame(&mut buffer, LIMIT) {
        assert!(frame.body.len() <= LIMIT);
        assert_eq!(buffer.len() + frame.body.len() + 5, left, "what was cut out is gone from the buffer");
        left = buffer.len();
        drop(frame.parse());
    }
});
