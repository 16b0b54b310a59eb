//! The HTTPS server: what is held and how far it is, to whoever has the token or a certificate.
//!
//! ```text
//!   accept ──▶ TLS ──▶ connection ──▶ admit ──▶ authenticate ──▶ status · segments · wal · wait ...
//!     │ too many                        │ too many   │ no token      │
//!     ▼                                 ▼            ▼               ├──▶ state: positions, catalog
//!    503                               503          401              └──▶ files, below `flushed`
//! ```
//!
//! It reads the [`StreamState`] and the files, and changes neither. Nothing above `flushed` leaves it: each response reads the positions
//! once, at its start, and what it sends follows from them.

mod app;
mod auth;
mod body;
mod connection;
mod failure;
mod folder;
pub(crate) mod holdings;
mod limits;
mod query;
mod range;
mod routes;
mod segment;
mod wal;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walbus::pem::PemError;
use walbus::service::tls::{ProvisionError, ServerTls, TlsFiles, provision_token};
use walbus::service::token::TokenFile;

pub use limits::{Limits, WAIT_DEFAULT, WAIT_MAX};

use self::app::App;
use self::failure::Failure;
use self::limits::{REFUSAL_TIMEOUT, REFUSALS};
use crate::config::{HttpsConfig, ServeConfig};
use crate::metrics::Metrics;
use crate::state::StreamState;
use crate::tls;

/// How long to wait after an accept that failed, when the process has no file descriptor left for another connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often a certificate of the sink's own is looked at.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(12 * 60 * 60);

/// What a server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen: `HOST:PORT`, port 0 for any.
    pub listen: String,
    /// The folder with the WAL.
    pub data_dir: PathBuf,
    /// The slot, for `/v1/status`.
    pub slot: String,
    /// Certificate, key, and the authority of clients.
    pub tls: TlsFiles,
    /// The names of a certificate of the sink's own, which the server renews; `None` where the user gave one.
    pub renew: Option<Vec<String>>,
    /// The file with the bearer token.
    pub token_file: PathBuf,
    /// Whether `/metrics` needs no token.
    pub metrics_public: bool,
    /// What clients may cost.
    pub limits: Limits,
}

/// What [`Options::prepare`] gives.
#[derive(Debug)]
pub struct Prepared {
    /// What [`bind`] takes.
    pub options: Options,
    /// The sink's own authority, which clients take as `--ca`; `None` where the user gave a certificate.
    pub ca_path: Option<PathBuf>,
    /// Whether that authority, or the token, was made now: time to say where they are.
    pub created: bool,
}

impl Options {
    /// What the settings say, with the sink's own certificate and token made where the user gave none and they are not there yet.
    /// Blocks.
    ///
    /// # Errors
    /// Where those can't be made.
    pub fn prepare(config: &ServeConfig) -> Result<Prepared, ProvisionError> {
        let HttpsConfig { listen, names, cert_and_key, token_file, client_ca, require_client_cert, metrics_public, limits } =
            config.https.clone();
        let dir = &config.data_dir;
        let (own, token) = match (&cert_and_key, token_file) {
            (None, given) => {
                let own = tls::provision(dir, &names)?;
                let token = given.unwrap_or_else(|| own.token_path.clone());
                (Some(own), (token, false))
            }
            (Some(_), Some(given)) => (None, (given, false)),
            (Some(_), None) => (None, provision_token(dir)?),
        };
        let (token_file, token_created) = token;
        let renew = own.is_some().then_some(names);
        let created = token_created || own.as_ref().is_some_and(|own| own.created);
        let ca_path = own.as_ref().map(|own| own.ca_path.clone());
        let files = own.map(|own| (own.cert_path, own.key_path));
        // One of the two is there: the sink's own pair is made where the user gave none.
        let (cert, key) = cert_and_key.or(files).unwrap_or_default();
        let tls = TlsFiles { cert, key, client_ca, require_client_cert };
        let slot = config.slot.clone();
        let options = Self { listen, data_dir: dir.clone(), slot, tls, renew, token_file, metrics_public, limits };
        Ok(Prepared { options, ca_path, created })
    }
}

/// Why there is no server. All of it is mended by a setting.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can't be listened on.
    #[error("can't listen on --https {listen}: {source}")]
    Listen {
        /// The address.
        listen: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Certificate, key or the authority of clients can't be used.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// The token can't be used.
    #[error("--token-file {}: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
}

/// A hold on a running server.
#[derive(Debug, Clone)]
pub struct Handle {
    address: SocketAddr,
    tls: Arc<ServerTls>,
    stop: CancellationToken,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads certificate and authority again where their files have changed, as each new connection does too. For SIGHUP.
    pub fn reload(&self) {
        drop(self.tls.current());
    }

