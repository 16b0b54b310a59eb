//! A small S3 of our own: what it has acknowledged it still has after a SIGKILL, which servers that keep all in memory have not.
//!
//! ```text
//!   request ──▶ Call (pure: which operation, of which key) ──▶ Store (a folder) ──▶ answer (XML, headers)
//! ```
//!
//! It answers as Amazon's does for what an archive of WAL uses: `GetObject` with `Range`, `HeadObject`, `PutObject` with
//! `If-None-Match: *`, `ListObjectsV2`, `DeleteObject`, `DeleteObjects`, multipart uploads, and buckets. It checks that a request
//! is signed at all, and the hash of a body where the signature names one; never the signature itself. What it does not know, it
//! refuses by name.

mod answer;
mod call;
mod list;
mod multipart;
mod store;
mod tls;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::Response;
use axum::serve::ListenerExt as _;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::xml::{elements, unescape};
pub(super) use answer::error as error_document;
use answer::{Refusal, RefusalKind};
use call::{Call, Operation};
use store::{Draft, Store};
use tls::TlsListener;

/// The most bytes of a request that is read into memory: a list of keys to be deleted.
const REQUEST_MAX: usize = 4 << 20;

/// Serves the objects in `folder`, which is made where it is missing, until the process ends.
///
/// With `tls`, a certificate and its key as PEM, it speaks TLS alone. With `sync`, what was acknowledged survives the loss of power as well; without, the death of the process alone.
///
/// # Errors
/// Where the folder can't be used, or the listener fails.
pub async fn serve(listener: TcpListener, folder: &Path, tls: Option<(Vec<u8>, Vec<u8>)>, sync: bool) -> Result<()> {
    let store = Arc::new(Store::open(folder, sync)?);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let app = Router::new().fallback(handle).with_state(store);
    let served = match tls {
        Some((certificate, key)) => axum::serve(TlsListener::new(listener, &certificate, &key)?, app).await,
        None => {
            let listener = listener.tap_io(|stream| {
                // A delay of the kernel's would be measured as one of the store's.
                stream.set_nodelay(true).ok();
            });
            axum::serve(listener, app).await
        }
    };
    served.context("serve")
}

async fn handle(State(store): State<Arc<Store>>, request: Request<Body>) -> Response {
    let resource = request.uri().path().to_owned();
    let (head, mut body) = request.into_parts();
    match carry_out(&store, &head, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            // Who is still sending would find the connection closed, and not the answer.
            let mut unread = body.into_data_stream();
            while let Some(Ok(_)) = unread.next().await {}
            refusal.into_response(&resource, head.method == Method::HEAD)
        }
    }
}

/// What is wanted of the body is taken from it.
async fn carry_out(store: &Store, head: &Parts, body: &mut Body) -> Result<Response, Refusal> {
    let Call { bucket, operation } = Call::parse(&head.method, &head.uri, &head.headers)?;
    if !matches!(operation, Operation::CreateBucket | Operation::HeadBucket) {
        require_signature(&head.headers)?;
        if !store.has_bucket(&bucket) {
            return Err(RefusalKind::NoSuchBucket.into());
        }
    }
    match operation {
        Operation::AbortUpload { upload, .. } => multipart::abort(store, &upload),
        Operation::CompleteUpload { key, upload, if_absent } => {
            let parts = multipart::Parts::parse(&read_all(std::mem::take(body)).await?)?;
            multipart::complete(store, &bucket, &key, &upload, &parts, if_absent)
        }
        Operation::CreateBucket => {
            store.create_bucket(&bucket)?;
            Ok(answer::empty(StatusCode::OK))
        }
        Operation::CreateUpload { key } => multipart::create(store, &bucket, &key),
        Operation::Delete { key } => {
            store.delete(&bucket, &key)?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        Operation::DeleteMany => delete_many(store, &bucket, &read_all(std::mem::take(body)).await?),
        Operation::Get { key, range } => {
            let (file, object) = store.open_object(&bucket, &key)?.ok_or(RefusalKind::NoSuchKey)?;
            let range = range.map(|range| range.of(object.size)).transpose()?;
            let bytes = store::read(&file, range.unwrap_or((0, object.size)))?;
            Ok(answer::object(&object, range, Body::from(bytes)))
        }
        Operation::Head { key } => {
            let (_, object) = store.open_object(&bucket, &key)?.ok_or(RefusalKind::NoSuchKey)?;
            Ok(answer::object(&object, None, Body::empty()))
        }
        Operation::HeadBucket if store.has_bucket(&bucket) => Ok(answer::empty(StatusCode::OK)),
        Operation::HeadBucket => Err(RefusalKind::NoSuchBucket.into()),
        Operation::List(query) => Ok(answer::xml(&list::page(&store.objects(&bucket)?, &query).to_xml(&bucket, &query))),
        Operation::Put { key, if_absent } => {
            let draft = receive(store, &head.headers, std::mem::take(body)).await?;
            let object = store.commit(draft, &bucket, &key, if_absent)?.ok_or(RefusalKind::PreconditionFailed)?;
            Ok(answer::stored(&object))
        }
        Operation::UploadPart { upload, part } => {
            multipart::check(store, &upload)?;
            let draft = receive(store, &head.headers, std::mem::take(body)).await?;
            multipart::keep(store, draft, &upload, part)
        }
    }
}

/// Amazon's takes requests of nobody in particular for those objects alone that are public.
fn require_signature(headers: &HeaderMap) -> Result<(), Refusal> {
    let signed = headers.get(header::AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
    if signed { Ok(()) } else { Err(RefusalKind::AccessDenied.into()) }
}

/// Takes a whole body into a file of no name yet. A body that breaks off, or is not the one that was signed, leaves nothing.
async fn receive(store: &Store, headers: &HeaderMap, body: Body) -> Result<Draft, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let signed = text("x-amz-content-sha256");
    if signed.starts_with("STREAMING-") {
        return Err(RefusalKind::NotImplemented(format!("x-amz-content-sha256: {signed}")).into());
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(RefusalKind::MissingContentLength.into());
    }
    // Without either header, there is no body.
    let length: u64 = text("content-length").parse().unwrap_or(0);
    let mut draft = store.draft()?;
    let mut hash = Sha256::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        // Nobody is left to hear of it, in most cases.
        let piece = piece.map_err(|_broken| RefusalKind::IncompleteBody)?;
        hash.update(&piece);
        draft.write(&piece)?;
    }
    if draft.written() != length {
        return Err(RefusalKind::IncompleteBody.into());
    }
    let is_hash = signed.len() == 64;
    if is_hash && signed != answer::hex(&hash.finalize()) {
        return Err(RefusalKind::ContentSha256Mismatch.into());
    }
    Ok(draft)
}

async fn read_all(body: Body) -> Result<String, Refusal> {
    let bytes = axum::body::to_bytes(body, REQUEST_MAX).await.map_err(|_broken| RefusalKind::IncompleteBody)?;
    String::from_utf8(bytes.to_vec()).map_err(|_not_text| RefusalKind::MalformedXml.into())
}

fn delete_many(store: &Store, bucket: &str, request: &str) -> Result<Response, Refusal> {
    let mut deleted = String::new();
    for key in elements(request, "Key") {
        store.delete(bucket, &unescape(key).ok_or(RefusalKind::MalformedXml)?)?;
        deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
    }
    if deleted.is_empty() {
        return Err(RefusalKind::MalformedXml.into());
    }
    Ok(answer::xml(&format!("<DeleteResult xmlns=\"{}\">{deleted}</DeleteResult>", answer::NAMESPACE)))
}
