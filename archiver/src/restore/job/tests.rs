use walbus::sim::{PowerDisk, SimDisk};

use super::*;

const OURS: &str = "restore_command = '/x/beyond-pg-archiver fetch %f \"%p\"'\nrecovery_target = ''\n";

fn text(disk: &SimDisk) -> Option<String> {
    read_whole(disk, AUTO_CONF).unwrap().map(|text| String::from_utf8(text).unwrap())
}

#[test]
fn written_twice_and_taken_back_it_is_as_before() {
    for before in [None, Some("work_mem = '1MB'\n"), Some("recovery_target_time = '2020-01-01 00:00:00+00'")] {
        let disk = SimDisk::new(1);
        if let Some(before) = before {
            write_whole(&disk, AUTO_CONF, before.as_bytes()).unwrap();
        }
        write(&disk, OURS).unwrap();
        write(&disk, OURS).unwrap();
        let written = text(&disk).unwrap();
        assert_eq!((written.matches(OURS).count(), written.contains(GUARD)), (1, false), "{written}");
        assert!(disk.list().unwrap().iter().any(|(name, _)| name == SIGNAL));
        take_out(&disk, written.as_bytes()).unwrap();
        assert_eq!(text(&disk).as_deref(), before);
    }
}

#[test]
fn killed_at_any_step_and_run_again_it_ends_in_the_same_place() {
    const BEFORE: &str = "work_mem = '1MB'\n";
    let whole = SimDisk::new(1);
    write_whole(&whole, AUTO_CONF, BEFORE.as_bytes()).unwrap();
    write(&whole, OURS).unwrap();
    let expected = text(&whole);

    let mut steps = 0;
    for power in [false, true] {
        for left in 0.. {
            let disk = SimDisk::new(left + 7);
            write_whole(&disk, AUTO_CONF, BEFORE.as_bytes()).unwrap();
            let done = write(&PowerDisk::killed_after(&disk, left), OURS).is_ok();
            if power {
                disk.lose_power();
            }
            let found = text(&disk).unwrap();
            let signal = disk.list().unwrap().iter().any(|(name, _)| name == SIGNAL);
            // Nothing, all of it, or what no Postgres starts with.
            let is_all = Some(&found) == expected.as_ref() && signal;
            assert!(found == BEFORE && !signal || is_all || found.contains(GUARD), "{left}, {power}: {found}");
            assert!(!done || is_all, "{left}, {power}: {found}");
            write(&disk, OURS).unwrap();
            assert_eq!(text(&disk), expected, "{left}, {power}");
            steps += 1;
            if done {
                break;
            }
        }
    }
    assert!(steps > 20, "{steps}");
}
