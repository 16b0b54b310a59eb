//! Puts the parts together.

use std::io::{IsTerminal, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;

use beyond_cdc_client::connect;
use clap::Parser;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tracing_subscriber::EnvFilter;
use walbus::clock::{Clock, SystemClock};

use crate::args::{Args, Format};
use crate::exit::Failure;
use crate::follow::Follower;
use crate::output::Printer;
use crate::place::PositionFile;

/// Runs the program with the process' arguments.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    start_logging(args.verbose);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("walcat: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("walcat: {failure}");
            failure.code()
        }
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "beyond_cdc_client=info",
        2 => "beyond_cdc_client=debug",
        _ => "debug",
    };
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr).init();
}

async fn run(args: &Args) -> Result<(), Failure> {
    let (file, kept) = match &args.position_file {
        None => (None, None),
        Some(path) => PositionFile::open(path).map(|(file, kept)| (Some(file), kept))?,
    };
    let (client, driver) = connect(args.options()?).await?;
    let subscription = args.subscription(kept, SystemClock::new().now().to_unix_micros());
    let terminal = stdout().is_terminal();
    let format = args.format.unwrap_or(if terminal { Format::Pretty } else { Format::Json });
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let follower = Follower {
        events: client.subscribe(subscription),
        printer: Printer::new(format, args.transactions, color),
        out: stdout().lock(),
        file,
        named: args.consumer.is_some(),
        left: args.count,
        until_now: args.until_now,
    };
    drop(client);
    let mut driver = std::pin::pin!(driver.run());
    let mut follow = std::pin::pin!(follow_until_told(follower));
    let done = tokio::select! {
        done = &mut follow => done,
        // It ends early only when it gave the connection up: the subscription says why.
        () = &mut driver => return follow.await,
    };
    // What was acknowledged at the end still goes out; the driver ends by itself when nobody wants anything more.
    driver.await;
    done
}

/// Follows until it is done or the process is told to stop, at which it stops as if it were done.
async fn follow_until_told<W: std::io::Write>(follower: Follower<W>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return follower.run().await;
    };
    tokio::select! {
        done = follower.run() => done,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = reader_gone(stdout()) => Ok(()),
    }
}

/// Waits until nobody reads the pipe any more, be there something to write or not. Never returns where it is no pipe.
async fn reader_gone(out: impl AsFd) {
    // Only asked whether there is an error, so that it may block. What can't be watched, as a file, has no reader either.
    let watched = out.as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    match watched {
        Ok(pipe) if pipe.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_pipe_without_a_reader_is_noticed() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut gone = std::pin::pin!(reader_gone(writer));
        assert!((&mut gone).now_or_never().is_none());
        drop(reader);
        timeout(Duration::from_secs(20), gone).await.unwrap();
        assert!(reader_gone(tempfile::tempfile().unwrap()).now_or_never().is_none(), "a file has none");
    }
}
