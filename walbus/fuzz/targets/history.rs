//! Timeline histories.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::proto::history::History;
use walbus::{Lsn, Timeline};

fuzz_target!(|data: &[u8]| {
    let Some((number, text)) = data.split_first() else { return };
    let Some(of) = Timeline::new(u32::from(*number)) else { return };
    let Ok(history) = History::parse(of, text) else { return };
    assert_eq!(History::parse(of, history.encode().as_bytes()).as_ref(), Ok(&history), "written and read back");
    for ancestor in history.ancestors() {
        assert!(ancestor.timeline < of && history.contains(ancestor.timeline));
        let end = history.switchpoint(ancestor.timeline).unwrap();
        assert!(history.timeline_at(end) > ancestor.timeline);
        assert!(history.timeline_at(Lsn::INVALID) <= history.timeline_at(end));
    }
});
