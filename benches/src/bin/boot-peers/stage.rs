//! One volume, booted once by `beyond-pg` and stopped in order, and who starts it again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use beyond_pg_benches::machine::Machine;
use harness::{DEADLINE, Process, Scratch, program};
use rustix::process::{Pid, Signal};
use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::contender::{Contender, Run};

/// Between two connections that are tried.
const PAUSE: Duration = Duration::from_millis(1);

/// The role that asks, and its password.
const ROLE: &str = "bench";
const PASSWORD: &str = "of-the-bench";

/// The least that starts a server and its pool, and stops both.
const SCRIPT: &str = r#"#!/bin/sh
set -e
"$BIN/pg_ctl" -D "$DATA" -w -s -l "$RUN/postgres.log" start
"$PGBOUNCER" -q "$RUN/least.ini" &
trap 'kill -INT $!; wait $! || true; "$BIN/pg_ctl" -D "$DATA" -w -s -m fast stop; exit 0' TERM
wait $!
"#;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) postgres: String,
    pub(crate) program_bytes: u64,
    program: PathBuf,
    tini: PathBuf,
    bin: PathBuf,
    pgbouncer: PathBuf,
    volume: PathBuf,
    run: PathBuf,
    port: u16,
    pool_port: u16,
    log: PathBuf,
    _scratch: Scratch,
}

