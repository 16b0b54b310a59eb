//! One list of answers, which moto and our own server both give.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::s3::{BUCKET, Client, S3, S3Kind};
use reqwest::Method;

#[tokio::test]
async fn moto_answers_so() -> Result<()> {
    conforms(S3Kind::Moto).await
}

#[tokio::test]
async fn our_own_answers_so() -> Result<()> {
    conforms(S3Kind::Own).await
}

async fn conforms(kind: S3Kind) -> Result<()> {
    let mut server = S3::new(kind)?;
    server.start().await?;
    let client = server.client()?;
    put_and_get(&client).await.context("put and get")?;
    ranges(&client).await.context("ranges")?;
    conditions(&client).await.context("conditions")?;
    races(&client).await.context("races")?;
    absences(&server, &client).await.context("absences")?;
    deletes(&client).await.context("deletes")?;
    lists(&client).await.context("lists")?;
    multipart(&client).await.context("multipart")
}

async fn put_and_get(client: &Client) -> Result<()> {
    client.put("a/b", "hello").await?;
    let got = client.send(Method::GET, "/a/b", &[], "").await?;
    let head = client.send(Method::HEAD, "/a/b", &[], "").await?;
    ensure!(got.status == 200 && got.body == "hello", "{got:?}");
    ensure!(head.status == 200 && head.body.is_empty(), "{head:?}");
    for name in ["content-length", "etag", "last-modified", "accept-ranges"] {
        ensure!(!got.header(name).is_empty() && got.header(name) == head.header(name), "{name}: {got:?} {head:?}");
    }
    ensure!(head.header("content-length") == "5" && head.header("etag").starts_with('"'), "{head:?}");
    let date = got.header("last-modified");
    ensure!(date.len() == "Sun, 09 Sep 2001 01:46:40 GMT".len() && date.ends_with(" GMT"), "{date}");

    client.put("a/b", "other").await?;
    let other = client.send(Method::GET, "/a/b", &[], "").await?;
    ensure!(other.body == "other" && other.header("etag") != got.header("etag"), "{other:?}");
    client.put("empty", "").await?;
    ensure!(client.bytes("empty").await?.is_empty());
    let large: Vec<u8> = (0..6_000_000_u32).map(|at| (at % 251) as u8).collect();
    client.put("large", large.clone()).await?;
    ensure!(client.bytes("large").await? == large, "6 MB come back as they went");
    Ok(())
}

async fn ranges(client: &Client) -> Result<()> {
    client.put("r", "hello").await?;
    let ask = async |range: &str| client.send(Method::GET, "/r", &[("range", range)], "").await;
    for (range, body, header) in [
        ("bytes=0-0", "h", "bytes 0-0/5"),
        ("bytes=1-2", "el", "bytes 1-2/5"),
        ("bytes=3-", "lo", "bytes 3-4/5"),
        ("bytes=3-100", "lo", "bytes 3-4/5"),
        ("bytes=-2", "lo", "bytes 3-4/5"),
    ] {
        let answer = ask(range).await?;
        ensure!(answer.status == 206 && answer.body == body && answer.header("content-range") == header, "{range}: {answer:?}");
    }
    let beyond = ask("bytes=5-9").await?;
    ensure!(beyond.status == 416 && beyond.elements("Code") == ["InvalidRange"], "{beyond:?}");
    Ok(())
}

async fn conditions(client: &Client) -> Result<()> {
    ensure!(client.put_if_absent("c", "first").await?, "there was none");
    let second = client.send(Method::PUT, "/c", &[("if-none-match", "*")], "second").await?;
    ensure!(second.status == 412 && second.elements("Code") == ["PreconditionFailed"], "{second:?}");
    ensure!(client.bytes("c").await? == "first");
    client.delete("c").await?;
    ensure!(client.put_if_absent("c", "third").await?, "it was deleted");
    ensure!(client.bytes("c").await? == "third");
    Ok(())
}

async fn races(client: &Client) -> Result<()> {
    for round in 0..10 {
        let key = format!("race-{round}");
        let tries: Vec<_> = (0..6)
            .map(|writer| {
                let (client, key) = (client.clone(), key.clone());
                tokio::spawn(
                    async move { Ok::<_, anyhow::Error>((writer, client.put_if_absent(&key, format!("{writer}")).await?)) },
                )
            })
            .collect();
        let mut created = Vec::new();
        for one in tries {
            let (writer, is_first) = one.await??;
            created.extend(is_first.then_some(writer));
        }
        ensure!(created.len() == 1, "{created:?} were all told that they were first");
        ensure!(client.bytes(&key).await? == format!("{}", created[0]));
    }
    Ok(())
}

async fn absences(server: &S3, client: &Client) -> Result<()> {
    let none = client.send(Method::GET, "/none", &[], "").await?;
    ensure!(none.status == 404 && none.elements("Code") == ["NoSuchKey"], "{none:?}");
    let none = client.send(Method::HEAD, "/none", &[], "").await?;
    ensure!(none.status == 404 && none.body.is_empty(), "{none:?}");
    let elsewhere = Client::new(server.port(), "no-such-bucket")?;
    for (method, target) in [(Method::GET, "/a"), (Method::PUT, "/a"), (Method::GET, "?list-type=2"), (Method::DELETE, "/a")] {
        let answer = elsewhere.send(method.clone(), target, &[], "").await?;
        ensure!(answer.status == 404 && answer.elements("Code") == ["NoSuchBucket"], "{method} {target}: {answer:?}");
    }
    ensure!(elsewhere.send(Method::HEAD, "", &[], "").await?.status == 404);
    ensure!(client.send(Method::HEAD, "", &[], "").await?.status == 200);
    // Without a signature.
    let anonymous = reqwest::Client::builder().no_proxy().build()?;
    let answer = anonymous.get(format!("http://127.0.0.1:{}/{BUCKET}/a/b", server.port())).send().await?;
    ensure!(answer.status() == 403, "{answer:?}");
    Ok(())
}

