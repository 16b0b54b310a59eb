//! Clients that do what none should: the others, and the server's memory, know nothing of it.

use std::time::Duration;

use beyond_cdc_client::proto::frame::encode;
use beyond_cdc_client::proto::v1::{
    Acknowledge, ClientMessage, ErrorCode, Hello, Ping, Subscribe, client_message, server_message, subscribe,
};
use beyond_cdc_client::{Start, Subscription};
use bytes::Bytes;
use cdc::quic::Limits;
use tokio::time::timeout;

use crate::harness::{Raw, SOON, Server, at, eventually, insert, settings};
use crate::stream::positions;

fn subscribe(subscription: u32) -> client_message::Kind {
    let start = Some(subscribe::Start::Earliest(true));
    client_message::Kind::Subscribe(Subscribe { subscription, start, ..Subscribe::default() })
}

/// The code that the server closes a connection with.
async fn closed_with(raw: &Raw) -> u64 {
    match timeout(SOON, raw.connection.closed()).await.expect("it stays open") {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other:?}"),
    }
}

fn code(code: ErrorCode) -> u64 {
    u64::try_from(i32::from(code)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_own_connection_with_a_reason() {
    let mut server = Server::start().await;
    server.fill(1);
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    positions(&mut events, 1).await;
    let too_long = Bytes::from_static(&[0xFF; 64]);
    let no_message = Bytes::from_static(&[0, 0, 0, 3, 0xFF, 0xFF, 0xFF]);
    let no_kind = Bytes::from_static(&[0, 0, 0, 0]);
    for garbage in [too_long, no_message, no_kind] {
        for greeted in [false, true] {
            let mut raw = if greeted { Raw::hello(&server).await } else { server.raw().await };
            raw.say_bytes(&garbage).await;
            assert_eq!(raw.error().await, ("Protocol".to_owned(), 0), "{garbage:?}");
            assert_eq!(closed_with(&raw).await, code(ErrorCode::Protocol));
        }
    }
    let mut raw = server.raw().await;
    raw.say(subscribe(1)).await;
    assert_eq!(raw.error().await, ("Protocol".to_owned(), 0), "hello comes first");
    let mut raw = server.raw().await;
    raw.say(client_message::Kind::Hello(Hello { version_min: 2, version_max: 9, ..Hello::default() })).await;
    assert_eq!(raw.error().await, ("Unsupported".to_owned(), 0));
    // The others have noticed nothing.
    let lsn = server.commit(vec![insert(1, 1, "x")]);
    assert_eq!(positions(&mut events, 1).await, [at(lsn, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_not_waited_for() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start_with(|options| options.limits = limits, settings()).await;
    let mut raw = server.raw().await;
    // A stream exists for the server only with its first byte.
    raw.say_bytes(&Bytes::from_static(&[0])).await;
    assert_eq!(raw.error().await, ("Limit".to_owned(), 0));
    assert_eq!(closed_with(&raw).await, code(ErrorCode::Limit));
    let silent = server.raw().await;
    assert_eq!(closed_with(&silent).await, code(ErrorCode::Limit));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_about_positions_loses_the_subscription_alone() {
    let mut server = Server::start().await;
    server.fill(2);
    let mut raw = Raw::hello(&server).await;
    raw.say(subscribe(1)).await;
    raw.say(subscribe(2)).await;
    for _ in 0..2 {
        assert!(matches!(raw.heard().await, Some(server_message::Kind::Subscribed(_))));
    }
    let ahead = Acknowledge { subscription: 1, position: Some(at(u64::MAX, 1).into()) };
    raw.say(client_message::Kind::Acknowledge(ahead)).await;
    assert_eq!(raw.error().await, ("Invalid".to_owned(), 1));
    eventually("one is left", || server.handle.subscriptions().len() == 1).await;
    raw.say(client_message::Kind::Ping(Ping { id: 9 })).await;
    assert!(matches!(raw.heard().await, Some(server_message::Kind::Pong(pong)) if pong.id == 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told() {
    let limits = Limits { subscriptions: 2, connections: 2, ..Limits::default() };
    let server = Server::start_with(|options| options.limits = limits, settings()).await;
    let mut raw = Raw::hello(&server).await;
    for number in 1..=3 {
        raw.say(subscribe(number)).await;
    }
    for _ in 0..2 {
        assert!(matches!(raw.heard().await, Some(server_message::Kind::Subscribed(_))));
    }
    assert_eq!(raw.error().await, ("Limit".to_owned(), 3));
    let second = Raw::hello(&server).await;
    let refused = beyond_cdc_client::connect(server.client_options().token(server.token())).await.err().unwrap();
    assert!(refused.is_retry(), "{refused:?}");
    drop(second);
    let options = || server.client_options().token(server.token());
    timeout(SOON, async { while beyond_cdc_client::connect(options()).await.is_err() {} }).await.expect("its place is free again");
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_cost_a_window_and_hold_up_nobody() {
    // 64 MB of log, of which the ring has 8.
    let settings = cdc::log::Settings { segment_bytes: 4 << 20, ring_bytes: 8 << 20, ..settings() };
    let mut server = Server::start_with(|_| {}, settings).await;
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    let mut dead = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::hello(&server).await;
        raw.say(subscribe(1)).await;
        raw.heard().await.unwrap();
        dead.push(raw);
    }
    let before = resident();
    let name = "x".repeat(1 << 16);
    for _ in 0..64 {
        for _ in 0..16 {
            server.append(vec![insert(1, 1, &name)]);
        }
        server.writer.sync().unwrap();
        positions(&mut events, 16).await;
    }
    let grown = resident().saturating_sub(before);
    // 20 windows on either side of the loopback, and the ring: far from 20 times the log.
    assert!(grown < 200 << 20, "{} MB", grown >> 20);
    let sent: Vec<_> = server.handle.subscriptions().into_iter().filter(|info| info.agent == "raw").map(|info| info.sent).collect();
    assert!(sent.len() == 20 && sent.iter().all(|sent| *sent < server.log.head()), "{sent:?}");
    // They take up where they are, and their connections are fine.
    for raw in &mut dead {
        raw.say(client_message::Kind::Ping(Ping { id: 1 })).await;
        assert!(matches!(raw.heard().await, Some(server_message::Kind::Pong(_))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_holds_up_nobody() {
    let mut server = Server::start_with(
        |options| options.limits = Limits { control_timeout: Duration::from_millis(300), ..Limits::default() },
        settings(),
    )
    .await;
    server.fill(1);
    let mut raw = Raw::hello(&server).await;
    let ping = encode(&ClientMessage { kind: Some(client_message::Kind::Ping(Ping { id: 1 })) });
    let burst = Bytes::from(ping.repeat(10_000));
    // Answers are not read: the server stops taking questions, then gives the connection up.
    let flood = tokio::spawn(async move {
        while raw.connection.close_reason().is_none() {
            raw.say_bytes(&burst).await;
        }
        raw.connection.close_reason()
    });
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    positions(&mut events, 1).await;
    for _ in 0..20 {
        let lsn = server.commit(vec![insert(1, 1, "x")]);
        assert_eq!(positions(&mut events, 1).await, [at(lsn, 1)]);
    }
    let reason = timeout(SOON, flood).await.unwrap().unwrap().unwrap();
    assert!(
        matches!(&reason, quinn::ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == code(ErrorCode::Limit)),
        "{reason:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_falls_out_of_retention_is_told_and_the_others_go_on() {
    let settings = cdc::log::Settings { segment_bytes: 1 << 20, ring_bytes: 1 << 20, ..settings() };
    let mut server = Server::start_with(|_| {}, settings).await;
    let mut raw = Raw::hello(&server).await;
    raw.say(subscribe(1)).await;
    raw.heard().await.unwrap();
    let name = "x".repeat(1 << 16);
    for _ in 0..400 {
        server.append(vec![insert(1, 1, &name)]);
    }
    server.writer.sync().unwrap();
    eventually("it has begun", || server.handle.subscriptions()[0].sent > at(0x200, 0)).await;
    server.log.retain(cdc::log::Policy { keep_bytes: Some(2 << 20), keep_age: None }, 0).unwrap();
    // Now it reads, up to where the log has gone.
    let mut stream = timeout(SOON, raw.connection.accept_uni()).await.unwrap().unwrap();
    let drained = tokio::spawn(async move {
        let mut bytes = 0;
        while let Ok(Some(chunk)) = stream.read_chunk(1 << 20, true).await {
            bytes += chunk.bytes.len();
        }
        bytes
    });
    match raw.heard().await {
        Some(server_message::Kind::Error(error)) => {
            assert_eq!((error.code(), error.subscription), (ErrorCode::TooFarBehind, 1));
            // As it was at that moment: segments go one by one.
            let told = error.earliest.map(walbus::Position::from).unwrap();
            assert!(told > at(0x200, 1) && told <= server.log.earliest(), "{told}");
        }
        other => panic!("{other:?}"),
    }
    assert!(timeout(SOON, drained).await.unwrap().unwrap() < 200 << 16);
    raw.say(client_message::Kind::Ping(Ping { id: 1 })).await;
    assert!(matches!(raw.heard().await, Some(server_message::Kind::Pong(_))), "the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so() {
    let mut server = Server::start().await;
    let mut raw = Raw::hello(&server).await;
    raw.say(subscribe(1)).await;
    raw.heard().await.unwrap();
    server.stop().await;
    assert_eq!(raw.error().await, ("ShuttingDown".to_owned(), 0));
    assert_eq!(closed_with(&raw).await, code(ErrorCode::ShuttingDown));
}
