//! Real sinks: the program itself, and its HTTPS.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use walbus::{Lsn, Timeline};

use crate::postgres::Postgres;
use crate::process::Process;
use crate::program::{self, command, of_workspace};
use crate::proxy::Proxy;
use crate::scratch::Scratch;
use crate::wait::{DEADLINE, eventually};

/// What a sink names itself to its primary unless told otherwise: what `synchronous_standby_names` has to hold.
pub const APPLICATION_NAME: &str = "beyond-pg-sink";

/// The slot that a sink of the harness makes and uses unless told otherwise.
pub const SLOT: &str = "sink";

/// What a sink prints when it answers, before its URL.
const LISTENING: &str = "listening on https://";

/// How long one answer of a sink may take.
const ANSWER: Duration = Duration::from_secs(10);

/// One sink: its folder, and its process while that runs.
#[derive(Debug)]
pub struct Sink {
    // Before the folder: the process dies before its files go.
    process: Option<Process>,
    upstream: String,
    slot: String,
    data: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    url: Option<String>,
    scratch: Scratch,
}

impl Sink {
    /// A sink of what answers at `upstream`, a connection string; in a folder of its own, not yet started.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn new(upstream: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        Ok(Self {
            process: None,
            upstream: upstream.to_owned(),
            slot: SLOT.to_owned(),
            data: scratch.path().join("wal"),
            log: scratch.path().join("sink.log"),
            args: Vec::new(),
            envs: Vec::new(),
            url: None,
            scratch,
        })
    }

    /// A sink of this cluster, started, and streaming.
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn of(cluster: &Postgres) -> Result<Self> {
        let mut sink = Self::new(&cluster.conninfo())?;
        sink.start().await?;
        sink.wait_streaming().await?;
        Ok(sink)
    }

    /// A sink of the cluster behind this proxy, started, and streaming.
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn through(proxy: &Proxy) -> Result<Self> {
        let mut sink = Self::new(&crate::postgres::conninfo(proxy.port()))?;
        sink.start().await?;
        sink.wait_streaming().await?;
        Ok(sink)
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

    /// Another upstream, from the next start on.
    pub fn set_upstream(&mut self, upstream: &str) -> &mut Self {
        upstream.clone_into(&mut self.upstream);
        self
    }

    /// Another slot, from the next start on.
    pub fn set_slot(&mut self, slot: &str) -> &mut Self {
        slot.clone_into(&mut self.slot);
        self
    }

    /// Another folder, from the next start on; it is not removed with the sink.
    pub fn set_data(&mut self, data: &Path) -> &mut Self {
        data.clone_into(&mut self.data);
        self
    }

    /// Its folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder that its log and, unless told otherwise, its data lie in.
    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
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

    /// Where it answers.
    ///
    /// # Errors
    /// Where it was not started.
    pub fn url(&self) -> Result<&str> {
        self.url.as_deref().context("the sink was not started")
    }

    /// A command of its program, such as `recover`, that reaches it by its URL, its authority and its token.
    ///
    /// # Errors
    /// Where the program is not built, or the sink was not started.
    pub fn client(&self, subcommand: &str, url_flag: &str) -> Result<Command> {
        let mut client = program(subcommand)?;
        client.args([url_flag, self.url()?]);
        client.arg("--ca").arg(self.data.join("tls/ca.pem")).arg("--token-file").arg(self.data.join("token"));
        Ok(client)
    }

    /// Starts it and does not wait for it.
    ///
    /// # Errors
    /// Where the program is not built, or runs already.
    pub fn launch(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the sink runs already");
        }
        let mut serve = program("serve")?;
        serve.arg("--data-dir").arg(&self.data).args(["--upstream", &self.upstream, "--slot", &self.slot]);
        serve.args(["--https", "127.0.0.1:0"]).args(&self.args);
        serve.envs(self.envs.iter().map(|(name, value)| (name, value)));
        self.url = None;
        self.process = Some(Process::spawn("beyond-pg-sink serve", serve, &self.log)?);
        Ok(())
    }

    /// Starts it and waits until it answers, streaming or not.
    ///
    /// # Errors
    /// Where it ends, or does not answer: with its log.
    pub async fn start(&mut self) -> Result<()> {
        let from = self.log().len();
        self.launch()?;
        let url = eventually(DEADLINE, "the sink to listen", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(None));
            }
            Ok(self.log().get(from..).and_then(listening).map(Some))
        });
        match url.await? {
            Some(url) => self.url = Some(url),
            None => self.process()?.check_runs()?,
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

    /// Its process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the sink was not started")
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

    /// Stops it by SIGTERM and gives how it ended.
    ///
    /// # Errors
    /// Where it does not run, or does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let process = self.process()?;
        process.signal(Signal::TERM)?;
        process.wait(DEADLINE).await
    }

    /// An HTTP client that trusts its authority and knows its token. To be made anew where it was started in another folder.
    ///
    /// # Errors
    /// Where the sink has made neither yet.
    pub fn http(&self) -> Result<reqwest::Client> {
        let token = std::fs::read_to_string(self.data.join("token")).context("read the sink's token")?;
        let mut bearer = reqwest::header::HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
        bearer.set_sensitive(true);
        let headers = [(reqwest::header::AUTHORIZATION, bearer)].into_iter().collect();
        Ok(self.http_builder()?.default_headers(headers).build()?)
    }

    /// An HTTP client that trusts its authority, and has no token.
    ///
    /// # Errors
    /// Where the sink has made no authority yet.
    pub fn http_builder(&self) -> Result<reqwest::ClientBuilder> {
        // Set already where another test of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let authority = std::fs::read(self.data.join("tls/ca.pem")).context("read the sink's authority")?;
        let authority = reqwest::Certificate::from_pem(&authority)?;
        Ok(reqwest::Client::builder().tls_certs_only([authority]).no_proxy().timeout(ANSWER))
    }

    /// The answer to a GET of this path, such as `/v1/status`.
    ///
    /// # Errors
    /// Where none comes.
    pub async fn get(&self, path: &str) -> Result<reqwest::Response> {
        Ok(self.http()?.get(format!("{}{path}", self.url()?)).send().await?)
    }

    /// The bytes at this path.
    ///
    /// # Errors
    /// Where there are none.
    pub async fn bytes(&self, path: &str) -> Result<bytes::Bytes> {
        Ok(self.get(path).await?.error_for_status()?.bytes().await?)
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn status(&self) -> Result<SinkStatus> {
        SinkStatus::parse(&self.bytes("/v1/status").await?)
    }

    /// Waits until its status is as wanted.
    ///
    /// # Errors
    /// Where it ends, or is not so at the deadline: with its log.
    pub async fn wait_for(&mut self, what: &str, wanted: impl Fn(&SinkStatus) -> bool) -> Result<SinkStatus> {
        let seen = eventually(DEADLINE, what, async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(None));
            }
            let status = self.status().await?;
            if wanted(&status) {
                return Ok(Some(Some(status)));
            }
            bail!("{}", status.json)
        });
        match seen.await.with_context(|| format!("the sink's log:\n{}", self.log()))? {
            Some(status) => Ok(status),
            None => bail!("{:#}", self.process()?.check_runs().err().context("the sink ended")?),
        }
    }

    /// Waits until it streams.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_streaming(&mut self) -> Result<SinkStatus> {
        self.wait_for("the sink to stream", |status| status.state == "streaming").await
    }

    /// Waits until all below `lsn` is flushed.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_flushed(&mut self, lsn: Lsn) -> Result<SinkStatus> {
        self.wait_for(&format!("the sink to flush {lsn}"), |status| status.flushed >= lsn).await
    }

    /// Runs `recover` on the data folder of a cluster that is not running.
    ///
    /// # Errors
    /// Where the program can't be run; that it failed is in its output.
    pub async fn recover(&self, cluster: &Postgres) -> Result<Output> {
        let mut recover = self.client("recover", "--from")?;
        recover.arg("--pgdata").arg(cluster.data());
        program::output(recover).await
    }

    /// Runs `recover --verify` on a cluster that was recovered and is running.
    ///
    /// # Errors
    /// Where the program can't be run; that it failed is in its output.
    pub async fn verify(&self, cluster: &Postgres) -> Result<Output> {
        let mut verify = program("recover")?;
        verify.arg("--verify").arg("--pgdata").arg(cluster.data()).args(["--conninfo", &cluster.socket_conninfo()]);
        program::output(verify).await
    }

    /// Runs `check` on its folder, which needs no running sink.
    ///
    /// # Errors
    /// Where the program can't be run; that it failed is in its output.
    pub async fn check(&self) -> Result<Output> {
        let mut check = program("check")?;
        check.arg(&self.data);
        program::output(check).await
    }
}

