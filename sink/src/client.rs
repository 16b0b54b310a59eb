//! A sink's HTTPS, from the other side: what every command that talks to a sink is built on.

use std::error::Error as StdError;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use walbus::pem;
use walbus::{Lsn, SegmentName, Timeline};

use crate::api::{COMPLETE_HEADER, FLUSHED_HEADER, Problem, Segments, Status, TIMELINE_HEADER, Waited};
use crate::config::ClientArgs;

/// How long a sink may stay silent within an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How much longer than it was asked to wait a sink may take to say so.
const WAIT_GRACE: Duration = Duration::from_secs(10);

/// The most bytes of an answer that is read as a text: a history file, or what is wrong.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Why a sink gave no answer, by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The sink does not hold what was asked for. Asking again is of no use, unless it is yet to come.
    #[error("{}", .0.message)]
    NotHeld(Problem),
    /// The sink can't answer now, or can't be reached: try again.
    #[error("{0}")]
    Retry(String),
    /// A setting is wrong, and the text names it.
    #[error("{0}")]
    Settings(String),
    /// What answers is no sink of a version that this program knows, or found fault with what was asked.
    #[error("{0}")]
    Unusable(String),
}

/// A sink, by its URL.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
}

impl Client {
    /// A client of the sink at `url`, such as `https://10.0.0.7:8432`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Settings`] where the URL or a file that `args` name can't be used.
    pub fn new(url: &str, args: &ClientArgs) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") || reqwest::Url::parse(&base).is_err() {
            return Err(ClientError::Settings(format!(
                "{url:?} is no URL of a sink: write https://HOST:PORT, as in https://10.0.0.7:8432 (a sink speaks TLS always)"
            )));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(args)?)
            // A connection a download: faster for bulk than streams that share one connection's windows.
            .http1_only()
            .connect_timeout(args.connect_timeout)
            .default_headers(headers(args)?)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .user_agent(concat!("beyond-pg-sink/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Settings(format!("can't set up HTTPS: {}", chain(&error))))?;
        Ok(Self { http, base })
    }

    /// The sink's URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// What the stream is doing. Cancellation-safe, as all of these are: dropped, nothing has happened.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json("/v1/status", READ_TIMEOUT).await
    }

    /// All that is held.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Retry`] too where the sink has never seen its primary.
    pub async fn segments(&self) -> Result<Segments, ClientError> {
        self.json("/v1/segments", READ_TIMEOUT).await
    }

    /// The history file of a timeline, as Postgres wrote it.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::NotHeld`] where that file is not held, timeline 1 never having one.
    pub async fn history(&self, timeline: Timeline) -> Result<Bytes, ClientError> {
        let answer = self.get(&format!("/v1/history/{timeline}"), None, READ_TIMEOUT).await?;
        read_up_to(answer, TEXT_BYTES_MAX).await
    }

    /// Waits until `lsn` is flushed, for at most `timeout`.
    ///
    /// # Errors
    /// See [`ClientError`]. That the time is up is none: [`Waited::reached`] tells.
    pub async fn wait(&self, lsn: Lsn, timeout: Duration) -> Result<Waited, ClientError> {
        let path = format!("/v1/wait?lsn={lsn}&timeout={}", timeout.as_secs());
        self.json(&path, timeout + WAIT_GRACE).await
    }

    /// The bytes of a segment: all of it, or the range given. A tail comes padded with zeros to a whole segment.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::NotHeld`] where no such segment is held.
    pub async fn segment(&self, name: &SegmentName, range: Option<Range<u64>>) -> Result<SegmentBody, ClientError> {
        let range = match range {
            Some(range) if range.is_empty() => {
                return Err(ClientError::Unusable(format!("an empty range of {name} was asked for")));
            }
            Some(range) => Some(format!("bytes={}-{}", range.start, range.end - 1)),
            None => None,
        };
        let wanted = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let answer = self.get(&format!("/v1/segments/{name}"), range, READ_TIMEOUT).await?;
        if answer.status() != wanted {
            return Err(self.unusable(&format!("answered {} where {wanted} was due", answer.status())));
        }
        self.segment_body(answer)
    }

    fn segment_body(&self, answer: Response) -> Result<SegmentBody, ClientError> {
        fn header<T: std::str::FromStr>(answer: &Response, name: &str) -> Option<T> {
            answer.headers().get(name)?.to_str().ok()?.parse().ok()
        }
        let missing = |name: &str| self.unusable(&format!("sent a segment without a valid header {name}"));
        Ok(SegmentBody {
            timeline: header(&answer, TIMELINE_HEADER).and_then(Timeline::new).ok_or_else(|| missing(TIMELINE_HEADER))?,
            flushed: header(&answer, FLUSHED_HEADER).ok_or_else(|| missing(FLUSHED_HEADER))?,
            complete: header(&answer, COMPLETE_HEADER).ok_or_else(|| missing(COMPLETE_HEADER))?,
            etag: header(&answer, ETAG.as_str()).ok_or_else(|| missing(ETAG.as_str()))?,
            len: answer.content_length().ok_or_else(|| missing("content-length"))?,
            read: 0,
            answer,
        })
    }

    async fn json<T: DeserializeOwned>(&self, path: &str, timeout: Duration) -> Result<T, ClientError> {
        let answer = self.get(path, None, timeout).await?;
        let body = answer.bytes().await.map_err(|error| explain(&self.base, &error))?;
        serde_json::from_slice(&body)
            .map_err(|error| self.unusable(&format!("sent an answer to {path} that this version can't read: {error}")))
    }

    async fn get(&self, path: &str, range: Option<String>, timeout: Duration) -> Result<Response, ClientError> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let sent = tokio::time::timeout(timeout, request.send()).await.map_err(|_elapsed| {
            ClientError::Retry(format!("{} did not answer {path} within {} seconds", self.base, timeout.as_secs()))
        })?;
        let answer = sent.map_err(|error| explain(&self.base, &error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(answer).await) }
    }

    /// What an answer that is no success asks the caller to do.
    async fn refused(&self, answer: Response) -> ClientError {
        let status = answer.status();
        let problem = match read_up_to(answer, TEXT_BYTES_MAX).await {
            Ok(body) => serde_json::from_slice::<Problem>(&body).ok(),
            Err(_) => None,
        };
        let said = problem.as_ref().map_or_else(|| status.to_string(), |problem| format!("{status}: {}", problem.message));
        match (status, problem) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => ClientError::Settings(format!(
                "{} wants a valid token: give the file with it by --token-file (or BEYOND_PG_SINK_TOKEN_FILE); the sink has it at \
                 DATA-DIR/token. It answered {said}",
                self.base
            )),
            (StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE, Some(problem)) => {
                ClientError::NotHeld(problem)
            }
            (StatusCode::TOO_MANY_REQUESTS, _) => ClientError::Retry(format!("{} is busy: {said}", self.base)),
            _ if status.is_server_error() => ClientError::Retry(format!("{} can't answer now: {said}", self.base)),
            _ => self.unusable(&format!("answered {said}")),
        }
    }

    fn unusable(&self, what: &str) -> ClientError {
        ClientError::Unusable(format!("{} {what}; is it a beyond-pg-sink of this version?", self.base))
    }
}

