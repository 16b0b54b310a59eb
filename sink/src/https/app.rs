//! What all requests share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walbus::proto::history::History;
use walbus::service::token::TokenFile;
use walbus::{SegmentSize, Timeline};

use super::body::{Bodies, Part, WalBody};
use super::failure::Failure;
use super::folder::Folder;
use super::holdings::Lineage;
use crate::metrics::Metrics;
use crate::state::{Identity, StreamState};

/// What all requests share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) state: Arc<StreamState>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) folder: Arc<Folder>,
    pub(super) bodies: Arc<Bodies>,
    pub(super) token: TokenFile,
    pub(super) metrics_public: bool,
    pub(super) slot: String,
    pub(super) requests: Arc<Semaphore>,
    pub(super) waits: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    /// Where each timeline's ancestors ended, read once: a history file never changes.
    pub(super) lineages: Mutex<HashMap<Timeline, Arc<Lineage>>>,
}

impl App {
    /// Whose WAL this is.
    ///
    /// # Errors
    /// As long as that is not known.
    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        self.state.catalog().identity.ok_or_else(|| {
            Failure::unavailable(
                "nothing_held",
                "this sink has not yet connected to its primary, and holds nothing; /v1/status says why",
            )
        })
    }

    /// A timeline with its ancestors, as far as history files are held.
    ///
    /// # Errors
    /// Where a history file is held that can't be read.
    pub(super) async fn lineage(&self, timeline: Timeline) -> Result<Arc<Lineage>, Failure> {
        let known = self.lineages.lock().unwrap_or_else(PoisonError::into_inner).get(&timeline).map(Arc::clone);
        if let Some(lineage) = known {
            return Ok(lineage);
        }
        let held = self.state.catalog().histories.contains(&timeline);
        if !held {
            // Not to be remembered: the file may come.
            return Ok(Arc::new(Lineage::new(&History::root(timeline))));
        }
        let folder = Arc::clone(&self.folder);
        let content =
            blocking(move || folder.history(timeline)).await?.map_err(|error| history_damaged(timeline, &error.to_string()))?;
        let history = History::parse(timeline, &content).map_err(|error| history_damaged(timeline, &error.to_string()))?;
        let lineage = Arc::new(Lineage::new(&history));
        self.lineages.lock().unwrap_or_else(PoisonError::into_inner).insert(timeline, Arc::clone(&lineage));
        Ok(lineage)
    }

    /// A body of these parts.
    pub(super) fn wal_body(&self, size: SegmentSize, parts: Vec<Part>) -> WalBody {
        WalBody::new(Arc::clone(&self.folder), size, &self.bodies, parts)
    }
}

/// A response with that body.
pub(super) fn respond(body: WalBody) -> Response {
    Response::new(Body::new(body))
}

/// Runs what blocks on a thread where it may.
///
/// # Errors
/// Where it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Failure::internal("internal", "the sink failed; its log says how"))
}

fn history_damaged(timeline: Timeline, why: &str) -> Failure {
    tracing::error!(%timeline, why, "a history file that is held can't be used");
    Failure::internal("history_damaged", format!("the history file of timeline {timeline} can't be used: {why}"))
}
