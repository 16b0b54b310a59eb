//! A Postgres cluster for one test, in a folder of its own, without a network port.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Who runs Postgres where the tests run as root, which Postgres refuses: `nobody`.
const NOBODY: u32 = 65534;

pub(crate) struct Cluster {
    pub(crate) major: u32,
    bin: PathBuf,
    folder: tempfile::TempDir,
    /// The name of the data folder.
    data: &'static str,
}

impl Cluster {
    /// Makes a cluster with these WAL segments and starts it.
    pub(crate) fn start(major: u32, segment_mb: u32) -> Self {
        let bin = std::env::var(format!("BEYOND_PG_BIN_{major}")).unwrap_or_else(|_| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/postgres");
            check(Command::new(script).arg(major.to_string()).output().unwrap())
        });
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let cluster = Self { major, bin: bin.trim().into(), folder, data: "data" };
        let data = cluster.data_dir();
        cluster.run(
            "initdb",
            &["-D", text(&data), "-A", "trust", "-U", "postgres", "-N", "-k", &format!("--wal-segsize={segment_mb}")],
        );
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nwal_level = logical\nwal_keep_size = '10GB'\n\
             max_prepared_transactions = 10\nautovacuum = off\nmax_wal_size = '10GB'\nwal_recycle = off\n",
            text(cluster.folder.path())
        );
        let path = data.join("postgresql.conf");
        let conf = fs::read_to_string(&path).unwrap();
        fs::write(path, conf + &settings).unwrap();
        cluster.up();
        cluster
    }

    /// A copy of the data folder's state under another name, which is used from then on. The server must be down.
    pub(crate) fn switch_to_copy(&mut self, name: &'static str) {
        let copy = self.folder.path().join(name);
        self.command("cp", &["-a", text(&self.data_dir()), text(&copy)]);
        self.data = name;
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join(self.data)
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.data_dir().join("pg_wal")
    }

    pub(crate) fn up(&self) {
        let log = self.folder.path().join("log");
        self.run("pg_ctl", &["-D", text(&self.data_dir()), "-l", text(&log), "-w", "start"]);
    }

    pub(crate) fn down(&self, mode: &str) {
        self.run("pg_ctl", &["-D", text(&self.data_dir()), "-m", mode, "-w", "stop"]);
    }

    pub(crate) fn promote(&self) {
        self.run("pg_ctl", &["-D", text(&self.data_dir()), "-w", "promote"]);
    }

    /// Runs SQL, and gives what it prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.run("psql", &["-U", "postgres", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    /// Runs one of Postgres' programs, which must succeed, and gives what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        check(self.output(program, arguments))
    }

    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.as_postgres(text(&self.bin.join(program)), arguments).output().unwrap()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> String {
        check(self.as_postgres(program, arguments).output().unwrap())
    }

    fn as_postgres(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", program]);
            command
        } else {
            Command::new(program)
        };
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PGHOST", self.folder.path())
            .env("TZ", "UTC")
            .env("LC_ALL", "C");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing is left behind when a test panics; a server that is down already makes no difference.
        drop(self.output("pg_ctl", &["-D", text(&self.data_dir()), "-m", "immediate", "-w", "stop"]));
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn check(output: Output) -> String {
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    printed.into_owned()
}