/// The bytes of a segment, as they arrive.
#[derive(Debug)]
pub struct SegmentBody {
    /// The segment's timeline.
    pub timeline: Timeline,
    /// The end of the WAL in the segment: behind it are zeros.
    pub flushed: Lsn,
    /// Whether the segment holds all its bytes.
    pub complete: bool,
    /// Names this content: the same text, the same bytes.
    pub etag: String,
    /// How many bytes come in all.
    pub len: u64,
    read: u64,
    answer: Response,
}

impl SegmentBody {
    /// The next bytes, `None` behind the last of exactly [`SegmentBody::len`]. Cancellation-safe.
    ///
    /// # Errors
    /// [`ClientError::Retry`] where the connection broke before all of them had come, or nothing came for 30 seconds.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let base = self.answer.url().origin().ascii_serialization();
        let next = tokio::time::timeout(READ_TIMEOUT, self.answer.chunk())
            .await
            .map_err(|_elapsed| ClientError::Retry(format!("{base} sent nothing for {} seconds", READ_TIMEOUT.as_secs())))?
            .map_err(|error| explain(&base, &error))?;
        match next {
            Some(bytes) => {
                self.read += bytes.len() as u64;
                Ok(Some(bytes))
            }
            None if self.read == self.len => Ok(None),
            None => Err(ClientError::Retry(format!("{base} sent {} of {} bytes", self.read, self.len))),
        }
    }
}

