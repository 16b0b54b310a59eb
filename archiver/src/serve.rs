//! `serve`: the daemon beside Postgres. Uploads what is ready before Postgres asks for it, and fetches what recovery will ask for next.
//!
//! It never touches what Postgres keeps its books with: `archive_status` is Postgres' own, which ticks a segment off when `archive_command`
//! has succeeded, that is when `push` was told by the daemon that the store has it, or has put it there itself.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use walbus::SegmentSize;
use walbus::clock::SystemClock;
use walbus::service::lock::{FolderLock, LockError};
use walbus::units::parse_size;

use crate::daemon::default_socket;
use crate::pgdata::DataFolder;
use crate::settings::StoreArgs;

pub mod engine;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod outage;
pub mod prefetch;
pub mod ready;
pub mod spool;
pub mod uploads;
pub mod work;

use engine::{Command, Engine, Parts};
use metrics::Metrics;
use spool::Spool;
use work::Cluster;

/// What keeps a second daemon off the data folder, in its `pg_wal`.
const LOCK_FILE: &str = ".beyond-pg-archiver.lock";
/// The spool in `pg_wal`, unless another is named: on one file system with where Postgres wants its segments.
const SPOOL: &str = ".beyond-pg-archiver.spool";
/// How many pieces of work run at once at most, unless told otherwise.
const JOBS_MAX: usize = 8;
/// How much memory the segments may take that they work on, unless told otherwise; each is there once as it is and once packed.
const JOBS_BYTES_MAX: u64 = 512 << 20;
/// How many requests may wait to be looked at.
const COMMANDS_MAX: usize = 64;
/// How long those who are connected have to read their last answer.
const FAREWELL: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "\
Example:
  beyond-pg-archiver serve --pgdata /var/lib/postgresql/18/main --http 127.0.0.1:9187

archive_command and restore_command stay as they are: push and fetch ask the daemon where there is one, and do the work themselves where there
is none, or where it can't help. Run it as the user that Postgres runs as.";

/// Upload WAL before Postgres asks for it, and fetch what recovery asks for next.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct ServeArgs {
    /// The data folder.
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_PGDATA")]
    pub pgdata: PathBuf,

    /// Where push and fetch find the daemon [default: .s.beyond-pg-archiver in the data folder's pg_wal].
    #[arg(long, value_name = "PATH", env = "BEYOND_PG_ARCHIVE_SOCKET")]
    pub socket: Option<PathBuf>,

    /// How many uploads, and how many fetches, run at once; each takes up to twice a segment of memory [default: by processors, 2 to 8].
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_ARCHIVE_JOBS", value_parser = parse_jobs)]
    pub jobs: Option<usize>,

    /// Where segments are fetched to before they are asked for [default: .beyond-pg-archiver.spool in the data folder's pg_wal].
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_ARCHIVE_SPOOL")]
    pub spool: Option<PathBuf>,

    /// How much may be there; 0 to fetch nothing ahead.
    #[arg(long, value_name = "SIZE", env = "BEYOND_PG_ARCHIVE_SPOOL_SIZE", default_value = "256MB", value_parser = parse_size)]
    pub spool_size: u64,

    /// Where to answer /healthz, /readyz and /metrics, in the clear: 127.0.0.1:9187, say [default: nowhere].
    #[arg(long, value_name = "ADDRESS", env = "BEYOND_PG_ARCHIVE_HTTP")]
    pub http: Option<String>,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Runs until told to stop.
