//! Sessions that write at the same time, each by a seed of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use walbus::sim::Random;

use super::session::Session;
use super::stats::{Asides, Counts, Shared};
use super::tables::{FIXED, TABLES};
use crate::wait::{DEADLINE, Pace, eventually};

/// How a workload is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// How many sessions write at once.
    pub(super) sessions: u64,
    /// How many rows the large statements write.
    pub(super) many_rows: u64,
}

/// Sessions at work. A cluster may die beneath them and come back: they go on then.
#[derive(Debug)]
pub(super) struct Workload {
    shared: Arc<Shared>,
    progress: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<()>>,
}

/// The statements that make all tables.
pub(super) fn tables(random: &mut Random) -> String {
    let made: Vec<String> = TABLES.iter().map(|table| table.create(random)).collect();
    format!("{}; {FIXED}", made.join("; "))
}

impl Workload {
    /// Starts the sessions.
    pub(super) fn start(config: &tokio_postgres::Config, settings: Settings, random: &mut Random) -> Self {
        let shared = Arc::new(Shared::default());
        let progress = Arc::new(AtomicU64::new(0));
        let sessions = (0..settings.sessions)
            .map(|number| {
                let (shared, progress, config, seed) = (Arc::clone(&shared), Arc::clone(&progress), config.clone(), random.next());
                tokio::spawn(async move { run(&shared, &progress, &config, settings, number, seed).await })
            })
            .collect();
        Self { shared, progress, sessions }
    }

    /// Waits until so many transactions more than now have come to an end.
    pub(super) async fn wait_more(&self, more: u64) -> Result<()> {
        let wanted = self.progress.load(Ordering::SeqCst) + more;
        let what = format!("{more} more transactions of the workload");
        eventually(DEADLINE, &what, async || {
            if let Some(unexpected) = self.shared.unexpected() {
                return Ok(Some(Err(unexpected)));
            }
            Ok((self.progress.load(Ordering::SeqCst) >= wanted).then_some(Ok(())))
        })
        .await?
        .or_else(|unexpected| bail!("the workload failed: {unexpected}"))
    }

    /// Lets each session end its transaction, and ends it.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.shared.stop();
        for session in self.sessions.drain(..) {
            tokio::time::timeout(DEADLINE, session).await??;
        }
        match self.shared.unexpected() {
            Some(unexpected) => bail!("the workload failed: {unexpected}"),
            None => Ok(()),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// How many statements failed, by SQLSTATE.
    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        self.shared.failures()
    }

    pub(super) fn asides(&self) -> Asides {
        self.shared.asides()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for session in &self.sessions {
            session.abort();
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    progress: &AtomicU64,
    config: &tokio_postgres::Config,
    settings: Settings,
    number: u64,
    seed: u64,
) {
    let mut session = Session::new(Arc::clone(shared), settings, number, seed);
    while !shared.is_stopped() {
        // Down for as long as the round has it down.
        let mut pace = Pace::new(DEADLINE);
        let connected = loop {
            match config.connect(NoTls).await {
                Ok(connected) => break Some(connected),
                Err(_) if !shared.is_stopped() && pace.pause().await => {}
                Err(_) => break None,
            }
        };
        let Some((client, connection)) = connected else { continue };
        let connection = tokio::spawn(async move { drop(connection.await) });
        if session.begin(&client).await.is_ok() {
            while !shared.is_stopped() && session.transaction(&client).await.is_ok() {
                progress.fetch_add(1, Ordering::SeqCst);
            }
        }
        connection.abort();
    }
}