async fn read_up_to(mut answer: Response, max: usize) -> Result<Bytes, ClientError> {
    let base = answer.url().origin().ascii_serialization();
    let mut body = Vec::new();
    while let Some(bytes) = tokio::time::timeout(READ_TIMEOUT, answer.chunk())
        .await
        .map_err(|_elapsed| ClientError::Retry(format!("{base} sent nothing for {} seconds", READ_TIMEOUT.as_secs())))?
        .map_err(|error| explain(&base, &error))?
    {
        if body.len() + bytes.len() > max {
            return Err(ClientError::Unusable(format!("{base} sent more than {max} bytes where a short text was due")));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body.into())
}

fn headers(args: &ClientArgs) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    let Some(path) = &args.token_file else { return Ok(headers) };
    let problem = |what: String| ClientError::Settings(format!("--token-file {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("can't be read: {error}")))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
        .map_err(|_invalid| problem("holds no token: expected one line of plain characters".to_owned()))?;
    if text.trim().is_empty() {
        return Err(problem("is empty: copy the sink's DATA-DIR/token into it".to_owned()));
    }
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(headers)
}

fn tls_config(args: &ClientArgs) -> Result<rustls::ClientConfig, ClientError> {
    let settings = |error: pem::PemError| ClientError::Settings(error.to_string());
    let roots = match &args.ca {
        Some(path) => pem::roots("--ca", path).map_err(settings)?,
        None => {
            let mut store = rustls::RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            store
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Settings(format!("can't set up TLS: {error}")))?
        .with_root_certificates(roots);
    let mut config = match (&args.client_cert, &args.client_key) {
        (Some(cert), Some(key)) => config
            .with_client_auth_cert(
                pem::certificates("--client-cert", cert).map_err(settings)?,
                pem::private_key("--client-key", key).map_err(settings)?,
            )
            .map_err(|error| ClientError::Settings(format!("--client-cert and --client-key can't be used together: {error}")))?,
        (None, None) => config.with_no_client_auth(),
        (Some(_), None) => return Err(ClientError::Settings("--client-cert needs --client-key".to_owned())),
        (None, Some(_)) => return Err(ClientError::Settings("--client-key needs --client-cert".to_owned())),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What a failed exchange asks the caller to do.
fn explain(base: &str, error: &reqwest::Error) -> ClientError {
    match rustls_cause(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => ClientError::Settings(format!(
            "the certificate of {base} is not to be trusted ({reason}): give the authority that signed it by --ca (or \
             BEYOND_PG_SINK_CA); a sink that made its own has it at DATA-DIR/tls/ca.pem. Is the host's name not in the \
             certificate, start the sink with --https-name"
        )),
        Some(rustls::Error::AlertReceived(alert)) => ClientError::Settings(format!(
            "{base} ended the TLS handshake ({alert:?}): a sink with --require-client-cert wants --client-cert and --client-key, of \
             its --client-ca"
        )),
        Some(error) => ClientError::Settings(format!("{base} can't be talked to over TLS: {error}")),
        None if error.is_timeout() => {
            ClientError::Retry(format!("{base} did not answer in time; is it reachable from here? (--connect-timeout)"))
        }
        None if error.is_connect() => ClientError::Retry(format!("can't connect to {base}: {}", chain(error))),
        None => ClientError::Retry(format!("{base} broke off: {}", chain(error))),
    }
}

/// The TLS library's error behind one of the HTTP library's, where there is one.
fn rustls_cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An I/O error shows what it wraps by this alone, not as its source.
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(found) = rustls_cause(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error with its causes, the last one being what a person can use.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
