//! The hold on a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beyond_cdc_proto::v1;
use tokio::sync::{Notify, mpsc, oneshot};
use walbus::{Lsn, Position};

use crate::driver::{Attached, Driver, Refused};
use crate::error::Error;
use crate::events::Events;
use crate::options::Options;
use crate::subscription::{Epoch, Subscription};

/// What a server says of itself when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// What it is: `beyond-pg-cdc/0.1.0`.
    pub agent: String,
    /// The cluster whose changes it serves.
    pub system_id: u64,
    /// Which life of its slot positions are of.
    pub epoch: Epoch,
    /// It holds everything behind this.
    pub earliest: Position,
    /// And up to this.
    pub head: Position,
}

/// Subscribes. Cheap to clone; the connection lasts until the last clone and the last subscription are gone.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) shared: Arc<Shared>,
}

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Asks the server how far it is.
    Head(oneshot::Sender<(Position, Lsn)>),
    /// Subscribes on the connection there is, or on the next one.
    Subscribe(Box<v1::Subscribe>, oneshot::Sender<Result<Attached, Refused>>),
    /// Ends a subscription.
    Unsubscribe(u32),
}

/// What client, driver and subscriptions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) url: String,
    next_id: AtomicU32,
    acknowledged: Mutex<HashMap<u32, Position>>,
    pub(crate) to_acknowledge: Notify,
    info: Mutex<ServerInfo>,
    failed: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(url: String, info: ServerInfo) -> Self {
        Self {
            url,
            next_id: AtomicU32::new(1),
            acknowledged: Mutex::default(),
            to_acknowledge: Notify::new(),
            info: Mutex::new(info),
            failed: Mutex::default(),
        }
    }

    /// A number that no other subscription of this client has had.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a position acknowledged soon. Of several for one subscription the last counts.
    pub(crate) fn acknowledge(&self, subscription: u32, position: Position) {
        lock(&self.acknowledged).insert(subscription, position);
        self.to_acknowledge.notify_one();
    }

    /// What is to be acknowledged.
    pub(crate) fn take_acknowledged(&self) -> HashMap<u32, Position> {
        std::mem::take(&mut lock(&self.acknowledged))
    }

    pub(crate) fn set_info(&self, info: ServerInfo) {
        *lock(&self.info) = info;
    }

    /// Keeps why the driver has ended.
    pub(crate) fn fail(&self, error: Error) {
        *lock(&self.failed) = Some(error);
    }

    /// Why there is no driver any more.
    pub(crate) fn failure(&self) -> Error {
        lock(&self.failed)
            .clone()
            .unwrap_or_else(|| Error::Retry(format!("the connection to {} was given up: its driver has ended", self.url)))
    }
}

/// Connects to a server. Spawn or await the [`Driver`]'s `run`: without it nothing moves. Cancellation-safe.
///
/// # Errors
/// [`Error::Settings`] where a setting or the server's certificate is wrong, [`Error::Retry`] where the server can't be reached.
pub async fn connect(options: Options) -> Result<(Client, Driver), Error> {
    Driver::connect(options).await
}

impl Client {
    /// Subscribes. Nothing happens before the first item is asked for; errors come as the stream's last item.
    #[must_use]
    pub fn subscribe(&self, subscription: Subscription) -> Events {
        Events::new(subscription, self.clone())
    }

    /// What the server said of itself when the connection was last made.
    #[must_use]
    pub fn server(&self) -> ServerInfo {
        lock(&self.shared.info).clone()
    }

    /// How far the server is: the end of its log, and the end of WAL on the primary as it knows it. Waits for a connection where there is
    /// none. Cancellation-safe.
    ///
    /// # Errors
    /// Where the driver has ended.
    pub async fn head(&self) -> Result<(Position, Lsn), Error> {
        loop {
            let (reply, answer) = oneshot::channel();
            self.commands.send(Command::Head(reply)).map_err(|_gone| self.shared.failure())?;
            // A connection that broke takes the question with it.
            if let Ok(head) = answer.await {
                return Ok(head);
            }
        }
    }
}
