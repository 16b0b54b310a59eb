//! What Postgres is told about its machine: out of memory, CPUs and the volume, by formulas that are shown beside each value. Pure.
//!
//! Sources of the formulas: `docs/init.md`. No value depends on another program's guess: whoever wants another one writes it into a file of
//! his own below `conf.d`, which is read later.

#[cfg(test)]
mod tests;

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// The least memory that is tuned for; below, the same is said as for this.
pub const MEMORY_BYTES_MIN: u64 = 64 * MB;
/// The most memory that is tuned for.
pub const MEMORY_BYTES_MAX: u64 = 4 << 40;
/// The most CPUs that are tuned for.
pub const CPUS_MAX: u32 = 512;
/// More connections than this cost more than they do: behind PgBouncer, clients are not counted by them.
const CONNECTIONS_MAX: u64 = 2000;

/// What is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory that Postgres can have.
    pub memory_bytes: u64,
    /// CPUs that it can have.
    pub cpus: u32,
    /// The size of the filesystem that WAL lies on, where it is known.
    pub wal_volume_bytes: Option<u64>,
    /// The size of a segment: 16 MB unless `initdb` was told otherwise.
    pub wal_segment_bytes: u64,
    /// The major version of Postgres.
    pub major: u32,
}

impl Machine {
    /// A machine of which no more is known.
    #[must_use]
    pub const fn new(memory_bytes: u64, cpus: u32, major: u32) -> Self {
        Self { memory_bytes, cpus, wal_volume_bytes: None, wal_segment_bytes: 16 * MB, major }
    }
}

/// What a standby, or a server that recovers from an archive, may not fall below: it has to track all that its primary had
/// (`pg_control`; the manual, "Administrator's Overview" of hot standby).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// The primary's `max_connections`.
    pub max_connections: u64,
    /// The primary's `max_worker_processes`.
    pub max_worker_processes: u64,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tuned {
    /// The parameter.
    pub name: &'static str,
    /// Its value, with its unit, unquoted.
    pub value: String,
    /// How it comes about.
    pub formula: &'static str,
    /// Whose formula it is.
    pub source: &'static str,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tuning {
    /// The parameters, in the order they are written.
    pub settings: Vec<Tuned>,
    /// `max_connections`, which PgBouncer's pool follows.
    pub max_connections: u64,
}

/// PgBouncer's share of the connections: floor(0.9 x `max_connections`), at least 1. The rest is for superusers, replication aside, and
/// whoever connects directly.
#[must_use]
pub const fn pool(max_connections: u64) -> u64 {
    let pool = max_connections * 9 / 10;
    if pool == 0 { 1 } else { pool }
}

/// Tunes for a machine. Values outside of what is tuned for are taken as the nearest inside.
#[must_use]
pub fn tune(machine: &Machine, floor: Floor) -> Tuning {
    let memory = machine.memory_bytes.clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX);
    let cpus = u64::from(machine.cpus.clamp(1, CPUS_MAX));
    let connections = connections(memory, cpus).max(floor.max_connections);
    let mut settings = memory_settings(memory, connections);
    settings.extend(connection_settings(cpus, connections, floor));
    settings.extend(wal_settings(memory, machine));
    settings.extend(parallel_settings(cpus));
    settings.extend(io_settings(cpus, machine.major));
    Tuning { settings, max_connections: connections }
}

/// Upper bound first, then the lower one: on a small machine memory / 50 is below 100, and the lower bound has to win.
fn connections(memory: u64, cpus: u64) -> u64 {
    (16 * cpus + 2 * cpus + 10).min(memory / MB / 50).clamp(100, CONNECTIONS_MAX)
}

fn tuned(name: &'static str, value: String, formula: &'static str, source: &'static str) -> Tuned {
    Tuned { name, value, formula, source }
}

fn memory_settings(memory: u64, connections: u64) -> Vec<Tuned> {
    let shared_buffers = (memory / 4).max(128 * MB).min(memory / 2);
    let share = memory / 2 / (pool(connections) * 3);
    let work_mem = share.max((32 * MB).min(memory / 32)).max(4 * MB);
    vec![
        tuned(
            "shared_buffers",
            mb(shared_buffers),
            "max(128 MB, memory / 4), at most memory / 2",
            "the manual, Resource Consumption",
        ),
        tuned("effective_cache_size", mb(memory / 4 * 3), "memory x 3/4", "pgtune, timescaledb-tune"),
        tuned(
            "maintenance_work_mem",
            mb((memory / 20).clamp(MB, 2 * GB)),
            "memory / 20, at most 2 GB",
            "own: half of pgtune's share, as autovacuum takes it several times",
        ),
        tuned(
            "work_mem",
            mb(work_mem),
            "max(32 MB, memory / 2 / (pool x 3)), where 32 MB are no more than memory / 32; at least 4 MB",
            "pgtune, over PgBouncer's pool",
        ),
        tuned(
            "logical_decoding_work_mem",
            mb((memory / 16).clamp(4 * MB, 64 * MB)),
            "memory / 16, at most 64 MB",
            "Postgres' default, less where memory is short",
        ),
        // Tried, and done without where the kernel has none.
        tuned("huge_pages", "try".to_owned(), "try", "Postgres' default"),
    ]
}

