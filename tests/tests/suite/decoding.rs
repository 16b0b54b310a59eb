//! What decoding gets wrong unless one is careful, each case by itself.

use anyhow::{Context, Result};
use beyond_cdc_client::{Change, Event, Start, Subscription, connect};
use futures_util::StreamExt;
use harness::cdc::PUBLICATION;
use harness::{Cdc, DEADLINE, Postgres, eventually};

/// A cluster with a table, and what serves its changes.
async fn served(tables: &str) -> Result<(Postgres, Cdc)> {
    let setup = Postgres::version(18).setting("wal_level", "logical").setting("logical_decoding_work_mem", "64kB");
    let cluster = setup.start().await?;
    cluster.execute(&format!("{tables}; CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES")).await?;
    let cdc = Cdc::of(&cluster)?;
    Ok((cluster, cdc))
}

/// The first changes, as many as wanted, by what a subscriber is told in between: positions of ends, and changes.
async fn events(cdc: &Cdc, changes: usize) -> Result<Vec<Event>> {
    let (client, driver) = connect(cdc.options()?).await?;
    let driver = tokio::spawn(driver.run());
    let mut stream = client.subscribe(Subscription::new(Start::Earliest));
    let mut events = Vec::new();
    let read = async {
        while events.iter().filter(|event| matches!(event, Event::Change(_))).count() < changes {
            events.push(stream.next().await.context("the subscription has ended")??);
        }
        events.push(stream.next().await.context("the subscription has ended")??);
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, read).await.context("changes do not come")??;
    driver.abort();
    Ok(events)
}

fn changes(events: &[Event]) -> Vec<&Change> {
    events.iter().filter_map(|event| if let Event::Change(change) = event { Some(change) } else { None }).collect()
}

#[tokio::test]
async fn rows_are_read_by_the_definition_of_their_time() -> Result<()> {
    let (cluster, mut cdc) = served("CREATE TABLE t (a integer, b timestamp)").await?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    cdc.kill()?;
    // All of this is decoded at once, later, when the table is another one.
    cluster.execute("INSERT INTO t VALUES (-5, 'infinity')").await?;
    cluster.execute("ALTER TABLE t ALTER a TYPE bigint, ADD c text").await?;
    cluster.execute("INSERT INTO t VALUES (6, NULL, 'c')").await?;
    cdc.start().await?;
    let events = events(&cdc, 2).await?;
    let changes = changes(&events);
    let seen: Vec<(Option<i64>, &str, usize)> = changes
        .iter()
        .map(|change| {
            let (row, table) = (change.new_row().context("a row")?, change.table().context("a table")?);
            anyhow::Ok((row.column("a").and_then(|a| a.integer()), table.columns[0].type_name.as_str(), table.columns.len()))
        })
        .collect::<Result<_>>()?;
    assert_eq!(seen, [(Some(-5), "int4", 2), (Some(6), "int8", 3)]);
    Ok(())
}

#[tokio::test]
async fn a_transaction_of_which_nothing_is_left_is_not_told() -> Result<()> {
    let (cluster, mut cdc) = served("CREATE TABLE t (a integer)").await?;
    cdc.start().await?;
    cdc.wait_streaming(&cluster).await?;
    // Large enough to be streamed before it is rolled back; the xid of the transaction itself is committed with nothing.
    let client = cluster.client().await?;
    client.batch_execute("BEGIN; SELECT txid_current(); SAVEPOINT s; INSERT INTO t SELECT generate_series(1, 20000)").await?;
    let streamed = "SELECT stream_count > 0 FROM pg_stat_replication_slots";
    eventually(DEADLINE, "a part to be streamed", async || {
        // The server counts when it has come to the end of what is flushed.
        cluster.execute("INSERT INTO t VALUES (0)").await?;
        Ok((cluster.value(streamed).await? == "t").then_some(()))
    })
    .await?;
    client.batch_execute("ROLLBACK TO s; COMMIT").await?;
    cluster.execute("INSERT INTO t VALUES (-1)").await?;
    let rows: usize = cluster.value("SELECT count(*) FROM t").await?.parse()?;
    let events = events(&cdc, rows).await?;
    let mut open = 0;
    for event in &events {
        match event {
            Event::Begin(_) => open = 0,
            Event::Change(_) => open += 1,
            Event::Commit { position, .. } => assert!(open > 0, "a transaction at {position} without a change"),
            Event::Through(_) => {}
        }
    }
    Ok(())
}
