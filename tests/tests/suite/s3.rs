//! The S3 servers of the harness answer alike, for all that an archive of WAL asks of one; and the faults before them are as told.

mod conformance;
mod faults;

use anyhow::{Result, ensure};
use harness::s3::{S3, S3Kind};
use reqwest::Method;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_sigkill() -> Result<()> {
    let mut server = S3::start_new().await?;
    let client = server.client()?;
    for round in 0..5 {
        let writer = tokio::spawn({
            let client = client.clone();
            async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let key = format!("{round}/{number}");
                    if client.put_if_absent(&key, key.clone()).await.is_err() {
                        break;
                    }
                    acknowledged.push(key);
                }
                acknowledged
            }
        });
        harness::eventually(harness::DEADLINE, "some objects", async || {
            Ok((client.keys(&format!("{round}/")).await?.len() > 10).then_some(()))
        })
        .await?;
        server.kill()?;
        let acknowledged = writer.await?;
        server.start().await?;
        for key in &acknowledged {
            ensure!(client.bytes(key).await? == key.as_bytes(), "{key}");
        }
        // The one that was on its way is there whole, or not at all.
        let held = client.keys(&format!("{round}/")).await?;
        ensure!(held.len() - acknowledged.len() <= 1, "{} held, {} acknowledged", held.len(), acknowledged.len());
        for key in &held {
            ensure!(client.bytes(key).await? == key.as_bytes(), "{key}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_was_not_signed_is_refused() -> Result<()> {
    let server = S3::start_new().await?;
    let client = server.client()?;
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let headers = [("x-amz-content-sha256", hash)];
    ensure!(client.send(Method::PUT, "/k", &headers, "hello").await?.status == 200);
    let other = client.send(Method::PUT, "/k", &headers, "hellp").await?;
    ensure!(other.status == 400 && other.elements("Code") == ["XAmzContentSHA256Mismatch"], "{other:?}");
    ensure!(client.bytes("k").await? == "hello");
    Ok(())
}

#[tokio::test]
async fn it_speaks_tls_to_those_who_trust_it() -> Result<()> {
    let mut server = S3::new(S3Kind::Own)?;
    let authority = server.tls()?;
    server.start().await?;
    server.client()?.put("k", "x").await?;
    let cluster = harness::Postgres::version(18).create().await?;
    let archiver = harness::Archiver::at(server.port()).env("AWS_ENDPOINT_URL", &format!("https://127.0.0.1:{}", server.port()));
    let to = cluster.scratch().path().join("fetched");
    let run = archiver.clone().timeout(2).fetch(cluster.data(), "00000002.history", &to).await?;
    ensure!(run.ended(130, &["certificate"]), "{run:?}");
    let archiver = archiver.env("AWS_CA_BUNDLE", &authority.to_string_lossy());
    let probed = archiver.run("probe", [""; 0]).await?;
    ensure!(probed.ended(0, &[]), "{probed:?}");
    let run = archiver.fetch(cluster.data(), "00000002.history", &to).await?;
    ensure!(run.ended(1, &[]), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn moto_forgets_and_takes_its_port_again() -> Result<()> {
    let mut server = S3::new(S3Kind::Moto)?;
    server.start().await?;
    let client = server.client()?;
    client.put("k", "x").await?;
    server.kill()?;
    ensure!(client.get("k").await.is_err());
    server.start().await?;
    ensure!(client.get("k").await?.is_none());
    Ok(())
}
