//! S3 servers on this machine: moto, which answers as Amazon's does, and one of our own, which keeps what it has acknowledged.
//!
//! ```text
//!   program under test ──▶ Faults ──▶ S3 (moto, or the program s3-server) ◀── Client: what is really there
//! ```
//!
//! moto knows more of S3, and keeps all in memory; ours survives a SIGKILL. `tests/suite/s3.rs` holds them to the same answers.

mod client;
mod faults;
mod server;
mod xml;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;

use crate::port::Port;
use crate::process::Process;
use crate::program::{self, command, of_workspace};
use crate::scratch::Scratch;
use crate::tls::Authority;
use crate::wait::{DEADLINE, eventually};

pub use client::{Answer, Client};
pub use faults::{Fault, Faults, Hits, Refuse, When};
pub use server::serve;

/// The bucket that each server has.
pub const BUCKET: &str = "archive";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Kind {
    /// moto, by `scripts/s3`.
    Moto,
    /// The program `s3-server` of the harness.
    Own,
}

/// One server: its process while that runs, and its folder.
#[derive(Debug)]
pub struct S3 {
    // Before the folder: the process dies before its files go.
    process: Option<Process>,
    kind: S3Kind,
    port: Port,
    args: Vec<String>,
    authority: Option<Authority>,
    folder: PathBuf,
    log: PathBuf,
    scratch: Scratch,
}

impl S3 {
    /// A server of our own, started, with an empty [`BUCKET`].
    ///
    /// # Errors
    /// Where it does not get there.
    pub async fn start_new() -> Result<Self> {
        let mut server = Self::new(S3Kind::Own)?;
        server.start().await?;
        Ok(server)
    }

    /// A server with a port and a folder, not yet started.
    ///
    /// # Errors
    /// Where neither can be had.
    pub fn new(kind: S3Kind) -> Result<Self> {
        let scratch = Scratch::new()?;
        Ok(Self {
            process: None,
            kind,
            port: Port::reserve()?,
            args: Vec::new(),
            authority: None,
            folder: scratch.path().join("objects"),
            log: scratch.path().join("s3.log"),
            scratch,
        })
    }

    /// Further arguments of its program, from the next start on.
    pub fn arg(&mut self, arg: &str) -> &mut Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Makes a server of our own speak TLS alone, from its start on, as `localhost` and `127.0.0.1`; gives the file of the authority that
    /// clients have to trust.
    ///
    /// # Errors
    /// Where no certificate can be made.
    pub fn tls(&mut self) -> Result<PathBuf> {
        let authority = Authority::new()?;
        let identity = authority.server(&["localhost", "127.0.0.1"])?;
        for (flag, name, content) in [("--tls-cert", "server.pem", identity.certificate), ("--tls-key", "server.key", identity.key)]
        {
            let path = self.scratch.file(name, content)?;
            self.args.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
        }
        let trusted = self.scratch.file("ca.pem", authority.certificate())?;
        self.authority = Some(authority);
        Ok(trusted)
    }

    /// Starts it and waits until it answers and has its bucket.
    ///
    /// # Errors
    /// Where it runs already, ends, or does not answer: with its log.
    pub async fn start(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the S3 server runs already");
        }
        let (name, mut server) = match self.kind {
            S3Kind::Moto => ("moto", command(moto().await?)),
            S3Kind::Own => ("s3-server", command(&of_workspace("s3-server")?)),
        };
        match self.kind {
            S3Kind::Moto => server.args(["-H", "127.0.0.1", "-p", &self.port().to_string()]),
            S3Kind::Own => server.args(["--listen", &format!("127.0.0.1:{}", self.port())]).arg("--folder").arg(&self.folder),
        };
        server.args(&self.args);
        self.process = Some(Process::spawn(name, server, &self.log)?);
        let client = self.client()?;
        let answers = eventually(DEADLINE, "an answer of the S3 server", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(false));
            }
            client.create_bucket().await?;
            Ok(Some(true))
        });
        if !answers.await.with_context(|| format!("its log:\n{}", self.log()))? {
            self.process()?.check_runs()?;
        }
        Ok(())
    }

    /// Its port on 127.0.0.1: the same as long as this lives.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// A client of its bucket, for what a test puts there and looks for.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn client(&self) -> Result<Client> {
        match &self.authority {
            Some(authority) => Client::with_tls(self.port(), BUCKET, authority),
            None => Client::new(self.port(), BUCKET),
        }
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the S3 server was not started")
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)))
    }

    /// Kills it by SIGKILL and waits until it is dead. moto has nothing any more after that.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill_all()
    }

    /// Leaves all its files where they are, for good, and says where.
    pub fn keep(&mut self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }
}

/// The environment of a program that is to find the S3 at this port of 127.0.0.1: a server's own, or that of [`Faults`].
#[must_use]
pub fn environment(port: u16) -> [(String, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID".to_owned(), "harness".to_owned()),
        ("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{port}")),
        ("AWS_REGION".to_owned(), "us-east-1".to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), "of-the-harness".to_owned()),
    ]
}

/// moto's program, from `scripts/s3`, which fetches it where it is missing.
async fn moto() -> Result<&'static Path> {
    static KNOWN: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || {
        let script = std::process::Command::new(program::repository().join("scripts/s3"));
        Ok::<_, anyhow::Error>(PathBuf::from(program::run(script).await?.trim()))
    };
    KNOWN.get_or_try_init(find).await.map(PathBuf::as_path)
}
