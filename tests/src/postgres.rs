//! Real Postgres clusters.

mod server;
mod setup;
mod snapshot;
mod sql;
mod template;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use walbus::{Lsn, Segment, SegmentName, SegmentSize, Timeline};

use crate::port::Port;
use crate::process::Process;
use crate::program;
use crate::scratch::Scratch;
use crate::tls::Authority;

pub use server::StopMode;
pub use setup::{Auth, Setup};
pub use snapshot::Snapshot;
pub(crate) use sql::{rows, texts};
pub(crate) use template::{copy_folder, remove_folder};
pub use template::{pgbouncer, programs};

/// The versions that the suite covers.
pub const VERSIONS: [u32; 4] = [15, 16, 17, 18];

/// The role that a sink connects as: it may replicate, and nothing else.
pub const SINK_ROLE: &str = "sink";

/// Its password.
pub const SINK_PASSWORD: &str = "of-the-sink";

/// One cluster: its data folder, its port, and its server while that runs.
///
/// The superuser `postgres` and all programs connect by the unix socket without a password, whatever [`Auth`] says; that is for TCP.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder: the server dies before its files go.
    process: Option<Process>,
    version: u32,
    bin: PathBuf,
    segment_size: SegmentSize,
    port: Port,
    authority: Option<Authority>,
    data: PathBuf,
    log: PathBuf,
    snapshots: u32,
    environment: Vec<(String, String)>,
    scratch: Scratch,
}

impl Postgres {
    /// A cluster of this major version, to be set up further.
    pub fn version(version: u32) -> Setup {
        Setup::new(version)
    }

    /// Its major version.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.version
    }

    /// The size of its WAL segments.
    #[must_use]
    pub const fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// Its TCP port on 127.0.0.1: the same as long as this lives.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder of its unix socket.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its WAL folder.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// The folder that all its files lie in.
    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Leaves all its files where they are, for good, and says where.
    pub fn keep(&mut self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }

    /// The authority that signed its certificate, where it was set up with TLS.
    ///
    /// # Errors
    /// Where it was not.
    pub fn authority(&self) -> Result<&Authority> {
        self.authority.as_ref().context("this cluster was set up without tls()")
    }

    /// How a sink reaches it directly.
    #[must_use]
    pub fn conninfo(&self) -> String {
        conninfo(self.port())
    }

    /// Everything that its server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// One of its version's programs, with the connection to it in the environment.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = program::command(&self.bin.join(name));
        command
            .env("PGHOST", self.socket_folder())
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Reads WAL by the `pg_waldump` of its version: the segments in `folder` from `first` to `last`, of one timeline.
    ///
    /// # Errors
    /// Where the program fails. That it finds the end of WAL before the end of the last segment is no failure.
    pub async fn waldump(&self, folder: &Path, first: &SegmentName, last: &SegmentName) -> Result<WalDump> {
        let mut command = self.program("pg_waldump");
        command.arg("-p").arg(folder).arg(first.as_str()).arg(last.as_str());
        let output = program::output(command).await?;
        let stopped = String::from_utf8_lossy(&output.stderr).lines().find(|line| line.contains("error:")).map(str::to_owned);
        let records = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() && stopped.is_none() {
            bail!("pg_waldump of {}: {}", folder.display(), output.status);
        }
        Ok(WalDump { records, stopped })
    }

    /// The segments in its WAL folder, in order.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.wal()).context("read pg_wal")? {
            let name = entry?.file_name();
            if let Some(Ok(name)) = name.to_str().map(str::parse::<SegmentName>) {
                found.push(name.segment(self.segment_size).with_context(|| format!("{name} is of another segment size"))?);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The file of a segment of its WAL.
    #[must_use]
    pub fn segment_file(&self, segment: Segment) -> PathBuf {
        self.wal().join(segment.name(self.segment_size).as_str())
    }

    /// The timeline that its control file tells.
    ///
    /// # Errors
    /// Where `pg_controldata` fails.
    pub async fn control_timeline(&self) -> Result<Timeline> {
        let text = self.control("Latest checkpoint's TimeLineID").await?;
        text.parse().ok().and_then(Timeline::new).with_context(|| format!("{text:?} is no timeline"))
    }

    /// One line of `pg_controldata`, by its label.
    ///
    /// # Errors
    /// Where the program fails or has no such line.
    pub async fn control(&self, label: &str) -> Result<String> {
        let mut command = self.program("pg_controldata");
        command.arg("-D").arg(&self.data);
        let text = program::run(command).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("pg_controldata has no line {label:?}"))?.trim().to_owned())
    }
}

/// What `pg_waldump` read.
#[derive(Debug, Clone)]
pub struct WalDump {
    /// One line a record.
    pub records: String,
    /// Why it stopped, where it did so before the end of the last segment.
    pub stopped: Option<String>,
}

impl WalDump {
    /// The end of the last record that could be read, where the reading stopped behind one: WAL that ends is zeros there.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        // "... at 0/1000180: expected at least 24, got 0", and before 16 "... at 0/1000180: wanted 24, got 0".
        let (_, rest) = self.stopped.as_ref()?.split_once("invalid record length at ")?;
        let (lsn, rest) = rest.split_once(':')?;
        if rest.trim_end().ends_with("got 0") { lsn.parse().ok() } else { None }
    }
}

/// How a sink reaches a cluster by this port of 127.0.0.1: the cluster's own, or that of a [`Proxy`](crate::Proxy).
#[must_use]
pub fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user={SINK_ROLE} password={SINK_PASSWORD}")
}
