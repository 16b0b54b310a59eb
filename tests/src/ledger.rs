//! Commits that were acknowledged, and whether they are still there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::postgres::Postgres;
use crate::wait::{DEADLINE, Pace, eventually};

/// The table that the writers insert into.
const TABLE: &str = "CREATE TABLE ledger (writer int, seq bigint, filler text, PRIMARY KEY (writer, seq))";

/// Writers that insert rows, one transaction each, and note every one whose COMMIT was answered. A cluster may die beneath them and
/// come back: they go on then.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    acknowledged: Mutex<BTreeSet<(i32, i64)>>,
    count: AtomicU64,
    doubtful: AtomicU64,
    stop: AtomicBool,
}

/// What was found of the acknowledged commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// How many rows there are: also of commits whose answer was lost on its way.
    pub rows: u64,
    /// Acknowledged and not there: writer and number.
    pub lost: Vec<(i32, i64)>,
}

impl Ledger {
    /// Makes the table, before anything is written to it.
    ///
    /// # Errors
    /// Where that fails.
    pub async fn create(cluster: &Postgres) -> Result<Self> {
        cluster.execute(TABLE).await?;
        Ok(Self { shared: Arc::new(Shared::default()), writers: Vec::new() })
    }

    /// The same, of any server.
    ///
    /// # Errors
    /// Where that fails.
    pub async fn create_at(config: &tokio_postgres::Config) -> Result<Self> {
        connect(config).await?.batch_execute(TABLE).await?;
        Ok(Self { shared: Arc::new(Shared::default()), writers: Vec::new() })
    }

    /// Starts so many writers. They connect by the cluster's unix socket.
    pub fn write(&mut self, cluster: &Postgres, writers: usize) {
        let mut config = tokio_postgres::Config::new();
        config.host_path(cluster.socket_folder()).port(cluster.port()).user("postgres").dbname("postgres");
        self.write_to(&config, writers);
    }

    /// Starts so many writers, which connect so.
    pub fn write_to(&mut self, config: &tokio_postgres::Config, writers: usize) {
        self.shared.stop.store(false, Ordering::SeqCst);
        let last = self.acknowledged().last().map_or(0, |(writer, _)| *writer);
        for writer in 1..=i32::try_from(writers).unwrap_or(i32::MAX) {
            let (shared, config) = (Arc::clone(&self.shared), config.clone());
            // Numbers of earlier writers are not used again: a row in doubt may be there.
            self.writers.push(tokio::spawn(async move { shared.run(&config, last + writer).await }));
        }
    }

    /// Waits until so many commits more than now were acknowledged.
    ///
    /// # Errors
    /// When they were not in time.
    pub async fn wait_more(&self, more: u64) -> Result<()> {
        let wanted = self.count() + more;
        eventually(DEADLINE, &format!("{more} more acknowledged commits"), async || Ok((self.count() >= wanted).then_some(())))
            .await
    }

    /// How many commits were acknowledged.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// How many transactions ended without an answer: they may be there or not.
    #[must_use]
    pub fn doubtful(&self) -> u64 {
        self.shared.doubtful.load(Ordering::SeqCst)
    }

    /// Ends the writers, in the middle of what they do.
    pub async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            writer.abort();
            // Aborted, or ended by itself: either is what was asked for.
            drop(writer.await);
        }
    }

    /// Compares what was acknowledged with what is there.
    ///
    /// # Errors
    /// Where the table can't be read.
    pub async fn verify(&self, cluster: &Postgres) -> Result<Found> {
        self.compare(&cluster.client().await?).await
    }

    /// The same, with any server.
    ///
    /// # Errors
    /// Where the table can't be read.
    pub async fn verify_at(&self, config: &tokio_postgres::Config) -> Result<Found> {
        self.compare(&connect(config).await?).await
    }

    async fn compare(&self, client: &tokio_postgres::Client) -> Result<Found> {
        let rows = client.query("SELECT writer, seq FROM ledger", &[]).await.context("read the ledger")?;
        let there: BTreeSet<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let acknowledged = self.acknowledged();
        let lost = acknowledged.difference(&there).copied().collect();
        Ok(Found { acknowledged: acknowledged.len() as u64, rows: there.len() as u64, lost })
    }

    fn acknowledged(&self) -> BTreeSet<(i32, i64)> {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn connect(config: &tokio_postgres::Config) -> Result<tokio_postgres::Client> {
    let (client, connection) = config.connect(NoTls).await.context("connect")?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

impl Drop for Ledger {
    fn drop(&mut self) {
        for writer in &self.writers {
            writer.abort();
        }
    }
}

impl Shared {
    async fn run(&self, config: &tokio_postgres::Config, writer: i32) {
        let mut seq = 0;
        while !self.stop.load(Ordering::SeqCst) {
            // Down for as long as the test has it down.
            let mut pace = Pace::new(DEADLINE);
            let session = loop {
                match config.connect(NoTls).await {
                    Ok(session) => break Some(session),
                    Err(_) if pace.pause().await => {}
                    Err(_) => break None,
                }
            };
            let Some((client, connection)) = session else { continue };
            let connection = tokio::spawn(async move { drop(connection.await) });
            while !self.stop.load(Ordering::SeqCst) {
                seq += 1;
                if !self.insert(&client, writer, seq).await {
                    break;
                }
            }
            connection.abort();
        }
    }

    /// One transaction; `false` where its answer did not come.
    async fn insert(&self, client: &tokio_postgres::Client, writer: i32, seq: i64) -> bool {
        // Records of many sizes, now and then of several pages, so that they end anywhere in a page and a segment.
        let filler = match seq % 97 {
            0 => 30_000,
            n if n % 7 == 0 => 3_000,
            n => n,
        };
        let sql = format!(
            "INSERT INTO ledger SELECT {writer}, {seq}, string_agg(md5(n::text || random()), '') FROM generate_series(0, {filler} / 32) n"
        );
        if client.batch_execute(&sql).await.is_err() {
            self.doubtful.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert((writer, seq));
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }
}
