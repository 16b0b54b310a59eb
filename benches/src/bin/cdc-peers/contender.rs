//! Who is measured.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beyond_pg_benches::counted::{Counted, READY};
use beyond_pg_benches::usage::Usage;
use harness::{DEADLINE, Process, Scratch, program};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{interval, timeout};
use walbus::Lsn;

use crate::bench::{Bench, PUBLICATION};

/// How often it is looked how far a contender is.
const LOOK: Duration = Duration::from_millis(4);

/// See [`Contender::PatientDrain`]. Of 1, 2, 5 and 10 the one with the highest rate, so that the ratio is against the most that was found.
const PATIENCE_MS: u64 = 10;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// `pg_recvlogical --file=/dev/null`, up to an end that is known before.
    RecvLogical(Lsn),
    /// `cdc-drain`, until it has counted so many changes: each message is read as it comes.
    Drain(u64),
    /// The same, which leaves what comes in the socket for [`PATIENCE_MS`] before it is read: so a message wakes nobody up, which is what the
    /// walsender spends most of its time with where messages are read as they come.
    PatientDrain(u64),
    /// `beyond-pg-cdc serve`.
    Ours,
    /// `cdc-bare`: no source and no log, only the same bytes to so many subscribers.
    Bare { subscribers: u32, rows: u64 },
}

impl Contender {
    /// The columns of the table.
    pub(crate) const NAMES: [&'static str; 5] = ["pg_recvlogical", "drain", "patient drain", "beyond-pg-cdc", "bare quinn"];

    /// Its column.
    pub(crate) const fn column(self) -> usize {
        match self {
            Self::RecvLogical(_) => 0,
            Self::Drain(_) => 1,
            Self::PatientDrain(_) => 2,
            Self::Ours => 3,
            Self::Bare { .. } => 4,
        }
    }

    /// Its slot.
    pub(crate) const fn slot(self) -> &'static str {
        match self {
            Self::RecvLogical(_) => "recvlogical",
            Self::Drain(_) => "drain",
            Self::PatientDrain(_) => "patient",
            Self::Ours => "ours",
            Self::Bare { .. } => "bare",
        }
    }

    /// Starts it on its slot, which must exist, and waits until that is in use.
    pub(crate) async fn start(self, bench: &Bench) -> Result<Running> {
        let scratch = Scratch::new()?;
        let data = scratch.folder("data")?;
        let upstream = format!("{} dbname=postgres", bench.cluster.conninfo());
        let command = match self {
            Self::RecvLogical(end) => {
                let mut command = bench.cluster.program("pg_recvlogical");
                command.args(["--start", "--no-loop", "--no-password", "--file=/dev/null", "--slot", self.slot()]);
                command.args(["--dbname", &upstream, "--option=proto_version=1"]);
                command.args([format!("--option=publication_names={PUBLICATION}"), format!("--endpos={end}")]);
                command
            }
            Self::Drain(changes) | Self::PatientDrain(changes) => {
                let mut command = program::command(&program::of_workspace("cdc-drain")?);
                command.args(["--upstream", &upstream, "--slot", self.slot(), "--publication", PUBLICATION]);
                command.arg(format!("--changes={changes}"));
                if let Self::PatientDrain(_) = self {
                    command.arg(format!("--pause-ms={PATIENCE_MS}"));
                }
                command
            }
            Self::Ours => {
                let mut command = program::command(&program::of_workspace("beyond-pg-cdc")?);
                command.args(["serve", "--upstream", &upstream, "--slot", self.slot(), "--publication", PUBLICATION]);
                command.args(["--quic", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"]).arg(&data);
                command
            }
            Self::Bare { subscribers, rows } => {
                let mut command = program::command(&program::of_workspace("cdc-bare")?);
                command.args([format!("--subscribers={subscribers}"), format!("--rows={rows}")]).arg("--data-dir").arg(&data);
                command
            }
        };
        let process = Process::spawn(self.slot(), command, &scratch.path().join("log"))?;
        let mut running = Running { process, contender: self, data, walsender: None, start_micros: 0, scratch };
        if let Self::Bare { .. } = self {
            return Ok(running);
        }
        let (walsender, start_micros) = running.wait_active(bench).await?;
        (running.walsender, running.start_micros) = (Some(walsender), start_micros);
        Ok(running)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[self.column()])
    }
}

/// What its processes have used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) receiver: Usage,
    pub(crate) walsender: Usage,
}

impl Used {
    /// What was used of the CPU since then.
    pub(crate) fn since(self, before: Self) -> Self {
        let since = |now: Usage, before: Usage| Usage { cpu_seconds: now.cpu_seconds - before.cpu_seconds, ..now };
        Self { receiver: since(self.receiver, before.receiver), walsender: since(self.walsender, before.walsender) }
    }
}

/// One of them, running. Its files go with it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    contender: Contender,
    data: PathBuf,
    walsender: Option<Pid>,
    start_micros: i64,
    scratch: Scratch,
}

