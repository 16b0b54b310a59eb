//! What is asked for: a request's head, taken apart. Nothing is read or written here.

use axum::http::{HeaderMap, Method, Uri, header};

use super::answer::{Refusal, RefusalKind};
use super::list::ListQuery;

/// The longest key: its name on disk has it in it, and may be three times as long.
const KEY_MAX: usize = 1024;

/// Headers that change what an operation means, and that this server does not know.
const UNKNOWN_HEADERS: [&str; 6] = [
    "if-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-copy-source",
    "x-amz-object-lock-mode",
    "x-amz-server-side-encryption-customer-algorithm",
];

/// One operation on one bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) bucket: String,
    pub(super) operation: Operation,
}

/// What is to be done; the names are Amazon's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    AbortUpload { upload: String },
    CompleteUpload { key: String, upload: String, if_absent: bool },
    CreateBucket,
    CreateUpload { key: String },
    Delete { key: String },
    DeleteMany,
    Get { key: String, range: Option<ByteRange> },
    Head { key: String },
    HeadBucket,
    List(ListQuery),
    Put { key: String, if_absent: bool },
    UploadPart { upload: String, part: u32 },
}

impl Call {
    pub(super) fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        let path = percent_decode(uri.path().strip_prefix('/').unwrap_or_default());
        let path = path.ok_or_else(|| RefusalKind::NotImplemented(format!("the path {}", uri.path())))?;
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        if bucket.len() < 3
            || bucket.len() > 63
            || !bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err(RefusalKind::InvalidBucketName.into());
        }
        if key.len() > KEY_MAX {
            return Err(RefusalKind::KeyTooLong.into());
        }
        if let Some(name) = UNKNOWN_HEADERS.iter().find(|name| headers.contains_key(**name)) {
            return Err(RefusalKind::NotImplemented(format!("the header {name}")).into());
        }
        let query = Query::parse(uri.query().unwrap_or_default());
        let operation = if key.is_empty() { of_bucket(method, query)? } else { of_object(method, key, headers, query)? };
        Ok(Self { bucket: bucket.to_owned(), operation })
    }
}

fn of_bucket(method: &Method, mut query: Query) -> Result<Operation, Refusal> {
    let operation = match *method {
        Method::PUT => Operation::CreateBucket,
        Method::HEAD => Operation::HeadBucket,
        Method::POST if query.take("delete").is_some() => Operation::DeleteMany,
        Method::GET if query.take("list-type").as_deref() == Some("2") => Operation::List(ListQuery {
            prefix: query.take("prefix").unwrap_or_default(),
            delimiter: query.take("delimiter").filter(|delimiter| !delimiter.is_empty()),
            start_after: query.take("start-after").filter(|key| !key.is_empty()),
            token: query.take("continuation-token"),
            max: query.take("max-keys").map_or(Some(1000), |text| text.parse().ok()).map_or(1000, |max: usize| max.min(1000)),
            is_encoded: query.take("encoding-type").is_some(),
        }),
        Method::GET => return Err(RefusalKind::NotImplemented("a GET of a bucket without list-type=2".to_owned()).into()),
        _ => return Err(RefusalKind::MethodNotAllowed.into()),
    };
    query.end()?;
    Ok(operation)
}

fn of_object(method: &Method, key: &str, headers: &HeaderMap, mut query: Query) -> Result<Operation, Refusal> {
    let key = key.to_owned();
    let upload = query.take("uploadId");
    let operation = match (method.clone(), upload) {
        (Method::DELETE, None) => Operation::Delete { key },
        (Method::DELETE, Some(upload)) => Operation::AbortUpload { upload },
        (Method::GET, None) => Operation::Get { key, range: ByteRange::parse(headers)? },
        (Method::HEAD, None) => Operation::Head { key },
        (Method::POST, None) if query.take("uploads").is_some() => Operation::CreateUpload { key },
        (Method::POST, Some(upload)) => Operation::CompleteUpload { key, upload, if_absent: if_absent(headers)? },
        (Method::PUT, None) => Operation::Put { key, if_absent: if_absent(headers)? },
        (Method::PUT, Some(upload)) => {
            let part = query.take("partNumber").and_then(|text| text.parse().ok()).ok_or(RefusalKind::InvalidPart)?;
            Operation::UploadPart { upload, part }
        }
        _ => return Err(RefusalKind::MethodNotAllowed.into()),
    };
    query.end()?;
    Ok(operation)
}

