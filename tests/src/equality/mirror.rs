//! The second database: transactions are applied to it, with their place, each exactly once.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use beyond_cdc_client::proto::prost::Message as _;
use beyond_cdc_client::proto::v1::Schema;
use beyond_cdc_client::{Change, Epoch, Operation, Position};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::apply::{Statement, statement, table_name};
use super::evolve;
use super::sql::literal;
use crate::postgres::{rows, texts};

/// The database's name.
pub(super) const MIRROR: &str = "mirror";

/// Where the subscriber keeps what it needs; once, before it is started first.
pub(super) const SET_UP: &str = "
CREATE SCHEMA subscriber;
CREATE TABLE subscriber.place (position text NOT NULL, epoch text NOT NULL);
CREATE TABLE subscriber.tables (oid bigint PRIMARY KEY, name text NOT NULL, definition bytea NOT NULL);
CREATE TABLE subscriber.heard (prefix text NOT NULL, n bigint NOT NULL);
";

/// Only one session applies at a time: one that was dropped may still be at the server's work.
const BEGIN: &str = "SELECT pg_advisory_lock(1); SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; SET intervalstyle = 'postgres'; \
                     SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET client_min_messages = warning";

/// So much is sent at once, in bytes of SQL.
const BATCH_BYTES: usize = 256 << 10;

/// Why a mirror can't go on.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection broke: connect again, and go on from the place.
    Lost(anyhow::Error),
    /// What came does not fit what is there.
    Wrong(anyhow::Error),
}

/// A session that applies.
#[derive(Debug)]
pub(super) struct Mirror {
    client: Client,
    connection: JoinHandle<()>,
    tables: HashMap<u32, Arc<Schema>>,
    batch: Vec<Statement>,
    bytes: usize,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Mirror {
    /// Connects, and gives the place to go on from.
    ///
    /// # Errors
    /// Where that fails: try again.
    pub(super) async fn connect(config: &tokio_postgres::Config) -> Result<(Self, Option<(Position, Epoch)>)> {
        let (client, connection) = config.connect(NoTls).await.context("connect to the mirror")?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut mirror = Self { client, connection, tables: HashMap::new(), batch: Vec::new(), bytes: 0 };
        mirror.client.batch_execute(BEGIN).await.context("begin a session")?;
        for row in mirror.client.query("SELECT definition FROM subscriber.tables", &[]).await? {
            let schema = Schema::decode(row.get::<_, &[u8]>(0)).context("read a definition")?;
            mirror.tables.insert(schema.oid, Arc::new(schema));
        }
        let place = rows(&mirror.client, "SELECT position, epoch FROM subscriber.place").await?;
        let place = match place.first().map(Vec::as_slice) {
            Some([position, epoch]) => Some((position.parse()?, epoch.parse()?)),
            _ => None,
        };
        Ok((mirror, place))
    }

    pub(super) fn begin(&mut self) {
        self.push(Statement::free("BEGIN".to_owned()));
    }

    /// Applies a change, soon.
    pub(super) async fn change(&mut self, change: &Change) -> Result<(), Fault> {
        if change.operation() == Operation::Message {
            let heard = heard(change).map_err(|problem| Fault::Wrong(anyhow::anyhow!(problem)))?;
            self.push(Statement::free(heard));
            return Ok(());
        }
        for schema in change.tables() {
            if !self.tables.get(&schema.oid).is_some_and(|known| Arc::ptr_eq(known, schema)) {
                self.define(schema).await?;
            }
        }
        let made = statement(change).map_err(|problem| Fault::Wrong(anyhow::anyhow!("{problem}, at {}", change.position())))?;
        self.push(made);
        if self.bytes > BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Ends the transaction, the place being part of it.
    pub(super) async fn commit(&mut self, position: Position, epoch: Epoch) -> Result<(), Fault> {
        self.push(Statement::free(format!(
            "DELETE FROM subscriber.place; INSERT INTO subscriber.place VALUES ('{position}', '{epoch}'); COMMIT"
        )));
        self.flush().await
    }

    fn push(&mut self, statement: Statement) {
        self.bytes += statement.sql.len();
        self.batch.push(statement);
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let sql: Vec<&str> = batch.iter().map(|statement| statement.sql.as_str()).collect();
        let answer = self.client.simple_query(&sql.join(";\n")).await.map_err(|error| fault(error, &batch))?;
        let mut counts = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(rows),
            _ => None,
        });
        for statement in &batch {
            let found = counts.next();
            if let Some(wanted) = statement.rows
                && found != Some(wanted)
            {
                let problem = anyhow::anyhow!("{found:?} rows where there has to be {wanted}: {}", shown(&statement.sql));
                return Err(Fault::Wrong(problem));
            }
        }
        Ok(())
    }

    /// Makes the table be as its definition says.
    async fn define(&mut self, schema: &Arc<Schema>) -> Result<(), Fault> {
        // What comes before it is of the earlier definition.
        self.flush().await?;
        let old = self.tables.get(&schema.oid);
        let same = old.is_some_and(|old| Schema { id: 0, ..Schema::clone(old) } == Schema { id: 0, ..Schema::clone(schema) });
        if !same {
            let query = evolve::types_query(schema);
            let types = self.client.simple_query(&query).await.map_err(|error| fault(error, &[Statement::free(query.clone())]))?;
            let types = texts(types).pop().unwrap_or_default();
            for sql in evolve::statements(old.map(|old| &**old), schema, &types) {
                self.push(Statement::free(sql));
            }
            let definition: String = schema.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
            let (oid, name) = (schema.oid, literal(&table_name(schema)));
            // Another one of that name has been dropped.
            self.push(Statement::free(format!("DELETE FROM subscriber.tables WHERE oid = {oid} OR name = {name}")));
            self.push(Statement::free(format!("INSERT INTO subscriber.tables VALUES ({oid}, {name}, '\\x{definition}')")));
            self.tables.retain(|_, known| table_name(known) != table_name(schema));
            self.flush().await?;
        }
        self.tables.insert(schema.oid, Arc::clone(schema));
        Ok(())
    }
}

/// Keeps that a message was heard.
fn heard(change: &Change) -> Result<String, String> {
    let message = change.message().ok_or("a message without one")?;
    let content = String::from_utf8_lossy(&message.content).into_owned();
    let number: u64 = content.split(':').next().unwrap_or_default().parse().map_err(|_| format!("a message of {content:?}"))?;
    if message.transactional == (message.prefix == "aside") {
        return Err(format!("a message with prefix {} that is transactional: {}", message.prefix, message.transactional));
    }
    Ok(format!("INSERT INTO subscriber.heard VALUES ({}, {number})", literal(&message.prefix)))
}

fn shown(sql: &str) -> String {
    sql.chars().take(1500).collect()
}

/// Whether an error says that the server is gone, or that it found something wrong.
fn fault(error: tokio_postgres::Error, batch: &[Statement]) -> Fault {
    let gone = error.as_db_error().is_none_or(|server| matches!(server.severity(), "FATAL" | "PANIC"));
    if gone {
        return Fault::Lost(error.into());
    }
    // The server's position is in characters of all that was sent.
    let at = error.as_db_error().and_then(|server| server.position());
    let place = match at {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => usize::try_from(*at).unwrap_or_default(),
        _ => 0,
    };
    let all: String = batch.iter().map(|statement| statement.sql.as_str()).collect::<Vec<_>>().join(";\n");
    let near: String = all.chars().skip(place.saturating_sub(300)).take(1500).collect();
    Fault::Wrong(anyhow::Error::from(error).context(format!("apply {} statements, near: {near}", batch.len())))
}