impl Running {
    /// Gives the walsender, and when it was told to stream.
    async fn wait_active(&mut self, bench: &Bench) -> Result<(Pid, i64)> {
        let client = bench.cluster.client().await?;
        let query = "SELECT s.active_pid, (extract(epoch FROM a.query_start) * 1000000)::int8 FROM pg_replication_slots s \
             JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1 AND a.query LIKE 'START_REPLICATION%'";
        let query = client.prepare(query).await?;
        let mut looks = interval(LOOK);
        let active = async {
            loop {
                looks.tick().await;
                self.process.check_runs()?;
                if let Some(row) = client.query_opt(&query, &[&self.contender.slot()]).await? {
                    return Ok((Pid::from_raw(row.get(0)).context("a walsender is a process")?, row.get(1)));
                }
            }
        };
        timeout(DEADLINE, active).await.with_context(|| format!("{} did not start to stream", self.contender))?
    }

    /// When it was told to stream, by the primary's clock, which is ours.
    pub(crate) const fn start_micros(&self) -> i64 {
        self.start_micros
    }

    /// Stops its walsender, or has it go on.
    pub(crate) fn walsender(&self, signal: Signal) -> Result<()> {
        kill_process(self.walsender.context("it has a walsender")?, signal).context("signal the walsender")
    }

    pub(crate) fn used(&self) -> Result<Used> {
        let none = Usage { cpu_seconds: 0.0, resident_mb_max: 0.0 };
        let walsender = self.walsender.map_or(Ok(none), Usage::of)?;
        Ok(Used { receiver: Usage::of(self.process.pid())?, walsender })
    }

    /// Waits until it has ended by itself. Gives what it and its walsender had used shortly before.
    pub(crate) async fn wait_ended(&mut self) -> Result<Used> {
        let mut used = self.used()?;
        let mut looks = interval(LOOK);
        let ended = async {
            loop {
                looks.tick().await;
                // One that ends at this moment has used what it had used a look ago.
                used = self.used().unwrap_or(used);
                if let Some(status) = self.process.ended()? {
                    if status.success() {
                        return Ok(used);
                    }
                    bail!("{} ended with {status}:\n{}", self.contender, self.process.log_tail());
                }
            }
        };
        timeout(DEADLINE * 10, ended).await.with_context(|| format!("{} does not end", self.contender))?
    }

    /// What it has counted, where it counts.
    pub(crate) fn counted(&self) -> Result<Counted> {
        Counted::of_output(&self.process.log())
            .with_context(|| format!("{} has counted nothing:\n{}", self.contender, self.process.log_tail()))
    }

    /// Where it listens.
    async fn url(&self) -> Result<String> {
        const LISTENING: &str = "listening on ";
        harness::eventually(DEADLINE, "the server to say where it listens", async || {
            Ok(self.process.log().lines().find_map(|line| line.strip_prefix(LISTENING)).map(str::to_owned))
        })
        .await
    }

    /// Starts subscribers, and waits until the server has agreed with all of them.
    pub(crate) async fn subscribers(&mut self, reading: Reading, count: u32, stuck: u32, changes: u64) -> Result<Subscribers> {
        let url = self.url().await?;
        let mut command = program::command(&program::of_workspace("cdc-subscribers")?);
        command.args([format!("--url={url}"), format!("--subscribers={count}"), format!("--stuck={stuck}")]);
        command.arg(format!("--changes={changes}"));
        if reading == Reading::Counted {
            command.arg("--count-only");
        }
        command.arg("--ca").arg(self.data.join("tls/ca.pem")).arg("--token-file").arg(self.data.join("token"));
        let log = self.scratch.path().join(format!("subscribers-{count}-{stuck}"));
        let mut process = Process::spawn("the subscribers", command, &log)?;
        let mut looks = interval(LOOK);
        let ready = async {
            loop {
                looks.tick().await;
                process.check_runs()?;
                if process.log().lines().any(|line| line == READY) {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(DEADLINE, ready).await.context("the subscribers can't subscribe")??;
        Ok(Subscribers { process })
    }

    /// Kills it and drops its slot.
    pub(crate) async fn end(mut self, bench: &Bench) -> Result<()> {
        self.process.kill_all()?;
        if self.walsender.is_none() {
            return Ok(());
        }
        bench.drop_slot(self.contender.slot()).await
    }
}

/// What subscribers do with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They count it.
    Counted,
    /// They decode each row, by the client library.
    Decoded,
}

/// The subscribers' process.
#[derive(Debug)]
pub(crate) struct Subscribers {
    pub(crate) process: Process,
}

impl Subscribers {
    /// Waits until they have counted all. Gives what they have counted, and used shortly before.
    pub(crate) async fn wait(&mut self) -> Result<(Counted, Usage)> {
        let mut used = Usage::of(self.process.pid())?;
        let mut looks = interval(LOOK);
        let done = async {
            loop {
                looks.tick().await;
                used = Usage::of(self.process.pid()).unwrap_or(used);
                if let Some(status) = self.process.ended()? {
                    let log = self.process.log();
                    return Counted::of_output(&log).with_context(|| format!("the subscribers ended with {status}:\n{log}"));
                }
            }
        };
        let counted = timeout(DEADLINE * 10, done).await.context("the subscribers do not get all changes")??;
        Ok((counted, used))
    }
}
