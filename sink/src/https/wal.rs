//! `GET /v1/wal?from=LSN&to=LSN`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use walbus::Lsn;

use super::app::{App, respond};
use super::body::Part;
use super::failure::Failure;
use super::holdings::{NotHeld, oldest, pieces, timeline_end};
use super::query::Query;
use crate::api::{FLUSHED_HEADER, TIMELINE_HEADER};

/// Sends the WAL of `[from, to)` as one stream of bytes, across segments and along the timeline's history.
pub(super) async fn get(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["from", "to", "timeline"])?;
    let from: Lsn = query.required("from")?;
    let size = app.identity()?.segment_size;
    let positions = app.state.positions();
    let asked = query.timeline()?;
    let Some(timeline) = asked.or_else(|| positions.map(|now| now.timeline)) else {
        return Err(Failure::unavailable("nothing_held", "this sink holds no WAL yet; /v1/status says why"));
    };
    let lineage = app.lineage(timeline).await?;
    // `positions` was read before the catalog: what the catalog has gained since is above `flushed`, and so out of reach.
    let (found, end, first) = {
        let catalog = app.state.catalog();
        let end = match positions {
            Some(now) if now.timeline == timeline => Some(now.flushed),
            _ => timeline_end(&catalog, positions.as_ref(), size, timeline),
        };
        let Some(end) = end else {
            return Err(Failure::not_held("timeline_not_held", format!("no WAL of timeline {timeline} is held"), None));
        };
        let to = query.optional("to")?.unwrap_or(end);
        check(from, to, end, query.has("to"))?;
        let found = pieces(&catalog, positions.as_ref(), size, &lineage, from..to).map(|found| (found, to));
        (found, end, oldest(&catalog, positions.as_ref(), size, &lineage, end))
    };
    let (found, to) = found.map_err(|NotHeld(at)| {
        let held = first.map_or_else(|| "none is".to_owned(), |first| format!("held without a gap is {first} to {end}"));
        Failure::not_held("wal_not_held", format!("WAL at {at} of timeline {timeline} is not held; {held}"), first)
    })?;
    let body = app.wal_body(size, found.into_iter().map(Part::Segment).collect());
    let len = body.len();
    let mut response = respond(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(TIMELINE_HEADER, HeaderValue::from(timeline.get()));
    if let Ok(value) = HeaderValue::from_str(&to.to_string()) {
        headers.insert(FLUSHED_HEADER, value);
    }
    Ok(response)
}

fn check(from: Lsn, to: Lsn, end: Lsn, to_given: bool) -> Result<(), Failure> {
    let beyond = if from > end { Some(from) } else { (to > end).then_some(to) };
    if let Some(beyond) = beyond {
        let message = format!("{beyond} is not flushed: WAL is held up to {end}. Wait for it by /v1/wait?lsn={beyond}");
        return Err(Failure::beyond_flushed(message));
    }
    if to < from && to_given {
        return Err(Failure::bad("bad_lsn", format!("`to` ({to}) lies before `from` ({from})")));
    }
    Ok(())
}