/// Whether an object may be put only where there is none.
fn if_absent(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(header::IF_NONE_MATCH).map(|value| value.as_bytes()) {
        None => Ok(false),
        Some(b"*") => Ok(true),
        Some(_) => Err(RefusalKind::NotImplemented("If-None-Match with anything but *".to_owned()).into()),
    }
}

/// A `Range` header, of one range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// From this byte on.
    From(u64),
    /// From one byte to another, both in it.
    FromTo(u64, u64),
    /// The last bytes.
    Last(u64),
}

impl ByteRange {
    fn parse(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        let unknown = || RefusalKind::NotImplemented(format!("Range: {text}"));
        let (from, to) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(unknown)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_wrong| unknown());
        Ok(Some(match (from, to) {
            ("", last) => Self::Last(number(last)?),
            (from, "") => Self::From(number(from)?),
            (from, to) => Self::FromTo(number(from)?, number(to)?),
        }))
    }

    /// The first byte and the number of bytes in an object of this size; more than there are are no fault, none at all are one.
    pub(super) fn of(self, size: u64) -> Result<(u64, u64), Refusal> {
        let (from, end) = match self {
            Self::From(from) => (from, size),
            Self::FromTo(from, to) => (from, to.saturating_add(1).min(size)),
            Self::Last(last) => (size.saturating_sub(last), size),
        };
        if from >= end { Err(RefusalKind::InvalidRange(size).into()) } else { Ok((from, end - from)) }
    }
}

/// Parameters that are taken out one by one: what is left is unknown.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(of, _)| of == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn end(mut self) -> Result<(), Refusal> {
        // What SDKs add for those who read logs, and what changes nothing here.
        drop((self.take("x-id"), self.take("fetch-owner")));
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(RefusalKind::NotImplemented(format!("the parameter {name}")).into()),
        }
    }
}

/// A path as it was before it was made part of a URL; `None` where it is no text.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            plain.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            plain.push(byte);
        }
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str, headers: &[(header::HeaderName, &str)]) -> Result<Operation, Refusal> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Call::parse(&method, &uri.parse().unwrap(), &headers).map(|call| call.operation)
    }

    #[test]
    fn keys_are_decoded() {
        let Ok(Operation::Head { key }) = parse(Method::HEAD, "/bucket/a/b%2Bc%20d+e%C3%A9", &[]) else { panic!("no HEAD") };
        assert_eq!(key, "a/b+c d+eé");
        assert_eq!(percent_decode("%2"), None);
        assert_eq!(percent_decode("%ff"), None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused =
            |method, uri, headers| matches!(parse(method, uri, headers), Err(error) if error != RefusalKind::NoSuchKey.into());
        assert!(refused(Method::GET, "/bucket", &[]));
        assert!(refused(Method::GET, "/bucket/key?versionId=1", &[]));
        assert!(refused(Method::PUT, "/bucket/key", &[(header::IF_MATCH, "\"x\"")]));
        assert!(refused(Method::PUT, "/bucket/key", &[(header::IF_NONE_MATCH, "\"x\"")]));
        assert!(refused(Method::GET, "/bucket/key", &[(header::RANGE, "bytes=0-1,3-4")]));
        assert!(refused(Method::PUT, "/b", &[]));
    }

    #[test]
    fn ranges_are_cut_to_the_object() {
        assert_eq!(ByteRange::FromTo(1, 2).of(5).unwrap(), (1, 2));
        assert_eq!(ByteRange::FromTo(3, u64::MAX).of(5).unwrap(), (3, 2));
        assert_eq!(ByteRange::From(4).of(5).unwrap(), (4, 1));
        assert_eq!(ByteRange::Last(9).of(5).unwrap(), (0, 5));
        for wrong in [ByteRange::From(5), ByteRange::Last(0), ByteRange::FromTo(2, 1)] {
            assert_eq!(wrong.of(5), Err(RefusalKind::InvalidRange(5).into()));
        }
    }
}
