//! The archiver's program, as Postgres and people run it, against an archive of a test.

mod launched;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use walbus::SystemId;
use walbus::archive::envelope;
use walbus::archive::key::Keys;
use walbus::archive::layout::ObjectName;

use crate::postgres::Postgres;
use crate::process::Process;
use crate::program::{self, command, of_workspace};
use crate::s3::{self, BUCKET, Client};
use crate::wait::{DEADLINE, eventually};

pub use launched::Launched;

/// What the daemon prints when it answers.
const LISTENING: &str = "listening on ";

/// How the program reaches one archive.
#[derive(Debug, Clone)]
pub struct Archiver {
    prefix: String,
    url: String,
    envs: Vec<(String, String)>,
}

/// What a run of the program came to.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it printed to stdout.
    pub stdout: String,
    /// What it printed to stderr.
    pub stderr: String,
}

impl Run {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Whether it ended with this code and said these words to stderr, in any order.
    #[must_use]
    pub fn ended(&self, code: i32, words: &[&str]) -> bool {
        self.code == Some(code) && words.iter().all(|word| self.stderr.contains(word))
    }
}

impl Archiver {
    /// An archive in the bucket of the S3 at this port of 127.0.0.1: the server's own, or that of [`Faults`](crate::Faults).
    #[must_use]
    pub fn at(port: u16) -> Self {
        let prefix = "wal".to_owned();
        let url = format!("s3://{BUCKET}/{prefix}");
        Self { prefix, url, envs: s3::environment(port).into() }
    }

    /// The same archive, by another port.
    #[must_use]
    pub fn by(&self, port: u16) -> Self {
        let mut other = self.clone();
        for (name, value) in s3::environment(port) {
            other = other.env(&name, &value);
        }
        other
    }

    /// With a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.retain(|(of, _)| of != name);
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the keys of the profile in this home's `.aws`, and none of its own.
    #[must_use]
    pub fn home(mut self, home: &Path) -> Self {
        self.envs.retain(|(name, _)| name != "AWS_ACCESS_KEY_ID" && name != "AWS_SECRET_ACCESS_KEY");
        self.env("HOME", &home.to_string_lossy())
    }

    /// At another URL.
    #[must_use]
    pub fn url(mut self, url: &str) -> Self {
        url.clone_into(&mut self.url);
        self
    }

    /// Gives up on a store after so many seconds.
    #[must_use]
    pub fn timeout(self, seconds: u32) -> Self {
        self.env("BEYOND_PG_ARCHIVE_TIMEOUT", &format!("{seconds}s"))
    }

    /// A command of the program.
    ///
    /// # Errors
    /// Where it is not built.
    pub fn command(&self, subcommand: &str) -> Result<Command> {
        let program = of_workspace("beyond-pg-archiver")?;
        let mut command = if subcommand == "serve" {
            // A daemon has a session of its own, as a service manager gives it one: the kernel shares processors out among sessions first.
            let mut command = command(Path::new("setsid"));
            command.arg(program);
            command
        } else {
            command(&program)
        };
        command.arg(subcommand);
        command.envs(self.variables());
        Ok(command)
    }

    /// Runs a command of the program to its end.
    ///
    /// # Errors
    /// Where it can't be run; that it failed is in what it came to.
    pub async fn run<S: AsRef<std::ffi::OsStr>>(&self, subcommand: &str, args: impl IntoIterator<Item = S>) -> Result<Run> {
        let mut command = self.command(subcommand)?;
        command.args(args);
        Ok(Run::of(&program::output(command).await?))
    }

    /// Runs `push` on a file of a data folder.
    ///
    /// # Errors
    /// As of [`run`](Self::run).
    pub async fn push(&self, path: &Path) -> Result<Run> {
        self.run("push", [path]).await
    }

    /// Runs `fetch` for a data folder.
    ///
    /// # Errors
    /// As of [`run`](Self::run).
    pub async fn fetch(&self, pgdata: &Path, name: &str, to: &Path) -> Result<Run> {
        self.run("fetch", [Path::new("--pgdata"), pgdata, Path::new(name), to]).await
    }

