//! The archiver's programs that stay: `serve`, and whatever else is started and then looked at.

use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Archiver;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::wait::{DEADLINE, eventually};

/// A program of the archiver that runs until it is stopped.
#[derive(Debug)]
pub struct Launched {
    // Before the folder of its log.
    process: Process,
    log: PathBuf,
    _scratch: Scratch,
}

impl Archiver {
    /// Starts a subcommand that stays, and does not wait for it. The metrics of `serve` are on a port of its own.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn launch<S: AsRef<std::ffi::OsStr>>(&self, subcommand: &str, args: impl IntoIterator<Item = S>) -> Result<Launched> {
        let scratch = Scratch::new()?;
        let log = scratch.path().join("daemon.log");
        let mut command = self.command(subcommand)?;
        command.args(args).args(["--log-level", "debug,hyper=info,h2=info,reqwest=info"]);
        if subcommand == "serve" {
            command.args(["--http", "127.0.0.1:0"]);
        }
        let process = Process::spawn(&format!("beyond-pg-archiver {subcommand}"), command, &log)?;
        Ok(Launched { process, log, _scratch: scratch })
    }
}

impl Launched {
    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it has said these words.
    ///
    /// # Errors
    /// Where it ends first, or the time is up: with its log.
    pub async fn says(&mut self, words: &str) -> Result<()> {
        let what = format!("{words:?} in its log");
        let said = eventually(DEADLINE, &what, async || {
            let said = self.log().contains(words);
            Ok((said || self.process.check_runs().is_err()).then_some(said))
        });
        if !said.await.with_context(|| self.log())? {
            self.process.check_runs()?;
        }
        Ok(())
    }

    /// The answer to a GET of this path of its metrics' port: the status, and the text.
    ///
    /// # Errors
    /// Where none comes.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let log = self.log();
        let address = log.lines().find_map(|line| line.strip_prefix("metrics at http://")?.strip_suffix("/metrics"));
        let address = address.context("it does not listen for HTTP yet")?;
        // Set already where another test of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?;
        let answer = http.get(format!("http://{address}{path}")).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// One of its metrics, by what stands before the number.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
    }

    /// Waits until one of its metrics is as wanted.
    ///
    /// # Errors
    /// When the time is up: with its log.
    pub async fn wait_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
        let what = format!("{name} as wanted");
        let seen = eventually(DEADLINE, &what, async || {
            let value = self.metric(name).await?;
            anyhow::ensure!(wanted(value), "it is {value}");
            Ok(Some(()))
        });
        seen.await.with_context(|| self.log())
    }

    /// Stops it by SIGTERM and gives how it ended.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(DEADLINE).await
    }
}