/// A command of the sink's program.
///
/// # Errors
/// Where it is not built.
pub fn program(subcommand: &str) -> Result<Command> {
    let mut command = command(&of_workspace("beyond-pg-sink")?);
    command.arg(subcommand);
    Ok(command)
}

/// The URL in what a sink has printed.
fn listening(log: &str) -> Option<String> {
    let (_, rest) = log.split_once(LISTENING)?;
    // Its line must have ended, or its port might not have.
    let (line, _) = rest.split_once('\n')?;
    let address = line.split_ascii_whitespace().next()?;
    Some(format!("https://{address}"))
}

/// What a sink says of itself: `GET /v1/status`, read without the sink's own types, so that a change of names is seen.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// Such as `streaming`.
    pub state: String,
    /// What is wrong and the way out; empty where nothing is.
    pub problem: String,
    /// The timeline being received, `None` before the first.
    pub timeline: Option<Timeline>,
    /// The end of what was written; `0/0` before anything.
    pub written: Lsn,
    /// The end of what is durable; `0/0` before anything.
    pub flushed: Lsn,
    /// The end of the last complete record below `flushed`; `0/0` before anything.
    pub complete: Lsn,
    /// Whether someone should look.
    pub alarm: bool,
    /// All of it.
    pub json: Value,
}

impl SinkStatus {
    fn parse(body: &[u8]) -> Result<Self> {
        let json: Value = serde_json::from_slice(body).context("read the sink's status")?;
        let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let lsn = |name: &str| match json.get(name) {
            Some(Value::Null) => Ok(Lsn::INVALID),
            Some(Value::String(text)) => Ok(text.parse()?),
            other => bail!("the status has {other:?} as {name}"),
        };
        Ok(Self {
            state: json.get("state").and_then(Value::as_str).context("a status has a state")?.to_owned(),
            problem: text("problem"),
            timeline: json.get("timeline").and_then(Value::as_u64).and_then(|raw| Timeline::new(u32::try_from(raw).ok()?)),
            written: lsn("written")?,
            flushed: lsn("flushed")?,
            complete: lsn("complete")?,
            alarm: json.get("alarm").and_then(Value::as_bool).context("a status has an alarm")?,
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_when_its_line_is_whole() {
        assert_eq!(listening("x\nlistening on https://127.0.0.1:43"), None);
        assert_eq!(listening("x\nlistening on https://127.0.0.1:4321\n"), Some("https://127.0.0.1:4321".to_owned()));
        assert_eq!(listening("INFO listening on https://127.0.0.1:4321 tls=own\n"), Some("https://127.0.0.1:4321".to_owned()));
    }
}
