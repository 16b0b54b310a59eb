//! What a metadata service answers: any bytes, cut anywhere.
#![no_main]

use beyond_pg_init::http::parse_response;
use beyond_pg_init::sources::mmds::{Exchange, Progress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let (first, rest) = data.split_at(usize::from(*cut).min(data.len()));
    // What a part of the bytes has said already, more of them say as well.
    if let Ok(Some(response)) = parse_response(first, false) {
        assert_eq!(parse_response(data, true), Ok(Some(response)));
    }
    if let Err(error) = parse_response(first, false) {
        assert_eq!(parse_response(data, true), Err(error), "what is wrong stays wrong");
    }
    let address = ([127, 0, 0, 1], 80).into();
    let mut exchange = Exchange::new(address, "/");
    // Empty is the end.
    for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()).chain([&b""[..]]) {
        match exchange.handle_bytes(piece) {
            Ok(Progress::Again) => assert!(exchange.request().starts_with(b"GET / HTTP/1.1\r\n")),
            Ok(Progress::More) => {}
            Ok(Progress::Done(_) | Progress::NotYet) | Err(_) => return,
        }
    }
});
