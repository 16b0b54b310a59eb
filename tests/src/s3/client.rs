//! What a test sees and does in a bucket, beside the program under test.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::xml::{elements, unescape};
use crate::tls::Authority;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What a request says of who made it. No server here checks more than that it is there.
const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=harness/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A client of one bucket of the server at one port.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    bucket: String,
    endpoint: String,
}

/// An answer, whatever it says.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header's text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The texts of all elements of this name in its body.
    #[must_use]
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.body);
        elements(&text, name).into_iter().filter_map(unescape).collect()
    }

    fn refused(&self) -> anyhow::Error {
        anyhow::anyhow!("answered {}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Client {
    /// A client of this bucket of the server at this port of 127.0.0.1.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn new(port: u16, bucket: &str) -> Result<Self> {
        // Set already where another test of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
        Ok(Self { http, bucket: bucket.to_owned(), endpoint: format!("http://127.0.0.1:{port}") })
    }

    /// The same by TLS, of a server that this authority vouches for.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn with_tls(port: u16, bucket: &str, authority: &Authority) -> Result<Self> {
        let client = Self::new(port, bucket)?;
        let trusted = reqwest::Certificate::from_pem(authority.certificate().as_bytes())?;
        let http = reqwest::Client::builder().tls_certs_only([trusted]).no_proxy().timeout(ANSWER).build()?;
        Ok(Self { http, endpoint: format!("https://127.0.0.1:{port}"), ..client })
    }

    /// Sends a request. `target` is what follows the bucket in the URL: empty, `?query`, or `/key?query`, encoded as it has to be.
    ///
    /// # Errors
    /// Where no answer comes.
    pub async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer> {
        let url = format!("{}/{}{target}", self.endpoint, self.bucket);
        let mut request = self.http.request(method, &url).header("authorization", AUTHORIZATION);
        // What is a form by default, moto takes for one.
        request = request.header("content-type", "application/octet-stream");
        for (name, value) in headers {
            request = request.header(HeaderName::try_from(*name)?, HeaderValue::from_str(value)?);
        }
        let response = request.body(body.into()).send().await.with_context(|| format!("ask for {url}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await.with_context(|| format!("read {url}"))? })
    }

    /// Makes the bucket, where there is none yet.
    ///
    /// # Errors
    /// Where it is not made.
    pub async fn create_bucket(&self) -> Result<()> {
        let answer = self.send(Method::PUT, "", &[], Bytes::new()).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.refused()) }
    }

    /// Puts an object, over one that is there.
    ///
    /// # Errors
    /// Where it is not acknowledged.
    pub async fn put(&self, key: &str, content: impl Into<Bytes>) -> Result<()> {
        let answer = self.send(Method::PUT, &path(key), &[], content).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.refused()) }
    }

    /// Puts an object where there is none, and says whether that was so.
    ///
    /// # Errors
    /// Where neither is answered.
    pub async fn put_if_absent(&self, key: &str, content: impl Into<Bytes>) -> Result<bool> {
        let answer = self.send(Method::PUT, &path(key), &[("if-none-match", "*")], content).await?;
        match StatusCode::from_u16(answer.status)? {
            StatusCode::OK => Ok(true),
            StatusCode::PRECONDITION_FAILED => Ok(false),
            _ => Err(answer.refused()),
        }
    }

    /// An object's bytes; `None` where there is none.
    ///
    /// # Errors
    /// Where neither is answered.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let answer = self.send(Method::GET, &path(key), &[], Bytes::new()).await?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 if answer.elements("Code") == ["NoSuchKey"] => Ok(None),
            _ => Err(answer.refused()),
        }
    }

    /// The bytes of an object that must be there.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn bytes(&self, key: &str) -> Result<Bytes> {
        self.get(key).await?.with_context(|| format!("there is no object {key}"))
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// Where that is not acknowledged.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let answer = self.send(Method::DELETE, &path(key), &[], Bytes::new()).await?;
        if answer.status == 204 { Ok(()) } else { Err(answer.refused()) }
    }

    /// All keys that begin so, in order.
    ///
    /// # Errors
    /// Where a page is not answered.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut from = String::new();
        loop {
            let target = format!("?list-type=2&prefix={}{from}", encode(prefix, false));
            let page = self.send(Method::GET, &target, &[], Bytes::new()).await?;
            ensure!(page.status == 200, page.refused());
            keys.extend(page.elements("Key"));
            match page.elements("NextContinuationToken").as_slice() {
                [] => return Ok(keys),
                [token] => from = format!("&continuation-token={}", encode(token, false)),
                more => bail!("a page has {} tokens", more.len()),
            }
        }
    }
}

/// A key as the path below the bucket.
fn path(key: &str) -> String {
    format!("/{}", encode(key, true))
}

/// Percent-encoding of all but what stands for itself, and of slashes unless they are to stay.
fn encode(text: &str, keeps_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || (byte == b'/' && keeps_slashes);
        if is_plain {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
