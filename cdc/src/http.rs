//! Health, metrics and lists over HTTP.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process does its work |
//! | `/readyz` | 200 while changes are followed; else 503 with what is wrong |
//! | `/metrics` | Prometheus |
//! | `/v1/status` | where source and log are; with the token |
//! | `/v1/consumers` | who has a name, and the lag of each; `DELETE /v1/consumers/{name}` forgets one; with the token |
//! | `/v1/subscriptions` | who is subscribed now; with the token |
//!
//! In the clear: for the host itself or a private network. What consumers need goes over QUIC.

mod lists;
mod metrics;

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use tokio::net::TcpListener;
use walbus::disk::OsDisk;
use walbus::service::token::{TokenFile, Verdict};

use crate::fanout::consumers::{Consumers, DropError};
use crate::log::EventLog;
use crate::quic;
use crate::state::{Condition, ServerState};

/// What is told of.
#[derive(Debug)]
pub struct App {
    /// The source's state.
    pub state: Arc<ServerState>,
    /// The log.
    pub log: EventLog<OsDisk>,
    /// Those who have a name.
    pub consumers: Arc<Consumers<OsDisk>>,
    /// The server of those who are subscribed.
    pub server: quic::Handle<OsDisk, OsDisk>,
    /// Who may ask for lists.
    pub token: TokenFile,
    /// The slot, and the publications.
    pub slot: String,
}

/// The work to be done for those who come to the listener, until `stop`.
pub fn serve<S: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    app: App,
    stop: S,
) -> impl Future<Output = std::io::Result<()>> + use<S> {
    let serving = axum::serve(listener, router(Arc::new(app))).with_graceful_shutdown(stop);
    async { serving.await }
}

fn router(app: Arc<App>) -> Router {
    let lists = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/consumers", get(consumers))
        .route("/v1/consumers/{name}", delete(forget))
        .route("/v1/subscriptions", get(subscriptions))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorize));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(lists)
        .with_state(app)
}

async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    match given.map(|token| app.token.check(token)) {
        Some(Verdict::Right) => next.run(request).await,
        Some(Verdict::Unreadable) => problem(StatusCode::SERVICE_UNAVAILABLE, "the token's file can't be read now; see the log"),
        None | Some(Verdict::Wrong) => {
            let answer = problem(
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong: send Authorization: Bearer TOKEN, as in --token-file",
            );
            ([(header::WWW_AUTHENTICATE, "Bearer")], answer).into_response()
        }
    }
}

fn problem(code: StatusCode, text: &str) -> Response {
    (code, Json(serde_json::json!({ "error": text }))).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    let view = app.state.view();
    match view.condition {
        Condition::Streaming => "ready\n".into_response(),
        condition => {
            let text = format!("{}: {}\n", condition.name(), view.problem.unwrap_or_default());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::encode(&app)).into_response()
}

async fn status(State(app): State<Arc<App>>) -> Response {
    Json(lists::status(&app)).into_response()
}

async fn consumers(State(app): State<Arc<App>>) -> Response {
    Json(lists::consumers(&app)).into_response()
}

async fn subscriptions(State(app): State<Arc<App>>) -> Response {
    Json(lists::subscriptions(&app)).into_response()
}

async fn forget(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let consumers = Arc::clone(&app.consumers);
    match tokio::task::spawn_blocking(move || consumers.remove(&name)).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error @ DropError::NotThere)) => problem(StatusCode::NOT_FOUND, &error.to_string()),
        Ok(Err(error @ DropError::Busy)) => problem(StatusCode::CONFLICT, &error.to_string()),
        Ok(Err(error @ DropError::Io(_))) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_panicked) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; its log says how"),
    }
}
