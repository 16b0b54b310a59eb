//! The subscriber: takes what the public client library gives, checks it, and applies it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use beyond_cdc_client::{Client, Epoch, Error, Event, Events, Options, Position, Start, Subscription, connect};
use futures_util::StreamExt;
use tokio::task::{JoinHandle, JoinSet};

use super::mirror::{Fault, Mirror};
use super::record::{Received, Summary, name_of};
use crate::wait::{DEADLINE, Pace};

/// The name that it has on the server.
const CONSUMER: &str = "equality";

/// A subscriber that may be killed at any moment, and started again.
#[derive(Debug)]
pub(super) struct Subscriber {
    settings: Settings,
    seen: Arc<Mutex<Seen>>,
    task: Option<JoinHandle<()>>,
}

/// How it subscribes.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The server.
    pub(super) options: Options,
    /// The second database.
    pub(super) mirror: tokio_postgres::Config,
    /// Whether it has a name, and acknowledges.
    pub(super) named: bool,
}

/// What outlives it.
#[derive(Debug, Default)]
struct Seen {
    received: Received,
    wrong: Option<String>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriber {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, seen: Arc::default(), task: None }
    }

    /// Starts it, from the place that the second database tells.
    pub(super) fn start(&mut self) {
        let (settings, seen) = (self.settings.clone(), Arc::clone(&self.seen));
        self.task = Some(tokio::spawn(async move {
            if let Err(wrong) = run(&settings, &seen).await {
                lock(&seen).wrong.get_or_insert_with(|| format!("{wrong:#}"));
            }
        }));
    }

    /// Kills it, in the middle of whatever it does.
    pub(super) async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // Cancelled, or ended by itself before: either is what was asked for.
            drop(task.await);
        }
    }

    /// An error where something was wrong.
    pub(super) fn check(&self) -> Result<()> {
        match &lock(&self.seen).wrong {
            Some(wrong) => bail!("the subscriber: {wrong}"),
            None => Ok(()),
        }
    }

    /// All that it was given.
    pub(super) fn received(&self) -> Received {
        lock(&self.seen).received.clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Goes on over connections that break. Ends only with what is wrong.
async fn run(settings: &Settings, seen: &Mutex<Seen>) -> Result<()> {
    let mut pace = Pace::new(DEADLINE);
    loop {
        let applied = lock(seen).received.transactions.len();
        let lost = match session(settings, seen).await {
            Fault::Wrong(wrong) => return Err(wrong),
            Fault::Lost(lost) => lost,
        };
        if lock(seen).received.transactions.len() > applied {
            pace = Pace::new(DEADLINE);
        }
        if !pace.pause().await {
            return Err(lost.context(format!("nothing was received for {DEADLINE:?}")));
        }
    }
}

/// One session of the mirror, with as many connections to the server as it takes.
async fn session(settings: &Settings, seen: &Mutex<Seen>) -> Fault {
    let (mirror, place) = match Mirror::connect(&settings.mirror).await {
        Ok(connected) => connected,
        Err(error) => return Fault::Lost(error),
    };
    let (client, driver) = match connect(settings.options.clone()).await {
        Ok(connected) => connected,
        Err(error) => return fault(error, "connect to the server"),
    };
    // Ends with this, however it ends.
    let mut driving = JoinSet::new();
    driving.spawn(driver.run());
    match follow(settings, seen, mirror, &client, place).await {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

async fn follow(
    settings: &Settings,
    seen: &Mutex<Seen>,
    mut mirror: Mirror,
    client: &Client,
    place: Option<(Position, Epoch)>,
) -> Result<std::convert::Infallible, Fault> {
    let start = match place {
        Some((position, epoch)) => Start::After { position, epoch: Some(epoch) },
        None => Start::Earliest,
    };
    let mut wanted = Subscription::new(start);
    if settings.named {
        wanted = wanted.consumer(CONSUMER).take_over(true);
    }
    let mut events = client.subscribe(wanted);
    events.started().await.map_err(|error| fault(error, "subscribe"))?;
    let epoch = events.epoch().ok_or_else(|| Fault::Wrong(anyhow!("subscribed, and there is no epoch")))?;
    let mut reader = Reader { last: place.map(|(position, _)| position).unwrap_or_default(), open: None };
    loop {
        let event = next(&mut events).await?;
        let (done, ended) = reader.take(&event).map_err(|problem| Fault::Wrong(problem.context(format!("{event:?}"))))?;
        match &event {
            Event::Begin(_) => mirror.begin(),
            Event::Change(change) => mirror.change(change).await?,
            Event::Commit { position, .. } => {
                if let Some((commit_lsn, xid, summary)) = ended {
                    // Before it is applied: when it comes again, it has to be the same, applied or not.
                    lock(seen).received.take(commit_lsn, xid, summary).map_err(|problem| Fault::Wrong(anyhow!(problem)))?;
                }
                mirror.commit(*position, epoch).await?;
                if settings.named {
                    events.acknowledge(done);
                }
            }
            Event::Through(_) => {}
        }
    }
}

async fn next(events: &mut Events) -> Result<Event, Fault> {
    match events.next().await {
        Some(Ok(event)) => Ok(event),
        Some(Err(error)) => Err(fault(error, "follow")),
        None => Err(Fault::Wrong(anyhow!("the subscription has ended"))),
    }
}

fn fault(error: Error, doing: &'static str) -> Fault {
    let retry = error.is_retry();
    let error = anyhow!(error).context(doing);
    if retry { Fault::Lost(error) } else { Fault::Wrong(error) }
}

/// Whether a stream keeps its promises: positions rise, and transactions come whole, one after the other.
struct Reader {
    last: Position,
    open: Option<Gathered>,
}

struct Gathered {
    commit_lsn: u64,
    xid: u32,
    summary: Summary,
}

type Ended = Option<(u64, u32, Summary)>;

impl Reader {
    /// Takes an event; gives how far the stream is, and at the end of a transaction what it was.
    fn take(&mut self, event: &Event) -> Result<(Position, Ended)> {
        match event {
            Event::Begin(header) => {
                if self.open.is_some() || header.commit_lsn() <= self.last.commit_lsn {
                    bail!("begins behind {}, within another one: {}", self.last, self.open.is_some());
                }
                self.open = Some(Gathered { commit_lsn: header.commit_lsn().0, xid: header.xid(), summary: Summary::default() });
            }
            Event::Change(change) => {
                let position = change.position();
                let open = self.open.as_mut().context("a change outside of a transaction")?;
                if position <= self.last || position.commit_lsn.0 != open.commit_lsn {
                    bail!("a change at {position}, behind {}", self.last);
                }
                self.last = position;
                open.summary.push(name_of(change));
            }
            Event::Commit { position, header } => {
                let open = self.open.take().context("an end without a begin")?;
                if *position != self.last || header.commit_lsn().0 != open.commit_lsn || open.summary.is_empty() {
                    bail!("an end at {position} of a transaction with {}, the last change being at {}", open.summary, self.last);
                }
                return Ok((self.last, Some((open.commit_lsn, open.xid, open.summary))));
            }
            Event::Through(position) => {
                if *position < self.last {
                    bail!("through {position}, behind {}", self.last);
                }
            }
        }
        Ok((self.last, None))
    }
}
