//! `GET /v1/segments/{name}`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use walbus::{Lsn, Segment, SegmentName, SegmentSize};

use super::app::{App, blocking, respond};
use super::body::Part;
use super::failure::Failure;
use super::holdings::end_of;
use super::range::{self, Wanted};
use crate::api::{COMPLETE_HEADER, FLUSHED_HEADER, TIMELINE_HEADER};

/// A segment as one response sees it: what is flushed later is none of its business.
#[derive(Debug)]
struct View {
    segment: Segment,
    size: SegmentSize,
    file: File,
    /// The end of the WAL in it. Behind it, zeros are sent whatever the file has.
    end: Lsn,
    etag: String,
}

/// Sends a segment, or a part of it, as it is now.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Path(name) = name.map_err(|error| Failure::bad("bad_name", error.body_text()))?;
    let name: SegmentName =
        name.parse().map_err(|error: walbus::segment::SegmentNameError| Failure::bad("bad_name", error.to_string()))?;
    let view = View::take(&app, &name).await?;
    if let Some(answer) = view.precondition(&headers)? {
        return Ok(answer);
    }
    let len = view.size.bytes();
    let wanted = match header(&headers, &RANGE) {
        // What was asked for is the rest of another content: all of this one is sent.
        Some(_) if header(&headers, &IF_RANGE).is_some_and(|etag| etag != view.etag) => Wanted::All,
        Some(range) => range::parse(range, len),
        None => Wanted::All,
    };
    match wanted {
        Wanted::All => Ok(view.respond(&app, StatusCode::OK, 0..len)),
        Wanted::Malformed => Err(Failure::bad(
            "bad_range",
            "the Range header is no range: write it as `bytes=0-1048575`, `bytes=4096-` or `bytes=-8192`",
        )),
        Wanted::Part(part) => Ok(view.respond(&app, StatusCode::PARTIAL_CONTENT, part)),
        Wanted::Unsatisfiable => Err(Failure::range(format!("{name} has {len} bytes, and none of those in the Range header"), len)),
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &axum::http::HeaderName) -> Option<&'h str> {
    // What is no text is no value that this server has given to anyone.
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

impl View {
    /// Finds the segment, and opens its file. Everything that the response says follows from the one `flushed` that is read here.
    async fn take(app: &App, name: &SegmentName) -> Result<Self, Failure> {
        let size = app.identity()?.segment_size;
        let segment = name.segment(size).ok_or_else(|| {
            Failure::bad("bad_name", format!("{name} is no name among segments of {size}: its last eight digits are too great"))
        })?;
        let positions = app.state.positions();
        let end = {
            let catalog = app.state.catalog();
            catalog.segments.get(&segment).map(|held| end_of(segment, held, positions.as_ref(), size))
        };
        let Some(end) = end.filter(|end| *end > segment.start(size)) else { return Err(not_held(app, name, size)) };
        let folder = Arc::clone(&app.folder);
        let opened = blocking(move || {
            let file = folder.open_segment(segment, size)?;
            let meta = file.metadata()?;
            Ok::<_, io::Error>((file, meta))
        });
        let (file, meta) = match opened.await? {
            Ok(opened) => opened,
            // Pruned since the catalog was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_held(app, name, size)),
            Err(error) => {
                tracing::error!(%name, %error, "can't open a segment that is held");
                return Err(Failure::internal("segment_unreadable", format!("{name} is held, but can't be opened: {error}")));
            }
        };
        let real = end.bytes_after(segment.start(size));
        if meta.len() < real {
            tracing::error!(%name, len = meta.len(), real, "a segment that is held is shorter than it was");
            return Err(Failure::internal(
                "segment_damaged",
                format!("{name} is damaged: {real} bytes are due, {} are there", meta.len()),
            ));
        }
        // A primary that recovered may write the tail again up to the same place: the time of the last write tells the two apart.
        let etag = format!("\"{name}-{real:x}-{:x}.{:x}\"", meta.mtime(), meta.mtime_nsec());
        Ok(Self { segment, size, file, end, etag })
    }

    /// The answer to a request for this content alone, or for any other, where that ends it.
    fn precondition(&self, headers: &HeaderMap) -> Result<Option<Response>, Failure> {
        let names = |list: &str| list.split(',').any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == self.etag);
        if header(headers, &IF_MATCH).is_some_and(|list| !names(list)) {
            return Err(Failure::precondition(format!("the segment has changed: its ETag is {}", self.etag)));
        }
        if header(headers, &IF_NONE_MATCH).is_some_and(names) {
            let mut answer = StatusCode::NOT_MODIFIED.into_response();
            self.describe(answer.headers_mut());
            return Ok(Some(answer));
        }
        Ok(None)
    }

    fn describe(&self, headers: &mut HeaderMap) {
        let complete = self.end == self.segment.end(self.size);
        headers.insert(COMPLETE_HEADER, HeaderValue::from_static(if complete { "true" } else { "false" }));
        headers.insert(TIMELINE_HEADER, HeaderValue::from(self.segment.timeline.get()));
        let texts = [(axum::http::HeaderName::from_static(FLUSHED_HEADER), self.end.to_string()), (ETAG, self.etag.clone())];
        headers.extend(texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(&text).ok()?))));
    }

    fn respond(self, app: &App, status: StatusCode, part: Range<u64>) -> Response {
        let mut headers = HeaderMap::new();
        self.describe(&mut headers);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let text = format!("bytes {}-{}/{}", part.start, part.end - 1, self.size.bytes());
            headers.extend(HeaderValue::from_str(&text).ok().map(|value| (CONTENT_RANGE, value)));
        }
        let real = self.end.bytes_after(self.segment.start(self.size));
        let from_file = part.start.min(real)..part.end.min(real);
        let zeros = (part.end - part.start) - (from_file.end - from_file.start);
        let parts =
            vec![Part::File { file: self.file, offset: from_file.start, len: from_file.end - from_file.start }, Part::Zeros(zeros)];
        let mut response = respond(app.wal_body(self.size, parts));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

fn not_held(app: &App, name: &SegmentName, size: SegmentSize) -> Failure {
    let catalog = app.state.catalog();
    let positions = app.state.positions();
    let mut held =
        catalog.segments.iter().filter(|(segment, held)| end_of(**segment, held, positions.as_ref(), size) > segment.start(size));
    let first = held.next().map(|(segment, _)| *segment);
    let last = held.next_back().map(|(segment, _)| *segment).or(first);
    let what = match (first, last) {
        (Some(first), Some(last)) => format!("held are {} to {} (/v1/segments lists them all)", first.name(size), last.name(size)),
        _ => "nothing is held yet".to_owned(),
    };
    Failure::not_held("segment_not_held", format!("{name} is not held; {what}"), first.map(|first| first.start(size)))
}
