//! `backup_label`, backup history files, configuration files, and the block of settings in `postgresql.auto.conf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::pgdata::{BackupHistory, BackupLabel, Block, ConfigLine, config_lines};

const BLOCK: Block = Block { first: "# x: begin\n", last: "# x: end\n", no_file: "# none\n", marker: "x.block" };

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Ok(history) = BackupHistory::parse(&text) {
        assert_eq!(BackupLabel::parse(&text).as_ref(), Ok(&history.label));
    }
    for (number, line) in config_lines(&text) {
        assert!(number >= 1 && number <= text.split('\n').count());
        // What was read is read again.
        if let ConfigLine::Set { name, value } = line
            && !value.contains('\n')
        {
            let again = format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
            assert_eq!(config_lines(&again), [(1, ConfigLine::Set { name, value })]);
        }
    }
    // Without a block of its own in it, a file comes back as it was.
    if BLOCK.find(data).is_none() {
        let once = BLOCK.append(Some(data), "a = '1'\n");
        let again = BLOCK.append(Some(&once), "a = '2'\n");
        assert!(BLOCK.find(&again).is_some());
        assert_eq!(BLOCK.remove(&again).as_deref(), Some(data));
    }
});