impl Stage {
    pub(crate) async fn set(tini: &Path) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (volume, run) = (scratch.folder("volume")?, scratch.folder("run")?);
        let machine = Machine::of(scratch.path())?;
        machine.check_disk()?;
        let bin = harness::postgres::programs(18).await?;
        let version = program::run(in_folder(&bin, "postgres", &["--version"])).await?;
        let program = program::of_workspace("beyond-pg")?;
        let stage = Self {
            machine,
            postgres: version.trim().to_owned(),
            program_bytes: std::fs::metadata(&program)?.len(),
            program,
            tini: tini.to_owned(),
            pgbouncer: harness::postgres::pgbouncer().await?,
            port: free_port()?,
            pool_port: free_port()?,
            log: scratch.path().join("log"),
            bin,
            volume,
            run,
            _scratch: scratch,
        };
        stage.write_least()?;
        // The first makes the volume, and the role.
        let mut first = stage.boot()?;
        stage.answered(&mut first).await?;
        stage.stop(&mut first).await?;
        Ok(stage)
    }

    /// What the script needs: PgBouncer's settings, with which everybody may in.
    fn write_least(&self) -> Result<()> {
        let run = self.run.display();
        let ini = format!(
            "[databases]\n* = host={run} port={} user={ROLE}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nauth_type = any\n\
             pool_mode = transaction\nunix_socket_dir = {run}\n",
            self.port, self.pool_port
        );
        let put = |name: &str, content: &str| -> Result<()> {
            let path = self.run.join(name);
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            harness::Account::current().give(&path)
        };
        put("least.ini", &ini)?;
        put("least.sh", SCRIPT)
    }

    /// One run of one of them, from nothing to nothing.
    pub(crate) async fn run(&self, contender: Contender) -> Result<Run> {
        match contender {
            Contender::PgCtl => self.run_pg_ctl().await,
            Contender::Boot | Contender::Tini => {
                let from = Instant::now();
                let mut process = if contender == Contender::Boot { self.boot()? } else { self.least()? };
                self.answered(&mut process).await?;
                let ready_ms = milliseconds(from);
                let resident_kib = Some(resident(process.pid(), contender)?);
                let from = Instant::now();
                self.stop(&mut process).await?;
                Ok(Run { ready_ms, stop_ms: milliseconds(from), resident_kib })
            }
        }
    }

    async fn run_pg_ctl(&self) -> Result<Run> {
        let data = self.volume.join("data");
        let data = data.to_str().context("a path is text")?;
        let log = self.run.join("postgres.log");
        let log = log.to_str().context("a path is text")?;
        let from = Instant::now();
        program::run(in_folder(&self.bin, "pg_ctl", &["-D", data, "-w", "-s", "-l", log, "start"])).await?;
        let ready_ms = milliseconds(from);
        let from = Instant::now();
        program::run(in_folder(&self.bin, "pg_ctl", &["-D", data, "-w", "-s", "-m", "fast", "stop"])).await?;
        Ok(Run { ready_ms, stop_ms: milliseconds(from), resident_kib: None })
    }

    fn boot(&self) -> Result<Process> {
        let mut command = program::command(&self.program);
        command.arg("boot").envs([
            ("BEYOND_PG_METADATA", "none".to_owned()),
            ("BEYOND_PG_VOLUME", self.volume.display().to_string()),
            ("BEYOND_PG_RUN_DIR", self.run.display().to_string()),
            ("BEYOND_PG_BIN_DIR", self.bin.display().to_string()),
            ("BEYOND_PG_PGBOUNCER", self.pgbouncer.display().to_string()),
            ("BEYOND_PG_PORT", self.port.to_string()),
            ("BEYOND_PG_LISTEN", format!("127.0.0.1:{}", self.pool_port)),
            ("BEYOND_PG_HEALTH_LISTEN", "127.0.0.1:0".to_owned()),
            ("BEYOND_PG_MEMORY_MB", "1024".to_owned()),
            ("BEYOND_PG_USER", ROLE.to_owned()),
            ("BEYOND_PG_PASSWORD", PASSWORD.to_owned()),
        ]);
        Process::spawn("beyond-pg boot", command, &self.log)
    }

    fn least(&self) -> Result<Process> {
        let mut command = program::command(&self.tini);
        command.arg("-s").arg("--").arg("/bin/sh").arg(self.run.join("least.sh"));
        command.env("BIN", &self.bin).env("DATA", self.volume.join("data")).env("RUN", &self.run).env("PGBOUNCER", &self.pgbouncer);
        Process::spawn("tini", command, &self.log)
    }

    /// Waits until a query through PgBouncer is answered.
    async fn answered(&self, process: &mut Process) -> Result<()> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.pool_port).user(ROLE).password(PASSWORD).dbname("postgres");
        let end = Instant::now() + DEADLINE;
        loop {
            process.check_runs()?;
            if let Ok((client, connection)) = config.connect(NoTls).await {
                let connection = tokio::spawn(connection);
                let answered = client.simple_query("SELECT 1").await.is_ok();
                drop(client);
                connection.abort();
                if answered {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < end, "no answer through PgBouncer within {DEADLINE:?}:\n{}", process.log_tail());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn stop(&self, process: &mut Process) -> Result<()> {
        process.signal(Signal::TERM)?;
        let status = process.wait(DEADLINE).await?;
        ensure!(status.success(), "it ended with {status}:\n{}", process.log_tail());
        Ok(())
    }
}

fn milliseconds(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1e3
}

fn in_folder(bin: &Path, name: &str, args: &[&str]) -> Command {
    let mut command = program::command(&bin.join(name));
    command.args(args);
    command
}

/// A port that is free now; the bench alone uses it then.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// What is resident of those that stay beside the servers: of `boot` one process, of the other tini and the shell.
fn resident(pid: Pid, contender: Contender) -> Result<(u64, u64)> {
    let mut sum = of_process(pid.as_raw_nonzero().get())?;
    if contender == Contender::Tini {
        let path = format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
        let children = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The shell; Postgres, which has daemonized itself, is its parent's orphan, and another child here.
        for child in children.split_ascii_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if matches!(name.trim_end(), "sh" | "dash" | "bash") {
                let (all, own) = of_process(child.parse()?)?;
                sum = (sum.0 + all, sum.1 + own);
            }
        }
    }
    Ok(sum)
}

fn of_process(pid: i32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {path}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}
