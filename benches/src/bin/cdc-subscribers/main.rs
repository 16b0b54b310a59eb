//! Subscribers that count what comes, in a process of their own, so that their CPU is told apart. For `benches/peers/cdc`.

mod counting;
mod decoding;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use anyhow::{Context, Result, anyhow};
use beyond_pg_benches::counted::{Counter, READY};
use clap::Parser;
use futures_util::{StreamExt, TryStreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many connections a thread makes at once.
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
    /// Count the changes that a batch has, and look at no row: what is measured then is the server, and less its readers
    #[arg(long)]
    count_only: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Each connection has a socket.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).context("raise the limit of open files")?;
    // Threads that share nothing: what they use is the work, and no handing over of it.
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(args.subscribers.max(1));
    let connected = Arc::new(Barrier::new(threads));
    let counters = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|thread| {
                let (args, connected) = (&args, Arc::clone(&connected));
                // Those who never read are the first thread's.
                let stuck = if thread == 0 { args.stuck } else { 0 };
                let subscribers = args.subscribers / threads + usize::from(thread < args.subscribers % threads);
                scope.spawn(move || share(args, subscribers, stuck, &connected))
            })
            .collect();
        let joined = shares.into_iter().map(|share| share.join().map_err(|_panic| anyhow!("a thread has panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    })?;
    println!("{}", serde_json::to_string(&Counter::sum(counters.into_iter().flatten().collect()))?);
    Ok(())
}

/// One thread's share.
fn share(args: &Args, subscribers: usize, stuck: usize, connected: &Barrier) -> Result<Vec<Counter>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // A process that ends is one that the others need not wait for.
        if args.count_only {
            let opened = futures_util::stream::iter(0..subscribers + stuck).map(|_| counting::open(args));
            let all = opened.buffer_unordered(CONNECTING).try_collect().await.unwrap_or_else(|error| fail(&error));
            tell(connected);
            count(all, subscribers, |subscription| counting::count(subscription, args.changes)).await
        } else {
            let opened = futures_util::stream::iter(0..subscribers + stuck).map(|_| decoding::open(args));
            let all = opened.buffer_unordered(CONNECTING).try_collect().await.unwrap_or_else(|error| fail(&error));
            tell(connected);
            count(all, subscribers, |events| decoding::count(events, args.changes)).await
        }
    })
}

fn fail<T>(error: &anyhow::Error) -> T {
    eprintln!("Error: {error:?}");
    std::process::exit(1);
}

/// Says once that all threads have all their subscriptions.
fn tell(connected: &Barrier) {
    if connected.wait().is_leader() {
        println!("{READY}");
    }
}

/// Lets all but the last ones count, which are there and never read.
async fn count<T, F>(mut all: Vec<T>, subscribers: usize, count: impl Fn(T) -> F) -> Result<Vec<Counter>>
where
    F: Future<Output = Result<Counter>> + 'static,
{
    let stuck = all.split_off(subscribers);
    let local = tokio::task::LocalSet::new();
    let counting: Vec<_> = all.into_iter().map(|subscription| local.spawn_local(count(subscription))).collect();
    let counters = local.run_until(async {
        let mut counters = Vec::with_capacity(counting.len());
        for counted in counting {
            counters.push(counted.await??);
        }
        anyhow::Ok(counters)
    });
    let counters = counters.await?;
    drop(stuck);
    Ok(counters)
}
