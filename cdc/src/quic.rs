//! The server of beyond-cdc/1: changes to any number of consumers over QUIC.
//!
//! ```text
//!   UDP ──▶ endpoint ──▶ TLS, ALPN ──▶ connection ──▶ session (pure): hello, subscribe, acknowledge
//!             │ too many                  │  ▲              │ start
//!             ▼                           ▼  │ end          ▼
//!          refused                       pump ◀──────── cursor ──▶ log (ring, files)
//!                                         │ one stream a subscription
//!                                         ▼
//!                                       client
//! ```
//!
//! A client that does not read costs a send window, a cursor and at most one batch a subscription; nobody waits for it.

mod auth;
mod connection;
mod endpoint;
mod feed;
mod limits;
mod list;
mod pump;
mod refusal;
mod session;
#[cfg(test)]
mod sim;
mod start;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Endpoint, TokioRuntime, VarInt};
use rustix::net::sockopt;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use walbus::disk::Disk;
use walbus::pem::PemError;
use walbus::service::tls::{ServerTls, TlsFiles};

pub use auth::{Authority, AuthorityError, PrincipalsFile};
pub use limits::Limits;
pub use list::SubscriptionInfo;
pub use session::{Action, Opening, Principal, Session, View};

use self::endpoint::{endpoint_config, server_config};
use crate::fanout::class::Classes;
use crate::fanout::consumers::Consumers;
use crate::log::EventLog;
pub use crate::state::PrimaryLsn;

/// How often acknowledged positions are written.
const ACKNOWLEDGED_INTERVAL: Duration = Duration::from_secs(1);
/// The protocol, as TLS names it.
const ALPN: &str = "beyond-cdc/1";

/// What a server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen: `HOST:PORT`, port 0 for any.
    pub listen: String,
    /// Certificate, key, and the authority of clients.
    pub tls: TlsFiles,
    /// The file with the bearer token.
    pub token_file: PathBuf,
    /// The file of principals; without it whoever is let in reads all tables.
    pub principals: Option<PathBuf>,
    /// What clients may cost.
    pub limits: Limits,
}

/// Why there is no server. All of it is mended by a setting.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Token or principals can't be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The address can't be listened on.
    #[error("can't listen on --quic {listen}: {source}")]
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
}

/// What all connections share.
#[derive(Debug)]
struct Shared<D: Disk, C: Disk> {
    log: EventLog<D>,
    consumers: Arc<Consumers<C>>,
    classes: Classes,
    authority: Authority,
    limits: Limits,
    files: Arc<Semaphore>,
    primary_lsn: PrimaryLsn,
    list: list::List,
    stop: CancellationToken,
}

impl<D: Disk, C: Disk> Shared<D, C> {
    fn view(&self) -> View {
        View {
            head: self.log.head(),
            earliest: self.log.earliest(),
            epoch: self.log.epoch().bytes(),
            system_id: self.log.system_id().0,
            primary_lsn: self.primary_lsn.lsn(),
        }
    }
}

/// A hold on a running server.
#[derive(Debug)]
pub struct Handle<D: Disk, C: Disk> {
    address: SocketAddr,
    tls: Arc<ServerTls>,
    shared: Arc<Shared<D, C>>,
}

impl<D: Disk, C: Disk> Clone for Handle<D, C> {
    fn clone(&self) -> Self {
        Self { address: self.address, tls: Arc::clone(&self.tls), shared: Arc::clone(&self.shared) }
    }
}

impl<D: Disk, C: Disk> Handle<D, C> {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reads certificate and authority again where their files have changed, as each new connection does too. For SIGHUP.
    pub fn reload(&self) {
        drop(self.tls.current());
    }

    /// Who is subscribed, and how far each is.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.shared.list.all()
    }

    /// Stops the server: clients are told, and have [`Limits::shutdown_timeout`]. The driver's [`Driver::run`] returns when all are gone and
    /// what they have acknowledged is durable.
    pub fn shutdown(&self) {
        self.shared.stop.cancel();
    }
}

/// The server's work.
#[derive(Debug)]
pub struct Driver<D: Disk, C: Disk> {
    endpoint: Endpoint,
    tls: Arc<ServerTls>,
    /// The configuration made of the last TLS configuration.
    config: Mutex<(Arc<rustls::ServerConfig>, Arc<quinn::ServerConfig>)>,
    shared: Arc<Shared<D, C>>,
}

/// An address that is listened on, with all that the settings say read and found good; nothing is answered yet.
#[derive(Debug)]
pub struct Listening {
    endpoint: Endpoint,
    address: SocketAddr,
    tls: Arc<ServerTls>,
    config: (Arc<rustls::ServerConfig>, Arc<quinn::ServerConfig>),
    authority: Authority,
    limits: Limits,
}

