//! Real instances of `beyond-pg boot`: a volume, Postgres and PgBouncer, on ports of their own.

mod killed;
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::account::is_root;
use crate::port::Port;
use crate::process::Process;
use crate::program::{self, command, of_workspace, repository};
use crate::scratch::Scratch;
use crate::sink::Sink;
use crate::wait::{DEADLINE, eventually};

/// The role that a boot of the harness makes, and its database.
pub const USER: &str = "app";

/// Its password.
const PASSWORD: &str = "it's a 'secret' \\";

/// How `beyond-pg` is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// As an ordinary process, of the account of the programs under test.
    Process,
    /// As PID 1 of a new PID namespace. Takes root.
    PidOne,
}

/// One instance: its volume, and its process while that runs.
#[derive(Debug)]
pub struct Init {
    // Before the folder: the process dies before its files go.
    process: Option<Process>,
    envs: BTreeMap<String, String>,
    bin: PathBuf,
    ports: [Port; 3],
    run_as: As,
    volume: PathBuf,
    snapshots: u32,
    scratch: Scratch,
}

impl Init {
    /// An instance on an empty volume, of Postgres 18, not yet started.
    ///
    /// # Errors
    /// Where Postgres or PgBouncer can't be had.
    pub async fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let bin = match std::env::var_os("BEYOND_PG_BIN_18") {
            Some(folder) => folder.into(),
            None => fetched("18").await?,
        };
        let pgbouncer = fetched("pgbouncer").await?.join("pgbouncer");
        let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let volume = scratch.path().join("volume");
        let mut init =
            Self { process: None, envs: BTreeMap::new(), bin, ports, run_as: As::Process, volume, snapshots: 0, scratch };
        let [listen, port, health] = [0, 1, 2].map(|at: usize| init.ports[at].number());
        let (volume, run, bin) =
            (init.volume.display().to_string(), init.run_dir().display().to_string(), init.bin.display().to_string());
        init.env("BEYOND_PG_VOLUME", &volume).env("BEYOND_PG_RUN_DIR", &run).env("BEYOND_PG_BIN_DIR", &bin);
        init.env("BEYOND_PG_PGBOUNCER", &pgbouncer.display().to_string()).env("BEYOND_PG_METADATA", "none");
        init.env("BEYOND_PG_LISTEN", &format!("127.0.0.1:{listen}")).env("BEYOND_PG_PORT", &port.to_string());
        init.env("BEYOND_PG_HEALTH_LISTEN", &format!("127.0.0.1:{health}")).env("BEYOND_PG_OS_USER", "65534:65534");
        init.env("BEYOND_PG_USER", USER).env("BEYOND_PG_PASSWORD", PASSWORD).env("BEYOND_PG_DATABASE", USER);
        init.env("BEYOND_PG_MEMORY_MB", "512").env("BEYOND_PG_CPUS", "2");
        Ok(init)
    }

    /// The same, on a copy of this one's volume, as it is at this moment.
    ///
    /// # Errors
    /// Where it can't be copied.
    pub async fn fork(&self) -> Result<Self> {
        let fork = Self::new().await?;
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&self.volume).arg(&fork.volume);
        program::run(copy).await?;
        Ok(fork)
    }

    /// Gives this one's volume to another instance, which has none.
    ///
    /// # Errors
    /// Where it can't be moved.
    pub async fn become_volume_of(self, other: &Self) -> Result<()> {
        let mut mv = Command::new("mv");
        mv.arg("-T").arg(&self.volume).arg(&other.volume);
        program::run(mv).await.map(drop)
    }

    /// A setting, from the next start on.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.envs.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes its settings out of its environment, and gives the document of a metadata service that tells them in its place.
    pub fn take_settings(&mut self) -> Value {
        let told = std::mem::take(&mut self.envs);
        let told: serde_json::Map<_, _> = told
            .into_iter()
            .filter(|(name, _)| !name.starts_with("BEYOND_PG_METADATA"))
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        json!({ "latest": { "meta-data": told } })
    }

    /// Has it use this sink, which runs, from the next start on: commits wait for it, and a boot recovers from it.
    ///
    /// # Errors
    /// Where the sink was never started.
    pub fn set_sink(&mut self, sink: &Sink) -> Result<&mut Self> {
        let path = |name: &str| sink.data().join(name).display().to_string();
        self.env("BEYOND_PG_WAL_SINK", sink.url()?);
        self.env("BEYOND_PG_WAL_SINK_CA", &path("tls/ca.pem")).env("BEYOND_PG_WAL_SINK_TOKEN_FILE", &path("token"));
        Ok(self)
    }

    /// Another place for its volume, from the next start on; it is not removed with the instance.
    pub fn set_volume(&mut self, volume: &Path) -> &mut Self {
        volume.clone_into(&mut self.volume);
        self.env("BEYOND_PG_VOLUME", &volume.display().to_string())
    }

    /// How it is run, from the next start on.
    pub const fn run_as(&mut self, run_as: As) -> &mut Self {
        self.run_as = run_as;
        self
    }

    /// Its volume.
    #[must_use]
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.volume.join("data")
    }

    /// The folder of its sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.scratch.path().join("run")
    }

    /// How Postgres itself is reached, past the pool, as its superuser.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres", self.run_dir().display(), self.ports[1].number())
    }

    /// How the pool is reached as the role that was made, with its password.
    #[must_use]
    pub fn pool(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.ports[0].number()).user(USER).password(PASSWORD).dbname(USER);
        config
    }

    /// Postgres' own port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.ports[1].number()
    }

    /// Where its health is told.
    #[must_use]
    pub fn health_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2].number())
    }

    /// `beyond-pg promote`: whether it was, and what it said.
    ///
    /// # Errors
    /// Where it can't be run.
    pub async fn promote(&self, args: &[&str]) -> Result<(bool, String)> {
        let output = program::output(self.program_outside(&[&["promote"], args].concat())?).await?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Everything that it has logged, all its starts together.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("init.log")
    }

    /// A command of its program, with its settings.
    fn program(&self, args: &[&str]) -> Result<Command> {
        let program = of_workspace("beyond-pg")?;
        let mut boot = match self.run_as {
            As::Process => command(&program),
            As::PidOne => {
                let mut unshare = Command::new("unshare");
                unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(&program);
                unshare
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BEYOND_") {
                boot.env_remove(name);
            }
        }
        boot.args(args).envs(&self.envs);
        Ok(boot)
    }

    /// Starts it, with these arguments of `boot`, and does not wait for it.
    ///
    /// # Errors
    /// Where the program is not built, or runs already.
    pub fn launch(&mut self, args: &[&str]) -> Result<()> {
        if self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None))) {
            bail!("beyond-pg runs already");
        }
        let boot = self.program(&[&["boot"], args].concat())?;
        self.process = Some(Process::spawn("beyond-pg boot", boot, &self.log_path())?);
        Ok(())
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// Where it ends, or does not get there: with its log.
    pub async fn start(&mut self) -> Result<Value> {
        self.launch(&[])?;
        self.wait_for("ready", |status| status["ready"] == true).await
    }

    /// Starts it where it must end by itself, and gives how it ended and what it logged in this run.
    ///
    /// # Errors
    /// Where it still runs at the deadline.
    pub async fn end_of(&mut self, args: &[&str]) -> Result<(ExitStatus, String)> {
        let from = self.log().len();
        self.launch(args)?;
        let status = self.process()?.wait(DEADLINE).await?;
        Ok((status, self.log().get(from..).unwrap_or_default().to_owned()))
    }

    /// Its process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("beyond-pg was not started")
    }

    /// Stops it by SIGTERM and gives how it ended.
    ///
    /// # Errors
    /// Where it does not run, or does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if self.run_as == As::PidOne {
            // The process is unshare's: the one in the namespace is told by its own command.
            let stop = program::output(self.program_outside(&["stop"])?).await?;
            if !stop.status.success() {
                bail!("stop: {}", String::from_utf8_lossy(&stop.stderr));
            }
        } else {
            self.process()?.signal(Signal::TERM)?;
        }
        self.process()?.wait(DEADLINE).await
    }

    /// Kills it and all that it has started.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill_all()
    }

    fn program_outside(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(of_workspace("beyond-pg")?);
        command.args(args).arg("--run-dir").arg(self.run_dir());
        Ok(command)
    }

    /// What `beyond-pg status --json` says.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn status(&self) -> Result<Value> {
        let output = program::output(self.program_outside(&["status", "--json"])?).await?;
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What `beyond-pg status` says to eyes, and its exit code.
    ///
    /// # Errors
    /// Where it can't be run.
    pub async fn status_table(&self) -> Result<(Option<i32>, String)> {
        let output = program::output(self.program_outside(&["status"])?).await?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Waits for a status.
    ///
    /// # Errors
    /// Where it ends, or does not get there: with the last one seen.
    pub async fn wait_for(&mut self, what: &str, is_there: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut seen = Value::Null;
        let waited = eventually(DEADLINE, what, async || {
            if self.process()?.ended()?.is_some() {
                return Ok(Some(None));
            }
            seen = self.status().await?;
            Ok(is_there(&seen).then(|| Some(seen.clone())))
        });
        match waited.await.with_context(|| format!("last status: {seen:#}"))? {
            Some(status) => Ok(status),
            None => self.process()?.check_runs().map(|()| Value::Null).and_then(|_| bail!("it ended")),
        }
    }

    /// The process of a child.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn child(&self, name: &str) -> Result<Pid> {
        let status = self.status().await?;
        let children = status["children"].as_array().context("no children")?;
        let pid = children.iter().find(|child| child["name"] == name).and_then(|child| child["pid"].as_i64());
        let pid = pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        pid.with_context(|| format!("{name} does not run: {status:#}"))
    }

    /// Signals a child.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn signal_child(&self, name: &str, signal: Signal) -> Result<()> {
        kill_process(self.child(name).await?, signal).with_context(|| format!("signal {name}"))
    }

    /// What psql prints for this, through PgBouncer, as the role that was made, with its password.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn sql(&self, sql: &str) -> Result<String> {
        let mut psql = command(&self.bin.join("psql"));
        psql.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "10");
        psql.args([
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            &self.ports[0].number().to_string(),
            "-U",
            USER,
            "-d",
            USER,
        ]);
        psql.args(["-tAc", sql]);
        Ok(program::run(psql).await?.trim().to_owned())
    }

    /// What psql prints for these, past the pool, as the superuser.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn admin(&self, statements: &[&str]) -> Result<String> {
        let mut psql = command(&self.bin.join("psql"));
        psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &format!("{} dbname={USER}", self.conninfo()), "-tA"]);
        psql.args(statements.iter().flat_map(|statement| ["-c", statement]));
        Ok(program::run(psql).await?.trim().to_owned())
    }

    /// What the health port answers at `path`: the code and the text.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn health(&self, path: &str) -> Result<(u16, String)> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[2].number());
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        let answer = client.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

/// Whether a test may make PID namespaces; says so where it may not.
#[must_use]
pub fn can_be_pid_one() -> bool {
    if !is_root() {
        eprintln!("skipped: to be PID 1 of a namespace takes root");
        return false;
    }
    let works =
        Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: this machine makes no PID namespaces");
    }
    works
}

/// The folder of the programs that `scripts/postgres` fetches.
async fn fetched(what: &str) -> Result<PathBuf> {
    let mut script = Command::new(repository().join("scripts/postgres"));
    script.arg(what);
    Ok(PathBuf::from(program::run(script).await?.trim()))
}
