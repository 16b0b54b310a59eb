//! Health and metrics over HTTP, in the clear: for the host itself or a private network.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process does its work |
//! | `/readyz` | 200 while the store does what it is asked, and for `follow` the server streams; else 503 with what is wrong |
//! | `/metrics` | Prometheus |

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::CONTENT_TYPE;

/// What is told.
pub trait Exported: Send + Sync + 'static {
    /// Why the work is not done; `None` while it is.
    fn problem(&self) -> Option<String>;

    /// All metrics in the text format of `OpenMetrics`, which Prometheus reads.
    fn encode(&self) -> String;
}

/// Listens, and gives the address, and the work to be done.
///
/// # Errors
/// Where the address can't be listened on.
pub async fn bind<M: Exported, S: Future<Output = ()> + Send + 'static>(
    listen: &str,
    metrics: Arc<M>,
    stop: S,
) -> std::io::Result<(SocketAddr, impl Future<Output = std::io::Result<()>> + use<M, S>)> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<M>))
        .route("/metrics", get(encode::<M>))
        .with_state(metrics);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
    Ok((address, async { serving.await }))
}

async fn ready<M: Exported>(State(metrics): State<Arc<M>>) -> Response {
    match metrics.problem() {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

async fn encode<M: Exported>(State(metrics): State<Arc<M>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode()).into_response()
}
