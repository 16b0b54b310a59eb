//! A server with a folder of WAL whose every byte is known.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{RequestBuilder, Response, StatusCode};
use sink::api::{Problem, State};
use sink::client::Client;
use sink::config::ClientArgs;
use sink::https::{self, Handle, Limits, Options};
use sink::metrics::Metrics;
use sink::state::{Catalog, Held, Identity, Positions, StreamState};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use walbus::{Lsn, Segment, SegmentSize, SystemId, Timeline, WalFile};

pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;
pub(crate) const MB: u64 = 1 << 20;

/// What a file has where no WAL was flushed. No WAL has this byte, so one that is served is one that leaked.
pub(crate) const UNFLUSHED: u8 = 0xEE;

/// The byte of WAL at a position. Never zero, never [`UNFLUSHED`].
pub(crate) fn byte(timeline: u32, lsn: u64) -> u8 {
    let mixed = (lsn ^ u64::from(timeline).wrapping_mul(0x9E37_79B9)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    u8::try_from(mixed % 0xEC + 1).unwrap()
}

pub(crate) fn wal(timeline: u32, from: u64, to: u64) -> Vec<u8> {
    (from..to).map(|lsn| byte(timeline, lsn)).collect()
}

pub(crate) fn tli(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

pub(crate) fn segment(timeline: u32, number: u64) -> Segment {
    Segment { number, timeline: tli(timeline) }
}

pub(crate) fn name(timeline: u32, number: u64) -> String {
    segment(timeline, number).name(SIZE).to_string()
}

pub(crate) fn at(timeline: u32, flushed: u64) -> Positions {
    let flushed = Lsn(flushed);
    let beyond = Lsn(flushed.0 + 1000);
    Positions { timeline: tli(timeline), received: beyond, written: beyond, flushed, complete: flushed, server_end: beyond }
}

/// A running server.
pub(crate) struct Sink {
    pub(crate) dir: TempDir,
    pub(crate) state: Arc<StreamState>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) handle: Handle,
    pub(crate) options: Options,
    pub(crate) task: JoinHandle<()>,
}

impl Sink {
    /// A server that holds nothing yet.
    pub(crate) async fn empty(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = sink::tls::provision(dir.path(), &[]).unwrap();
        let mut options = Options {
            listen: "127.0.0.1:0".to_owned(),
            data_dir: dir.path().to_owned(),
            slot: "sink_slot".to_owned(),
            tls: own.files(),
            renew: Some(Vec::new()),
            token_file: own.token_path,
            metrics_public: false,
            limits: Limits::default(),
        };
        change(&mut options);
        let state = Arc::new(StreamState::new(Catalog::default()));
        let metrics = Arc::new(Metrics::new(Arc::clone(&state)));
        let (handle, driver) = https::bind(options.clone(), Arc::clone(&state), Arc::clone(&metrics)).await.unwrap();
        let task = tokio::spawn(driver.run());
        Self { dir, state, metrics, handle, options, task }
    }

    /// A server with segments 1 and 2 of timeline 1 whole, 3 flushed up to 100,000 bytes, and 4 made ahead.
    pub(crate) async fn start(change: impl FnOnce(&mut Options)) -> Self {
        let sink = Self::empty(change).await;
        sink.state.catalog_mut().identity = Some(Identity { system_id: SystemId(7_000_000_000_000_000_001), segment_size: SIZE });
        sink.whole(1, 1);
        sink.whole(1, 2);
        sink.partial(1, 3, 3 * MB + 100_000);
        sink.partial(1, 4, 4 * MB);
        sink.state.set_positions(at(1, 3 * MB + 100_000));
        sink.state.set_condition(State::Streaming, None);
        sink
    }

    pub(crate) fn path(&self, file: &WalFile) -> PathBuf {
        self.dir.path().join(file.name())
    }

    /// Adds a whole segment.
    pub(crate) fn whole(&self, timeline: u32, number: u64) {
        let segment = segment(timeline, number);
        fs::write(self.path(&WalFile::Segment(segment.name(SIZE))), wal(timeline, number * MB, (number + 1) * MB)).unwrap();
        self.state.catalog_mut().segments.insert(segment, Held { partial_end: None, facts: Default::default() });
    }

    /// Adds a partial segment with WAL up to `end`.
    pub(crate) fn partial(&self, timeline: u32, number: u64, end: u64) {
        let segment = segment(timeline, number);
        let mut content = wal(timeline, number * MB, end);
        content.resize(usize::try_from(MB).unwrap(), UNFLUSHED);
        fs::write(self.path(&WalFile::Partial(segment.name(SIZE))), content).unwrap();
        self.state.catalog_mut().segments.insert(segment, Held { partial_end: Some(Lsn(end)), facts: Default::default() });
    }

    /// Writes WAL into a partial segment, without saying that it is flushed.
    pub(crate) fn write(&self, timeline: u32, from: u64, to: u64) {
        let file = WalFile::Partial(segment(timeline, from / MB).name(SIZE));
        let file = fs::OpenOptions::new().write(true).open(self.path(&file)).unwrap();
        file.write_all_at(&wal(timeline, from, to), from % MB).unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.handle.address().port())
    }

    pub(crate) fn client_args(&self) -> ClientArgs {
        ClientArgs {
            ca: Some(self.dir.path().join("tls/ca.pem")),
            token_file: Some(self.dir.path().join("token")),
            ..ClientArgs::default()
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url(""), &self.client_args()).unwrap()
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.dir.path().join("token")).unwrap().trim().to_owned()
    }

    /// What a client trusts; with HTTP/2 where asked for.
    pub(crate) fn tls(&self, alpn: &[&str]) -> rustls::ClientConfig {
        let roots = walbus::pem::roots("--ca", &self.dir.path().join("tls/ca.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A plain HTTP client that sends no token by itself.
    pub(crate) fn http(&self) -> reqwest::Client {
        reqwest::Client::builder().tls_backend_preconfigured(self.tls(&["http/1.1"])).build().unwrap()
    }

    pub(crate) fn request(&self, path: &str) -> RequestBuilder {
        self.http().get(self.url(path)).header(AUTHORIZATION, format!("Bearer {}", self.token()))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(path).send().await.unwrap()
    }

    /// A TLS connection on which the test speaks for itself.
    pub(crate) async fn raw(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.handle.address()).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(self.tls(&["http/1.1"]))).connect(name, stream).await.unwrap()
    }

    /// A request for that path with the token, as bytes.
    pub(crate) fn head(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", self.token())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The status and the problem of an answer that is no success.
pub(crate) async fn problem(answer: Response) -> (StatusCode, Problem) {
    let status = answer.status();
    assert!(!status.is_success(), "{status}");
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Waits until something is so; a test that would wait for ever fails.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