///
/// # Errors
/// Where it can't start, or the store can hold no archive.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let data = DataFolder::open(&args.pgdata)?;
    let pg_wal = data.path.join("pg_wal");
    let pg_wal = pg_wal.canonicalize().with_context(|| format!("find {}: is --pgdata right?", pg_wal.display()))?;
    let _lock = lock(&pg_wal, &args.pgdata)?;
    let clock = SystemClock::new();
    let metrics = Arc::new(Metrics::new(clock));
    let spool = args.spool.clone().unwrap_or_else(|| pg_wal.join(SPOOL));
    let spool = Spool::open(&spool).with_context(|| format!("make or empty --spool {}", spool.display()))?;
    let socket = args.socket.clone().unwrap_or_else(|| default_socket(&pg_wal));
    let archive_hash = args.store.hash()?;
    let store = args.store.clone();
    let engine = Engine::new(Parts {
        open: Box::new(move || store.archive_without_retries()),
        jobs: args.jobs.unwrap_or_else(|| jobs(data.control.segment)),
        cluster: Cluster { system: data.control.system, size: data.control.segment, pg_wal },
        spool,
        spool_bytes: args.spool_size,
        metrics: Arc::clone(&metrics),
        clock,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen::bind(&socket).with_context(|| {
            format!(
                "listen on {}: a socket's path has 107 bytes at most; name another by --socket, here, for push and for fetch",
                socket.display()
            )
        })?;
        let (stop, stopping) = watch::channel(false);
        if let Some(address) = &args.http {
            http::start(address, metrics, stopping.clone()).await?;
        }
        println!("listening on {}", socket.display());
        let ended = until_stopped(engine, listener, archive_hash, stop, stopping).await;
        drop(std::fs::remove_file(&socket));
        ended
    })?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn until_stopped(
    engine: Engine,
    listener: UnixListener,
    archive: walbus::archive::envelope::ContentHash,
    stop: watch::Sender<bool>,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (commands, requests) = mpsc::channel::<Command>(COMMANDS_MAX);
    let connections = TaskTracker::new();
    let listening = listen::run(listener, archive, commands, connections.clone(), stopping.clone());
    let listening = tokio::spawn(listening);
    let mut running = tokio::spawn(engine.run(requests, stopping));
    let ended = tokio::select! {
        ended = &mut running => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    stop.send_replace(true);
    listening.await?;
    let ended = match ended {
        Some(ended) => ended,
        None => running.await,
    };
    connections.close();
    if tokio::time::timeout(FAREWELL, connections.wait()).await.is_err() {
        warn!(open = connections.len(), "some that were connected have not read their answer; they do it themselves");
    }
    ended?
}

fn lock(pg_wal: &Path, pgdata: &Path) -> anyhow::Result<FolderLock> {
    match FolderLock::take(pg_wal, LOCK_FILE, "beyond-pg-archiver serve") {
        Ok(lock) => Ok(lock),
        Err(LockError::Held { holder, .. }) => {
            bail!(
                "another `beyond-pg-archiver serve` works for --pgdata {} (process {holder}): stop that one first",
                pgdata.display()
            )
        }
        Err(error) => Err(error.into()),
    }
}

/// As many as there are processors, within what memory allows.
pub(crate) fn jobs(size: SegmentSize) -> usize {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let in_memory = usize::try_from(JOBS_BYTES_MAX / (2 * size.bytes())).unwrap_or(JOBS_MAX);
    processors.clamp(2, JOBS_MAX).min(in_memory).max(1)
}

pub(crate) fn parse_jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=256) => Ok(jobs),
        _ => Err("expected a number from 1 to 256".to_owned()),
    }
}

/// A number from 0 to 1, as the system's random hashing keys have it.
pub(crate) fn chance() -> f64 {
    f64::from(u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_stay_within_memory() {
        assert!((2..=JOBS_MAX).contains(&jobs(SegmentSize::DEFAULT)));
        assert_eq!(jobs(SegmentSize::MAX), 1);
        assert_eq!(parse_jobs("4"), Ok(4));
        assert!(parse_jobs("0").is_err() && parse_jobs("many").is_err());
    }

    #[test]
    fn a_second_daemon_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _first = lock(folder.path(), Path::new("/data")).unwrap();
        let refused = lock(folder.path(), Path::new("/data")).unwrap_err().to_string();
        assert!(refused.contains("/data") && refused.contains(&std::process::id().to_string()), "{refused}");
    }
}
