use proptest::prelude::*;

use super::*;

fn value(tuning: &Tuning, name: &str) -> String {
    tuning.settings.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name}")).value.clone()
}

fn number(tuning: &Tuning, name: &str) -> u64 {
    value(tuning, name).trim_end_matches("MB").parse().unwrap()
}

#[test]
fn a_machine_of_16_gb_and_4_cpus() {
    let tuning = tune(&Machine::new(16 * GB, 4, 18), Floor::default());
    for (name, wanted) in [
        ("shared_buffers", "4096MB"),
        ("effective_cache_size", "12288MB"),
        ("maintenance_work_mem", "819MB"),
        ("work_mem", "32MB"),
        ("max_connections", "100"),
        ("wal_buffers", "16MB"),
        ("max_wal_size", "8192MB"),
        ("min_wal_size", "2048MB"),
        ("max_worker_processes", "12"),
        ("max_parallel_workers_per_gather", "2"),
        ("io_method", "worker"),
        ("io_workers", "3"),
    ] {
        assert_eq!(value(&tuning, name), wanted, "{name}");
    }
    assert_eq!((tuning.max_connections, pool(tuning.max_connections)), (100, 90));
}

#[test]
fn the_page_has_every_formula() {
    let page = include_str!("../../../docs/init.md");
    for one in tune(&Machine::new(16 * GB, 4, 18), Floor::default()).settings {
        let line = format!("| `{}` | {} | {} | {} |", one.name, one.value, one.formula, one.source);
        assert!(page.contains(&line), "docs/init.md lacks: {line}");
    }
}

#[test]
fn small_machines_are_not_promised_what_they_lack() {
    let tuning = tune(&Machine::new(64 * MB, 1, 15), Floor::default());
    assert_eq!((number(&tuning, "shared_buffers"), number(&tuning, "work_mem"), tuning.max_connections), (32, 4, 100));
    let tuning = tune(&Machine::new(GB, 1, 15), Floor::default());
    assert_eq!((number(&tuning, "shared_buffers"), number(&tuning, "work_mem"), tuning.max_connections), (256, 32, 100));
    assert!(tuning.settings.iter().all(|one| !one.name.starts_with("io_")), "15 has no io_method");
}

#[test]
fn wal_fits_its_volume() {
    let on = |volume, segment| {
        let machine = Machine { wal_volume_bytes: Some(volume), wal_segment_bytes: segment, ..Machine::new(64 * GB, 8, 18) };
        let tuning = tune(&machine, Floor::default());
        (number(&tuning, "max_wal_size"), number(&tuning, "min_wal_size"))
    };
    assert_eq!(on(1000 * GB, 16 * MB), (8192, 2048));
    assert_eq!(on(10 * GB, 16 * MB), (2048, 512));
    assert_eq!(on(100 * MB, 16 * MB), (64, 32));
    assert_eq!(on(100 * MB, GB), (4096, 2048), "two segments at the least, or Postgres does not start");
}

#[test]
fn a_standby_has_no_less_than_its_primary() {
    let floor = Floor { max_connections: 500, max_worker_processes: 40 };
    let tuning = tune(&Machine::new(GB, 1, 18), floor);
    assert_eq!(
        (tuning.max_connections, number(&tuning, "max_connections"), number(&tuning, "max_worker_processes")),
        (500, 500, 40)
    );
}

#[test]
fn the_pool_leaves_a_tenth() {
    for (connections, wanted) in [(0, 1), (1, 1), (10, 9), (99, 89), (100, 90), (2000, 1800)] {
        assert_eq!(pool(connections), wanted, "{connections}");
    }
}

proptest! {
    #[test]
    fn any_machine_is_tuned_for(
        memory in prop_oneof![64 * MB..4096 * MB, 64 * MB..=(4u64 << 40), any::<u64>()],
        cpus in prop_oneof![1..=512u32, any::<u32>()],
        volume in prop::option::of(any::<u64>()),
        segment in 20..=30u32,
        major in 15..=18u32,
    ) {
        let machine = Machine { memory_bytes: memory, cpus, wal_volume_bytes: volume, wal_segment_bytes: 1 << segment, major };
        let tuning = tune(&machine, Floor::default());
        let megabytes = memory.clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX) / MB;
        // What Postgres takes: guc_tables.c.
        prop_assert!((100..=2000).contains(&tuning.max_connections));
        prop_assert!((16..=megabytes / 2).contains(&number(&tuning, "shared_buffers")));
        prop_assert!((1..=16).contains(&number(&tuning, "wal_buffers")));
        prop_assert!((4..2_097_151).contains(&number(&tuning, "work_mem")));
        prop_assert!((1..=2048).contains(&number(&tuning, "maintenance_work_mem")));
        prop_assert!((1..=megabytes).contains(&number(&tuning, "effective_cache_size")));
        let (max, min) = (number(&tuning, "max_wal_size"), number(&tuning, "min_wal_size"));
        prop_assert!(min <= max && min >= 2 * ((1 << segment) / MB) && max <= 8192);
        for name in ["max_worker_processes", "max_parallel_workers", "max_parallel_workers_per_gather", "autovacuum_max_workers"] {
            prop_assert!((1..=1024).contains(&number(&tuning, name)), "{}", name);
        }
        prop_assert_eq!(tuning.settings.iter().any(|one| one.name == "io_method"), major == 18);
    }
}
