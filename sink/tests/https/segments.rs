//! Status, listing, history, and segments.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use sink::api::{Gap, State};
use sink::client::ClientError;
use walbus::{Lsn, WalFile};

use crate::harness::{MB, SIZE, Sink, UNFLUSHED, at, name, problem, segment, text, tli, wal};

async fn body(sink: &Sink, name: &str, range: Option<&str>) -> Vec<u8> {
    let mut request = sink.request(&format!("/v1/segments/{name}"));
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.bytes().await.unwrap().to_vec()
}

/// Segment 3 of timeline 1 as it should be served: WAL, then zeros.
fn tail(end: u64) -> Vec<u8> {
    let mut expected = wal(1, 3 * MB, end);
    expected.resize(usize::try_from(MB).unwrap(), 0);
    expected
}

#[tokio::test]
async fn before_the_first_connection_it_says_so() {
    let sink = Sink::empty(|_| {}).await;
    let status = sink.client().status().await.unwrap();
    assert_eq!((status.state, status.system_id, status.flushed), (State::Connecting, None, None));
    assert_eq!(status.slot, "sink_slot");
    assert!(!status.alarm);
    assert!(matches!(sink.client().segments().await, Err(ClientError::Retry(_))));
    let (code, problem) = problem(sink.get(&format!("/v1/segments/{}", name(1, 1))).await).await;
    assert_eq!((code, problem.code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "nothing_held"));
    assert_eq!(sink.get("/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sink.get("/healthz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn status_and_list_say_what_is_held() {
    let sink = Sink::start(|_| {}).await;
    let status = sink.client().status().await.unwrap();
    assert_eq!(status.state, State::Streaming);
    assert_eq!(status.flushed.as_deref(), Some("0/3186A0"));
    assert_eq!(status.oldest.as_deref(), Some("0/100000"));
    assert_eq!(status.lag_bytes, 1000);
    assert_eq!((status.timeline, status.segment_size), (Some(1), Some(MB)));
    assert_eq!(sink.get("/readyz").await.status(), StatusCode::OK);

    let listed = sink.client().segments().await.unwrap();
    let shown: Vec<_> = listed.segments.iter().map(|entry| (entry.name.clone(), entry.end.as_str(), entry.complete)).collect();
    assert_eq!(shown, [(name(1, 1), "0/200000", true), (name(1, 2), "0/300000", true), (name(1, 3), "0/3186A0", false)]);
    assert_eq!(listed.gaps, []);

    sink.whole(1, 10);
    sink.state.set_positions(at(1, 11 * MB));
    sink.state.set_condition(State::DiskFull, Some("make room".to_owned()));
    let listed = sink.client().segments().await.unwrap();
    // Of the files that the gap left behind, the catalog says how far they go.
    assert_eq!(listed.gaps, [Gap { timeline: 1, from: "0/3186A0".to_owned(), to: "0/A00000".to_owned() }]);
    let status = sink.client().status().await.unwrap();
    assert_eq!((status.oldest.as_deref(), status.alarm), (Some("0/A00000"), true));
    assert_eq!(status.problem.as_deref(), Some("make room"));
    assert_eq!(sink.get("/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_history_file_is_sent_as_it_is() {
    let sink = Sink::start(|_| {}).await;
    let content = "1\t0/2000A0\tno recovery target specified\n";
    fs::write(sink.path(&WalFile::History(tli(2))), content).unwrap();
    assert!(matches!(sink.client().history(tli(2)).await, Err(ClientError::NotHeld(_))));
    sink.state.catalog_mut().histories.insert(tli(2));
    assert_eq!(sink.client().history(tli(2)).await.unwrap(), content);
    for bad in ["0", "00000002", "%ff", "x", "-1", "1.history", "%2e%2e%2ftoken", "99999999999"] {
        let (code, _) = problem(sink.get(&format!("/v1/history/{bad}")).await).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_whole_segment_is_sent_whole() {
    let sink = Sink::start(|_| {}).await;
    let answer = sink.get(&format!("/v1/segments/{}", name(1, 2))).await;
    let headers = answer.headers().clone();
    assert_eq!(text(&headers, CONTENT_LENGTH.as_str()), MB.to_string());
    assert_eq!(text(&headers, "x-beyond-timeline"), "1");
    assert_eq!(text(&headers, "x-beyond-flushed"), "0/300000");
    assert_eq!(text(&headers, "x-beyond-complete"), "true");
    assert_eq!(text(&headers, "accept-ranges"), "bytes");
    assert!(answer.bytes().await.unwrap() == wal(1, 2 * MB, 3 * MB));
    assert!(sink.metrics.encode().contains("beyond_pg_sink_https_sent_bytes_total 1048576"));
}

#[tokio::test]
async fn the_tail_ends_at_flushed_and_is_padded() {
    let sink = Sink::start(|_| {}).await;
    let answer = sink.get(&format!("/v1/segments/{}", name(1, 3))).await;
    assert_eq!(text(answer.headers(), "x-beyond-flushed"), "0/3186A0");
    assert_eq!(text(answer.headers(), "x-beyond-complete"), "false");
    assert!(answer.bytes().await.unwrap() == tail(3 * MB + 100_000));

    let mut through = sink.client().segment(&name(1, 3).parse().unwrap(), Some(99_990..100_010)).await.unwrap();
    assert_eq!((through.flushed, through.complete, through.len), (Lsn(3 * MB + 100_000), false, 20));
    let mut got = Vec::new();
    while let Some(bytes) = through.chunk().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert_eq!(got, tail(3 * MB + 100_000)[99_990..100_010]);

    // A file that was made ahead holds nothing.
    let (code, problem) = problem(sink.get(&format!("/v1/segments/{}", name(1, 4))).await).await;
    assert_eq!((code, problem.code.as_str()), (StatusCode::NOT_FOUND, "segment_not_held"));
    assert!(problem.message.contains(&name(1, 1)) && problem.message.contains(&name(1, 3)), "{}", problem.message);
    assert_eq!(problem.oldest.as_deref(), Some("0/100000"));
}

#[tokio::test]
async fn the_tail_of_a_timeline_that_ended_is_kept() {
    let sink = Sink::start(|_| {}).await;
    sink.partial(2, 3, 3 * MB + 200_000);
    sink.state.set_positions(at(2, 3 * MB + 150_000));
    sink.state.catalog_mut().segments.get_mut(&segment(1, 3)).unwrap().partial_end = Some(Lsn(3 * MB + 90_000));
    assert!(body(&sink, &name(1, 3), None).await == tail(3 * MB + 90_000));
    let mut expected = wal(2, 3 * MB, 3 * MB + 150_000);
    expected.resize(usize::try_from(MB).unwrap(), 0);
    assert!(body(&sink, &name(2, 3), None).await == expected);
}

#[tokio::test]
async fn ranges_are_those_of_rfc_9110() {
    let sink = Sink::start(|_| {}).await;
    let path = format!("/v1/segments/{}", name(1, 3));
    let whole = tail(3 * MB + 100_000);
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=99990-100009", 99_990..100_010),
        ("bytes=1048570-", 1_048_570..1_048_576),
        ("bytes=-6", 1_048_570..1_048_576),
    ] {
        let answer = sink.request(&path).header(RANGE, range).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(answer.headers(), CONTENT_RANGE.as_str()), format!("bytes {}-{}/1048576", part.start, part.end - 1));
        assert_eq!(answer.bytes().await.unwrap(), whole[part]);
    }
    let answer = sink.request(&path).header(RANGE, "bytes=1048576-").send().await.unwrap();
    assert_eq!(text(answer.headers(), CONTENT_RANGE.as_str()), "bytes */1048576");
    assert_eq!(problem(answer).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    let answer = sink.request(&path).header(RANGE, "bytes=9-3").send().await.unwrap();
    assert_eq!(problem(answer).await.0, StatusCode::BAD_REQUEST);
    assert!(body(&sink, &name(1, 3), Some("bytes=0-1,5-6")).await == whole, "several ranges are answered by everything");
}

#[test]
fn any_range_has_the_bytes_of_a_plain_slice() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sink = runtime.block_on(Sink::start(|_| {}));
    let (client, segment_name) = (sink.client(), name(1, 3).parse().unwrap());
    let whole = tail(3 * MB + 100_000);
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let ranges = (0..MB, prop_oneof![1..100u64, 1..MB]);
    runner
        .run(&ranges, |(start, len)| {
            let end = (start + len).min(MB);
            let got = runtime.block_on(async {
                let mut body = client.segment(&segment_name, Some(start..end)).await.unwrap();
                let mut got = Vec::new();
                while let Some(bytes) = body.chunk().await.unwrap() {
                    got.extend_from_slice(&bytes);
                }
                got
            });
            let slice = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            prop_assert!(got == whole[slice], "{start}..{end}");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn an_etag_stands_for_the_bytes() {
    let sink = Sink::start(|_| {}).await;
    let etag = async |number| text(sink.get(&format!("/v1/segments/{}", name(1, number))).await.headers(), "etag").to_owned();
    let (whole, before) = (etag(2).await, etag(3).await);
    assert_eq!((etag(2).await, etag(3).await), (whole.clone(), before.clone()));
    sink.write(1, 3 * MB + 100_000, 3 * MB + 100_001);
    sink.state.set_positions(at(1, 3 * MB + 100_001));
    let after = etag(3).await;
    assert_ne!(after, before);

    let path = format!("/v1/segments/{}", name(1, 3));
    let with =
        async |header, value: &str| sink.request(&path).header(RANGE, "bytes=5-9").header(header, value).send().await.unwrap();
    assert_eq!(with(IF_RANGE, &after).await.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(with(IF_RANGE, &before).await.status(), StatusCode::OK);
    assert_eq!(with(IF_RANGE, "Fri, 20 Nov 2026 00:00:00 GMT").await.status(), StatusCode::OK);
    assert_eq!(with(IF_MATCH, &before).await.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(with(IF_MATCH, &after).await.status(), StatusCode::PARTIAL_CONTENT);
    let unchanged = with(IF_NONE_MATCH, &after).await;
    assert_eq!((unchanged.status(), text(unchanged.headers(), ETAG.as_str())), (StatusCode::NOT_MODIFIED, after.as_str()));
    assert_eq!(with(IF_NONE_MATCH, &before).await.status(), StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn head_says_what_get_would_and_sends_nothing() {
    let sink = Sink::start(|_| {}).await;
    let url = sink.url(&format!("/v1/segments/{}", name(1, 3)));
    let answer = sink.http().head(url).bearer_auth(sink.token()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer.headers(), CONTENT_LENGTH.as_str()), MB.to_string());
    assert!(!text(answer.headers(), "etag").is_empty());
    assert!(answer.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_or_pruned_file_is_told_of() {
    let sink = Sink::start(|_| {}).await;
    fs::remove_file(sink.path(&WalFile::Segment(segment(1, 1).name(SIZE)))).unwrap();
    let (code, _) = problem(sink.get(&format!("/v1/segments/{}", name(1, 1))).await).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    fs::write(sink.path(&WalFile::Segment(segment(1, 2).name(SIZE))), "short").unwrap();
    let (code, problem) = problem(sink.get(&format!("/v1/segments/{}", name(1, 2))).await).await;
    assert_eq!((code, problem.code.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "segment_damaged"));
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let sink = Sink::start(|_| {}).await;
    fs::write(sink.dir.path().join("secret"), "secret").unwrap();
    for bad in [
        "..%2Ftoken",
        "%2e%2e%2ftoken",
        "token",
        "secret",
        "tls%2fca.key",
        "000000010000000000000001.partial",
        "000000010000000000000001%00",
        "00000001000000000000000a",
        "000000000000000000000001",
        "000000010000000000001000",
        "spare.0",
        "%ff%fe",
        "%00",
    ] {
        let (code, _) = problem(sink.get(&format!("/v1/segments/{bad}")).await).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{bad}");
    }
    for bad in ["/v1/segments/../token", "/v1/segments/..%2f..%2fetc/passwd", "/../../etc/passwd", "/v1//segments", "/"] {
        let (code, _) = problem(sink.get(bad).await).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{bad}");
    }
}

/// While a writer fills segments, names them and says that they are flushed, no reader sees a byte that was not flushed when it was told
/// what is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_above_flushed_is_ever_served() {
    const SEGMENTS: u64 = 8;
    let sink = Arc::new(Sink::start(|_| {}).await);
    let done = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (sink, done) = (Arc::clone(&sink), Arc::clone(&done));
        move || {
            let mut lsn = 3 * MB + 100_000;
            while lsn < (3 + SEGMENTS) * MB {
                let to = (lsn + 37_123).min((lsn / MB + 1) * MB);
                sink.write(1, lsn, to);
                if to.is_multiple_of(MB) {
                    let whole = segment(1, to / MB - 1);
                    let (from, final_name) = (WalFile::Partial(whole.name(SIZE)), WalFile::Segment(whole.name(SIZE)));
                    rustix::fs::rename(sink.path(&from), sink.path(&final_name)).unwrap();
                    sink.state.catalog_mut().segments.get_mut(&whole).unwrap().partial_end = None;
                    sink.partial(1, to / MB, to);
                }
                sink.state.set_positions(at(1, to));
                lsn = to;
            }
            done.store(1, Ordering::Release);
        }
    });
    let client = sink.client();
    let mut downloads = 0;
    while done.load(Ordering::Acquire) == 0 || downloads < 20 {
        let before = sink.state.positions().unwrap().flushed;
        let number = (before.0 - 1) / MB;
        let mut body = client.segment(&name(1, number).parse().unwrap(), None).await.unwrap();
        assert!(body.flushed >= before.min(Lsn((number + 1) * MB)), "{} went back from {before}", body.flushed);
        assert!(body.flushed <= sink.state.positions().unwrap().flushed);
        let mut got = Vec::new();
        let end = body.flushed.0;
        while let Some(bytes) = body.chunk().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        let mut expected = wal(1, number * MB, end);
        expected.resize(usize::try_from(MB).unwrap(), 0);
        assert!(got == expected, "segment {number} up to {end}, leaked: {}", got.contains(&UNFLUSHED));
        downloads += 1;
    }
    writer.join().unwrap();
}
