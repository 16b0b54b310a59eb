//! A metadata service as Firecracker has it: one JSON document, by paths, with a session's token (V2) or without (V1).
//!
//! Read off its public documentation: without `Accept: application/json` a path answers in the text format of the cloud's instance
//! metadata, which knows strings and objects alone; a document that was not set yet is not found.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where a session's token is made.
const TOKEN_PATH: &str = "/latest/api/token";

/// How long a token may last, in seconds.
const TTL_MAX_S: u64 = 21_600;

/// The headers that say how long a token lasts.
const TTL_HEADERS: [&str; 2] = ["x-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token-ttl-seconds"];

/// The headers that a token comes in.
const TOKEN_HEADERS: [&str; 2] = ["x-metadata-token", "x-aws-ec2-metadata-token"];

/// Which of its two protocols it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmdsVersion {
    /// Without a session.
    V1,
    /// With a session: 401 without its token.
    V2,
}

/// What befalls each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmdsFault {
    /// Half of an answer, and then nothing until it is healed.
    Hang,
    /// This status, and nothing with it.
    Status(u16),
    /// What is no JSON, though it says so.
    Garbage,
}

/// A metadata service; it ends when this is dropped.
#[derive(Debug)]
pub struct Mmds {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    version: MmdsVersion,
    state: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    document: Option<Value>,
    tokens: HashMap<String, Instant>,
    made: u64,
    fault: Option<MmdsFault>,
    /// Requests that were given the document, or a part of it.
    answered: u64,
    /// Requests without a token that lasts.
    refused: u64,
}

impl Mmds {
    /// A service without a document, on a port that is free.
    ///
    /// # Errors
    /// Where none can be listened on.
    pub async fn start(version: MmdsVersion) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.context("listen for metadata's clients")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { version, state: Mutex::default() });
        let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            // It ends with the task alone.
            axum::serve(listener, app).await.ok();
        });
        Ok(Self { address, shared, serving })
    }

    /// Where it listens, as `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Puts a document in place of the one there is.
    pub fn set(&self, document: Value) {
        self.shared.lock().document = Some(document);
    }

    /// Takes the document away, as before the first was set.
    pub fn unset(&self) {
        self.shared.lock().document = None;
    }

    /// From now on, this befalls each request.
    pub fn fault(&self, fault: MmdsFault) {
        self.shared.lock().fault = Some(fault);
    }

    /// No fault befalls any more; what hangs is cut off by its client.
    pub fn heal(&self) {
        self.shared.lock().fault = None;
    }

    /// Forgets all tokens, as one that was restored from a snapshot does.
    pub fn forget_tokens(&self) {
        self.shared.lock().tokens.clear();
    }

    /// How many requests were given the document or a part of it.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.lock().answered
    }

    /// How many requests came without a token that lasts.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.lock().refused
    }
}

impl Drop for Mmds {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response {
        let mut store = self.lock();
        match store.fault {
            Some(MmdsFault::Status(status)) => return text(StatusCode::from_u16(status).unwrap_or_default(), "text/plain", ""),
            Some(MmdsFault::Garbage) => return text(StatusCode::OK, "application/json", "{\"BEYOND_PG_TIER\": <html>"),
            Some(MmdsFault::Hang) | None => {}
        }
        match (method, self.version) {
            (&Method::PUT, MmdsVersion::V2) if path == TOKEN_PATH => store.make_token(headers),
            (&Method::PUT, MmdsVersion::V2) => {
                text(StatusCode::NOT_FOUND, "text/plain", "Resource not found: use /latest/api/token")
            }
            (&Method::GET, version) => {
                if version == MmdsVersion::V2 && !store.knows(headers) {
                    store.refused += 1;
                    return text(StatusCode::UNAUTHORIZED, "text/plain", "No MMDS token provided, or one that is not valid");
                }
                store.look_up(path, headers)
            }
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Not allowed HTTP method"),
        }
    }
}

