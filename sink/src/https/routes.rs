//! The routes, and what every request passes on its way to one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, RawQuery, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::timeout;
use walbus::{Lsn, Segment, SegmentSize, Timeline};

use super::app::{App, blocking};
use super::connection::Peer;
use super::failure::Failure;
use super::holdings::{end_of, gaps, oldest};
use super::limits::{URI_BYTES_MAX, WAIT_DEFAULT, WAIT_MAX};
use super::query::Query;
use super::{auth, segment, wal};
use crate::api::{self, SegmentEntry, Segments, Status, Waited};
use crate::metrics::{self, RequestLabels};
use crate::state::{Held, Positions};

/// What is answered without a token, and however much there is to do.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];

/// The routes of a sink.
pub(super) fn router(app: Arc<App>) -> Router {
    let open = Router::new().route(HEALTH[0], get(healthz)).route(HEALTH[1], get(readyz));
    let closed = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/segments", get(segments))
        .route("/v1/segments/{name}", get(segment::get))
        .route("/v1/history/{timeline}", get(history))
        .route("/v1/wal", get(wal::get))
        .route("/v1/wait", get(wait));
    let scraped = Router::new().route("/metrics", get(scrape));
    let (open, closed) = if app.metrics_public { (open.merge(scraped), closed) } else { (open, closed.merge(scraped)) };
    // What is not there needs the token as well: without it, nothing is to be learned of what is.
    let closed = closed
        .fallback(|| async { Failure::not_held("no_such_route", "there is no such route: see /v1/status, /v1/segments, /v1/segments/{name}, /v1/history/{timeline}, /v1/wal, /v1/wait, /metrics, /healthz, /readyz", None) })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate));
    open.merge(closed)
        .method_not_allowed_fallback(|| async { Failure::method() })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), admit))
        .with_state(app)
}

/// Lets a request in that is short enough, and while there are not too many; counts it.
async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = admitted(&app, request, next).await.unwrap_or_else(IntoResponse::into_response);
    app.metrics.https_requests.get_or_create(&RequestLabels { route, code: response.status().as_u16() }).inc();
    response
}

async fn admitted(app: &App, request: Request, next: Next) -> Result<Response, Failure> {
    if request.uri().to_string().len() > URI_BYTES_MAX {
        return Err(Failure::uri_too_long(URI_BYTES_MAX));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(Failure::method());
    }
    // A sink that has much to do is healthy: whoever watches over it must not think otherwise, and end it.
    if HEALTH.contains(&request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let Ok(permit) = Arc::clone(&app.requests).try_acquire_owned() else {
        return Err(Failure::unavailable("busy", "too many requests at once (--https-requests): try again"));
    };
    let mut response = next.run(request).await;
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // The request is over when its body is.
    Ok(response.map(|body| Body::new(super::body::Permitted::new(body, permit, app.metrics.https_sent_bytes.clone()))))
}

/// Lets a request pass that carries the token, or comes over a connection with a client certificate.
async fn authenticate(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Arc<Peer>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    if !peer.certified {
        auth::check(&app.token, request.headers())?;
    }
    Ok(next.run(request).await)
}

async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 where WAL is received and acknowledged. Asked without a token, so it says no more than a word.
async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Failure> {
    match app.state.condition().state {
        api::State::Streaming => Ok("ready\n"),
        state => Err(Failure::unavailable("not_streaming", format!("the stream is not received: {state:?}; /v1/status says why"))),
    }
}

async fn scrape(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let metrics = Arc::clone(&app.metrics);
    let text = blocking(move || metrics.encode()).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status(State(app): State<Arc<App>>) -> Result<Json<Status>, Failure> {
    let condition = app.state.condition();
    let positions = app.state.positions();
    let lineage = match positions {
        Some(now) => Some(app.lineage(now.timeline).await?),
        None => None,
    };
    let catalog = app.state.catalog();
    let size = catalog.identity.map(|identity| identity.segment_size);
    let first = positions
        .zip(size)
        .zip(lineage)
        .and_then(|((now, size), lineage)| oldest(&catalog, Some(&now), size, &lineage, now.flushed));
    let text = |lsn: fn(&Positions) -> Lsn| positions.as_ref().map(|now| lsn(now).to_string());
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alarm: !matches!(condition.state, api::State::Connecting | api::State::Streaming),
        state: condition.state,
        problem: condition.problem,
        system_id: catalog.identity.map(|identity| identity.system_id.to_string()),
        segment_size: size.map(SegmentSize::bytes),
        timeline: positions.map(|now| now.timeline.get()),
        slot: app.slot.clone(),
        received: text(|now| now.received),
        written: text(|now| now.written),
        flushed: text(|now| now.flushed),
        complete: text(|now| now.complete),
        server_end: text(|now| now.server_end),
        lag_bytes: positions.map_or(0, |now| now.server_end.bytes_after(now.flushed)),
        last_commit_time: catalog
            .segments
            .values()
            .rev()
            .find_map(|held| held.facts.commit_time_max)
            .map(|time| time.to_unix_micros()),
        oldest: first.map(|lsn| lsn.to_string()),
        held_bytes: size.map_or(0, SegmentSize::bytes).saturating_mul(catalog.segments.len() as u64),
    }))
}

