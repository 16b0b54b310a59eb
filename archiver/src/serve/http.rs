//! Health and metrics over HTTP, in the clear: for the host itself or a private network.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process does its work |
//! | `/readyz` | 200 while the store does what it is asked, and for `follow` the server streams; else 503 with what is wrong |
//! | `/metrics` | Prometheus |

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What is told.
pub trait Exported: Send + Sync + 'static {
    /// Why the work is not done; `None` while it is.
    fn problem(&self) -> Option<String>;

    /// All metrics, as they are now.
    fn refreshed(&self) -> &Registry;

    /// All metrics in the text format of `OpenMetrics`, which Prometheus reads.
    fn encode(&self) -> String {
        let mut text = String::with_capacity(4 << 10);
        if let Err(error) = text::encode(&mut text, self.refreshed()) {
            // Writing to a text can't fail; should a metric, the others are still of use.
            tracing::error!(%error, "a metric can't be encoded");
        }
        text
    }
}

/// The media type of [`Exported::encode`]'s text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens, says where, and answers in a task of its own until `stopping` says so.
///
/// # Errors
/// Where the address can't be listened on.
pub async fn start<M: Exported>(listen: &str, metrics: Arc<M>, mut stopping: watch::Receiver<bool>) -> anyhow::Result<()> {
    let listening = async {
        let listener = TcpListener::bind(listen).await?;
        Ok::<_, std::io::Error>((listener.local_addr()?, listener))
    };
    let (address, listener) = listening.await.with_context(|| format!("listen on --http {listen}"))?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<M>))
        .route("/metrics", get(encode::<M>))
        .with_state(metrics);
    let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
    let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
    tokio::spawn(async { serving.await });
    println!("metrics at http://{address}/metrics");
    Ok(())
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
