//! Drains a logical slot, and throws away what comes: no client can be faster than this. For `benches/peers/cdc`.

use std::time::Duration;

use anyhow::{Context, Result};
use beyond_pg_benches::counted::{Counter, READY};
use clap::Parser;
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};
use walbus::clock::{Clock, SystemClock};
use walbus::conninfo;
use walbus::proto::replication::StandbyStatus;
use walbus::source::{self, CopyStream, Event, Mode};
use walbus::{Lsn, PgTime};

/// Reads a logical slot until so many inserts have come, and keeps nothing.
#[derive(Debug, Parser)]
struct Args {
    /// The primary, with the database
    #[arg(long)]
    upstream: String,
    /// The slot
    #[arg(long)]
    slot: String,
    /// The publication
    #[arg(long)]
    publication: String,
    /// How many inserts to wait for, at the end of a transaction
    #[arg(long)]
    changes: u64,
    /// Milliseconds to leave what comes in the socket before it is read again; 0 reads each message as it comes
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

/// How long a patient one reads before it pauses though there is more: else it chases each message as it is written.
const READING_MAX: Duration = Duration::from_micros(500);

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counter = runtime.block_on(drain(&args))?;
    println!("{}", serde_json::to_string(&Counter::sum(vec![counter]))?);
    Ok(())
}

async fn drain(args: &Args) -> Result<Counter> {
    let upstream = conninfo::Config::parse(&args.upstream, &source::environment()).context("--upstream")?;
    let dbname = upstream.dbname().unwrap_or_else(|| upstream.user()).to_owned();
    let client = source::connect(&upstream, Mode::Logical { dbname }).await?;
    // As beyond-pg-cdc asks for it.
    let options = [
        ("proto_version", "4".to_owned()),
        ("publication_names", format!("\"{}\"", args.publication)),
        ("streaming", "on".to_owned()),
        ("messages", "false".to_owned()),
    ];
    let mut stream = client.start_logical(&args.slot, Lsn::INVALID, &options).await?;
    println!("{READY}");
    let mut counter = Counter::default();
    let clock = SystemClock::new();
    loop {
        let mut next = Some(stream.next().await?);
        let pause_at = clock.monotonic() + READING_MAX;
        while let Some(event) = next {
            if let Some(end) = handle(&mut counter, &mut stream, &event, args.changes)? {
                confirm(&mut stream, end);
                return Ok(counter);
            }
            let hurries = args.pause_ms > 0 && counter.changes().is_multiple_of(64) && clock.monotonic() >= pause_at;
            next = if hurries { None } else { stream.try_next()? };
        }
        if args.pause_ms > 0 {
            pause(args.pause_ms)?;
        }
    }
}

/// Blocks the thread: the runtime's own timer would have it woken up by each message all the same, since it waits for the socket as well.
fn pause(millis: u64) -> Result<()> {
    let wanted = Timespec::try_from(Duration::from_millis(millis))?;
    match nanosleep(&wanted) {
        NanosleepRelativeResult::Err(error) => Err(error.into()),
        NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) => Ok(()),
    }
}

/// Gives the end of the last transaction, once all has come.
fn handle(counter: &mut Counter, stream: &mut CopyStream, event: &Event, changes: u64) -> Result<Option<Lsn>> {
    match event {
        Event::End => anyhow::bail!("the primary ended the stream"),
        Event::Keepalive(keepalive) => {
            if keepalive.reply_requested {
                confirm(stream, Lsn::INVALID);
            }
        }
        Event::Wal(data) => match data.data.first() {
            Some(b'I') => counter.change(),
            Some(b'C') => {
                let time = data.data.get(18..26).and_then(|bytes| bytes.try_into().ok()).context("a commit has a time")?;
                let done = counter.commit(PgTime(i64::from_be_bytes(time)).to_unix_micros()) >= changes;
                return Ok(done.then_some(data.start));
            }
            _ => {}
        },
    }
    Ok(None)
}

fn confirm(stream: &mut CopyStream, lsn: Lsn) {
    let time = SystemClock::new().now();
    stream.try_send_status(&StandbyStatus { write: lsn, flush: lsn, apply: lsn, time, reply_requested: false });
}