async fn deletes(client: &Client) -> Result<()> {
    client.put("d", "x").await?;
    client.delete("d").await?;
    ensure!(client.get("d").await?.is_none());
    client.delete("d").await?;
    for key in ["d/1", "d/2&", "d/3"] {
        client.put(key, "x").await?;
    }
    let request = "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key>d/1</Key></Object><Object>\
                   <Key>d/2&amp;</Key></Object><Object><Key>none</Key></Object></Delete>";
    let answer = client.send(Method::POST, "?delete", &[], request).await?;
    ensure!(answer.status == 200 && answer.elements("Deleted").len() == 3, "{answer:?}");
    ensure!(answer.elements("Key") == ["d/1", "d/2&", "none"], "{answer:?}");
    ensure!(client.keys("d/").await? == ["d/3"]);
    Ok(())
}

async fn lists(client: &Client) -> Result<()> {
    for key in ["l/a", "l/b/1", "l/b/2", "l/b.x", "l/c é+&<", "m/1"] {
        client.put(key, "xyz").await?;
    }
    let list = async |query: &str| client.send(Method::GET, &format!("?list-type=2{query}"), &[], "").await;
    let all = list("&prefix=l%2F").await?;
    ensure!(all.elements("Key") == ["l/a", "l/b.x", "l/b/1", "l/b/2", "l/c é+&<"], "{all:?}");
    ensure!(all.elements("Size") == ["3"; 5] && all.elements("IsTruncated") == ["false"], "{all:?}");
    ensure!(all.elements("LastModified").iter().all(|date| date.len() == 24 && date.ends_with('Z')), "{all:?}");
    let encoded = list("&prefix=l%2F&encoding-type=url").await?;
    ensure!(encoded.elements("Key").last().is_some_and(|key| key == "l/c%20%C3%A9%2B%26%3C"), "{encoded:?}");

    let grouped = list("&prefix=l%2F&delimiter=%2F").await?;
    ensure!(grouped.elements("Key") == ["l/a", "l/b.x", "l/c é+&<"], "{grouped:?}");
    ensure!(common_prefixes(&grouped.body) == ["l/b/"], "{grouped:?}");
    let after = list("&prefix=l%2F&start-after=l%2Fb%2F1").await?;
    ensure!(after.elements("Key") == ["l/b/2", "l/c é+&<"], "{after:?}");
    ensure!(list("&prefix=none").await?.elements("Key").is_empty());

    for max in 1..=4 {
        let (mut seen, mut from) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = list(&format!("&prefix=l%2F&delimiter=%2F&max-keys={max}{from}")).await?;
            let mut entries = page.elements("Key");
            entries.extend(common_prefixes(&page.body));
            ensure!(entries.len() <= max, "{page:?}");
            seen.extend(entries);
            let truncated = page.elements("IsTruncated") == ["true"];
            match page.elements("NextContinuationToken").first() {
                Some(token) if truncated => from = format!("&continuation-token={token}"),
                None if !truncated => break,
                _ => anyhow::bail!("truncated without a token, or the other way: {page:?}"),
            }
        }
        seen.sort();
        ensure!(seen == ["l/a", "l/b.x", "l/b/", "l/c é+&<"], "pages of {max}: {seen:?}");
    }
    Ok(())
}

/// `Prefix` stands for what was asked for as well.
fn common_prefixes(body: &Bytes) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let groups = text.split("<CommonPrefixes>").skip(1);
    groups.filter_map(|group| Some(group.split_once("<Prefix>")?.1.split_once("</Prefix>")?.0.to_owned())).collect()
}

async fn multipart(client: &Client) -> Result<()> {
    let created = client.send(Method::POST, "/m/whole?uploads", &[], "").await?;
    let upload = created.elements("UploadId").first().cloned().with_context(|| format!("{created:?}"))?;
    // All but the last have to be as large as that.
    let (first, second) = (vec![b'a'; 5 << 20], vec![b'b'; 10]);
    let mut parts = String::new();
    for (number, part) in [(1, &first), (2, &second)] {
        let kept = client.send(Method::PUT, &format!("/m/whole?partNumber={number}&uploadId={upload}"), &[], part.clone()).await?;
        ensure!(kept.status == 200, "{kept:?}");
        parts += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", kept.header("etag"));
    }
    ensure!(client.get("m/whole").await?.is_none(), "it is there when it is complete");
    let request = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let done = client.send(Method::POST, &format!("/m/whole?uploadId={upload}"), &[], request).await?;
    ensure!(done.status == 200, "{done:?}");
    ensure!(client.bytes("m/whole").await? == [first, second].concat());

    let created = client.send(Method::POST, "/m/none?uploads", &[], "").await?;
    let upload = created.elements("UploadId").first().cloned().with_context(|| format!("{created:?}"))?;
    ensure!(client.send(Method::DELETE, &format!("/m/none?uploadId={upload}"), &[], "").await?.status == 204);
    let gone = client.send(Method::DELETE, &format!("/m/none?uploadId={upload}"), &[], "").await?;
    ensure!(gone.status == 404 && gone.elements("Code") == ["NoSuchUpload"], "{gone:?}");
    Ok(())
}
