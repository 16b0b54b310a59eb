//! `beyond-pg-cdc serve`: puts the parts together, and takes them apart again.

use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};
use walbus::conninfo;
use walbus::disk::OsDisk;
use walbus::service::lock::FolderLock;
use walbus::service::tls::{Owner, TlsFiles, provision, provision_token};
use walbus::service::token::TokenFile;

use crate::args::{LogFormat, ServeArgs};
use crate::fanout::consumers::{CONSUMERS_MAX, Consumers};
use crate::http;
use crate::log::{self, Epoch, EpochFile, EventLog, Identity, LOG_FOLDER, Policy, Writer, remove_epoch, start_epoch};
use crate::quic;
use crate::source::{self, Fatal, Settings};
use crate::state::{Condition, ServerState};

/// The name on the primary where none is set.
const APPLICATION_NAME: &str = "beyond-pg-cdc";
/// The time for one address of the primary to answer, where the connection string does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked for segments that need not be kept.
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);
/// How many threads serve consumers: source and log have their own, whatever these do.
const SERVING_THREADS: usize = 2;
/// Where transactions that are not committed are spooled.
const SPOOL_FOLDER: &str = "spool";
/// Where the places of consumers are kept.
const CONSUMERS_FOLDER: &str = "consumers";
/// Whose certificates they are.
const OWNER: Owner = Owner { program: "beyond-pg-cdc", names_setting: "--quic-name" };

/// Runs until told to stop.
///
/// # Errors
/// Where it can't start, or must not go on.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    start_logging(args)?;
    let settings = settings(args)?;
    // Two libraries bring a provider each: this says which one is meant. A second call finds it done.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    make_folder(&args.data_dir)?;
    let _lock = FolderLock::take(&args.data_dir, "cdc.lock", APPLICATION_NAME)?;
    for folder in [LOG_FOLDER, SPOOL_FOLDER, CONSUMERS_FOLDER] {
        make_folder(&args.data_dir.join(folder))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(SERVING_THREADS).enable_all().build()?;
    runtime.block_on(serve(args, settings))
}

fn settings(args: &ServeArgs) -> anyhow::Result<Settings> {
    let upstream = conninfo::Config::parse(&args.upstream, &walbus::source::environment()).context("--upstream")?;
    let upstream = match &args.application_name {
        Some(name) => upstream.with_application_name(name),
        None => upstream.or_application_name(APPLICATION_NAME),
    };
    if args.publication.is_empty() {
        bail!("--publication names no publication: say which tables are wanted, as --publication NAME[,NAME…]");
    }
    Ok(Settings {
        upstream: upstream.or_connect_timeout(CONNECT_TIMEOUT),
        slot: args.slot.clone(),
        publications: args.publication.clone(),
        create_slot: args.create_slot,
        create_publication: args.create_publication,
        messages: args.messages,
        two_phase: args.two_phase,
        failover: args.failover,
        status_interval: args.status_interval,
        memory_bytes: usize::try_from(args.memory).context("--memory")?,
        spool: args.data_dir.join(SPOOL_FOLDER),
        disk_full_timeout: args.disk_full_timeout,
    })
}

