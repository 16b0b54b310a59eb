//! A small Postgres in a temporary folder.

use std::fs;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use tempfile::TempDir;
use walbus::conninfo::{Config, Environment};
use walbus::source::{Client, Mode, SourceError, connect};

/// Postgres refuses to run as root: as root, everything of a cluster belongs to `nobody`.
const NOBODY: u32 = 65534;

/// A running cluster; ended at once when dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    bin: PathBuf,
    pub(crate) port: u16,
}

/// Which major version is tested: `BEYOND_PG_MAJOR`, or 18.
pub(crate) fn major() -> u32 {
    std::env::var("BEYOND_PG_MAJOR").map_or(18, |major| major.parse().unwrap())
}

/// Where its programs are: `BEYOND_PG_BIN_18` and the like, or what `scripts/postgres` says.
fn bin_dir() -> PathBuf {
    let major = major().to_string();
    if let Some(dir) = std::env::var_os(format!("BEYOND_PG_BIN_{major}")) {
        return dir.into();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/postgres");
    let output = Command::new(&script).arg(&major).output().unwrap();
    assert!(output.status.success(), "{} {major}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A port that nobody uses now, below those that the system gives to connections, which could take it while a server restarts.
fn free_port() -> u16 {
    let random = std::collections::hash_map::RandomState::new();
    (0_u32..1000)
        .map(|attempt| 10_000 + u16::try_from(random.hash_one(attempt) % 20_000).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Cluster {
    /// Starts one with these lines in `pg_hba.conf`, before which the superuser `postgres` is trusted on the unix socket.
    pub(crate) fn start(hba: &str, settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("walbus-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let this = Self { dir, bin: bin_dir(), port: free_port() };
        let port = this.port;
        this.give_away(this.dir.path());
        this.run("initdb", &["-D", "data", "-U", "postgres", "--no-sync", "--auth=trust", "--locale=C"]);
        this.write("data/pg_hba.conf", &format!("local all postgres trust\nlocal replication postgres trust\n{hba}"), 0o600);
        let socket = this.dir.path().display();
        let own = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{socket}'\nfsync = off\n{settings}\n"
        );
        this.write("data/postgresql.auto.conf", &own, 0o600);
        this.pg_ctl("start");
        this
    }

    pub(crate) fn pg_ctl(&self, action: &str) {
        self.run("pg_ctl", &["-D", "data", "-w", "-s", "-l", "log", "-m", "fast", action].map(|arg| arg));
    }

    /// Puts a file of these contents into the cluster's folder.
    pub(crate) fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self.give_away(&path);
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn give_away(&self, path: &Path) {
        if is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]).arg(program);
            command
        } else {
            Command::new(program)
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path());
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let output = self.command(program).args(args).output().unwrap();
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{program} {args:?}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs SQL as superuser and gives its result, unaligned.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let (host, port) = (self.path("").display().to_string(), self.port.to_string());
        let args = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", &host, "-p", &port, "-U", "postgres", "-c", sql];
        String::from_utf8(self.run("psql", &args).stdout).unwrap().trim().to_owned()
    }

    /// A connection string for the unix socket, as superuser.
    pub(crate) fn socket(&self) -> String {
        format!("host={} port={} user=postgres", self.path("").display().to_string().trim_end_matches('/'), self.port)
    }

    pub(crate) async fn connect(&self) -> Client {
        connect_to(&self.socket()).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.command("pg_ctl").args(["-D", "data", "-w", "-s", "-m", "immediate", "stop"]).output());
    }
}

/// Connects for physical replication, with nothing from the environment.
pub(crate) async fn connect_to(conninfo: &str) -> Result<Client, SourceError> {
    let environment = Environment::default().with_user("nobody");
    connect(&Config::parse(conninfo, &environment)?.or_application_name("walbus-test"), Mode::Physical).await
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key as PEM, for this common name and these alternative ones.
    pub(crate) fn issue(&self, common: &str, names: &[&str]) -> (String, String) {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A certificate that signs itself, as `openssl req -x509` makes it: a CA's, without alternative names.
pub(crate) fn self_signed(common: &str, algorithm: &'static SignatureAlgorithm) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(algorithm).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The same with a life of these years.
pub(crate) fn self_signed_in(common: &str, years: std::ops::Range<i32>) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}
