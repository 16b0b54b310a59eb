//! The CDC server on real Postgres: what befalls its slot, its source, its disk and its signals. Nothing is lost in silence.

use anyhow::{Context, Result};
use beyond_cdc_client::{Change, Event, Start, Subscription, connect};
use futures_util::StreamExt;
use harness::cdc::PUBLICATION;
use harness::postgres::Setup;
use harness::{Cdc, DEADLINE, Postgres};

mod ascii;
mod disk;
mod memory;
mod signal;
mod slot;
mod source;
mod walcat;

/// A cluster that can be decoded, of this version. No power is lost here, so that nothing has to wait for its disk.
fn decoding(version: u32) -> Setup {
    Postgres::version(version).setting("wal_level", "logical").setting("logical_decoding_work_mem", "64kB").setting("fsync", "off")
}

/// A cluster with the table `t`, all of it published, and a server of it that streams.
async fn streaming(setup: Setup) -> Result<(Postgres, Cdc)> {
    let cluster = setup.start().await?;
    publish(&cluster).await?;
    let mut cdc = Cdc::of(&cluster)?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    Ok((cluster, cdc))
}

/// The table `t` and a publication of all tables.
async fn publish(cluster: &Postgres) -> Result<()> {
    cluster
        .execute(&format!("CREATE TABLE t (a integer PRIMARY KEY, b text); CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES"))
        .await
}

/// The first changes from a place on, as many as wanted.
async fn read(cdc: &Cdc, start: Start, count: usize) -> Result<Vec<Change>> {
    let (client, driver) = connect(cdc.options()?).await?;
    let driver = tokio::spawn(driver.run());
    let mut stream = client.subscribe(Subscription::new(start));
    let mut changes = Vec::with_capacity(count);
    let read = async {
        while changes.len() < count {
            if let Event::Change(change) = stream.next().await.context("the subscription has ended")?? {
                changes.push(change);
            }
        }
        anyhow::Ok(())
    };
    let done = tokio::time::timeout(DEADLINE, read).await;
    driver.abort();
    let got = changes.len();
    done.with_context(|| format!("{got} of {count} changes came; the server's log:\n{}", cdc.log()))??;
    Ok(changes)
}

/// The numbers in column `a` of the first changes that the log holds.
async fn numbers(cdc: &Cdc, count: usize) -> Result<Vec<i64>> {
    let changes = read(cdc, Start::Earliest, count).await?;
    changes.iter().map(|change| change.new_row().and_then(|row| row.column("a")?.integer()).context("a number")).collect()
}