/// All that a start can fail of comes before the slot is made: one that nobody reads keeps the primary's WAL.
async fn serve(args: &ServeArgs, settings: Settings) -> anyhow::Result<ExitCode> {
    let state = Arc::new(ServerState::default());
    let (stop, mut stopping) = watch::channel(false);
    let signals = tokio::spawn(signals(stop.clone()));
    let folder = args.data_dir.join(LOG_FOLDER);
    let disk = Arc::new(OsDisk::open(&folder).with_context(|| format!("open {}", folder.display()))?);
    let folder = args.data_dir.join(CONSUMERS_FOLDER);
    let places = OsDisk::open(&folder).with_context(|| format!("open {}", folder.display()))?;
    let consumers = Arc::new(Consumers::open(Arc::new(places), CONSUMERS_MAX)?);
    let (options, ca) = quic_options(args)?;
    let token_file = options.token_file.clone();
    let listening = quic::listen(options).await?;
    let token = TokenFile::open(token_file.clone()).context("--token-file")?;
    let listener = TcpListener::bind(&args.http).await.with_context(|| format!("can't listen on --http {}", args.http))?;
    let Some((log, writer)) = open_log(args, &settings, &disk, &state, &mut stopping).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    info!(epoch = %log.epoch(), earliest = %log.earliest(), head = %log.head(), bytes = log.size_bytes(), "the event log is open");
    let (server, driver) = listening.serve(log.clone(), Arc::clone(&consumers), state.primary_lsn().clone());
    println!("listening on quic://{}", server.address());
    if let Some(ca) = ca {
        println!("clients need   --ca {} --token-file {}", ca.display(), token_file.display());
    }
    println!("health, metrics and lists on http://{}", listener.local_addr()?);
    let serving = tokio::spawn(driver.run());
    let app = http::App {
        state: Arc::clone(&state),
        log: log.clone(),
        consumers,
        server: server.clone(),
        token,
        slot: args.slot.clone(),
    };
    let mut until = stopping.clone();
    let administering = tokio::spawn(http::serve(listener, app, async move { drop(until.wait_for(|stop| *stop).await) }));
    let ended = start_source(settings, disk, log.clone(), writer, Arc::clone(&state), stopping.clone())?;
    let retaining = tokio::spawn(retain(log.clone(), policy(args), stopping.clone()));
    let ended = until_stopped(ended, &mut stopping).await;
    stop.send_replace(true);
    state.condition(Condition::Stopping, None);
    server.shutdown();
    serving.await?;
    administering.abort();
    retaining.await?;
    signals.abort();
    ended?;
    info!("stopped; all that was whole is kept and confirmed");
    Ok(ExitCode::SUCCESS)
}

/// What the settings say, with a certificate and a token of our own where the user gave none. Gives the authority's certificate too.
fn quic_options(args: &ServeArgs) -> anyhow::Result<(quic::Options, Option<PathBuf>)> {
    let (cert, key, ca, own_token) = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone(), None, None),
        (Some(_), None) => bail!("--tls-key is missing: --tls-cert needs the key of its certificate"),
        (None, Some(_)) => bail!("--tls-cert is missing: --tls-key needs the certificate that it is of"),
        (None, None) => {
            let own = provision(OWNER, &args.data_dir, &args.quic_name)?;
            (own.cert_path, own.key_path, Some(own.ca_path), Some(own.token_path))
        }
    };
    let token_file = match (&args.token_file, own_token) {
        (Some(given), _) => given.clone(),
        (None, Some(own)) => own,
        (None, None) => provision_token(&args.data_dir)?.0,
    };
    let tls = TlsFiles { cert, key, client_ca: args.client_ca.clone(), require_client_cert: false };
    let (listen, principals) = (args.quic.clone(), args.principals.clone());
    Ok((quic::Options { listen, tls, token_file, principals, limits: quic::Limits::default() }, ca))
}

/// A log that is open, and the one that writes it.
type Opened = (EventLog<OsDisk>, Writer<OsDisk>);

/// Opens the log; where there is none, asks the primary first whose it will be. `None` where the process is to stop meanwhile.
async fn open_log(
    args: &ServeArgs,
    settings: &Settings,
    disk: &Arc<OsDisk>,
    state: &ServerState,
    stopping: &mut watch::Receiver<bool>,
) -> anyhow::Result<Option<Opened>> {
    let held = EpochFile::read(&**disk)?;
    if let Some(held) = held.as_ref().filter(|held| !is_left(held, args.new_epoch)) {
        if args.new_epoch.is_some_and(|wanted| wanted != held.retired) {
            bail!(
                "--new-epoch names an epoch that is not the log's, which is {}: nothing was changed. Leave the flag out, or give --new-epoch {0} to \
                 leave that one",
                held.epoch
            );
        }
        return open(disk, Identity { slot: settings.slot.clone(), ..held.identity }).await.map(Some);
    }
    let Some(origin) = source::origin(settings, state, stopping).await else { return Ok(None) };
    match begin(disk, settings, held.as_ref(), origin).await {
        Ok(opened) => Ok(Some(opened)),
        // Where there was a log before, the epoch that has begun goes on with the slot at the next start.
        Err(error) => {
            if origin.made && held.is_none() {
                match remove_epoch(&**disk) {
                    Ok(()) => source::drop_slot(settings).await,
                    Err(left) => {
                        warn!(error = &left as &dyn std::error::Error, "what was begun of a log is left behind, and its slot")
                    }
                }
            }
            Err(error)
        }
    }
}

