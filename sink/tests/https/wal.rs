//! Ranges of WAL, and waiting for more.

use std::fs;
use std::time::Duration;

use reqwest::StatusCode;
use sink::api::Waited;
use walbus::{Lsn, WalFile};

use crate::harness::{MB, Sink, at, problem, segment, text, tli, until, wal};

async fn range(sink: &Sink, query: &str) -> Vec<u8> {
    let answer = sink.get(&format!("/v1/wal?{query}")).await;
    assert_eq!(answer.status(), StatusCode::OK, "{query}");
    answer.bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn a_range_crosses_segments_up_to_flushed() {
    let sink = Sink::start(|_| {}).await;
    assert!(range(&sink, "from=0/1FFFFF&to=0/300005").await == wal(1, 2 * MB - 1, 3 * MB + 5));
    assert!(range(&sink, "from=0%2F100000&to=0/200000&timeline=1").await == wal(1, MB, 2 * MB));
    let answer = sink.get("/v1/wal?from=0/100000").await;
    assert_eq!(text(answer.headers(), "x-beyond-flushed"), "0/3186A0");
    assert!(answer.bytes().await.unwrap() == wal(1, MB, 3 * MB + 100_000));
    assert!(range(&sink, "from=0/3186A0").await.is_empty());
}

#[tokio::test]
async fn a_range_follows_the_history() {
    let sink = Sink::start(|_| {}).await;
    let switch = 3 * MB + 50_000;
    fs::write(sink.path(&WalFile::History(tli(2))), format!("1\t{}\tno reason\n", Lsn(switch))).unwrap();
    sink.state.catalog_mut().histories.insert(tli(2));
    sink.state.catalog_mut().segments.get_mut(&segment(1, 3)).unwrap().partial_end = Some(Lsn(3 * MB + 100_000));
    sink.partial(2, 3, 4 * MB);
    sink.state.set_positions(at(2, 3 * MB + 70_000));

    let mut expected = wal(1, 2 * MB, 3 * MB);
    expected.extend(wal(2, 3 * MB, 3 * MB + 70_000));
    assert!(range(&sink, "from=0/200000").await == expected);
    // The old timeline to its own end, as long as it is asked for by number.
    assert!(range(&sink, "from=0/200000&timeline=1").await == wal(1, 2 * MB, 3 * MB + 100_000));
    let (code, problem) = problem(sink.get("/v1/wal?from=0/200000&timeline=9").await).await;
    assert_eq!((code, problem.code.as_str()), (StatusCode::NOT_FOUND, "timeline_not_held"));
}

#[tokio::test]
async fn what_is_not_held_is_named_with_what_is() {
    let sink = Sink::start(|_| {}).await;
    let (code, pruned) = problem(sink.get("/v1/wal?from=0/5&to=0/200000").await).await;
    assert_eq!((code, pruned.code.as_str()), (StatusCode::NOT_FOUND, "wal_not_held"));
    assert_eq!(pruned.oldest.as_deref(), Some("0/100000"));
    for beyond in ["from=0/3186A1", "from=0/300000&to=0/3186A1", "from=FFFFFFFF/FFFFFFFF", "from=0/0&to=FFFFFFFF/FFFFFFFF"] {
        let (code, problem) = problem(sink.get(&format!("/v1/wal?{beyond}")).await).await;
        assert_eq!((code, problem.code.as_str()), (StatusCode::RANGE_NOT_SATISFIABLE, "beyond_flushed"), "{beyond}");
    }
    for bad in [
        "",
        "from=",
        "from=1",
        "from=0/200000&to=0/100000",
        "from=0/1&timeline=0",
        "from=0/1&timeline=x",
        "from=0/1&too=0/2",
        "from=0/1&from=0/1",
    ] {
        let (code, _) = problem(sink.get(&format!("/v1/wal?{bad}")).await).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_segment_that_goes_away_under_way_breaks_the_answer() {
    let sink = Sink::start(|_| {}).await;
    fs::remove_file(sink.path(&WalFile::Segment(segment(1, 2).name(crate::harness::SIZE)))).unwrap();
    let answer = sink.get("/v1/wal?from=0/100000").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.is_err(), "an answer that is cut short is no whole one");
}

#[tokio::test]
async fn a_wait_ends_when_the_wal_is_flushed() {
    let sink = Sink::start(|_| {}).await;
    let client = sink.client();
    let held = client.wait(Lsn(3 * MB), Duration::from_secs(60)).await.unwrap();
    assert_eq!(held, Waited { reached: true, timeline: 1, flushed: "0/3186A0".to_owned() });
    let up = client.wait(Lsn(5 * MB), Duration::ZERO).await.unwrap();
    assert!(!up.reached);

    let waiting = tokio::spawn(async move { client.wait(Lsn(3 * MB + 100_001), Duration::from_secs(60)).await.unwrap() });
    sink.state.set_positions(at(1, 3 * MB + 100_500));
    assert!(waiting.await.unwrap().reached);
}

#[tokio::test]
async fn a_wait_is_for_a_timeline() {
    let sink = Sink::start(|_| {}).await;
    let wait = async |query: &str| -> Waited {
        serde_json::from_slice(&sink.get(&format!("/v1/wait?{query}")).await.bytes().await.unwrap()).unwrap()
    };
    assert!(wait("lsn=0/300000&timeline=1").await.reached);
    assert!(!wait("lsn=0/300000&timeline=2&timeout=0").await.reached);
    sink.state.set_positions(at(2, 3 * MB + 100_000));
    // Nothing more will come of timeline 1, so nothing is waited for.
    let over = wait("lsn=0/300000&timeline=1&timeout=300").await;
    assert_eq!((over.reached, over.timeline), (false, 2));
    for bad in ["", "lsn=x", "lsn=0/1&timeout=301", "lsn=0/1&timeout=-1", "lsn=0/1&timeline=0", "lsn=0/1&x=1"] {
        assert_eq!(problem(sink.get(&format!("/v1/wait?{bad}")).await).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn waits_are_answered_at_the_end() {
    let mut sink = Sink::start(|_| {}).await;
    let client = sink.client();
    let waiting = tokio::spawn(async move { client.wait(Lsn(9 * MB), Duration::from_secs(300)).await });
    until("the wait to begin", || sink.metrics.https_waits.get() == 1).await;
    sink.handle.shutdown();
    assert!(!waiting.await.unwrap().unwrap().reached);
    (&mut sink.task).await.unwrap();
}