fn connection_settings(cpus: u64, connections: u64, floor: Floor) -> Vec<Tuned> {
    let workers = (cpus + 8).max(floor.max_worker_processes);
    vec![
        tuned(
            "max_connections",
            connections.to_string(),
            "16 x CPUs for the pool + 2 x CPUs + 10, at most memory / 50 MB, at least 100, at most 2000; on a standby no fewer than the primary's",
            "own: a pool larger than this adds waiting, not work",
        ),
        tuned(
            "max_worker_processes",
            workers.to_string(),
            "CPUs + 8; on a standby no fewer than the primary's",
            "Postgres' default, beside the parallel workers",
        ),
    ]
}

fn wal_settings(memory: u64, machine: &Machine) -> Vec<Tuned> {
    let shared_buffers = (memory / 4).max(128 * MB).min(memory / 2);
    let segment = machine.wal_segment_bytes.clamp(MB, GB);
    let wanted = (memory / 2).clamp(4 * GB, 8 * GB);
    let bound = machine.wal_volume_bytes.map_or(wanted, |volume| wanted.min(volume / 5));
    // Postgres does not start with less than two segments.
    let min_least = segment * 2;
    let max = bound.max(min_least * 2);
    vec![
        tuned(
            "wal_buffers",
            mb((shared_buffers / 32).clamp(MB, 16 * MB)),
            "shared_buffers / 32, 1 to 16 MB",
            "Postgres' default, spelled out",
        ),
        tuned(
            "max_wal_size",
            mb(max),
            "memory / 2, 4 to 8 GB, at most a fifth of the volume; at least 4 segments",
            "pgtune's range, bounded as by Ubicloud",
        ),
        tuned("min_wal_size", mb((max / 4).max(min_least)), "max_wal_size / 4; at least 2 segments", "pgtune"),
        tuned(
            "checkpoint_timeout",
            "15min".to_owned(),
            "15min",
            "own: fewer full pages in WAL than with 5min; a crash's replay stays bounded by max_wal_size",
        ),
        tuned("checkpoint_completion_target", "0.9".to_owned(), "0.9", "Postgres' default, pgtune"),
    ]
}

fn parallel_settings(cpus: u64) -> Vec<Tuned> {
    vec![
        tuned("max_parallel_workers", cpus.to_string(), "CPUs", "pgtune"),
        tuned("max_parallel_workers_per_gather", cpus.div_ceil(2).min(4).to_string(), "half the CPUs, at most 4", "pgtune"),
        tuned("max_parallel_maintenance_workers", cpus.div_ceil(2).min(4).to_string(), "half the CPUs, at most 4", "pgtune"),
        tuned(
            "autovacuum_max_workers",
            (cpus / 4).clamp(3, 10).to_string(),
            "a quarter of the CPUs, 3 to 10",
            "Postgres' default, more on large machines",
        ),
    ]
}

fn io_settings(cpus: u64, major: u32) -> Vec<Tuned> {
    let mut settings = vec![
        tuned("random_page_cost", "1.1".to_owned(), "1.1", "pgtune, for solid-state disks"),
        tuned(
            "effective_io_concurrency",
            if major >= 18 { "64" } else { "200" }.to_owned(),
            "200; 64 from 18 on, where reads are combined",
            "pgtune, for solid-state disks",
        ),
    ];
    if major >= 18 {
        // io_uring fails where RLIMIT_MEMLOCK is low or the kernel has it turned off: whoever knows better says so in a file of his own.
        settings.push(tuned("io_method", "worker".to_owned(), "worker", "Postgres' default from 18 on"));
        settings.push(tuned(
            "io_workers",
            (cpus / 4).clamp(3, 32).to_string(),
            "a quarter of the CPUs, 3 to 32",
            "Postgres' default, more on large machines",
        ));
    }
    settings
}

/// Whole megabytes, at least one.
fn mb(bytes: u64) -> String {
    format!("{}MB", (bytes / MB).max(1))
}