    /// Stops the server: no new connections, waits are answered, other requests have [`Limits::shutdown_timeout`]. The driver's
    /// [`Driver::run`] returns when all are gone.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }
}

/// The server's work.
#[derive(Debug)]
pub struct Driver {
    listener: TcpListener,
    router: Router,
    refuse: Router,
    options: Options,
    metrics: Arc<Metrics>,
    tls: Arc<ServerTls>,
    stop: CancellationToken,
}

/// A server that listens. Nothing is answered until the driver runs.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(options: Options, state: Arc<StreamState>, metrics: Arc<Metrics>) -> Result<(Handle, Driver), BindError> {
    let tls = Arc::new(ServerTls::open(options.tls.clone(), &["h2", "http/1.1"])?);
    let token_file = options.token_file.clone();
    let token = TokenFile::open(token_file.clone()).map_err(|source| BindError::Token { path: token_file, source })?;
    let listen_error = |source| BindError::Listen { listen: options.listen.clone(), source };
    let listener = TcpListener::bind(&options.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let stop = CancellationToken::new();
    let app = App {
        state,
        metrics: Arc::clone(&metrics),
        folder: Arc::new(folder::Folder::new(options.data_dir.clone())),
        bodies: Arc::default(),
        token,
        metrics_public: options.metrics_public,
        slot: options.slot.clone(),
        requests: Arc::new(Semaphore::new(options.limits.requests)),
        waits: Arc::new(Semaphore::new((options.limits.requests / 2).max(1))),
        stop: stop.clone(),
        lineages: Mutex::new(HashMap::new()),
    };
    let router = routes::router(Arc::new(app));
    let refuse = Router::new().fallback(|| async {
        let failure = Failure::unavailable("too_many_connections", "too many connections at once (--https-connections): try again");
        ([(axum::http::header::CONNECTION, "close")], failure).into_response()
    });
    let handle = Handle { address, tls: Arc::clone(&tls), stop: stop.clone() };
    Ok((handle, Driver { listener, router, refuse, options, metrics, tls, stop }))
}

impl Driver {
    /// Serves until [`Handle::shutdown`]. Not cancellation-safe: dropped, it leaves connections behind.
    pub async fn run(self) {
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        let admitted = Arc::new(Semaphore::new(self.options.limits.connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let mut renewals = interval(RENEWAL_INTERVAL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, and the start has seen to the certificate already.
        renewals.reset();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                _ = renewals.tick() => {
                    self.renew(&tasks);
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            if let Ok(permit) = Arc::clone(&admitted).try_acquire_owned() {
                let serve = serve(stream, self.acceptor(), self.router.clone(), self.options.limits, self.stop.clone());
                let (cut, connections) = (cut.clone(), self.metrics.https_connections.clone());
                tasks.spawn(async move {
                    connections.inc();
                    cut.run_until_cancelled(serve).await;
                    connections.dec();
                    drop(permit);
                });
            } else {
                self.metrics.https_connections_refused.inc();
                // So many that even saying no would cost too much: the connection is just closed.
                let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() else { continue };
                let serve = serve(stream, self.acceptor(), self.refuse.clone(), self.options.limits, self.stop.clone());
                let cut = cut.clone();
                tasks.spawn(async move {
                    // Too late is as good as told: the connection closes.
                    drop(timeout(REFUSAL_TIMEOUT, cut.run_until_cancelled(serve)).await);
                    drop(permit);
                });
            }
        }
        drop(self.listener);
        tasks.close();
        if timeout(self.options.limits.shutdown_timeout, tasks.wait()).await.is_err() {
            tracing::info!(connections = tasks.len(), "requests that were still being answered are cut off");
            cut.cancel();
            tasks.wait().await;
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.tls.current())
    }

    /// Makes the sink's own certificate again where it is due; new connections get it by themselves.
    fn renew(&self, tasks: &TaskTracker) {
        let Some(names) = self.options.renew.clone() else { return };
        let dir = self.options.data_dir.clone();
        tasks.spawn_blocking(move || {
            if let Err(error) = tls::provision(&dir, &names) {
                tracing::error!(%error, "can't renew the server's certificate; tried again in half a day");
            }
        });
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, router: Router, limits: Limits, stop: CancellationToken) {
    // Answers are written whole; waiting to fill a packet would only delay their ends.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't set TCP_NODELAY");
    }
    let shaken = tokio::select! {
        () = stop.cancelled() => return,
        shaken = connection::handshake(stream, tls, limits.handshake_timeout) => shaken,
    };
    if let Some(stream) = shaken {
        connection::serve(stream, router, limits, stop).await;
    }
}
