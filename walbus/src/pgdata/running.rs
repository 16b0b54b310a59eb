//! Whether a server runs on the folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A server runs on the folder, or may; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// The folder can't be found.
    #[error("find {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// It runs, or it can't be told that it does not.
    #[error("{0}")]
    Running(String),
}

/// What `postmaster.pid` says. As `CreateLockFile` in Postgres' miscinit.c writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PidFile {
    pid: u32,
    /// The key and the id of the shared memory that the server's processes hold on to.
    shared_memory: Option<(u64, u64)>,
}

impl PidFile {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A standalone backend writes its process id negated.
        let pid = lines.next()?.trim().trim_start_matches('-').parse().ok().filter(|pid| *pid != 0)?;
        let shared_memory = lines.nth(5).and_then(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        });
        Some(Self { pid, shared_memory })
    }
}

/// Refuses a folder that a server runs on, or may. A `postmaster.pid` that a dead server left is fine.
///
/// # Errors
/// [`RunningError::Running`] with the process, or why it can't be told.
pub fn refuse_running(pgdata: &Path) -> Result<(), RunningError> {
    let dir = fs::canonicalize(pgdata).map_err(|error| RunningError::Folder(pgdata.to_owned(), error))?;
    if let Some(pid) = server_in(&dir, Path::new("/proc")) {
        return Err(RunningError::Running(format!("a server runs on this folder (process {pid}): stop it first (pg_ctl stop)")));
    }
    let Ok(text) = fs::read_to_string(dir.join("postmaster.pid")) else { return Ok(()) };
    let Some(file) = PidFile::parse(&text) else {
        return Err(RunningError::Running(
            "postmaster.pid is there and holds no process id: make sure that no server runs on this folder, then remove that file"
                .to_owned(),
        ));
    };
    if file.shared_memory.is_some_and(|(key, id)| is_attached(key, id)) {
        return Err(RunningError::Running(
            "processes of a server on this folder are still alive (its shared memory is in use): end them first, or wait until they are gone"
                .to_owned(),
        ));
    }
    if may_be_server(file.pid, &dir) {
        return Err(RunningError::Running(format!(
            "postmaster.pid names process {}, which is alive and may be a server on this folder: stop it; or, if it is another program, \
             remove postmaster.pid",
            file.pid
        )));
    }
    Ok(())
}

/// A process named `postgres` that works in the folder, as each of a server's does.
fn server_in(dir: &Path, proc: &Path) -> Option<u32> {
    let processes = fs::read_dir(proc).ok()?;
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let process = proc.join(pid.to_string());
        let is_postgres = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres");
        is_postgres && fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
    })
}

/// Whether a process is alive and is not known to work elsewhere. A number that another program has by now does not count.
fn may_be_server(pid: u32, dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    if pid == std::process::id() || !process.exists() {
        return false;
    }
    // Of another user's process nothing but its name can be seen: only a server's counts.
    match fs::read_link(process.join("cwd")) {
        Ok(cwd) => cwd == dir,
        Err(_) => fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres"),
    }
}

/// Whether any process is attached to that shared memory.
fn is_attached(key: u64, id: u64) -> bool {
    fs::read_to_string("/proc/sysvipc/shm").is_ok_and(|table| attached_in(&table, key, id))
}

fn attached_in(table: &str, key: u64, id: u64) -> bool {
    table.lines().skip(1).any(|line| {
        // key shmid perms size cpid lpid nattch ...
        let field = |at| line.split_ascii_whitespace().nth(at).and_then(|word| word.parse::<i64>().ok());
        let same_key = field(0).is_some_and(|found| found.cast_unsigned() & 0xFFFF_FFFF == key & 0xFFFF_FFFF);
        same_key && field(1) == i64::try_from(id).ok() && field(6).is_some_and(|attached| attached > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file() {
        let text = "4711\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001     65538\nready   \n";
        assert_eq!(PidFile::parse(text), Some(PidFile { pid: 4711, shared_memory: Some((5_432_001, 65_538)) }));
        assert_eq!(PidFile::parse("-12\n/data\n"), Some(PidFile { pid: 12, shared_memory: None }));
        for text in ["", "\n", "zero", "0\n"] {
            assert_eq!(PidFile::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn shared_memory_in_use() {
        let table = "key shmid perms size cpid lpid nattch uid\n 5432001 65538 600 56 1 1 3 999\n 5432002 65539 600 56 1 1 0 999\n";
        assert!(attached_in(table, 5_432_001, 65_538));
        assert!(!attached_in(table, 5_432_002, 65_539));
        assert!(!attached_in(table, 5_432_001, 1));
    }

    #[test]
    fn a_dead_server_s_pid_file_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        // Beyond the greatest process id that Linux gives (2^22).
        fs::write(dir.path().join("postmaster.pid"), "4999999\n/data\n1700000000\n5432\n/tmp\n*\n 1 1\n").unwrap();
        refuse_running(dir.path()).unwrap();
        // This program's own id, as after a restart of a container.
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        refuse_running(dir.path()).unwrap();
        // A live process that works elsewhere: a server never does.
        fs::write(dir.path().join("postmaster.pid"), "1\n").unwrap();
        refuse_running(dir.path()).unwrap();
        fs::write(dir.path().join("postmaster.pid"), "nonsense").unwrap();
        assert!(matches!(refuse_running(dir.path()), Err(RunningError::Running(_))));
    }
}
