//! What a server answers to a simple query: any bytes, cut anywhere.
#![no_main]

use beyond_pg_init::sql::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let mut session = Session::default();
    for piece in data.chunks(usize::from(*cut).max(1)) {
        session.handle_bytes(piece);
        if session.poll_answer().is_err() {
            return;
        }
    }
});