impl Store {
    fn make_token(&mut self, headers: &HeaderMap) -> Response {
        let ttl = TTL_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok()?.parse().ok());
        let Some(ttl) = ttl.filter(|ttl| (1..=TTL_MAX_S).contains(ttl)) else {
            return text(StatusCode::BAD_REQUEST, "text/plain", "Token time to live value not found or out of range");
        };
        self.made += 1;
        let token = format!("token-{}", self.made);
        self.tokens.insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
        let mut response = text(StatusCode::OK, "text/plain", &token);
        response.headers_mut().insert(TTL_HEADERS[0], ttl.into());
        response
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let token = TOKEN_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok());
        token.and_then(|token| self.tokens.get(token)).is_some_and(|until| Instant::now() < *until)
    }

    fn look_up(&mut self, path: &str, headers: &HeaderMap) -> Response {
        let found = self.document.as_ref().and_then(|document| document.pointer(path.trim_end_matches('/')));
        let Some(value) = found else {
            return text(StatusCode::NOT_FOUND, "text/plain", &format!("Resource not found: {path}"));
        };
        let wants_json = headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json");
        let response = match value {
            value if wants_json => text(StatusCode::OK, "application/json", &value.to_string()),
            Value::String(leaf) => text(StatusCode::OK, "text/plain", leaf),
            Value::Object(members) => {
                let line = |(name, value): (&String, &Value)| if value.is_object() { format!("{name}/") } else { name.clone() };
                text(StatusCode::OK, "text/plain", &members.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
            _ => return text(StatusCode::NOT_IMPLEMENTED, "text/plain", "Cannot retrieve value: it has an unsupported type"),
        };
        self.answered += 1;
        response
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let hangs = || shared.lock().fault == Some(MmdsFault::Hang);
    if hangs() {
        // Until its client, or the end of this service, cuts it off.
        return text(StatusCode::OK, "application/json", "")
            .map(|_| Body::from_stream(futures_util::stream::pending::<Result<String>>()));
    }
    shared.answer(&parts.method, parts.uri.path(), &parts.headers)
}

fn text(status: StatusCode, kind: &'static str, body: &str) -> Response {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request by hand: method, path and headers; gives the status and the body.
    async fn ask(mmds: &Mmds, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        // Set already where another test of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(500)).build().unwrap();
        let mut request = client.request(method, format!("http://{}{path}", mmds.address()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let Ok(answer) = request.send().await else { return (0, String::new()) };
        let status = answer.status().as_u16();
        // Of one that hangs there is a head, and never a body.
        (status, answer.text().await.unwrap_or_else(|error| format!("broken: {error}")))
    }

    #[tokio::test]
    async fn the_second_version_wants_a_token_that_it_gave() {
        let mmds = Mmds::start(MmdsVersion::V2).await.unwrap();
        let json = ("accept", "application/json");
        assert_eq!(ask(&mmds, Method::GET, "/", &[json]).await.0, 401);
        assert_eq!(ask(&mmds, Method::PUT, TOKEN_PATH, &[]).await.0, 400);
        assert_eq!(ask(&mmds, Method::PUT, TOKEN_PATH, &[(TTL_HEADERS[1], "21601")]).await.0, 400);
        let (status, token) = ask(&mmds, Method::PUT, TOKEN_PATH, &[(TTL_HEADERS[0], "60")]).await;
        assert_eq!(status, 200);
        let with = [json, (TOKEN_HEADERS[0], token.as_str())];
        assert_eq!(ask(&mmds, Method::GET, "/", &with).await.0, 404, "nothing is set yet");
        mmds.set(json!({"a": {"b": "text", "c": 1}}));
        assert_eq!(ask(&mmds, Method::GET, "/a", &with).await, (200, r#"{"b":"text","c":1}"#.to_owned()));
        assert_eq!(ask(&mmds, Method::GET, "/a", &with[1..]).await, (200, "b\nc".to_owned()));
        assert_eq!(ask(&mmds, Method::GET, "/a/c", &with[1..]).await.0, 501);
        assert_eq!(ask(&mmds, Method::POST, "/", &with).await.0, 405);
        mmds.forget_tokens();
        assert_eq!(ask(&mmds, Method::GET, "/a", &with).await.0, 401);
        assert_eq!((mmds.answered(), mmds.refused()), (2, 2));
    }

    #[tokio::test]
    async fn the_first_version_wants_none_and_faults_are_as_told() {
        let mmds = Mmds::start(MmdsVersion::V1).await.unwrap();
        mmds.set(json!({"a": "b"}));
        assert_eq!(ask(&mmds, Method::PUT, TOKEN_PATH, &[(TTL_HEADERS[0], "60")]).await.0, 405);
        assert_eq!(ask(&mmds, Method::GET, "/a", &[]).await, (200, "b".to_owned()));
        mmds.fault(MmdsFault::Status(503));
        assert_eq!(ask(&mmds, Method::GET, "/a", &[]).await.0, 503);
        mmds.fault(MmdsFault::Garbage);
        assert!(serde_json::from_str::<Value>(&ask(&mmds, Method::GET, "/a", &[]).await.1).is_err());
        mmds.fault(MmdsFault::Hang);
        assert!(ask(&mmds, Method::GET, "/a", &[]).await.1.starts_with("broken"));
        mmds.heal();
        assert_eq!(ask(&mmds, Method::GET, "/a", &[]).await.0, 200);
        mmds.unset();
        assert_eq!(ask(&mmds, Method::GET, "/a", &[]).await.0, 404);
    }
}
