//! The server of a cluster: started, stopped, killed, promoted.

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::Postgres;
use crate::port::Port;
use crate::process::Process;
use crate::scratch::write_private;
use crate::wait::{DEADLINE, eventually};

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// At once, sessions being broken off; waits for what is streamed to be flushed.
    Fast,
    /// At once, without a checkpoint: the next start recovers.
    Immediate,
    /// When the last session has ended.
    Smart,
}

/// How often another port is tried where someone listens already.
const PORT_TRIES: usize = 5;

impl Postgres {
    /// Starts its server and waits until it answers a query.
    ///
    /// # Errors
    /// Where it runs already, ends, or does not answer: with its log.
    pub async fn start(&mut self) -> Result<()> {
        for _ in 0..PORT_TRIES {
            let logged = self.log().len();
            self.launch()?;
            match self.wait_until_ready().await {
                Ok(()) => return Ok(()),
                // The port was free when it was taken, and someone who knows nothing of that was quicker.
                Err(_) if self.log().get(logged..).is_some_and(|log| log.contains("Address already in use")) => {
                    self.process = None;
                    self.port = Port::reserve()?;
                    self.append_settings(&[("port", &self.port().to_string())])?;
                }
                Err(error) => return Err(error),
            }
        }
        bail!("no port could be had in {PORT_TRIES} tries")
    }

    /// Starts its server and does not wait for it.
    ///
    /// # Errors
    /// Where it runs already.
    pub fn launch(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && process.ended()?.is_none()
        {
            bail!("the server runs already");
        }
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).envs(self.environment.iter().cloned());
        self.process = Some(Process::spawn(&format!("postgres {}", self.version), command, &self.log)?);
        Ok(())
    }

    /// Waits until its server answers a query.
    ///
    /// # Errors
    /// Where it has ended, or the time is up.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = eventually(DEADLINE, "an answer of the server", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(false));
            }
            self.execute("SELECT 1").await?;
            Ok(Some(true))
        });
        if !ready.await.with_context(|| format!("the server's log:\n{}", self.log()))? {
            self.process()?.check_runs()?;
        }
        Ok(())
    }

    /// The server's process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the server was not started")
    }

    /// Whether its server runs.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Stops its server and waits for its end.
    ///
    /// # Errors
    /// Where it does not run, or does not end in time.
    pub async fn stop(&mut self, mode: StopMode) -> Result<()> {
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
            StopMode::Smart => Signal::TERM,
        };
        let process = self.process()?;
        process.signal(signal)?;
        process.wait(DEADLINE).await.map(drop)
    }

    /// Kills its server and all of its processes by SIGKILL, and waits until they are dead.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill_all()
    }

    /// Stops its server fast and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast).await?;
        self.start().await
    }

    /// Makes its server read its settings again.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn reload(&mut self) -> Result<()> {
        self.process()?.signal(Signal::HUP)
    }

    /// Makes a primary of a standby, and waits until it takes writes, on the next timeline.
    ///
    /// # Errors
    /// Where it is none, or the time is up.
    pub async fn promote(&self) -> Result<()> {
        self.execute("SELECT pg_promote(wait => true, wait_seconds => 60)").await?;
        eventually(DEADLINE, "the end of recovery", async || {
            Ok((self.value("SELECT pg_is_in_recovery()").await? == "f").then_some(()))
        })
        .await
    }

    /// Restarts it as a standby of nobody: it can then be promoted to the next timeline.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub async fn restart_as_standby(&mut self) -> Result<()> {
        self.stop(StopMode::Fast).await?;
        write_private(&self.data.join("standby.signal"), b"")?;
        self.start().await
    }
}
