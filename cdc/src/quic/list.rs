//! Who is subscribed, for those who ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walbus::Position;

use super::session::Opening;
use crate::fanout::cursor::Progress;

/// One subscription, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionInfo {
    /// Where the client is.
    pub remote: SocketAddr,
    /// What the client calls itself.
    pub agent: String,
    /// Who it is.
    pub principal: String,
    /// The consumer's name; empty where it has none.
    pub consumer: String,
    /// What was handed to its connection.
    pub sent: Position,
    /// What it has acknowledged on this connection.
    pub acknowledged: Option<Position>,
}

/// All subscriptions there are.
#[derive(Debug, Default)]
pub(super) struct List {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    by_number: BTreeMap<u64, Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    info: SubscriptionInfo,
    progress: Arc<Progress>,
}

/// A subscription's place in the list, as long as it lasts.
#[derive(Debug)]
pub(super) struct Listed {
    entries: Arc<Mutex<Entries>>,
    number: u64,
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    pub(super) fn add(&self, remote: SocketAddr, agent: &str, principal: String, opening: &Opening) -> Listed {
        let (agent, consumer) = (agent.to_owned(), opening.consumer.clone());
        let info = SubscriptionInfo { remote, agent, principal, consumer, sent: Position::default(), acknowledged: None };
        let mut entries = lock(&self.entries);
        entries.last += 1;
        let number = entries.last;
        entries.by_number.insert(number, Entry { info, progress: Arc::clone(&opening.progress) });
        Listed { entries: Arc::clone(&self.entries), number }
    }

    pub(super) fn all(&self) -> Vec<SubscriptionInfo> {
        let info = |entry: &Entry| SubscriptionInfo { sent: entry.progress.sent(), ..entry.info.clone() };
        lock(&self.entries).by_number.values().map(info).collect()
    }
}

impl Listed {
    pub(super) fn set_acknowledged(&self, position: Position) {
        if let Some(entry) = lock(&self.entries).by_number.get_mut(&self.number) {
            entry.info.acknowledged = Some(position);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.entries).by_number.remove(&self.number);
    }
}
