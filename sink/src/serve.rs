//! `beyond-pg-sink serve`: puts the parts together, and takes them apart again.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};
use walbus::causes::in_one_line;
use walbus::conninfo;
use walbus::disk::{Disk, OsDisk};
use walbus::index::SegmentFacts;
use walbus::ledger::ApplyAs;
use walbus::proto::history::History;
use walbus::receive::{COMPARED_BYTES_MIN, Scan};
use walbus::service::lock::FolderLock;
use walbus::{Lsn, Segment, Timeline, WalFile};

use crate::config::{Ack, DEFAULT_APPLICATION_NAME, LogFormat, ServeArgs, ServeConfig};
use crate::facts::Indexer;
use crate::https;
use crate::metrics::Metrics;
use crate::receiver::{self, Fatal, Publisher, Settings};
use crate::retention;
use crate::state::{Catalog, Held, StreamState};

/// The time for one address of the primary to answer, where the connection string does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked for segments that need not be kept.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// What keeps a second sink off the data folder.
const LOCK_FILE: &str = "sink.lock";
/// How many threads serve HTTPS: the receiver has one of its own, whatever these do.
const HTTPS_THREADS: usize = 2;

/// Runs until told to stop.
///
/// # Errors
/// Where it can't start, or must not go on.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = ServeConfig::resolve(args)?;
    start_logging(&config)?;
    let upstream = conninfo::Config::parse(config.upstream.expose(), &walbus::source::environment()).context("--upstream")?;
    let upstream = match &config.application_name {
        Some(name) => upstream.with_application_name(name),
        None => upstream.or_application_name(DEFAULT_APPLICATION_NAME),
    };
    let settings = Settings {
        data_dir: config.data_dir.clone(),
        upstream: upstream.or_connect_timeout(CONNECT_TIMEOUT),
        slot: config.slot.clone(),
        create_slot: config.create_slot,
        apply: match config.ack {
            Ack::Flush => ApplyAs::Flush,
            Ack::None => ApplyAs::Nothing,
        },
        status_interval: config.status_interval,
        busy_poll: config.busy_poll,
    };
    make_folder(&config.data_dir)?;
    let _lock = FolderLock::take(&config.data_dir, LOCK_FILE, "beyond-pg-sink")?;
    let disk = OsDisk::open(&config.data_dir).with_context(|| format!("open --data-dir {}", config.data_dir.display()))?;
    let scan = Scan::of(&disk)?;
    let state = Arc::new(StreamState::new(catalog_of(&disk, scan.as_ref())));
    tell_what_is_held(scan.as_ref());
    let parts = Parts { config, settings, disk: Arc::new(disk), scan, state };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(HTTPS_THREADS).enable_all().build()?;
    runtime.block_on(parts.run())
}

struct Parts {
    config: ServeConfig,
    settings: Settings,
    disk: Arc<OsDisk>,
    scan: Option<Scan>,
    state: Arc<StreamState>,
}

impl Parts {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { config, settings, disk, scan, state } = self;
        let metrics = Arc::new(Metrics::new(Arc::clone(&state)));
        let prepared = https::Options::prepare(&config)?;
        let token_file = prepared.options.token_file.clone();
        let (server, driver) = https::bind(prepared.options, Arc::clone(&state), Arc::clone(&metrics)).await?;
        let serving = tokio::spawn(driver.run());
        println!("listening on https://{}", server.address());
        if let Some(ca) = &prepared.ca_path {
            println!("clients need   --ca {} --token-file {}", ca.display(), token_file.display());
        }
        let indexer = Indexer::start(&config.data_dir, Arc::clone(&state)).context("start the index")?;
        let publisher = Publisher::new(Arc::clone(&state), metrics, indexer);
        let (stop, stopping) = watch::channel(false);
        let received = start_receiver(settings, Arc::clone(&disk), scan, publisher, stopping.clone())?;
        let retaining = tokio::spawn(retain(config.clone(), disk, Arc::clone(&state), stopping));
        let ended = until_stopped(&server, received, &stop).await;
        stop.send_replace(true);
        server.shutdown();
        serving.await?;
        retaining.await?;
        match ended {
            Ok(()) => {
                info!("stopped; all that was received is flushed and reported");
                Ok(ExitCode::SUCCESS)
            }
            Err(fatal) => {
                error!(error = %in_one_line(&fatal), "stopped");
                Err(fatal.into())
            }
        }
    }
}

/// Waits for a signal and then for the receiver, or for the receiver to fail.
async fn until_stopped(
    server: &https::Handle,
    mut received: oneshot::Receiver<Result<(), Fatal>>,
    stop: &watch::Sender<bool>,
) -> Result<(), Fatal> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return Err(Fatal::Runtime(std::io::Error::other("signals can't be listened for")));
    };
    loop {
        tokio::select! {
            ended = &mut received => return ended.unwrap_or(Err(Fatal::Died)),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => server.reload(),
        }
    }
    info!("stopping");
    stop.send_replace(true);
    received.await.unwrap_or(Err(Fatal::Died))
}

