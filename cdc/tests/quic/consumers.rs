//! Consumers with a name.

use beyond_cdc_client::{Error, Start, Subscription};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::harness::{SOON, Server, at, eventually};
use crate::stream::{error_of, positions};

fn named(name: &str) -> Subscription {
    Subscription::new(Start::Resume { fresh_from_earliest: true }).consumer(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_where_it_has_acknowledged() {
    let mut server = Server::start().await;
    server.fill(10);
    let client = server.client().await;
    let mut events = client.subscribe(named("orders"));
    let found = positions(&mut events, 6).await;
    events.acknowledge(found[3]);
    eventually("it is acknowledged", || server.handle.subscriptions().iter().any(|info| info.acknowledged == Some(found[3]))).await;
    drop(events);
    eventually("the session has ended", || server.handle.subscriptions().is_empty()).await;
    let mut again = client.subscribe(named("orders"));
    assert_eq!(positions(&mut again, 2).await, found[4..6], "what was given out and not acknowledged comes again");
    // Also over a restart of the server, of which the client knows nothing.
    again.acknowledge(found[5]);
    eventually("it is acknowledged", || server.handle.subscriptions().iter().any(|info| info.acknowledged == Some(found[5]))).await;
    drop((again, client));
    server.restart().await;
    assert_eq!(server.consumers.list()[0].place.unwrap().position, found[5]);
    let client = server.client().await;
    let mut later = client.subscribe(named("orders"));
    assert_eq!(positions(&mut later, 1).await, [at(0x200 + 6 * 0x100, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_never_acknowledged_misses_nothing() {
    let mut server = Server::start().await;
    server.fill(2);
    let client = server.client().await;
    let fresh = || Subscription::new(Start::Resume { fresh_from_earliest: false }).consumer("late");
    let mut events = client.subscribe(fresh());
    events.started().await.unwrap();
    drop(events);
    eventually("the session has ended", || server.handle.subscriptions().is_empty()).await;
    server.fill(2);
    let mut events = client.subscribe(fresh());
    assert_eq!(positions(&mut events, 2).await, [at(0x400, 1), at(0x500, 1)], "its first start counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_consumer_begins_is_durable_before_it_is_told() {
    let mut server = Server::start().await;
    server.fill(2);
    let client = server.client().await;
    for name in ["a", "b", "c"] {
        let mut events = client.subscribe(named(name));
        events.started().await.unwrap();
        let file = server.dir.path().join("consumers").join(format!("{name}.consumer"));
        assert!(std::fs::read_to_string(&file).unwrap().contains("position"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_one_session_unless_it_is_taken_over() {
    let mut server = Server::start().await;
    server.fill(3);
    let (first_client, second_client) = (server.client().await, server.client().await);
    let mut first = first_client.subscribe(named("a"));
    let found = positions(&mut first, 3).await;
    first.acknowledge(found[0]);
    eventually("it is acknowledged", || server.handle.subscriptions().iter().any(|info| info.acknowledged.is_some())).await;
    match error_of(second_client.subscribe(named("a"))).await {
        Error::Settings(text) => assert!(text.contains("\"a\"") && text.contains("beyond-cdc-client"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut second = second_client.subscribe(named("a").take_over(true));
    assert_eq!(positions(&mut second, 2).await, found[1..]);
    assert!(matches!(error_of(first).await, Error::TakenOver(_)));
    second.acknowledge(found[2]);
    eventually("the second's counts", || server.consumers.list()[0].place.is_some_and(|place| place.position == found[2])).await;
    // Other names are not touched by any of it.
    let mut other = first_client.subscribe(named("b"));
    assert_eq!(positions(&mut other, 3).await, found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_starts_have_to_make_sense() {
    let server = Server::start().await;
    let client = server.client().await;
    for wrong in [Subscription::new(Start::Resume { fresh_from_earliest: true }), named("no/slash")] {
        assert!(matches!(error_of(client.subscribe(wrong)).await, Error::Settings(_)));
    }
    // The connection has survived both.
    client.head().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_on_after_a_restart_keeps_its_acknowledgements() {
    let mut server = Server::start().await;
    server.fill(4);
    let client = server.client().await;
    let mut transactions = client.subscribe(named("t")).transactions();
    let mut last = at(0, 0);
    for round in 0..3 {
        for _ in 0..2 {
            if round == 2 {
                server.fill(1);
            }
            let transaction = timeout(SOON, transactions.next()).await.unwrap().unwrap().unwrap();
            assert!(transaction.position() > last);
            last = transaction.position();
            transactions.acknowledge(last);
        }
        if round < 2 {
            server.restart().await;
        }
    }
    eventually("it is acknowledged", || server.consumers.list()[0].place.is_some_and(|place| place.position == last)).await;
}
