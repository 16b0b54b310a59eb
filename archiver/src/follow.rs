//! `follow`: WAL from a replication slot to the archive within seconds, without `archive_command`.
//!
//! What is reported to the server as flushed is what the store has acknowledged, without a gap: whole segments, and tails up to their end. So the
//! slot never lets go of WAL that is not in the archive, and a server that names this receiver in `synchronous_standby_names` commits into
//! the archive. A tail counts since the segment that it is of stays on the server until the slot has left it.
//!
//! Memory is bounded: where the store takes no more, the socket is not read, and the server keeps its WAL.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use walbus::SystemId;
use walbus::clock::SystemClock;
use walbus::conninfo;
use walbus::units::parse_duration;

use crate::serve::http;
use crate::settings::StoreArgs;

pub mod lag;
pub mod metrics;
pub mod plan;
pub mod received;
pub mod session;
mod stow;

/// What the server knows this receiver as, unless the connection string says otherwise.
const APPLICATION_NAME: &str = "beyond_pg_archiver";
/// The time for one address of the server to answer, where the connection string does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const EXAMPLE: &str = "\
Example:
  beyond-pg-archiver follow --from 'host=db1 user=archiver' --slot archiver --create-slot

The role needs REPLICATION. A slot keeps WAL on the server for as long as this does not run: watch it, and set max_slot_wal_keep_size there.";

/// Stream WAL from a server into the archive, the segment that is being written included.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct FollowArgs {
    /// The server, as a libpq connection string or URI.
    #[arg(long, value_name = "CONNINFO", env = "BEYOND_PG_ARCHIVE_FROM", hide_env_values = true)]
    pub from: String,

    /// The physical replication slot.
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_ARCHIVE_SLOT", default_value = "beyond_pg_archiver")]
    pub slot: String,

    /// Make the slot where there is none.
    #[arg(long)]
    pub create_slot: bool,

    /// How often the segment that is being written is stored as far as it has come, or off.
    #[arg(
        long, value_name = "DURATION|off", env = "BEYOND_PG_ARCHIVE_TAIL_INTERVAL", default_value = "5s", value_parser = parse_interval
    )]
    pub tail_interval: TailInterval,

    /// Fill in first what is in this pg_wal, a dead server's, and not in the archive: as `fill` does.
    #[arg(long, value_name = "DIR")]
    pub pg_wal: Option<PathBuf>,

    /// The cluster that the server must be of, as pg_controldata prints it [default: any].
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_ARCHIVE_SYSTEM_ID")]
    pub system_id: Option<SystemId>,

    /// How many segments are uploaded at once; as many more may wait in memory [default: by processors, 2 to 8].
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_ARCHIVE_JOBS", value_parser = crate::serve::parse_jobs)]
    pub jobs: Option<usize>,

    /// Serve health and metrics there, over HTTP [default: nowhere].
    #[arg(long, value_name = "ADDRESS", env = "BEYOND_PG_ARCHIVE_HTTP")]
    pub http: Option<String>,

    /// Where the archive is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How often tails are stored; `None` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailInterval(pub Option<Duration>);

fn parse_interval(text: &str) -> Result<TailInterval, String> {
    match parse_duration(text) {
        _ if text == "off" => Ok(TailInterval(None)),
        Ok(interval) if interval >= Duration::from_millis(100) => Ok(TailInterval(Some(interval))),
        Ok(_) => Err("expected 100ms or more, or off".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs until told to stop.
///
/// # Errors
/// Where it can't start, or must not go on.
pub async fn run(args: FollowArgs) -> anyhow::Result<ExitCode> {
    let server = conninfo::Config::parse(&args.from, &walbus::source::environment()).context("--from")?;
    let server = server.or_application_name(APPLICATION_NAME).or_connect_timeout(CONNECT_TIMEOUT);
    let store = args.store.clone();
    let clock = SystemClock::new();
    let metrics = Arc::new(metrics::Metrics::new(clock, &args.slot));
    let stow = stow::Stow::new(Box::new(move || store.archive_without_retries()), clock, Arc::clone(&metrics))?;
    let (stop, stopping) = watch::channel(false);
    if let Some(address) = &args.http {
        http::start(address, metrics, stopping.clone()).await?;
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut following = Box::pin(session::Follow::new(server, args, stow, stopping).run());
    tokio::select! {
        ended = &mut following => return ended.map(|()| ExitCode::SUCCESS),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    following.await.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read() {
        assert_eq!(parse_interval("off"), Ok(TailInterval(None)));
        assert_eq!(parse_interval("2s"), Ok(TailInterval(Some(Duration::from_secs(2)))));
        assert!(parse_interval("1ms").is_err() && parse_interval("0").is_err() && parse_interval("often").is_err());
    }
}
