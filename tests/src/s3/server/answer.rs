//! What is answered: headers, XML, refusals.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::store::Object;
use crate::s3::xml::escape;

/// The namespace of all XML of S3.
pub(super) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Why a request is not carried out; the names are Amazon's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RefusalKind {
    AccessDenied,
    ContentSha256Mismatch,
    IncompleteBody,
    InternalError(String),
    InvalidBucketName,
    InvalidPart,
    InvalidRange(u64),
    KeyTooLong,
    MalformedXml,
    MethodNotAllowed,
    MissingContentLength,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    NotImplemented(String),
    PreconditionFailed,
}

/// A boxed [`RefusalKind`]: small beside what is answered when all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(Box<RefusalKind>);

impl From<RefusalKind> for Refusal {
    fn from(kind: RefusalKind) -> Self {
        Self(Box::new(kind))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        RefusalKind::InternalError(error.to_string()).into()
    }
}

impl Refusal {
    /// Status, code and message, as Amazon's has them.
    fn parts(&self) -> (StatusCode, &'static str, String) {
        let (status, code, message) = match &*self.0 {
            RefusalKind::AccessDenied => (StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"),
            RefusalKind::ContentSha256Mismatch => {
                (StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", "The body is not the one that was signed")
            }
            RefusalKind::IncompleteBody => (StatusCode::BAD_REQUEST, "IncompleteBody", "The body broke off"),
            RefusalKind::InternalError(what) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", what.as_str()),
            RefusalKind::InvalidBucketName => (StatusCode::BAD_REQUEST, "InvalidBucketName", "The bucket's name is not valid"),
            RefusalKind::InvalidPart => (StatusCode::BAD_REQUEST, "InvalidPart", "A part was not found"),
            RefusalKind::InvalidRange(_) => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", "The requested range is not satisfiable")
            }
            RefusalKind::KeyTooLong => (StatusCode::BAD_REQUEST, "KeyTooLongError", "The key is too long"),
            RefusalKind::MalformedXml => (StatusCode::BAD_REQUEST, "MalformedXML", "The XML is not what is expected here"),
            RefusalKind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "Not a method of this resource"),
            RefusalKind::MissingContentLength => {
                (StatusCode::LENGTH_REQUIRED, "MissingContentLength", "A Content-Length is required")
            }
            RefusalKind::NoSuchBucket => (StatusCode::NOT_FOUND, "NoSuchBucket", "The bucket does not exist"),
            RefusalKind::NoSuchKey => (StatusCode::NOT_FOUND, "NoSuchKey", "The key does not exist"),
            RefusalKind::NoSuchUpload => (StatusCode::NOT_FOUND, "NoSuchUpload", "The upload does not exist"),
            RefusalKind::NotImplemented(what) => (StatusCode::NOT_IMPLEMENTED, "NotImplemented", what.as_str()),
            RefusalKind::PreconditionFailed => {
                (StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "A precondition of the request did not hold")
            }
        };
        (status, code, message.to_owned())
    }

    /// The answer. One to HEAD has no body, and then nothing but its status says why.
    pub(super) fn into_response(self, resource: &str, is_head: bool) -> Response<Body> {
        let (status, code, message) = self.parts();
        let body = if is_head { String::new() } else { error(code, &message, resource) };
        let mut response = Response::builder().status(status);
        if !is_head {
            response = response.header(header::CONTENT_TYPE, "application/xml");
        }
        if let RefusalKind::InvalidRange(size) = *self.0 {
            response = response.header(header::CONTENT_RANGE, format!("bytes */{size}"));
        }
        finish(response, Body::from(body))
    }
}

/// The XML of an error.
pub(crate) fn error(code: &str, message: &str, resource: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message><Resource>{}</Resource>\
         <RequestId>0</RequestId></Error>",
        escape(code),
        escape(message),
        escape(resource)
    )
}

/// No body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    finish(Response::builder().status(status), Body::empty())
}

/// A document.
pub(super) fn xml(root: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{root}");
    finish(Response::builder().header(header::CONTENT_TYPE, "application/xml"), Body::from(text))
}

/// An object that was put.
pub(super) fn stored(object: &Object) -> Response<Body> {
    finish(Response::builder().header(header::ETAG, &object.etag), Body::empty())
}

/// An object, or the part of it in `range`, its first byte and its length. For HEAD the body is empty, and the length the object's.
pub(super) fn object(object: &Object, range: Option<(u64, u64)>, body: Body) -> Response<Body> {
    let length = range.map_or(object.size, |(_, length)| length);
    let mut response = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .header(header::ETAG, &object.etag)
        .header(header::LAST_MODIFIED, object.http_date());
    if let Some((first, length)) = range {
        response = response.status(StatusCode::PARTIAL_CONTENT);
        response = response.header(header::CONTENT_RANGE, format!("bytes {first}-{}/{}", first + length - 1, object.size));
    }
    finish(response, body)
}

fn finish(response: axum::http::response::Builder, body: Body) -> Response<Body> {
    // Each value is made here, of characters that a header takes.
    response.header(header::SERVER, "s3-server").body(body).unwrap_or_else(|error| Response::new(Body::from(error.to_string())))
}

/// Bytes in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
