//! Passfiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::conninfo::passfile::{Wanted, find};

fuzz_target!(|content: &[u8]| {
    let wanted = Wanted { host: "h:1\\", port: 5432, dbname: "replication", user: "u" };
    if let Some(secret) = find(content, wanted) {
        assert!(!secret.expose().is_empty() && secret.expose().len() <= content.len());
    }
});
