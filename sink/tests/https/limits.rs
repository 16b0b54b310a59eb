//! What a client may cost, and the end.

use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{MB, Sink, name, problem, until};

const SOON: Duration = Duration::from_secs(10);

/// All that still comes on a connection, until the other side ends it; fails where it never does.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut got = Vec::new();
    // A connection that is cut ends with an error, one that is closed without.
    drop(timeout(SOON, stream.read_to_end(&mut got)).await.expect("the connection was not ended"));
    got
}

fn quick(options: &mut sink::https::Options) {
    options.limits.handshake_timeout = Duration::from_millis(200);
    options.limits.header_timeout = Duration::from_millis(200);
    options.limits.idle_timeout = Duration::from_millis(200);
    options.limits.stall_timeout = Duration::from_millis(200);
}

#[tokio::test]
async fn a_client_that_is_slow_to_ask_is_cut_off() {
    let sink = Sink::start(quick).await;
    // Without TLS.
    let mut silent = TcpStream::connect(sink.handle.address()).await.unwrap();
    assert!(rest(&mut silent).await.is_empty());
    // With TLS, and headers that never end.
    let mut slow = sink.raw().await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let dripping = async {
        let (mut read, mut write) = tokio::io::split(slow);
        let drip = async {
            while write.write_all(b"X-A: 1\r\n").await.is_ok() && write.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
        };
        tokio::select! { got = rest(&mut read) => got, () = drip => Vec::new() }
    };
    timeout(SOON, dripping).await.unwrap();
    until("the connections to be gone", || sink.metrics.https_connections.get() == 0).await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_closed() {
    let sink = Sink::start(quick).await;
    let mut idle = sink.raw().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(rest(&mut idle).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let sink = Sink::start(quick).await;
    let mut lazy = sink.raw().await;
    // More than sockets and buffers hold, so that the server has to wait for the client.
    for _ in 0..64 {
        lazy.write_all(sink.head(&format!("/v1/segments/{}", name(1, 1))).as_bytes()).await.unwrap();
    }
    lazy.flush().await.unwrap();
    until("the download to begin", || sink.metrics.https_sent_bytes.get() > 0).await;
    until("the client to be cut off", || sink.metrics.https_connections.get() == 0).await;
    assert!(sink.metrics.https_sent_bytes.get() < 64 * MB);
}

#[tokio::test]
async fn a_slow_client_that_takes_something_is_not() {
    const DOWNLOADS: u64 = 48;
    let sink = Sink::start(|options| {
        quick(options);
        options.limits.stall_timeout = Duration::from_millis(400);
    })
    .await;
    let mut slow = sink.raw().await;
    for _ in 0..DOWNLOADS {
        slow.write_all(sink.head(&format!("/v1/segments/{}", name(1, 1))).as_bytes()).await.unwrap();
    }
    slow.flush().await.unwrap();
    let (start, mut got, mut buffer) = (Instant::now(), 0, vec![0; 64 << 10]);
    while got < DOWNLOADS * MB {
        let read = slow.read(&mut buffer).await.unwrap();
        assert!(read > 0, "cut off after {got} bytes and {:?}", start.elapsed());
        let before = got >> 20;
        got += read as u64;
        if got >> 20 > before {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
    assert!(start.elapsed() > 2 * sink.options.limits.stall_timeout, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_wait_is_not_taken_for_idleness() {
    let sink = Sink::start(quick).await;
    let waited = sink.client().wait(walbus::Lsn(9 * MB), Duration::from_secs(1)).await.unwrap();
    assert!(!waited.reached);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let sink = Sink::start(|options| options.limits.connections = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(sink.raw().await);
    }
    until("three connections", || sink.metrics.https_connections.get() == 3).await;
    let (code, refused) = problem(sink.get("/v1/status").await).await;
    assert_eq!((code, refused.code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "too_many_connections"));
    assert!(refused.message.contains("--https-connections"));
    open.pop();
    until("a place", || sink.metrics.https_connections.get() == 2).await;
    assert_eq!(sink.get("/v1/status").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn many_connections_are_served() {
    let sink = Sink::start(|_| {}).await;
    let connect = async || {
        let mut stream = sink.raw().await;
        stream.write_all(sink.head("/v1/status").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let mut open = futures_util::future::join_all((0..200).map(|_| connect())).await;
    assert_eq!(sink.metrics.https_connections.get(), 200);
    for stream in &mut open {
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
}

#[tokio::test]
async fn a_request_too_many_is_told_so() {
    let sink = Sink::start(|options| options.limits.requests = 2).await;
    let waiting = |sink: &Sink| {
        let request = sink.request("/v1/wait?lsn=9/0&timeout=300");
        tokio::spawn(async move { request.send().await })
    };
    let first = waiting(&sink);
    until("a wait", || sink.metrics.https_waits.get() == 1).await;
    // Half of the requests may be waits.
    let (code, busy) = problem(sink.get("/v1/wait?lsn=9/0").await).await;
    assert_eq!((code, busy.code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert_eq!(sink.get("/v1/status").await.status(), StatusCode::OK);
    first.abort();
    // The one place there is, taken by a wait: a download would be over once the sockets hold it.
    let sink = Sink::start(|options| options.limits.requests = 1).await;
    let only = waiting(&sink);
    until("a wait", || sink.metrics.https_waits.get() == 1).await;
    let (code, busy) = problem(sink.get("/v1/status").await).await;
    assert_eq!((code, busy.code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert_eq!(sink.get("/healthz").await.status(), StatusCode::OK);
    only.abort();
    let deadline = Instant::now() + SOON;
    while sink.get("/v1/status").await.status() != StatusCode::OK {
        assert!(Instant::now() < deadline, "places are never given back");
    }
}

#[tokio::test]
async fn what_is_too_long_or_no_reading_is_refused() {
    let sink = Sink::start(|_| {}).await;
    let long = sink.get(&format!("/v1/wal?from={}", "0".repeat(3000))).await;
    assert_eq!(problem(long).await.0, StatusCode::URI_TOO_LONG);
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = sink.http().request(method, sink.url("/v1/status")).header(AUTHORIZATION, format!("Bearer {}", sink.token()));
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
        assert_eq!(problem(answer).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
    for headers in [format!("X-A: {}\r\n", "a".repeat(40_000)), "X-A: 1\r\n".repeat(100)] {
        let mut stream = sink.raw().await;
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 431"));
    }
    let mut garbage = sink.raw().await;
    garbage.write_all(b"\x00\x01\x02 garbage\r\n\r\n").await.unwrap();
    assert!(rest(&mut garbage).await.starts_with(b"HTTP/1.1 400"));
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let sink = Sink::start(|_| {}).await;
    let mut plain = TcpStream::connect(sink.handle.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let got = String::from_utf8(rest(&mut plain).await).unwrap();
    assert!(got.starts_with("HTTP/1.1 400") && got.contains("https://") && got.contains("--ca"), "{got}");
}

#[tokio::test]
async fn http_2_is_spoken() {
    let sink = Sink::start(|_| {}).await;
    let client = reqwest::Client::builder().tls_backend_preconfigured(sink.tls(&["h2", "http/1.1"])).build().unwrap();
    let url = sink.url(&format!("/v1/segments/{}", name(1, 2)));
    let get = async || {
        let answer = client.get(&url).bearer_auth(sink.token()).send().await.unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        answer.bytes().await.unwrap()
    };
    let expected = crate::harness::wal(1, 2 * MB, 3 * MB);
    for got in futures_util::future::join_all((0..20).map(|_| get())).await {
        assert!(got == expected);
    }
    assert_eq!(sink.metrics.https_connections.get(), 1);
}

#[tokio::test]
async fn an_http_2_client_that_takes_nothing_is_cut_off() {
    let sink = Sink::start(quick).await;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(sink.tls(&["h2"]))
        .http2_initial_stream_window_size(1024)
        .build()
        .unwrap();
    let answer = client.get(sink.url(&format!("/v1/segments/{}", name(1, 2)))).bearer_auth(sink.token()).send().await.unwrap();
    until("the client to be cut off", || sink.metrics.https_connections.get() == 0).await;
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn at_the_end_requests_are_finished_and_the_slow_are_cut() {
    let mut sink = Sink::start(|_| {}).await;
    let mut idle = sink.raw().await;
    let mut lazy = sink.raw().await;
    for _ in 0..64 {
        lazy.write_all(sink.head(&format!("/v1/segments/{}", name(1, 1))).as_bytes()).await.unwrap();
    }
    lazy.flush().await.unwrap();
    until("the download to begin", || sink.metrics.https_sent_bytes.get() > 0).await;
    let start = Instant::now();
    sink.handle.shutdown();
    assert!(rest(&mut idle).await.is_empty());
    timeout(SOON, &mut sink.task).await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "a stop takes less than a second: {:?}", start.elapsed());
    assert!(TcpStream::connect(sink.handle.address()).await.is_err());
    assert!(rest(&mut lazy).await.starts_with(b"HTTP/1.1 200"));
}