/// Whether the log's epoch is the one that is to be left.
fn is_left(held: &EpochFile, wanted: Option<Epoch>) -> bool {
    wanted == Some(held.epoch)
}

async fn begin(
    disk: &Arc<OsDisk>,
    settings: &Settings,
    held: Option<&EpochFile>,
    origin: source::Origin,
) -> anyhow::Result<Opened> {
    let identity = Identity { system_id: origin.system_id, slot: settings.slot.clone() };
    let mut random = [0; 16];
    getrandom(&mut random)?;
    start_epoch(&**disk, &identity, Epoch::new(random), origin.start)?;
    match held {
        Some(held) => {
            warn!(before = %held.epoch, at = %origin.start, "began a new epoch: consumers of the one before are told of the gap")
        }
        None => info!(at = %origin.start, "began an event log"),
    }
    open(disk, identity).await
}

async fn open(disk: &Arc<OsDisk>, identity: Identity) -> anyhow::Result<Opened> {
    // Reads back what was written last, and may copy a segment.
    let (disk, log_settings) = (Arc::clone(disk), log::Settings::default());
    Ok(tokio::task::spawn_blocking(move || EventLog::open(disk, log_settings, &identity)).await??)
}

fn getrandom(bytes: &mut [u8]) -> anyhow::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)).context("read /dev/urandom")
}

fn start_source(
    settings: Settings,
    disk: Arc<OsDisk>,
    log: EventLog<OsDisk>,
    writer: Writer<OsDisk>,
    state: Arc<ServerState>,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<oneshot::Receiver<Result<(), Fatal>>> {
    let (done, ended) = oneshot::channel();
    let work = move || drop(done.send(source::run(settings, disk, log, writer, state, stopping)));
    std::thread::Builder::new().name("source".into()).spawn(work).context("start the source")?;
    Ok(ended)
}

/// Waits for the source: it ends when it is told to stop, or fails.
async fn until_stopped(ended: oneshot::Receiver<Result<(), Fatal>>, stopping: &mut watch::Receiver<bool>) -> Result<(), Fatal> {
    let ended = ended.await.unwrap_or(Err(Fatal::Died));
    if ended.is_ok() && !*stopping.borrow() {
        return Err(Fatal::Died);
    }
    ended
}

/// Stops the process in order at the first signal.
async fn signals(stop: watch::Sender<bool>) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping");
    stop.send_replace(true);
    Ok(())
}

const fn policy(args: &ServeArgs) -> Policy {
    Policy { keep_bytes: args.keep_size, keep_age: args.keep_age }
}

async fn retain(log: EventLog<OsDisk>, policy: Policy, mut stopping: watch::Receiver<bool>) {
    loop {
        let stopped = stopping.wait_for(|stop| *stop);
        if tokio::time::timeout(RETENTION_INTERVAL, stopped).await.is_ok() {
            return;
        }
        let log = log.clone();
        let removed = tokio::task::spawn_blocking(move || log.retain(policy, source::unix_micros())).await;
        match removed {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "segments that need not be kept can't be removed"),
            Err(_panicked) => warn!("the removal of segments failed; see above"),
        }
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("make {}", path.display()))
}

fn start_logging(args: &ServeArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log_level).context("--log-level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match args.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