    /// A command line for `archive_command` and `restore_command`: with all of its environment, since a server's can't be changed
    /// while it runs.
    ///
    /// # Errors
    /// Where the program is not built.
    pub fn command_line(&self, subcommand: &str) -> Result<String> {
        let program = of_workspace("beyond-pg-archiver")?;
        let variables: Vec<String> = self.variables().map(|(name, value)| format!("{name}='{value}'")).collect();
        Ok(format!("{} '{}' {subcommand}", variables.join(" "), program.display()))
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = [("BEYOND_PG_ARCHIVE_STORE", self.url.as_str())];
        own.into_iter().chain(self.envs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// The key of a file of this cluster, in the bucket.
    ///
    /// # Errors
    /// Where it is the name of no file that Postgres archives.
    pub fn key(&self, system: SystemId, file: &str) -> Result<String> {
        let name = ObjectName::of_file(system, file).with_context(|| format!("{file} is archived by nobody"))?;
        Ok(format!("{}/{name}", self.prefix))
    }

    /// The names of the files of WAL that the archive has of a cluster, in order; without what is derived from them.
    ///
    /// # Errors
    /// Where the bucket can't be listed.
    pub async fn files(&self, client: &Client, system: SystemId) -> Result<Vec<String>> {
        let keys = client.keys(&format!("{}/{system}/", self.prefix)).await?;
        let names = keys.iter().filter_map(|key| ObjectName::parse(key.strip_prefix(&self.prefix)?.strip_prefix('/')?));
        let mut files: Vec<String> = names.filter(|name| !name.is_derived()).filter_map(|name| name.file_name()).collect();
        files.sort();
        Ok(files)
    }

    /// The plain content of a file in the archive, read beside the program; `None` where it is not there.
    ///
    /// # Errors
    /// Where the bucket can't be read, or the object is none.
    pub async fn content(&self, client: &Client, system: SystemId, file: &str) -> Result<Option<Bytes>> {
        let Some(object) = client.get(&self.key(system, file)?).await? else { return Ok(None) };
        let (_, plain) = envelope::open(&object, &Keys::none()).with_context(|| format!("open the object of {file}"))?;
        Ok(Some(plain.into()))
    }
}

/// A daemon beside a cluster: `serve`, and its process while that runs.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    archiver: Archiver,
    pgdata: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// The daemon of a cluster, not yet started; it uses the same settings as this archiver.
    #[must_use]
    pub fn of(cluster: &Postgres, archiver: &Archiver) -> Self {
        let log = cluster.scratch().path().join("archiver.log");
        Self { process: None, archiver: archiver.clone(), pgdata: cluster.data().to_owned(), log }
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// Where it runs already, or ends: with its log.
    pub async fn start(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the daemon runs already");
        }
        let from = self.log().len();
        let mut serve = self.archiver.command("serve")?;
        serve.arg("--pgdata").arg(&self.pgdata);
        self.process = Some(Process::spawn("beyond-pg-archiver serve", serve, &self.log)?);
        let listens = eventually(DEADLINE, "the daemon to listen", async || {
            if self.process()?.check_runs().is_err() {
                return Ok(Some(false));
            }
            Ok(self.log().get(from..).is_some_and(|log| log.contains(LISTENING)).then_some(true))
        });
        if !listens.await.with_context(|| format!("the daemon's log:\n{}", self.log()))? {
            self.process()?.check_runs()?;
        }
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// Where it was never started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon was not started")
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

    /// Everything that it has logged, all its starts together.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Postgres {
    /// Its system identifier.
    ///
    /// # Errors
    /// Where `pg_controldata` fails.
    pub async fn system(&self) -> Result<SystemId> {
        Ok(self.control("Database system identifier").await?.parse()?)
    }

    /// Archives its WAL from now on.
    ///
    /// # Errors
    /// Where the setting can't be changed, or `archive_mode` is off.
    pub async fn archive_by(&mut self, archiver: &Archiver) -> Result<()> {
        let command = format!("{} %p", archiver.command_line("push")?);
        self.append_settings(&[("archive_command", &command)])?;
        self.reload()?;
        eventually(DEADLINE, "the archive_command to be read", async || {
            Ok((self.value("SHOW archive_command").await? == command).then_some(()))
        })
        .await
    }
}
