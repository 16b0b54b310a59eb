//! Each fault, as a client meets it.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::s3::{BUCKET, Client, Fault, Faults, Refuse, S3, When};
use reqwest::Method;
use tokio::time::Instant;

async fn stage() -> Result<(S3, Client, Faults, Client)> {
    let server = S3::start_new().await?;
    let direct = server.client()?;
    let faults = Faults::before(server.port())?;
    let through = Client::new(faults.port(), BUCKET)?;
    Ok((server, direct, faults, through))
}

#[tokio::test]
async fn without_faults_all_passes() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    through.put("a/b", large.clone()).await?;
    ensure!(direct.bytes("a/b").await? == large && through.bytes("a/b").await? == large);
    ensure!(through.send(Method::HEAD, "/a/b", &[], "").await?.header("content-length") == "3000000");
    ensure!(through.keys("a/").await? == ["a/b"] && !through.put_if_absent("a/b", "x").await?);
    through.delete("a/b").await?;
    ensure!(direct.get("a/b").await?.is_none() && faults.requests() == 6, "{}", faults.requests());
    Ok(())
}

#[tokio::test]
async fn refusals_never_reach_the_store() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    for (refuse, status, code) in [
        (Refuse::AccessDenied, 403, "AccessDenied"),
        (Refuse::ExpiredToken, 403, "ExpiredToken"),
        (Refuse::InternalError, 500, "InternalError"),
        (Refuse::SlowDown, 503, "SlowDown"),
        (Refuse::TooManyRequests, 429, "TooManyRequests"),
    ] {
        let hits = faults.add(When::method("PUT").of("/k").after(1).times(2), Fault::Refuse(refuse));
        through.put("k", "x").await?;
        for _ in 0..2 {
            let answer = through.send(Method::PUT, "/k", &[], "y").await?;
            ensure!(answer.status == status && answer.elements("Code") == [code], "{answer:?}");
        }
        through.put("k", "z").await?;
        ensure!(hits.count() == 2 && direct.bytes("k").await? == "z");
        faults.heal();
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_cut_leaves_nothing() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    let hits = faults.add(When::method("PUT"), Fault::CutRequest(1000));
    ensure!(through.put("k", vec![1; 100_000]).await.is_err() && hits.count() == 1);
    ensure!(direct.get("k").await?.is_none(), "half an object");
    faults.heal();
    through.put("k", vec![1; 100_000]).await?;
    Ok(())
}

#[tokio::test]
async fn answers_are_cut_cut_short_and_damaged() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    let content = vec![7; 200_000];
    direct.put("k", content.clone()).await?;
    for fault in [Fault::CutResponse(1000), Fault::Truncate(1000), Fault::CutResponse(0)] {
        faults.add(When::method("GET"), fault);
        ensure!(through.get("k").await.is_err(), "{fault:?}");
        faults.heal();
    }
    faults.add(When::method("GET"), Fault::Shorten(1000));
    ensure!(through.bytes("k").await?.len() == 1000, "a length that is wrong, and fits");
    faults.heal();
    faults.add(When::method("GET"), Fault::FlipResponse(150_000));
    let flipped = through.bytes("k").await?;
    ensure!(flipped.iter().zip(&content).filter(|(left, right)| left != right).count() == 1 && flipped[150_000] == 6);
    faults.heal();
    faults.add(When::method("PUT"), Fault::FlipRequest(3));
    through.put("k2", "hello").await?;
    ensure!(direct.bytes("k2").await? == "helmo", "{:?}", direct.bytes("k2").await?);
    Ok(())
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_was_carried_out() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    let hits = faults.add(When::method("PUT").times(1), Fault::LoseAnswer);
    ensure!(through.put_if_absent("k", "x").await.is_err() && hits.count() == 1);
    ensure!(direct.bytes("k").await? == "x");
    ensure!(!through.put_if_absent("k", "x").await?);
    Ok(())
}

#[tokio::test]
async fn a_store_that_ignores_conditions_replaces() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    faults.add(When::any(), Fault::IgnoreConditions);
    ensure!(through.put_if_absent("k", "1").await? && through.put_if_absent("k", "2").await?);
    ensure!(direct.bytes("k").await? == "2");
    Ok(())
}

#[tokio::test]
async fn delays_and_silence_last_as_long_as_told() -> Result<()> {
    let (mut server, _direct, faults, through) = stage().await?;
    faults.add(When::any(), Fault::Delay(Duration::from_millis(200)));
    let start = Instant::now();
    through.put("k", "x").await?;
    ensure!(start.elapsed() >= Duration::from_millis(200));
    faults.heal();
    let hits = faults.add(When::any(), Fault::Hang);
    let waiting = tokio::spawn({
        let through = through.clone();
        async move { through.get("k").await }
    });
    harness::eventually(harness::DEADLINE, "the request", async || Ok((hits.count() == 1).then_some(()))).await?;
    ensure!(!waiting.is_finished());
    faults.heal();
    ensure!(waiting.await?.is_err(), "what hung is reset");
    server.kill()?;
    ensure!(through.get("k").await.is_err(), "there is nobody behind the proxy");
    Ok(())
}

#[tokio::test]
async fn a_put_whose_answer_is_held_back_is_there_meanwhile() -> Result<()> {
    let (_server, direct, faults, through) = stage().await?;
    faults.add(When::method("PUT"), Fault::HoldAnswer);
    let waiting = tokio::spawn(async move { through.put_if_absent("k", "x").await });
    harness::eventually(harness::DEADLINE, "what was put", async || {
        Ok(direct.get("k").await?.filter(|content| content == "x").map(drop))
    })
    .await?;
    ensure!(!waiting.is_finished());
    faults.heal();
    ensure!(waiting.await?.is_err(), "it is never answered");
    Ok(())
}
