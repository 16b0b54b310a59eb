//! Those who are measured: how Postgres is told to use them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use harness::s3::{self, BUCKET};
use harness::{Archiver, Daemon, program};

use crate::bench::Bench;

/// One of those who are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// `cp` to a folder: no store, no compression, nothing proven
    Cp,
    /// pgBackRest, asynchronous, zstd at level 1, two processes
    PgBackRest,
    /// `push` and `fetch` without the daemon
    Alone,
    /// `push` and `fetch` with the daemon
    Daemon,
}

impl Contender {
    pub(crate) const ALL: [Self; 4] = [Self::Cp, Self::PgBackRest, Self::Alone, Self::Daemon];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cp => "cp",
            Self::PgBackRest => "pgBackRest",
            Self::Alone => "beyond-pg-archiver alone",
            Self::Daemon => "with its daemon",
        })
    }
}

/// A contender that is set up for one run, with a place of its own.
#[derive(Debug)]
pub(crate) struct Running {
    /// What Postgres runs, with its placeholders.
    pub(crate) archive_command: String,
    pub(crate) restore_command: String,
    pub(crate) daemon: Option<Daemon>,
    /// Where pgBackRest says what it has done ahead.
    pub(crate) spool: Option<PathBuf>,
    /// What a run's objects have in common.
    pub(crate) prefix: String,
}

impl Running {
    /// Sets a contender up.
    pub(crate) async fn start(contender: Contender, bench: &Bench, round: u32) -> Result<Self> {
        match contender {
            Contender::Cp => copy(bench, round),
            Contender::PgBackRest => backrest(bench, round).await,
            Contender::Alone => ours(bench, round, "alone"),
            Contender::Daemon => {
                let mut running = ours(bench, round, "daemon")?;
                let mut daemon = Daemon::of(&bench.cluster, &archiver(bench, &running.prefix));
                daemon.start().await?;
                running.daemon = Some(daemon);
                Ok(running)
            }
        }
    }
}

fn copy(bench: &Bench, round: u32) -> Result<Running> {
    let folder = bench.scratch.folder(&format!("copies-{round}"))?;
    Ok(Running {
        archive_command: format!("cp %p {}/%f", folder.display()),
        restore_command: format!("cp {}/%f %p", folder.display()),
        daemon: None,
        spool: None,
        prefix: String::new(),
    })
}

fn archiver(bench: &Bench, prefix: &str) -> Archiver {
    Archiver::at(bench.server.port())
        .url(&format!("s3://{BUCKET}/{prefix}"))
        .env("AWS_ENDPOINT_URL", &format!("https://127.0.0.1:{}", bench.server.port()))
        .env("AWS_CA_BUNDLE", &bench.authority.to_string_lossy())
}

fn ours(bench: &Bench, round: u32, name: &str) -> Result<Running> {
    let prefix = format!("{name}-{round}");
    let archiver = archiver(bench, &prefix);
    Ok(Running {
        archive_command: format!("{} %p", archiver.command_line("push")?),
        restore_command: format!("{} %f %p", archiver.command_line("fetch")?),
        daemon: None,
        spool: None,
        prefix,
    })
}

async fn backrest(bench: &Bench, round: u32) -> Result<Running> {
    let prefix = format!("backrest-{round}");
    let folder = bench.scratch.folder(&prefix)?;
    let config = configure(bench, &prefix, &folder)?;
    let mut script = std::process::Command::new(program::repository().join("scripts/postgres"));
    script.arg("pgbackrest");
    let program = PathBuf::from(program::run(script).await?.trim()).join("pgbackrest");
    let mut create = program::command(&program);
    create.arg(format!("--config={}", config.display())).args(["--stanza=main", "stanza-create"]);
    program::run(create).await.context("make pgBackRest's stanza")?;
    let command = format!("{} --config={} --stanza=main", program.display(), config.display());
    Ok(Running {
        archive_command: format!("{command} archive-push %p"),
        restore_command: format!("{command} archive-get %f %p"),
        daemon: None,
        spool: Some(folder.join("spool/archive/main/out")),
        prefix,
    })
}

fn configure(bench: &Bench, prefix: &str, folder: &Path) -> Result<PathBuf> {
    let variables = s3::environment(bench.server.port());
    let of = |name: &str| variables.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone()).unwrap_or_default();
    let (folder, cluster) = (folder.display(), &bench.cluster);
    let text = format!(
        "[global]\nrepo1-type=s3\nrepo1-path=/{prefix}\nrepo1-s3-bucket={BUCKET}\nrepo1-s3-endpoint=127.0.0.1\nrepo1-storage-port={}\n\
         repo1-s3-uri-style=path\nrepo1-s3-region={}\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-storage-ca-file={}\n\
         spool-path={folder}/spool\nlock-path={folder}/lock\nlog-path={folder}\nlog-level-file=off\narchive-async=y\nprocess-max=2\n\
         compress-type=zst\ncompress-level=1\narchive-get-queue-max=256MiB\n\n[main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\n\
         pg1-user=postgres\n",
        bench.server.port(),
        of("AWS_REGION"),
        of("AWS_ACCESS_KEY_ID"),
        of("AWS_SECRET_ACCESS_KEY"),
        bench.authority.display(),
        cluster.data().display(),
        cluster.port(),
        cluster.socket_folder().display(),
    );
    bench.scratch.file(&format!("{prefix}.conf"), text)
}
