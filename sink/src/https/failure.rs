//! Answers that are no success.

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use walbus::Lsn;

use crate::api::Problem;

/// How long a client that is told to come again should wait.
const RETRY_AFTER_SECONDS: u64 = 1;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    problem: Problem,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, code: &str, message: String) -> Self {
        Self(Box::new(Parts { status, problem: Problem { code: code.to_owned(), message, oldest: None }, header: None }))
    }

    /// 400: what was asked makes no sense.
    pub(super) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message.into())
    }

    /// 404: not here. `oldest` is the first position that is held.
    pub(super) fn not_held(code: &str, message: impl Into<String>, oldest: Option<Lsn>) -> Self {
        let mut failure = Self::new(StatusCode::NOT_FOUND, code, message.into());
        failure.0.problem.oldest = oldest.map(|lsn| lsn.to_string());
        failure
    }

    /// 401: no token, or a wrong one.
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message.into());
        failure.0.header = Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"beyond-pg-sink\"")));
        failure
    }

    /// 405: only reading is possible here.
    pub(super) fn method() -> Self {
        let message = "everything here is read by GET or HEAD".to_owned();
        let mut failure = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        failure.0.header = Some((ALLOW, HeaderValue::from_static("GET, HEAD")));
        failure
    }

    /// 412: the content is another than the one that `If-Match` names.
    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "changed", message.into())
    }

    /// 414: a URI that is too long.
    pub(super) fn uri_too_long(max: usize) -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "uri_too_long", format!("the URI is longer than {max} bytes"))
    }

    /// 416: a range of a body of `len` bytes that it does not have.
    pub(super) fn range(message: impl Into<String>, len: u64) -> Self {
        let mut failure = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message.into());
        failure.0.header = HeaderValue::from_str(&format!("bytes */{len}")).ok().map(|value| (CONTENT_RANGE, value));
        failure
    }

    /// 416: WAL that is not flushed yet.
    pub(super) fn beyond_flushed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "beyond_flushed", message.into())
    }

    /// 500: the sink's own fault.
    pub(super) fn internal(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message.into())
    }

    /// 503: not now, but later.
    pub(super) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message.into());
        failure.0.header = Some((RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS)));
        failure
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Parts { status, problem, header } = *self.0;
        let mut response = (status, Json(problem)).into_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
