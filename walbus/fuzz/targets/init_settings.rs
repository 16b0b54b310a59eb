//! Settings as a kernel's command line and as JSON: any text, through to what they make together.
#![no_main]

use beyond_pg_init::settings::{HIDDEN, Origin, Settings, Source};
use beyond_pg_init::sources::{cmdline, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut told = Vec::new();
    if let Ok(text) = std::str::from_utf8(data) {
        told.push(Source::new(Origin::KernelCommandLine, cmdline::parse(text)));
    }
    if let Ok(values) = json::parse(data).map_err(drop).and_then(|object| object.ours().map_err(drop)) {
        told.push(Source::new(Origin::MmdsV2, values));
    }
    match Settings::resolve(&told) {
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.to_string().is_empty())),
        Ok(settings) => {
            for one in settings.provenance().iter().filter(|one| one.name == "BEYOND_PG_PASSWORD") {
                assert!(one.value.as_deref().is_none_or(|value| value == HIDDEN));
            }
        }
    }
});
