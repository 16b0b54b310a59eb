//! Those who are measured: how Postgres is told to use them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use harness::s3::{self, BUCKET};
use harness::{Archiver, Daemon, Postgres, eventually, program};

use crate::bench::{Bench, STEP_MAX};

/// One of those who are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// `cp` to a folder: no store, no compression, nothing synced, nothing proven
    Cp,
    /// pgBackRest, asynchronous
    PgBackRest,
    /// `push` and `fetch` without the daemon
    Alone,
    /// `push` and `fetch` with the daemon
    Daemon,
}

impl Contender {
    pub(crate) const ALL: [Self; 4] = [Self::Cp, Self::PgBackRest, Self::Alone, Self::Daemon];

    /// How it is set, where that is not what it does unless told otherwise.
    pub(crate) const fn settings(self) -> &'static str {
        match self {
            Self::Cp => "cp %p FOLDER/%f and back, on the same disk; neither compressed nor synced, and no store",
            Self::PgBackRest => {
                "archive-async=y, process-max=2, compress-type=zst, compress-level=1, archive-get-queue-max=256MiB, repo1-type=s3 over TLS"
            }
            Self::Alone => "no daemon; --compress 1, s3:// over TLS (as it is unless told otherwise)",
            Self::Daemon => {
                "serve with --jobs 2 and --spool-size 256MB, --compress 1, s3:// over TLS (as it is unless told otherwise, on two processors)"
            }
        }
    }
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

/// What a contender is set up for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// What it is to do: what it keeps on the disk meanwhile has this name.
    pub(crate) name: &'static str,
    /// Each round has an archive of its own.
    pub(crate) round: u32,
}

/// A contender that is set up for one server.
#[derive(Debug)]
pub(crate) struct Running {
    /// What Postgres runs, with its placeholders.
    pub(crate) archive_command: String,
    pub(crate) restore_command: String,
    archive: Place,
    /// What it works in, for as long as it does.
    spool: Option<PathBuf>,
    daemon: Option<Daemon>,
    /// What those processes have in their command line that go on in the background.
    background: Option<String>,
}

/// Where a contender has put what was archived.
#[derive(Debug)]
pub(crate) struct Place {
    /// What its objects have in common.
    pub(crate) prefix: String,
    folder: Option<PathBuf>,
}

impl Place {
    /// Removes what is there beside the objects.
    pub(crate) fn remove(self) -> Result<()> {
        match &self.folder {
            Some(folder) => std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display())),
            None => Ok(()),
        }
    }
}

impl Running {
    /// Sets a contender up for a server, with the archive of its round.
    pub(crate) async fn start(contender: Contender, bench: &Bench, cluster: &Postgres, task: Task) -> Result<Self> {
        match contender {
            Contender::Cp => copy(bench, task),
            Contender::PgBackRest => backrest(bench, cluster, task).await,
            Contender::Alone => ours(bench, &format!("alone-{}", task.round)),
            Contender::Daemon => {
                let prefix = format!("daemon-{}", task.round);
                let mut running = ours(bench, &prefix)?;
                let mut daemon = Daemon::of(cluster, &archiver(bench, &prefix).env("BEYOND_PG_ARCHIVE_JOBS", "2"));
                daemon.start().await?;
                running.daemon = Some(daemon);
                Ok(running)
            }
        }
    }

    /// Waits until it does nothing more, and gives where it has put things.
    pub(crate) async fn end(mut self) -> Result<Place> {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill()?;
        }
        if let Some(word) = &self.background {
            eventually(STEP_MAX, "the end of what goes on in the background", async || Ok((!runs(word)?).then_some(()))).await?;
        }
        if let Some(spool) = &self.spool {
            std::fs::remove_dir_all(spool).with_context(|| format!("remove {}", spool.display()))?;
        }
        Ok(self.archive)
    }
}

/// Whether a process has this word in its command line.
fn runs(word: &str) -> Result<bool> {
    let lines = std::fs::read_dir("/proc")?.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    Ok(lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(word)))
}

fn copy(bench: &Bench, Task { round, .. }: Task) -> Result<Running> {
    let name = format!("copies-{round}");
    let folder = bench.scratch.path().join(&name);
    if !folder.exists() {
        bench.scratch.folder(&name)?;
    }
    Ok(Running {
        archive_command: format!("cp %p {}/%f", folder.display()),
        restore_command: format!("cp {}/%f %p", folder.display()),
        archive: Place { prefix: name, folder: Some(folder) },
        spool: None,
        daemon: None,
        background: None,
    })
}

fn archiver(bench: &Bench, prefix: &str) -> Archiver {
    Archiver::at(bench.server.port())
        .url(&format!("s3://{BUCKET}/{prefix}"))
        .env("AWS_ENDPOINT_URL", &format!("https://127.0.0.1:{}", bench.server.port()))
        .env("AWS_CA_BUNDLE", &bench.authority.to_string_lossy())
}

fn ours(bench: &Bench, prefix: &str) -> Result<Running> {
    let archiver = archiver(bench, prefix);
    Ok(Running {
        archive_command: format!("{} %p", archiver.command_line("push")?),
        restore_command: format!("{} %f %p", archiver.command_line("fetch")?),
        archive: Place { prefix: prefix.to_owned(), folder: None },
        spool: None,
        daemon: None,
        background: None,
    })
}

async fn backrest(bench: &Bench, cluster: &Postgres, Task { name, round }: Task) -> Result<Running> {
    let (prefix, place) = (format!("backrest-{round}"), format!("backrest-{round}-{name}"));
    let folder = bench.scratch.folder(&place)?;
    let config = configure(bench, cluster, &prefix, &folder)?;
    let mut script = std::process::Command::new(program::repository().join("scripts/postgres"));
    script.arg("pgbackrest");
    let program = PathBuf::from(program::run(script).await?.trim()).join("pgbackrest");
    if name == "archive" {
        let mut create = program::command(&program);
        create.arg(format!("--config={}", config.display())).args(["--stanza=main", "stanza-create"]);
        program::run(create).await.context("make pgBackRest's stanza")?;
    }
    let command = format!("{} --config={} --stanza=main", program.display(), config.display());
    Ok(Running {
        archive_command: format!("{command} archive-push %p"),
        restore_command: format!("{command} archive-get %f %p"),
        archive: Place { prefix, folder: None },
        spool: Some(folder),
        daemon: None,
        background: Some(config.display().to_string()),
    })
}

fn configure(bench: &Bench, cluster: &Postgres, prefix: &str, folder: &Path) -> Result<PathBuf> {
    let variables = s3::environment(bench.server.port());
    let of = |name: &str| variables.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone()).unwrap_or_default();
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
        folder = folder.display(),
    );
    let name = folder.file_name().and_then(|name| name.to_str()).context("it has a name")?;
    bench.scratch.file(&format!("{name}.conf"), text)
}
