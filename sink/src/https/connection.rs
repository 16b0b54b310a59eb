//! One connection: its handshake, its requests, and when it has been idle or stalled for too long.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::limits::{HEADER_BYTES_MAX, HEADERS_MAX, Limits, STREAM_SEND_BYTES_MAX, STREAMS_MAX, TLS_SEND_BYTES_MAX};

/// How often a connection is looked at, as a part of the shortest of its time limits.
const LOOKS_PER_TIMEOUT: u32 = 4;

/// What is sent to a client that speaks no TLS; then the connection is closed.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n\
    This port speaks HTTPS: use https:// and --ca FILE (the sink has it at DATA-DIR/tls/ca.pem).\n";

/// Who is at the other end, and what goes on: an extension of each request of the connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// Whether it showed a certificate of the authority given by `--client-ca`. One of another would have ended the handshake.
    pub(super) certified: bool,
    born: Instant,
    /// When the last request ended, in milliseconds since `born`.
    idle_since_ms: AtomicU64,
    requests: Mutex<Vec<Weak<Progress>>>,
}

/// How one answer gets on.
#[derive(Debug)]
struct Progress {
    /// When the client last took anything, in milliseconds since the connection's birth; `u64::MAX` while the client waits for us.
    taken_ms: AtomicU64,
}

impl Peer {
    fn new(certified: bool) -> Self {
        Self { certified, born: Instant::now(), idle_since_ms: AtomicU64::new(0), requests: Mutex::new(Vec::new()) }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn begin(self: &Arc<Self>) -> InFlight {
        let progress = Arc::new(Progress { taken_ms: AtomicU64::new(u64::MAX) });
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.retain(|request| request.strong_count() > 0);
        requests.push(Arc::downgrade(&progress));
        drop(requests);
        InFlight { peer: Arc::clone(self), progress }
    }

    fn verdict(&self, limits: &Limits) -> Verdict {
        let now = self.elapsed_ms();
        let over = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = requests.iter().filter_map(Weak::upgrade).peekable();
        if live.peek().is_none() {
            return if over(self.idle_since_ms.load(Ordering::Relaxed), limits.idle_timeout) {
                Verdict::Idle
            } else {
                Verdict::Fine
            };
        }
        let stalled = live.any(|request| over(request.taken_ms.load(Ordering::Relaxed), limits.stall_timeout));
        if stalled { Verdict::Stalled } else { Verdict::Fine }
    }
}

enum Verdict {
    Fine,
    Idle,
    Stalled,
}

/// A request from its headers to the last byte of its answer.
#[derive(Debug)]
struct InFlight {
    peer: Arc<Peer>,
    progress: Arc<Progress>,
}

impl InFlight {
    fn taken(&self) {
        self.progress.taken_ms.store(self.peer.elapsed_ms(), Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.peer.idle_since_ms.store(self.peer.elapsed_ms(), Ordering::Relaxed);
    }
}

/// An answer's body, whose progress is noted.
#[derive(Debug)]
struct Watched {
    inner: Body,
    request: InFlight,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.request.taken();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The TLS side of a new connection, `None` where it came to nothing: a client's affair, and none for the log of the sink but at the
/// debug level.
pub(super) async fn handshake(stream: TcpStream, tls: TlsAcceptor, within: Duration) -> Option<TlsStream<TcpStream>> {
    let shaken = timeout(within, async {
        let mut first = [0];
        // TLS begins with the byte 22, HTTP with a letter.
        if stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
            let mut stream = stream;
            stream.write_all(PLAIN_HTTP).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("no TLS was spoken"));
        }
        tls.accept_with(stream, |session| session.set_buffer_limit(Some(TLS_SEND_BYTES_MAX))).await
    });
    match shaken.await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_elapsed) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

/// Answers the requests of a connection until either side ends it. Dropped, the connection is cut.
///
/// When `stop` is cancelled, requests under way are finished and no more are taken.
pub(super) async fn serve(stream: TlsStream<TcpStream>, router: Router, limits: Limits, stop: CancellationToken) {
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer::new(session.peer_certificates().is_some_and(|chain| !chain.is_empty())));
    let at_service = Arc::clone(&peer);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let in_flight = at_service.begin();
        request.extensions_mut().insert(Arc::clone(&at_service));
        let router = router.clone();
        async move {
            let response: Response<Body> = router.oneshot(request).await?;
            in_flight.taken();
            Ok::<_, std::convert::Infallible>(response.map(|inner| Watched { inner, request: in_flight }))
        }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(STREAM_SEND_BYTES_MAX)
            .keep_alive_interval(limits.idle_timeout / 2)
            .keep_alive_timeout(limits.header_timeout);
        let connection = pin!(builder.serve_connection(io, service));
        attend(connection, http2::Connection::graceful_shutdown, &peer, &limits, &stop).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEADER_BYTES_MAX as usize);
        let connection = pin!(builder.serve_connection(io, service));
        attend(connection, http1::Connection::graceful_shutdown, &peer, &limits, &stop).await;
    }
}

/// Drives a connection, and ends it when it is idle or stalled, or the server stops.
async fn attend<C, E>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    peer: &Peer,
    limits: &Limits,
    stop: &CancellationToken,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut looks = tokio::time::interval(limits.idle_timeout.min(limits.stall_timeout) / LOOKS_PER_TIMEOUT);
    let mut finishing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            () = stop.cancelled(), if !finishing => {
                finishing = true;
                finish(connection.as_mut());
            }
            _ = looks.tick() => match peer.verdict(limits) {
                Verdict::Fine => {}
                // One look's time to say goodbye, then it is cut.
                Verdict::Idle if !finishing => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                Verdict::Idle => return,
                Verdict::Stalled => {
                    tracing::debug!("a client took nothing of its answer for too long and was cut off");
                    return;
                }
            }
        }
    }
}