/// Listens. Has to be called within a runtime.
///
/// # Errors
/// See [`BindError`].
pub async fn listen(options: Options) -> Result<Listening, BindError> {
    let Options { listen, tls, token_file, principals, limits } = options;
    let (cert, key) = (tls.cert.clone(), tls.key.clone());
    let tls = Arc::new(ServerTls::open(tls, &[ALPN])?);
    let authority = Authority::open(token_file, principals)?;
    let now = tls.current();
    let config = server_config(&now, &limits).map_err(|problem| PemError::new("--tls-cert", &cert, problem))?;
    let listen_error = |source| BindError::Listen { listen: listen.clone(), source };
    let socket = tokio::net::UdpSocket::bind(&listen).await.and_then(tokio::net::UdpSocket::into_std).map_err(listen_error)?;
    // As much of it as the system allows.
    let _smaller = sockopt::set_socket_recv_buffer_size(&socket, limits::SOCKET_BUFFER_BYTES);
    let _smaller = sockopt::set_socket_send_buffer_size(&socket, limits::SOCKET_BUFFER_BYTES);
    let first = quinn::ServerConfig::clone(&config);
    let endpoint = Endpoint::new(endpoint_config(&key)?, Some(first), socket, Arc::new(TokioRuntime)).map_err(listen_error)?;
    let address = endpoint.local_addr().map_err(listen_error)?;
    Ok(Listening { endpoint, address, tls, config: (now, config), authority, limits })
}

impl Listening {
    /// The server of this log. Nothing is answered until the driver runs.
    #[must_use]
    pub fn serve<D: Disk, C: Disk>(
        self,
        log: EventLog<D>,
        consumers: Arc<Consumers<C>>,
        primary_lsn: PrimaryLsn,
    ) -> (Handle<D, C>, Driver<D, C>) {
        let Self { endpoint, address, tls, config, authority, limits } = self;
        let shared = Arc::new(Shared {
            log,
            consumers,
            classes: Classes::new(limits::CLASS_CACHE_BYTES),
            authority,
            limits,
            files: Arc::new(Semaphore::new(limits::FILE_READERS)),
            primary_lsn,
            list: list::List::default(),
            stop: CancellationToken::new(),
        });
        let handle = Handle { address, tls: Arc::clone(&tls), shared: Arc::clone(&shared) };
        (handle, Driver { endpoint, tls, config: Mutex::new(config), shared })
    }
}

/// [`listen`] and [`Listening::serve`] in one.
///
/// # Errors
/// See [`BindError`].
pub async fn bind<D: Disk, C: Disk>(
    options: Options,
    log: EventLog<D>,
    consumers: Arc<Consumers<C>>,
    primary_lsn: PrimaryLsn,
) -> Result<(Handle<D, C>, Driver<D, C>), BindError> {
    Ok(listen(options).await?.serve(log, consumers, primary_lsn))
}

impl<D: Disk, C: Disk> Driver<D, C> {
    /// Serves until [`Handle::shutdown`]. Not cancellation-safe: dropped, it leaves connections behind.
    pub async fn run(self) {
        let tasks = TaskTracker::new();
        let limits = self.shared.limits;
        let admitted = Arc::new(Semaphore::new(limits.connections));
        let writing = Arc::new(Semaphore::new(1));
        let mut writes = interval(ACKNOWLEDGED_INTERVAL);
        writes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let incoming = tokio::select! {
                () = self.shared.stop.cancelled() => break,
                _ = writes.tick() => {
                    // Beside it, so that a slow disk keeps no connection waiting.
                    if let Ok(turn) = Arc::clone(&writing).try_acquire_owned() {
                        let consumers = Arc::clone(&self.shared.consumers);
                        tasks.spawn(async move {
                            write_acknowledged(consumers).await;
                            drop(turn);
                        });
                    }
                    continue;
                }
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let Ok(permit) = Arc::clone(&admitted).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            // With many connections, an address has to prove itself before it costs anything.
            if admitted.available_permits() < limits.connections / 2 && !incoming.remote_address_validated() && incoming.may_retry()
            {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
                continue;
            }
            let (config, shared) = (self.current(), Arc::clone(&self.shared));
            tasks.spawn(async move {
                let Ok(connecting) = incoming.accept_with(config) else { return };
                match timeout(limits.handshake_timeout, connecting).await {
                    Ok(Ok(connection)) => connection::serve(connection, shared).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    Err(_elapsed) => tracing::debug!("a handshake took too long"),
                }
                drop(permit);
            });
        }
        self.finish(tasks).await;
    }

    async fn finish(self, tasks: TaskTracker) {
        let limits = self.shared.limits;
        tasks.close();
        if timeout(limits.shutdown_timeout * 2, tasks.wait()).await.is_err() {
            tracing::info!(connections = tasks.len(), "connections that do not end are cut off");
        }
        self.endpoint.close(VarInt::from_u32(0), b"the server is shutting down");
        drop(timeout(limits.shutdown_timeout, self.endpoint.wait_idle()).await);
        while !write_acknowledged(Arc::clone(&self.shared.consumers)).await {}
    }

    /// The configuration for a new connection, made anew where certificate or authority have changed.
    fn current(&self) -> Arc<quinn::ServerConfig> {
        let tls = self.tls.current();
        let mut last = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&last.0, &tls) {
            match server_config(&tls, &self.shared.limits) {
                Ok(config) => *last = (tls, config),
                Err(error) => tracing::warn!(error, "the new certificate can't be used; the one before stays in force"),
            }
        }
        Arc::clone(&last.1)
    }
}

/// Writes what consumers have acknowledged, and says whether that was all, or failed.
async fn write_acknowledged<C: Disk>(consumers: Arc<Consumers<C>>) -> bool {
    match tokio::task::spawn_blocking(move || consumers.write_changed()).await {
        Ok(Ok(all)) => all,
        Ok(Err(error)) => {
            tracing::error!(%error, "acknowledged positions can't be written; after a restart what was acknowledged since comes again");
            true
        }
        // It has panicked; the panic's message was printed.
        Err(_join) => true,
    }
}