fn start_receiver(
    settings: Settings,
    disk: Arc<OsDisk>,
    scan: Option<Scan>,
    publisher: Publisher,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<oneshot::Receiver<Result<(), Fatal>>> {
    let (done, received) = oneshot::channel();
    let work = move || drop(done.send(receiver::run(settings, disk, scan, publisher, stopping)));
    std::thread::Builder::new().name("receiver".into()).spawn(work).context("start the receiver")?;
    Ok(received)
}

fn start_logging(config: &ServeConfig) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_filter).context("--log-level")?;
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_target(false).init(),
    }
    Ok(())
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("make --data-dir {}", path.display()))?;
    if !path.is_dir() {
        bail!("--data-dir {} is no folder", path.display());
    }
    Ok(())
}

fn tell_what_is_held(scan: Option<&Scan>) {
    let Some(scan) = scan else {
        info!("the data folder holds no WAL yet");
        return;
    };
    let held = scan.held;
    info!(system_id = %scan.identity.system_id, timeline = held.timeline.get(), complete = %held.complete, segments = scan.segments.len(), "WAL is held");
    if let Some(damaged) = &scan.damaged {
        error!(
            segment = damaged.name,
            problem = damaged.problem,
            "a whole segment is damaged: run `beyond-pg-sink check` on the data folder"
        );
    }
}

/// What is served before the first connection. The partial end of an older timeline is listed up to where that timeline was left.
fn catalog_of(disk: &OsDisk, scan: Option<&Scan>) -> Catalog {
    let Some(scan) = scan else { return Catalog::default() };
    let size = scan.identity.segment_size;
    let history = history_of(disk, scan.held.timeline);
    let mut segments = BTreeMap::new();
    for (segment, whole) in &scan.segments {
        let partial_end = if *whole {
            None
        } else if segment.timeline == scan.held.timeline {
            let end = scan.held.end.min(segment.end(size));
            if end <= segment.start(size) {
                continue;
            }
            (end < segment.end(size)).then_some(end)
        } else {
            let left = history.as_ref().and_then(|history| history.switchpoint(segment.timeline));
            let Some(left) = left.filter(|left| *left > segment.start(size) && *left < segment.end(size)) else { continue };
            Some(left)
        };
        segments.insert(*segment, Held { partial_end, facts: SegmentFacts::default() });
    }
    for (segment, facts) in &scan.facts {
        if let Some(held) = segments.get_mut(segment) {
            held.facts.merge(facts.clone());
        }
    }
    Catalog { identity: Some(scan.identity), segments, histories: scan.histories.clone() }
}

fn history_of(disk: &OsDisk, timeline: Timeline) -> Option<History> {
    let content = std::fs::read(disk.path().join(WalFile::History(timeline).name())).ok()?;
    History::parse(timeline, &content).ok()
}

/// Removes what need not be kept, every few seconds until told to stop.
async fn retain(config: ServeConfig, disk: Arc<OsDisk>, state: Arc<StreamState>, mut stopping: watch::Receiver<bool>) {
    let policy =
        retention::Policy { size_bytes_max: config.keep.size, age_max: config.keep.age, segments_min: config.keep.segments };
    loop {
        let stopped = stopping.wait_for(|stop| *stop);
        if tokio::time::timeout(RETENTION_INTERVAL, stopped).await.is_ok() {
            return;
        }
        let (disk, state) = (Arc::clone(&disk), Arc::clone(&state));
        let removed = tokio::task::spawn_blocking(move || remove_expired(&disk, &state, policy)).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, "old WAL can't be removed");
        }
    }
}

fn remove_expired(disk: &OsDisk, state: &StreamState, policy: retention::Policy) -> std::io::Result<()> {
    // Before anything is held there is nothing to remove.
    let Some(positions) = state.positions() else { return Ok(()) };
    let needed = Lsn(positions.complete.0.saturating_sub(COMPARED_BYTES_MIN));
    let size_and_expired = {
        let catalog = state.catalog();
        let Some(identity) = catalog.identity else { return Ok(()) };
        let size = identity.segment_size;
        let age = |segment: Segment| {
            let names = [segment.name(size).to_string(), WalFile::Partial(segment.name(size)).name()];
            let modified = names.iter().find_map(|name| disk.path().join(name).metadata().and_then(|meta| meta.modified()).ok())?;
            modified.elapsed().ok()
        };
        (size, retention::expired(&catalog.segments, size, policy, needed, age))
    };
    let (size, expired) = size_and_expired;
    for segment in expired {
        let whole = state.catalog_mut().segments.remove(&segment).is_some_and(|held| held.partial_end.is_none());
        let name = segment.name(size);
        let file = if whole { name.to_string() } else { WalFile::Partial(name.clone()).name() };
        disk.remove(&file)?;
        drop(std::fs::remove_file(disk.path().join(crate::facts::file_of(segment, size))));
        info!(segment = %name, "removed, as --keep-size and --keep-age say");
    }
    Ok(())
}