async fn segments(State(app): State<Arc<App>>) -> Result<Json<Segments>, Failure> {
    let identity = app.identity()?;
    let size = identity.segment_size;
    // In this order: a catalog that is newer than the positions shows nothing above `flushed`.
    let positions = app.state.positions();
    let catalog = app.state.catalog().clone();
    let listed = blocking(move || {
        let entries =
            catalog.segments.iter().filter_map(|(segment, held)| entry(*segment, held, positions.as_ref(), size)).collect();
        Segments {
            system_id: identity.system_id.to_string(),
            segment_size: size.bytes(),
            segments: entries,
            gaps: gaps(&catalog, positions.as_ref(), size),
            histories: catalog.histories.iter().map(|timeline| timeline.get()).collect(),
        }
    });
    Ok(Json(listed.await?))
}

/// One segment as it is listed, `None` where it holds nothing yet.
fn entry(segment: Segment, held: &Held, positions: Option<&Positions>, size: SegmentSize) -> Option<SegmentEntry> {
    let end = end_of(segment, held, positions, size);
    let facts = &held.facts;
    (end > segment.start(size)).then(|| SegmentEntry {
        name: segment.name(size).to_string(),
        timeline: segment.timeline.get(),
        start: segment.start(size).to_string(),
        end: end.to_string(),
        complete: end == segment.end(size),
        commit_time_min: facts.commit_time_min.map(|time| time.to_unix_micros()),
        commit_time_max: facts.commit_time_max.map(|time| time.to_unix_micros()),
        restore_points: facts
            .restore_points
            .iter()
            .map(|point| api::RestorePoint {
                name: point.name.clone(),
                lsn: point.end.to_string(),
                time: point.time.to_unix_micros(),
            })
            .collect(),
    })
}

async fn history(State(app): State<Arc<App>>, timeline: Result<Path<String>, PathRejection>) -> Result<Response, Failure> {
    let Path(timeline) = timeline.map_err(|error| Failure::bad("bad_timeline", error.body_text()))?;
    // Zeros in front would be a part of a file's name, and that is hexadecimal.
    let plain = timeline.bytes().all(|b| b.is_ascii_digit()) && !timeline.starts_with('0');
    let number = plain.then(|| timeline.parse().ok()).flatten();
    let Some(timeline) = number.and_then(Timeline::new) else {
        return Err(Failure::bad(
            "bad_timeline",
            format!("{timeline:?} is no timeline: expected a decimal number, at least 1, without zeros in front"),
        ));
    };
    let held = app.state.catalog().histories.contains(&timeline);
    if !held {
        let histories: Vec<_> = app.state.catalog().histories.iter().map(ToString::to_string).collect();
        let what = if histories.is_empty() { "none are".to_owned() } else { format!("held are those of {}", histories.join(", ")) };
        return Err(Failure::not_held("history_not_held", format!("the history of timeline {timeline} is not held; {what}"), None));
    }
    let folder = Arc::clone(&app.folder);
    let content = blocking(move || folder.history(timeline)).await?.map_err(|error| {
        tracing::error!(%timeline, %error, "can't read a history file that is held");
        Failure::internal("history_unreadable", format!("the history of timeline {timeline} is held, but can't be read: {error}"))
    })?;
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], content).into_response())
}

/// Counts a wait for as long as it is there.
struct Waiting(Gauge);

impl Waiting {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers when the LSN is flushed, the time is up, or the server stops.
async fn wait(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Json<Waited>, Failure> {
    let query = Query::parse(query.as_deref(), &["lsn", "timeline", "timeout"])?;
    let lsn: Lsn = query.required("lsn")?;
    let timeline = query.timeline()?;
    let limit = query.duration("timeout")?.unwrap_or(WAIT_DEFAULT);
    if limit > WAIT_MAX {
        return Err(Failure::bad("bad_timeout", format!("timeout: at most {} seconds", WAIT_MAX.as_secs())));
    }
    let Ok(_permit) = app.waits.try_acquire() else {
        return Err(Failure::unavailable("busy", "too many are waiting already (half of --https-requests): try again"));
    };
    let mut positions = app.state.watch_positions();
    let _waiting = Waiting::new(app.metrics.https_waits.clone());
    // On a later timeline than the one asked for there is nothing to wait for: what it has, it has.
    let over = |now: &Option<Positions>| {
        now.is_some_and(|now| match timeline {
            Some(timeline) => now.timeline > timeline || (now.timeline == timeline && now.flushed >= lsn),
            None => now.flushed >= lsn,
        })
    };
    tokio::select! {
        // That the time is up, or the stream gone, is no error: the answer says how far it is.
        _ = timeout(limit, positions.wait_for(over)) => {}
        () = app.stop.cancelled() => {}
    }
    let Some(now) = app.state.positions() else {
        return Err(Failure::unavailable("nothing_held", "this sink holds no WAL yet; /v1/status says why"));
    };
    let reached = now.flushed >= lsn && timeline.is_none_or(|timeline| timeline == now.timeline);
    Ok(Json(Waited { reached, timeline: now.timeline.get(), flushed: now.flushed.to_string() }))
}
