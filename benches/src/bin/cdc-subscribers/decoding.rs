//! Subscribers as users have them: by the client library, with every row decoded and looked at.

use anyhow::{Context, Result, bail};
use beyond_cdc_client::{Event, Events, Options, Start, Subscription, connect};
use beyond_pg_benches::counted::Counter;
use futures_util::StreamExt;

use crate::Args;

/// A subscription that the server has agreed to.
pub(crate) async fn open(args: &Args) -> Result<Events> {
    let (client, driver) = connect(Options::new(&args.url)?.ca(&args.ca).token_file(&args.token_file)).await?;
    tokio::spawn(driver.run());
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    events.started().await?;
    Ok(events)
}

pub(crate) async fn count(mut events: Events, changes: u64) -> Result<Counter> {
    let mut counter = Counter::default();
    while let Some(event) = events.next().await {
        match event? {
            Event::Begin(_) | Event::Through(_) => {}
            Event::Change(change) => {
                // As a consumer would: the row is looked at.
                let row = change.new_row().context("an insert has a row")?;
                if row.columns().next().and_then(|(_, value)| value.integer()).is_none() {
                    bail!("the first column of {} is no integer", change.position());
                }
                counter.change();
            }
            Event::Commit { header, .. } => {
                if counter.commit(header.commit_time()) >= changes {
                    return Ok(counter);
                }
            }
        }
    }
    bail!("the stream has ended")
}
