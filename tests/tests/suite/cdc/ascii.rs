//! A database that knows no encoding.

use anyhow::{Context, Result, ensure};
use beyond_cdc_client::Start;
use harness::cdc::PUBLICATION;
use harness::{Cdc, DEADLINE, eventually};

use super::{decoding, read};

#[tokio::test]
async fn names_and_values_that_are_no_utf8_come_whole() -> Result<()> {
    let cluster = decoding(18).start().await?;
    cluster.execute("CREATE DATABASE raw ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0").await?;
    // By a program that passes bytes on: "caf\xe9" and its column "\xfc" are Latin-1. Without a key it is named in a warning.
    let script = cluster.scratch().file(
        "raw.sql",
        b"SET client_encoding = 'SQL_ASCII';\nCREATE TABLE \"caf\xe9\" (a integer, \"\xfc\" text);\nCREATE PUBLICATION everything FOR ALL TABLES;\n",
    )?;
    let rows = cluster.scratch().file(
        "rows.sql",
        b"SET client_encoding = 'SQL_ASCII';\nINSERT INTO \"caf\xe9\" VALUES (1, 'gr\xfc\xdfe'), (2, 'plain');\n",
    )?;
    let run = async |script: &std::path::Path| {
        let mut psql = cluster.program("psql");
        psql.env("PGDATABASE", "raw").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script);
        harness::program::run(psql).await
    };
    run(&script).await?;
    let mut cdc = Cdc::new(&format!("{} dbname=raw", cluster.conninfo()))?;
    cdc.arg("--create-slot").set_publication(PUBLICATION).start().await?;
    cdc.wait_streaming(&cluster).await?;
    eventually(DEADLINE, "the warning", async || Ok(cdc.log().contains("without a replica identity").then_some(()))).await?;
    run(&rows).await?;
    let changes = read(&cdc, Start::Earliest, 2).await?;
    let table = changes[0].table().context("a table")?;
    ensure!((table.table.as_str(), table.columns[1].name.as_str()) == (r"caf\xe9", r"\xfc"), "{table:?}");
    let value = |index: usize| changes[index].new_row().and_then(|row| row.column(r"\xfc"));
    ensure!(value(0).and_then(|value| value.bytes()) == Some(b"gr\xfc\xdfe"), "{:?}", changes[0]);
    ensure!(value(1).and_then(|value| value.text()) == Some("plain"), "{:?}", changes[1]);
    Ok(())
}
