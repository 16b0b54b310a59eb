//! What `/v1` answers.

use serde::Serialize;

use super::App;

/// Where source and log are. Positions are `X/X:N`, LSNs `X/X`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    system_id: String,
    slot: String,
    epoch: String,
    /// The log holds what is behind this, up to `head`.
    earliest: String,
    head: String,
    /// What was confirmed to the slot.
    confirmed_lsn: String,
    /// The end of WAL on the primary, as it said last.
    primary_lsn: String,
    log_bytes: u64,
    /// Since the start.
    transactions: u64,
    changes: u64,
    sessions: u64,
    open_memory_bytes: u64,
    spooled_bytes: u64,
    consumers: usize,
    subscriptions: usize,
}

/// A consumer with a name.
#[derive(Debug, Serialize)]
pub(super) struct Consumer {
    name: String,
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// `None` before the first acknowledgement.
    acknowledged: Option<String>,
    /// Whether that is of the epoch that there is.
    current_epoch: bool,
    /// From its commit to the head's, in bytes of WAL.
    lag_bytes: Option<u64>,
}

/// One subscription: the ladder from the log's head down to what its client has done with.
#[derive(Debug, Serialize)]
pub(super) struct Subscription {
    remote: String,
    agent: String,
    principal: String,
    consumer: String,
    head: String,
    sent: String,
    acknowledged: Option<String>,
    /// From what was sent to the head, in bytes of WAL.
    lag_bytes: u64,
}

pub(super) fn status(app: &App) -> Status {
    let view = app.state.view();
    Status {
        state: view.condition.name(),
        problem: view.problem,
        system_id: app.log.system_id().to_string(),
        slot: app.slot.clone(),
        epoch: app.log.epoch().to_string(),
        earliest: app.log.earliest().to_string(),
        head: app.log.head().to_string(),
        confirmed_lsn: view.confirmed.to_string(),
        primary_lsn: view.server_end.to_string(),
        log_bytes: app.log.size_bytes(),
        transactions: view.transactions,
        changes: view.changes,
        sessions: view.sessions,
        open_memory_bytes: view.open_memory_bytes,
        spooled_bytes: view.spooled_bytes,
        consumers: app.consumers.list().len(),
        subscriptions: app.server.subscriptions().len(),
    }
}

pub(super) fn consumers(app: &App) -> Vec<Consumer> {
    let (head, epoch) = (app.log.head(), app.log.epoch());
    let list = app.consumers.list().into_iter();
    list.map(|consumer| {
        let place = consumer.place;
        let current_epoch = place.is_some_and(|place| place.epoch == epoch);
        let lag = place.filter(|_| current_epoch).map(|place| head.commit_lsn.0.saturating_sub(place.position.commit_lsn.0));
        Consumer {
            name: consumer.name,
            connected: consumer.agent.is_some(),
            agent: consumer.agent,
            acknowledged: place.map(|place| place.position.to_string()),
            current_epoch,
            lag_bytes: lag,
        }
    })
    .collect()
}

pub(super) fn subscriptions(app: &App) -> Vec<Subscription> {
    let head = app.log.head();
    let list = app.server.subscriptions().into_iter();
    list.map(|subscription| Subscription {
        remote: subscription.remote.to_string(),
        agent: subscription.agent,
        principal: subscription.principal,
        consumer: subscription.consumer,
        head: head.to_string(),
        sent: subscription.sent.to_string(),
        acknowledged: subscription.acknowledged.map(|position| position.to_string()),
        lag_bytes: head.commit_lsn.0.saturating_sub(subscription.sent.commit_lsn.0),
    })
    .collect()
}
