//! What subscribers get.

use std::collections::HashMap;

use beyond_cdc_client::proto::v1::Part;
use beyond_cdc_client::{Error, Event, Events, Operation, Position, Start, Subscription};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::harness::{EPOCH, SOON, Server, at, eventually, insert, settings};

/// The positions of the next changes.
pub(crate) async fn positions(events: &mut Events, count: usize) -> Vec<Position> {
    let mut found = Vec::new();
    while found.len() < count {
        match timeout(SOON, events.next()).await.expect("nothing comes").expect("it has ended").unwrap() {
            Event::Change(change) => found.push(change.position()),
            Event::Begin(_) | Event::Commit { .. } | Event::Through(_) => {}
        }
    }
    found
}

pub(crate) async fn error_of(mut events: Events) -> Error {
    loop {
        match timeout(SOON, events.next()).await.expect("nothing comes") {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("it has ended without an error"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_transactions_in_commit_order_as_they_come() {
    let mut server = Server::start().await;
    server.fill(3);
    let client = server.client().await;
    assert_eq!((client.server().system_id, client.server().epoch.0), (7_301_122, EPOCH.bytes()));
    let mut transactions = client.subscribe(Subscription::new(Start::Earliest)).transactions();
    let mut latest = client.subscribe(Subscription::new(Start::Latest)).transactions();
    for lsn in [0x200, 0x300, 0x400] {
        let transaction = timeout(SOON, transactions.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((transaction.position(), transaction.header().xid()), (at(lsn, 1), 700));
        #[derive(serde::Deserialize)]
        struct User {
            id: i64,
            name: String,
        }
        let user: User = transaction.changes()[0].row().unwrap();
        assert_eq!((user.id, user.name), (1, format!("name {}", lsn / 0x100 - 2)));
    }
    // Whoever starts with what comes next gets that.
    let next = tokio::spawn(async move { latest.next().await.unwrap().unwrap().position() });
    eventually("two are subscribed", || server.handle.subscriptions().len() == 2).await;
    let lsn = server.commit(vec![insert(1, 1, "live"), insert(2, 2, "live")]);
    let live = timeout(SOON, transactions.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((live.changes().len(), live.position()), (2, at(lsn, 2)));
    assert_eq!(timeout(SOON, next).await.unwrap().unwrap(), at(lsn, 2));
    server.primary.set(walbus::Lsn(0xABC));
    assert_eq!(client.head().await.unwrap(), (at(lsn, 2), walbus::Lsn(0xABC)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_durable_is_not_seen() {
    let mut server = Server::start().await;
    server.fill(1);
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    assert_eq!(positions(&mut events, 1).await, [at(0x200, 1)]);
    server.append(vec![insert(1, 1, "not yet")]);
    let through = events.position();
    // Were it sent, it would be before the answer to a question that is asked later.
    client.head().await.unwrap();
    assert!(timeout(std::time::Duration::from_millis(50), events.next()).await.is_err() || events.position() == through);
    server.writer.sync().unwrap();
    assert_eq!(positions(&mut events, 1).await, [at(0x300, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_any_place_on() {
    let mut server = Server::start().await;
    server.commit(vec![insert(1, 1, "a"), insert(2, 2, "b"), insert(3, 1, "c")]);
    server.fill(2);
    let client = server.client().await;
    let after = |lsn, ordinal| Start::After { position: at(lsn, ordinal), epoch: Some(client.server().epoch) };
    for (start, wanted) in [
        (Start::Earliest, vec![at(0x200, 1), at(0x200, 2), at(0x200, 3), at(0x300, 1), at(0x400, 1)]),
        (after(0x200, 0), vec![at(0x200, 1), at(0x200, 2), at(0x200, 3), at(0x300, 1), at(0x400, 1)]),
        (after(0x200, 2), vec![at(0x200, 3), at(0x300, 1), at(0x400, 1)]),
        (after(0x200, 3), vec![at(0x300, 1), at(0x400, 1)]),
        (after(0x250, 9), vec![at(0x300, 1), at(0x400, 1)]),
        (Start::Time(0x300), vec![at(0x300, 1), at(0x400, 1)]),
        (Start::Time(0), vec![at(0x200, 1), at(0x200, 2), at(0x200, 3), at(0x300, 1), at(0x400, 1)]),
    ] {
        let mut events = client.subscribe(Subscription::new(start));
        assert_eq!(positions(&mut events, wanted.len()).await, wanted, "{start:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_pass_what_they_say_and_move_on_all_the_same() {
    let mut server = Server::start().await;
    server.commit(vec![insert(1, 1, "Ada"), insert(2, 2, "Ada"), insert(3, 1, "Bob")]);
    let client = server.client().await;
    let all = || Subscription::new(Start::Earliest);
    for (subscription, wanted) in [
        (all().table("public.users"), vec![1, 3]),
        (all().table("*.ord*"), vec![2]),
        (all().table("public.users").table("public.orders"), vec![1, 2, 3]),
        (all().equals("name", Some("Ada".to_owned())), vec![1, 2]),
        (all().table("public.users").equals("name", Some("Bob".to_owned())), vec![3]),
        (all().equals("id", Some("2".to_owned())), vec![2]),
        (all().operation(Operation::Insert), vec![1, 2, 3]),
    ] {
        let mut events = client.subscribe(subscription.clone());
        let ordinals: Vec<u32> = positions(&mut events, wanted.len()).await.iter().map(|at| at.ordinal).collect();
        assert_eq!(ordinals, wanted, "{subscription:?}");
    }
    // Nothing passes, and it is known how far that holds.
    let mut events = client.subscribe(all().operation(Operation::Delete));
    while events.position() < at(0x200, 3) {
        let event = timeout(SOON, events.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(event, Event::Through(_)), "{event:?}");
    }
    // A column that is not asked for is not sent; the key is.
    let mut changes = client.subscribe(all().column("none")).changes();
    let change = changes.next().await.unwrap().unwrap();
    let row = change.new_row().unwrap();
    assert_eq!(row.column("id").unwrap().integer(), Some(1));
    assert_eq!(row.column("name").unwrap(), beyond_cdc_client::Column::NotSent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_parts_is_one() {
    let mut server = Server::start().await;
    let lsn = server.take_lsn();
    server.append_part(lsn, Part::Begin, (1..100).map(|n| insert(n, 1, "x")).collect());
    server.append_part(lsn, Part::Middle, (100..200).map(|n| insert(n, 2, "x")).collect());
    server.append_part(lsn, Part::Middle, (200..300).map(|n| insert(n, 1, "x")).collect());
    server.append_part(lsn, Part::End, (300..310).map(|n| insert(n, 2, "x")).collect());
    server.writer.sync().unwrap();
    server.fill(1);
    let client = server.client().await;
    let whole = |subscription: Subscription| {
        let mut transactions = client.subscribe(subscription).transactions();
        async move {
            let transaction = timeout(SOON, transactions.next()).await.unwrap().unwrap().unwrap();
            (transaction.changes().len(), transaction.position())
        }
    };
    let from = |start| Subscription::new(start);
    assert_eq!(whole(from(Start::Earliest)).await, (309, at(lsn, 309)));
    assert_eq!(whole(from(Start::Earliest).table("public.users")).await, (199, at(lsn, 309)));
    assert_eq!(whole(from(Start::Earliest).table("public.orders")).await, (110, at(lsn, 309)));
    let within = Start::After { position: at(lsn, 150), epoch: None };
    assert_eq!(whole(from(within)).await, (159, at(lsn, 309)));
    // A transaction that is too large to be gathered is an error that says so, and not a full memory.
    let mut small = client.subscribe(from(Start::Earliest)).transactions().bytes_max(1000);
    assert!(matches!(small.next().await, Some(Err(Error::TransactionTooLarge { max: 1000, .. }))));
    assert!(small.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_far_behind_reads_the_files_and_catches_up() {
    // The ring holds a few of these at most.
    let mut server = Server::start_with(|_| {}, cdc::log::Settings { ring_bytes: 1000, ..settings() }).await;
    server.fill(3000);
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    let mut filtered = client.subscribe(Subscription::new(Start::Earliest).table("*.users"));
    let found = positions(&mut events, 3000).await;
    assert_eq!(found, positions(&mut filtered, 3000).await);
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(found[2999], server.log.head());
    // And back to the ring.
    let lsn = server.commit(vec![insert(1, 1, "live")]);
    assert_eq!(positions(&mut events, 1).await, [at(lsn, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_leaves_no_gap_and_nothing_twice() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    let mut filtered = client.subscribe(Subscription::new(Start::Earliest).table("public.users"));
    let mut found = Vec::new();
    for round in 0..4 {
        server.fill(50);
        server.commit(vec![insert(1, 2, "x"), insert(2, 1, "y")]);
        found.extend(positions(&mut events, if round % 2 == 0 { 52 } else { 30 }).await);
        server.restart().await;
    }
    let left = 4 * 52 - found.len();
    found.extend(positions(&mut events, left).await);
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(positions(&mut filtered, 4 * 51).await.len(), 4 * 51);
    assert_eq!(found.len(), 4 * 52);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_without_a_word_is_noticed_when_it_is_back() {
    let mut server = Server::start().await;
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    server.move_to(doomed.handle()).await;
    server.fill(2);
    let client = server.client().await;
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    positions(&mut events, 2).await;
    doomed.shutdown_background();
    server.start_again(tokio::runtime::Handle::current()).await;
    let lsn = server.commit(vec![insert(1, 1, "after")]);
    // Before the connection would have been given up for its silence, which takes 15 s.
    let found = timeout(std::time::Duration::from_secs(10), positions(&mut events, 1)).await;
    assert_eq!(found.expect("it was not noticed"), [at(lsn, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_can_t_be_had() {
    let mut server = Server::start_with(|_| {}, cdc::log::Settings { segment_bytes: 4096, ring_bytes: 1000, ..settings() }).await;
    server.fill(500);
    let removed = server.log.retain(cdc::log::Policy { keep_bytes: Some(20_000), keep_age: None }, 0).unwrap();
    let earliest = server.log.earliest();
    assert!(earliest > at(0x1000, 0), "{removed:?}");
    let client = server.client().await;
    let after = |position, epoch| client.subscribe(Subscription::new(Start::After { position, epoch }));
    let epoch = Some(client.server().epoch);
    match error_of(after(at(0x200, 1), epoch)).await {
        Error::Gap { earliest: Some(told), .. } => assert_eq!(told, earliest),
        other => panic!("{other:?}"),
    }
    match error_of(after(earliest, Some(beyond_cdc_client::Epoch([1; 16])))).await {
        Error::Gap { message, .. } => assert!(message.contains("epoch"), "{message}"),
        other => panic!("{other:?}"),
    }
    match error_of(after(at(u64::MAX, 1), epoch)).await {
        Error::Gap { message, .. } => assert!(message.contains("ahead"), "{message}"),
        other => panic!("{other:?}"),
    }
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    assert!(positions(&mut events, 1).await[0] > earliest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_can_t_be_given_out_is_never_skipped() {
    use crate::harness::Raw;
    use beyond_cdc_client::proto::v1::{ErrorCode, Filter, Subscribe, client_message, server_message, subscribe};
    for ring_bytes in [256 << 10, 0] {
        let mut server = Server::start_with(|_| {}, cdc::log::Settings { ring_bytes, ..settings() }).await;
        server.fill(2);
        server.append_garbage();
        server.fill(2);
        let mut raw = Raw::hello(&server).await;
        let subscribe = Subscribe {
            subscription: 1,
            start: Some(subscribe::Start::Earliest(true)),
            filter: Some(Filter { tables: vec!["public.*".to_owned()], ..Filter::default() }),
            ..Subscribe::default()
        };
        raw.say(client_message::Kind::Subscribe(subscribe)).await;
        assert!(matches!(raw.heard().await, Some(server_message::Kind::Subscribed(_))));
        let mut stream = timeout(SOON, raw.connection.accept_uni()).await.unwrap().unwrap();
        match raw.heard().await {
            Some(server_message::Kind::Error(error)) => {
                assert_eq!((error.code(), error.subscription), (ErrorCode::Internal, 1));
            }
            other => panic!("{other:?}"),
        }
        // What was before it has come, and nothing behind it.
        let text = String::from_utf8_lossy(&stream.read_to_end(1 << 20).await.unwrap()).into_owned();
        assert!(text.contains("name 0") && text.contains("name 1"), "{text:?}");
        assert_eq!(text.matches("name ").count(), 2, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_what_the_server_renders() {
    use crate::harness::Raw;
    use beyond_cdc_client::proto::frame::Frames;
    use beyond_cdc_client::proto::prost::Message;
    use beyond_cdc_client::proto::v1::{Encoding, JsonBatch, Subscribe, client_message, subscribe};
    let mut server = Server::start().await;
    server.commit(vec![insert(1, 1, "Ada \"L\"")]);
    let mut raw = Raw::hello(&server).await;
    let subscribe = Subscribe {
        subscription: 5,
        start: Some(subscribe::Start::Earliest(true)),
        encoding: Encoding::Json.into(),
        ..Subscribe::default()
    };
    raw.say(client_message::Kind::Subscribe(subscribe)).await;
    raw.heard().await.unwrap();
    let mut stream = timeout(SOON, raw.connection.accept_uni()).await.unwrap().unwrap();
    let mut number = [0; 4];
    stream.read_exact(&mut number).await.unwrap();
    assert_eq!(number, [0, 0, 0, 5]);
    let mut frames = Frames::new(1 << 20);
    let frame = loop {
        match frames.next().unwrap() {
            Some(frame) => break frame,
            None => frames.push(&stream.read_chunk(1000, true).await.unwrap().unwrap().bytes),
        }
    };
    let batch = JsonBatch::decode(frame).unwrap();
    let change: HashMap<String, serde_json::Value> = serde_json::from_str(&batch.transactions[0].changes[0]).unwrap();
    assert_eq!(change["new"]["name"], "Ada \"L\"");
    assert_eq!(change["position"], "0/200:1");
}
