//! Objects that come in parts: `CreateMultipartUpload`, `UploadPart`, `CompleteMultipartUpload`, `AbortMultipartUpload`.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::answer::{self, NAMESPACE, Refusal, RefusalKind};
use super::store::{Draft, Store};
use crate::s3::xml::{elements, escape};

/// The numbers of the parts that an object is made of, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts(Vec<u32>);

impl Parts {
    /// Reads the body of a `CompleteMultipartUpload`.
    pub(super) fn parse(request: &str) -> Result<Self, Refusal> {
        let numbers: Option<Vec<u32>> =
            elements(request, "PartNumber").into_iter().map(|number| number.trim().parse().ok()).collect();
        match numbers {
            Some(numbers) if !numbers.is_empty() && numbers.is_sorted() => Ok(Self(numbers)),
            _ => Err(RefusalKind::MalformedXml.into()),
        }
    }
}

pub(super) fn create(store: &Store, bucket: &str, key: &str) -> Result<Response<Body>, Refusal> {
    let id = store.create_upload()?;
    Ok(answer::xml(&format!(
        "<InitiateMultipartUploadResult xmlns=\"{NAMESPACE}\"><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>",
        escape(bucket),
        escape(key)
    )))
}

/// Whether there is such an upload: asked before its part is read.
pub(super) fn check(store: &Store, upload: &str) -> Result<(), Refusal> {
    store.upload(upload).map(drop)
}

pub(super) fn keep(store: &Store, part: Draft, upload: &str, number: u32) -> Result<Response<Body>, Refusal> {
    let path = store.upload(upload)?.join(number.to_string());
    rustix::fs::rename(part.path(), &path).map_err(std::io::Error::from)?;
    let response = Response::builder().header(header::ETAG, format!("\"{number:032x}\"")).body(Body::empty());
    response.map_err(|error| RefusalKind::InternalError(error.to_string()).into())
}

pub(super) fn complete(
    store: &Store,
    bucket: &str,
    key: &str,
    upload: &str,
    parts: &Parts,
    if_absent: bool,
) -> Result<Response<Body>, Refusal> {
    let folder = store.upload(upload)?;
    let mut whole = store.draft()?;
    for number in &parts.0 {
        let part = match std::fs::read(folder.join(number.to_string())) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(RefusalKind::InvalidPart.into()),
            part => part?,
        };
        whole.write(&part)?;
    }
    let object = store.commit(whole, bucket, key, if_absent)?.ok_or(RefusalKind::PreconditionFailed)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(answer::xml(&format!(
        "<CompleteMultipartUploadResult xmlns=\"{NAMESPACE}\"><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag>\
         </CompleteMultipartUploadResult>",
        escape(bucket),
        escape(key),
        escape(&object.etag)
    )))
}

pub(super) fn abort(store: &Store, upload: &str) -> Result<Response<Body>, Refusal> {
    std::fs::remove_dir_all(store.upload(upload)?)?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order() {
        let part = |number: &str| format!("<Part><PartNumber>{number}</PartNumber><ETag>x</ETag></Part>");
        assert_eq!(Parts::parse(&(part("1") + &part("2"))).unwrap(), Parts(vec![1, 2]));
        for wrong in [String::new(), part("x"), part("2") + &part("1")] {
            assert_eq!(Parts::parse(&wrong), Err(RefusalKind::MalformedXml.into()));
        }
    }
}
