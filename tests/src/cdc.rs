//! Real CDC servers: the program itself, and how clients reach it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use beyond_cdc_client::Options;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::port::Port;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::program::{command, of_workspace};
use crate::scratch::Scratch;
use crate::wait::{DEADLINE, eventually};

/// The slot that a server of the harness makes and uses unless told otherwise.
pub const SLOT: &str = "cdc";

/// The publication that it follows unless told otherwise.
pub const PUBLICATION: &str = "everything";

/// What a server prints when it answers, before its address.
const LISTENING: &str = "listening on quic://";

/// What it prints before the address of health and metrics.
const HTTP: &str = "health, metrics and lists on http://";

/// One server: its folder, its port, and its process while that runs.
#[derive(Debug)]
pub struct Cdc {
    // Before the folder: the process dies before its files go.
    process: Option<Process>,
    upstream: String,
    slot: String,
    publication: String,
    port: Port,
    data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    scratch: Scratch,
}

impl Cdc {
    /// A server of what answers at `upstream`, a connection string with a database; in a folder of its own, not yet started.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn new(upstream: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        Ok(Self {
            process: None,
            upstream: upstream.to_owned(),
            slot: SLOT.to_owned(),
            publication: PUBLICATION.to_owned(),
            port: Port::reserve()?,
            data: scratch.path().join("cdc"),
            log: scratch.path().join("cdc.log"),
            args: Vec::new(),
            envs: Vec::new(),
            scratch,
        })
    }

    /// A server of the database `postgres` of this cluster, which makes its slot; not yet started. The publication has to be there.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn of(cluster: &Postgres) -> Result<Self> {
        let mut cdc = Self::new(&format!("{} dbname=postgres", cluster.conninfo()))?;
        cdc.arg("--create-slot");
        Ok(cdc)
    }

    /// Further arguments of `serve`, from the next start on.
    pub fn arg(&mut self, arg: &str) -> &mut Self {
        self.args.push(arg.to_owned());
        self
    }

    /// A variable of its environment, from the next start on.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another slot, from the next start on.
    pub fn set_slot(&mut self, slot: &str) -> &mut Self {
        slot.clone_into(&mut self.slot);
        self
    }

    /// Other publications, with commas between them, from the next start on.
    pub fn set_publication(&mut self, publication: &str) -> &mut Self {
        publication.clone_into(&mut self.publication);
        self
    }

    /// Another folder, from the next start on.
    pub fn set_data(&mut self, data: &Path) -> &mut Self {
        data.clone_into(&mut self.data);
        self
    }

    /// Another source, from the next start on.
    pub fn set_upstream(&mut self, upstream: &str) -> &mut Self {
        upstream.clone_into(&mut self.upstream);
        self
    }

    /// Without an argument that was given before, from the next start on.
    pub fn without_arg(&mut self, arg: &str) -> &mut Self {
        self.args.retain(|given| given != arg);
        self
    }

    /// Its folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where it answers: the same as long as this lives.
    #[must_use]
    pub fn url(&self) -> String {
        format!("quic://127.0.0.1:{}", self.port.number())
    }

    /// How a client reaches it: its address, its authority and its token.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn options(&self) -> Result<Options> {
        let options = Options::new(&self.url()).context("a server's address")?;
        Ok(options.ca(self.data.join("tls/ca.pem")).token_file(self.data.join("token")))
    }

    /// Leaves all its files where they are, for good, and says where.
    pub fn keep(&mut self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }

    /// Everything that it has logged, all its starts together.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts it and does not wait for it.
    ///
    /// # Errors
    /// Where the program is not built, or runs already.
    pub fn launch(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the CDC server runs already");
        }
        let mut serve = command(&of_workspace("beyond-pg-cdc")?);
        serve.arg("serve").arg("--data-dir").arg(&self.data).args(["--upstream", &self.upstream, "--slot", &self.slot]);
        serve.args(["--publication", &self.publication, "--quic", &format!("127.0.0.1:{}", self.port.number())]);
        serve.args(["--http", "127.0.0.1:0"]).args(&self.args);
        serve.envs(self.envs.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn("beyond-pg-cdc serve", serve, &self.log)?);
        Ok(())
    }

    /// Starts it and waits until it answers, streaming or not.
    ///
    /// # Errors
    /// Where it ends, or does not answer: with its log.
    pub async fn start(&mut self) -> Result<()> {
        let from = self.log().len();
        self.launch()?;
        let listens = eventually(DEADLINE, "the CDC server to listen", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(false));
            }
            Ok(self.log().get(from..).is_some_and(|log| log.contains(LISTENING)).then_some(true))
        });
        if !listens.await.with_context(|| format!("the CDC server's log:\n{}", self.log()))? {
            self.process()?.check_runs()?;
        }
        Ok(())
    }

    /// Waits until it streams from its slot.
    ///
    /// # Errors
    /// Where it ends, or the time is up: with its log.
    pub async fn wait_streaming(&mut self, cluster: &Postgres) -> Result<()> {
        let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '{}'", self.slot);
        let active = eventually(DEADLINE, "the slot to be in use", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(false));
            }
            Ok((cluster.value(&sql).await? == "1").then_some(true))
        });
        if !active.await.with_context(|| format!("the CDC server's log:\n{}", self.log()))? {
            self.process()?.check_runs()?;
        }
        Ok(())
    }

    /// Starts it where it must not come up, and gives how it ended and what it logged in this run.
    ///
    /// # Errors
    /// Where it still runs at the deadline.
    pub async fn start_refused(&mut self) -> Result<(ExitStatus, String)> {
        let from = self.log().len();
        self.launch()?;
        let status = self.process()?.wait(DEADLINE).await?;
        Ok((status, self.log().get(from..).unwrap_or_default().to_owned()))
    }

    /// What it answers to a GET over HTTP: the status line, headers and the body.
    ///
    /// # Errors
    /// Where it does not run, or does not answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let log = self.log();
        let address = log.rsplit_once(HTTP).and_then(|(_, rest)| rest.lines().next()).context("the server says where it is")?;
        let mut stream = tokio::net::TcpStream::connect(address).await.context("connect to the server over HTTP")?;
        let token = std::fs::read_to_string(self.data.join("token")).unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Waits until it says of itself what is wanted, over HTTP at `path`, and gives that.
    ///
    /// # Errors
    /// When the time is up.
    pub async fn wait_says(&self, path: &str, wanted: &str) -> Result<String> {
        eventually(DEADLINE, &format!("{path} to say {wanted:?}"), async || {
            let said = self.get(path).await?;
            if said.contains(wanted) { Ok(Some(said)) } else { bail!("{said}") }
        })
        .await
    }

    /// Waits until it has logged what is wanted in this run or one before.
    ///
    /// # Errors
    /// When the time is up: with its log.
    pub async fn wait_logged(&self, wanted: &str) -> Result<()> {
        let logged = eventually(DEADLINE, wanted, async || Ok(self.log().contains(wanted).then_some(())));
        logged.await.with_context(|| format!("the CDC server's log:\n{}", self.log()))
    }

    /// Its process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the CDC server was not started")
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Kills it by SIGKILL and waits until it is dead.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill_all()
    }

    /// Sends it a signal, and waits for nothing.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)
    }

    /// Stops it by SIGTERM and gives how it ended.
    ///
    /// # Errors
    /// Where it does not run, or does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let process = self.process()?;
        process.signal(Signal::TERM)?;
        process.wait(DEADLINE).await
    }
}
