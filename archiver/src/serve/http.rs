//! Health and metrics over HTTP, in the clear: for the host itself or a private network.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process does its work |
//! | `/readyz` | 200 while the store does what it is asked; else 503 with what is wrong |
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

use super::metrics::{CONTENT_TYPE, Metrics};

/// Listens, and gives the address, and the work to be done.
///
/// # Errors
/// Where the address can't be listened on.
pub async fn bind<S: Future<Output = ()> + Send + 'static>(
    listen: &str,
    metrics: Arc<Metrics>,
    stop: S,
) -> std::io::Result<(SocketAddr, impl Future<Output = std::io::Result<()>> + use<S>)> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(encode))
        .with_state(metrics);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
    Ok((address, async { serving.await }))
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.problem() {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

async fn encode(State(metrics): State<Arc<Metrics>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode()).into_response()
}
