//! SQL to a cluster, by its unix socket, as its superuser.

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use walbus::Lsn;

use super::Postgres;
use crate::program;
use crate::wait::{DEADLINE, eventually};

impl Postgres {
    /// How a superuser reaches the database `postgres`, by the unix socket.
    #[must_use]
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_folder()).port(self.port()).user("postgres").dbname("postgres");
        config
    }

    /// A session. Its task runs until the returned client is dropped.
    ///
    /// # Errors
    /// Where the server does not take it.
    pub async fn client(&self) -> Result<Client> {
        let (client, connection) = self.config().connect(NoTls).await.context("connect to the server")?;
        // An error of the connection reaches the client's calls.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// Runs statements, in a session of their own.
    ///
    /// # Errors
    /// Where one fails.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.client().await?.batch_execute(sql).await.with_context(|| format!("run {sql}"))
    }

    /// Drops a replication slot, as soon as its walsender has noticed that its client is gone.
    ///
    /// # Errors
    /// Where it stays in use, or there is none of that name.
    pub async fn drop_slot(&self, name: &str) -> Result<()> {
        let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'");
        eventually(
            DEADLINE,
            &format!("the slot {name} to be free"),
            async || Ok((self.value(&active).await? == "f").then_some(())),
        )
        .await?;
        self.execute(&format!("SELECT pg_drop_replication_slot('{name}')")).await
    }

    /// The rows of the last query in `sql`, as texts; NULL is empty.
    ///
    /// # Errors
    /// Where a statement fails.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        rows(&self.client().await?, sql).await
    }

    /// The one value that a query gives, as text; NULL is empty.
    ///
    /// # Errors
    /// Where a statement fails, or gives more or less than one row.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let rows = self.rows(sql).await?;
        match rows.as_slice() {
            [row] => row.first().cloned().with_context(|| format!("{sql}: gives no column")),
            rows => bail!("{sql}: one row expected, {} came", rows.len()),
        }
    }

    /// The one LSN that a query gives.
    ///
    /// # Errors
    /// As [`value`](Self::value), and where it is no LSN.
    pub async fn lsn(&self, sql: &str) -> Result<Lsn> {
        Ok(self.value(sql).await?.parse()?)
    }

    /// The end of the WAL that it has written, flushed to its disk.
    ///
    /// # Errors
    /// Where it is a standby.
    pub async fn flush_lsn(&self) -> Result<Lsn> {
        self.lsn("SELECT pg_current_wal_flush_lsn()").await
    }

    /// Ends the segment that it writes, after adding something to it, and gives the first LSN of the next.
    ///
    /// # Errors
    /// Where it is a standby.
    pub async fn switch_wal(&self) -> Result<Lsn> {
        // Without a record in the segment, there would be nothing to switch.
        let end = self.lsn("SELECT pg_logical_emit_message(false, 'harness', 'x'); SELECT pg_switch_wal()").await?;
        Ok(self.segment_size.ceil(end))
    }

    /// Writes about `bytes` of WAL, in messages that no table holds.
    ///
    /// # Errors
    /// Where it is a standby.
    pub async fn write_wal(&self, bytes: u64) -> Result<()> {
        // Random, so that no compression makes it less.
        let sql = format!(
            "SELECT count(pg_logical_emit_message(true, 'harness', repeat(md5(random()::text), 250))) FROM generate_series(1, {})",
            bytes.div_ceil(8000)
        );
        self.value(&sql).await.map(drop)
    }

    /// Makes the transactions of all sessions wait for a standby of this application name, at this level.
    ///
    /// # Errors
    /// Where the setting can't be changed.
    pub async fn synchronous(&mut self, application_name: &str, commit: &str) -> Result<()> {
        let name = application_name.replace('"', "\"\"");
        self.append_settings(&[("synchronous_standby_names", &format!("\"{name}\"")), ("synchronous_commit", commit)])?;
        self.reload()?;
        eventually(DEADLINE, "the settings to be read", async || {
            Ok((self.value("SHOW synchronous_commit").await? == commit
                && self.value("SHOW synchronous_standby_names").await?.contains(application_name))
            .then_some(()))
        })
        .await
    }

    /// Runs `pgbench` to its end, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn pgbench(&self, args: &[&str]) -> Result<String> {
        let mut command = self.program("pgbench");
        command.args(args);
        program::run(command).await
    }

    /// Runs statements by `psql`, and gives what it printed, without decoration.
    ///
    /// # Errors
    /// Where one fails.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        let mut command = self.program("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        program::run(command).await
    }
}

/// The rows of the last query in `sql` that gave any, as texts; NULL is empty.
pub(crate) async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<String>>> {
    Ok(texts(client.simple_query(sql).await.with_context(|| format!("run {sql}"))?))
}

/// The rows of the last query that gave any, as texts; NULL is empty.
pub(crate) fn texts(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect());
            }
            SimpleQueryMessage::RowDescription(_) => rows.clear(),
            _ => {}
        }
    }
    rows
}
