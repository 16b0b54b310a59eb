//! The names of the archive's objects, and of the files that Postgres archives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::SystemId;
use walbus::archive::layout::{ObjectName, parse_system, parse_timeline};

fuzz_target!(|data: &[u8]| {
    // What is no UTF-8 is the name of nothing.
    let text = String::from_utf8_lossy(data);
    if let Some(name) = ObjectName::parse(&text) {
        assert_eq!(name.to_string(), text, "no two paths are the same object");
        if let (Some(system), Some(file)) = (name.system(), name.file_name()) {
            assert_eq!(ObjectName::of_file(system, &file), Some(name));
        }
    }
    if let Some(name) = ObjectName::of_file(SystemId(7), &text) {
        assert_eq!(name.file_name().as_deref(), Some(&*text));
        assert_eq!(ObjectName::parse(&name.to_string()), Some(name), "what Postgres archives has a path");
    }
    if let Some(system) = parse_system(&text) {
        assert_eq!(system.to_string(), text);
    }
    if let Some(timeline) = parse_timeline(&text) {
        assert_eq!(format!("{:08X}", timeline.get()), text);
    }
});
