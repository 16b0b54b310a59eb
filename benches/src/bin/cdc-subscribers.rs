//! Subscribers that count what comes, in a process of their own, so that their CPU is told apart. For `benches/peers/cdc`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use beyond_cdc_client::{Event, Events, Options, Start, Subscription, connect};
use beyond_pg_benches::counted::{Counter, READY};
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many connections are being made at once.
const CONNECTING: usize = 16;

/// Subscribes so many times, each with a connection of its own, and counts until each has had so many changes.
#[derive(Debug, Parser)]
struct Args {
    /// Where beyond-pg-cdc listens
    #[arg(long)]
    url: String,
    /// Its authority
    #[arg(long)]
    ca: PathBuf,
    /// Its token
    #[arg(long)]
    token_file: PathBuf,
    /// How many subscribers
    #[arg(long, default_value_t = 1)]
    subscribers: usize,
    /// How many more, that subscribe and then never read
    #[arg(long, default_value_t = 0)]
    stuck: usize,
    /// How many changes each waits for, at the end of a transaction
    #[arg(long)]
    changes: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Each connection has a socket.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).context("raise the limit of open files")?;
    // One thread: what it uses is the work, and no handing over of it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counters = runtime.block_on(subscribe(&args))?;
    println!("{}", serde_json::to_string(&Counter::sum(counters))?);
    Ok(())
}

async fn subscribe(args: &Args) -> Result<Vec<Counter>> {
    let opened = futures_util::stream::iter(0..args.subscribers + args.stuck).map(|_| open(args)).buffer_unordered(CONNECTING);
    let mut all: Vec<Events> = opened.try_collect().await?;
    let stuck = all.split_off(args.subscribers);
    println!("{READY}");
    let mut counting = tokio::task::JoinSet::new();
    for events in all {
        counting.spawn(count(events, args.changes));
    }
    let mut counters = Vec::new();
    while let Some(counted) = counting.join_next().await {
        counters.push(counted??);
    }
    drop(stuck);
    Ok(counters)
}

/// A subscription that the server has agreed to.
async fn open(args: &Args) -> Result<Events> {
    let (client, driver) = connect(Options::new(&args.url)?.ca(&args.ca).token_file(&args.token_file)).await?;
    tokio::spawn(driver.run());
    let mut events = client.subscribe(Subscription::new(Start::Earliest));
    events.started().await?;
    Ok(events)
}

async fn count(mut events: Events, changes: u64) -> Result<Counter> {
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
