//! One session's transactions.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::SinkExt;
use tokio_postgres::Client;
use walbus::sim::Random;

use super::stats::{Shared, Trouble};
use super::steps;
use super::tables::{Column, TABLES, Table, columns_query};
use super::types::pick;
use super::workload::Settings;

/// How deep savepoints are nested.
const DEPTH_MAX: usize = 6;

/// Waits for locks are short: the sessions get into each other's way all the time.
const SETTINGS: &str = "SET lock_timeout = '250ms'; SET deadlock_timeout = '50ms'; SET standard_conforming_strings = on";

/// What is known over transactions and connections.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    settings: Settings,
    number: u64,
    random: Random,
    /// The names of transactions that are prepared.
    prepared: Vec<String>,
    /// Messages outside of transactions that may not be flushed yet.
    asides: Vec<u64>,
}

/// The transaction that is open.
struct Open<'c> {
    client: &'c Client,
    /// Names of savepoints, outermost first.
    savepoints: Vec<String>,
    next_savepoint: u32,
    /// Columns of the tables that are locked.
    columns: HashMap<&'static str, Vec<Column>>,
    /// Whether it has written a row.
    wrote: bool,
}

/// What a transaction does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Aside,
    Copy,
    Ddl,
    Delete,
    Insert,
    Many,
    Release,
    RollbackTo,
    Savepoint,
    Say,
    TakenBack,
    Truncate,
    Update,
}

impl Step {
    fn any(random: &mut Random) -> Self {
        match random.below(100) {
            0..28 => Self::Insert,
            28..54 => Self::Update,
            54..62 => Self::Delete,
            62..72 => Self::Savepoint,
            72..79 => Self::RollbackTo,
            79..82 => Self::Release,
            82..86 => Self::Say,
            86..88 => Self::Aside,
            88..91 => Self::Copy,
            91..94 => Self::Ddl,
            94..96 => Self::Many,
            96..98 => Self::TakenBack,
            _ if random.chance(1, 2) => Self::Truncate,
            _ => Self::Insert,
        }
    }
}

impl Session {
    pub(super) const fn new(shared: Arc<Shared>, settings: Settings, number: u64, seed: u64) -> Self {
        Self { shared, settings, number, random: Random::new(seed), prepared: Vec::new(), asides: Vec::new() }
    }

    /// Makes a new connection ready.
    pub(super) async fn begin(&mut self, client: &Client) -> Result<(), Trouble> {
        // What was emitted before the connection broke may be lost.
        self.asides.clear();
        let seed = self.random.below(1_000_000);
        self.run(client, &format!("{SETTINGS}; SELECT setseed({seed} / 1000000.0)")).await
    }

    /// One transaction, to its end or to that of the session.
    pub(super) async fn transaction(&mut self, client: &Client) -> Result<(), Trouble> {
        if !self.prepared.is_empty() && self.random.chance(1, 2) {
            self.resolve(client).await?;
        }
        if self.random.chance(1, 60) {
            let table = pick(&mut self.random, TABLES);
            let full = if self.random.chance(1, 2) { "FULL " } else { "" };
            return tolerate(self.run(client, &format!("VACUUM {full}{}", table.name)).await).map(drop);
        }
        self.run(client, "BEGIN").await?;
        let mut open = Open { client, savepoints: Vec::new(), next_savepoint: 0, columns: HashMap::new(), wrote: false };
        let steps = if self.random.chance(1, 4) { 1 } else { 1 + self.random.below(14) };
        for _ in 0..steps {
            if tolerate(self.step(&mut open).await)? {
                continue;
            }
            // Failed: back to before the last savepoint, or out of it.
            let Some(name) = open.savepoints.last().cloned() else {
                self.shared.count(|counts| counts.rolled_back += 1);
                return self.run(client, "ROLLBACK").await;
            };
            self.rollback_to(&mut open, &name).await?;
        }
        self.end(open).await
    }

    async fn end(&mut self, open: Open<'_>) -> Result<(), Trouble> {
        match self.random.below(20) {
            0..3 => {
                self.shared.count(|counts| counts.rolled_back += 1);
                self.run(open.client, "ROLLBACK").await
            }
            3..5 => {
                let name = format!("session {} transaction {}", self.number, self.shared.number());
                if tolerate(self.run(open.client, &format!("PREPARE TRANSACTION '{name}'")).await)? {
                    self.shared.count(|counts| counts.prepared += 1);
                    self.prepared.push(name);
                }
                Ok(())
            }
            _ => {
                if tolerate(self.run(open.client, "COMMIT").await)? {
                    self.shared.count(|counts| counts.committed += 1);
                    if open.wrote {
                        // The commit's WAL is flushed, and all before it.
                        self.shared.asides_are_certain(self.asides.drain(..));
                    }
                }
                Ok(())
            }
        }
    }

    /// Commits or rolls back a transaction that was prepared.
    async fn resolve(&mut self, client: &Client) -> Result<(), Trouble> {
        let Some(name) = self.prepared.first().cloned() else { return Ok(()) };
        let commit = self.random.chance(2, 3);
        let what = if commit { "COMMIT" } else { "ROLLBACK" };
        if tolerate(self.run(client, &format!("{what} PREPARED '{name}'")).await)? {
            self.shared.count(|counts| if commit { counts.committed += 1 } else { counts.rolled_back += 1 });
        }
        self.prepared.remove(0);
        Ok(())
    }

    async fn step(&mut self, open: &mut Open<'_>) -> Result<(), Trouble> {
        match Step::any(&mut self.random) {
            Step::Savepoint if open.savepoints.len() < DEPTH_MAX => {
                open.next_savepoint += 1;
                let name = format!("s{}", open.next_savepoint);
                self.run(open.client, &format!("SAVEPOINT {name}")).await?;
                open.savepoints.push(name);
                Ok(())
            }
            Step::RollbackTo if !open.savepoints.is_empty() => {
                let name = pick(&mut self.random, &open.savepoints).clone();
                self.rollback_to(open, &name).await
            }
            Step::Release if !open.savepoints.is_empty() => {
                let name = pick(&mut self.random, &open.savepoints).clone();
                self.run(open.client, &format!("RELEASE {name}")).await?;
                open.forget_from(&name);
                Ok(())
            }
            Step::Aside => {
                let n = self.shared.number();
                self.shared.aside_is_possible(n);
                self.run(open.client, &steps::aside(n)).await?;
                self.asides.push(n);
                Ok(())
            }
            Step::Say => {
                let sql = steps::say(&mut self.random, self.shared.number());
                self.write(open, &sql).await
            }
            Step::Truncate => {
                let (one, other) = (pick(&mut self.random, TABLES), pick(&mut self.random, TABLES));
                let sql = steps::truncate(&mut self.random, one, other);
                self.write(open, &sql).await
            }
            step => self.change(open, step).await,
        }
    }

    /// A step that needs to know a table's columns.
    async fn change(&mut self, open: &mut Open<'_>, step: Step) -> Result<(), Trouble> {
        let possible = |table: &&Table| match step {
            Step::Ddl => table.alterable,
            Step::Delete | Step::Update => table.identity,
            Step::Many => table.bulk,
            _ => true,
        };
        let tables: Vec<&Table> = TABLES.iter().filter(possible).collect();
        let table = *pick(&mut self.random, &tables);
        let Some(columns) = self.columns(open, table, step).await? else {
            let sql = table.create(&mut self.random);
            return self.write(open, &sql).await;
        };
        let sql = match step {
            Step::Copy => return self.copy(open, table, &columns).await,
            Step::Ddl => {
                open.columns.remove(table.name);
                self.shared.count(|counts| counts.ddl += 1);
                steps::ddl(&mut self.random, table, &columns)
            }
            Step::Delete => steps::delete(&mut self.random, table),
            Step::Many => {
                let rows = 1 + self.random.below(self.settings.many_rows);
                steps::many(&mut self.random, table, &columns, rows)
            }
            Step::TakenBack => {
                self.shared.count(|counts| counts.savepoints_rolled_back += 1);
                steps::taken_back(&mut self.random, table, &columns)
            }
            Step::Update => steps::update(&mut self.random, table, &columns),
            _ => steps::insert(&mut self.random, table, &columns),
        };
        self.write(open, &sql).await
    }

    async fn copy(&mut self, open: &mut Open<'_>, table: &Table, columns: &[Column]) -> Result<(), Trouble> {
        let (sql, data) = steps::copy(&mut self.random, table, columns);
        let sent = async {
            let sink = open.client.copy_in(&sql).await?;
            let mut sink = std::pin::pin!(sink);
            sink.send(bytes::Bytes::from(data)).await?;
            sink.finish().await
        };
        sent.await.map(drop).map_err(|error| self.shared.trouble(&sql, &error))?;
        open.wrote = true;
        Ok(())
    }

    /// Locks a table so that nobody changes its columns, and reads them; `None` where it is not there.
    async fn columns(&self, open: &mut Open<'_>, table: &Table, step: Step) -> Result<Option<Vec<Column>>, Trouble> {
        if let Some(known) = open.columns.get(table.name) {
            return Ok(Some(known.clone()));
        }
        let mode = if step == Step::Ddl { "ACCESS EXCLUSIVE" } else { "ROW EXCLUSIVE" };
        let exists = format!("SELECT to_regclass({}) IS NOT NULL", super::sql::literal(table.name));
        if self.rows(open.client, &exists).await? == [["f"]] {
            return Ok(None);
        }
        self.run(open.client, &format!("LOCK TABLE {} IN {mode} MODE", table.name)).await?;
        let rows = self.rows(open.client, &columns_query(table.name)).await?;
        let columns: Vec<Column> = rows.iter().map(|row| Column::of_row(row)).collect();
        open.columns.insert(table.name, columns.clone());
        Ok(Some(columns))
    }

    async fn rollback_to(&self, open: &mut Open<'_>, name: &str) -> Result<(), Trouble> {
        self.run(open.client, &format!("ROLLBACK TO {name}")).await?;
        self.shared.count(|counts| counts.savepoints_rolled_back += 1);
        open.forget_from(name);
        open.savepoints.push(name.to_owned());
        // Locks and definitions that came after it are gone.
        open.columns.clear();
        Ok(())
    }

    async fn write(&self, open: &mut Open<'_>, sql: &str) -> Result<(), Trouble> {
        self.run(open.client, sql).await?;
        open.wrote = true;
        Ok(())
    }

    async fn run(&self, client: &Client, sql: &str) -> Result<(), Trouble> {
        client.batch_execute(sql).await.map_err(|error| self.shared.trouble(sql, &error))
    }

    async fn rows(&self, client: &Client, sql: &str) -> Result<Vec<Vec<String>>, Trouble> {
        let rows = client.simple_query(sql).await.map_err(|error| self.shared.trouble(sql, &error))?;
        Ok(crate::postgres::texts(rows))
    }
}

impl Open<'_> {
    /// Forgets a savepoint and those within it.
    fn forget_from(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().position(|known| known == name) {
            self.savepoints.truncate(at);
        }
    }
}

/// Whether all went well; an error only where the session is gone.
fn tolerate(done: Result<(), Trouble>) -> Result<bool, Trouble> {
    match done {
        Ok(()) => Ok(true),
        Err(Trouble::Failed) => Ok(false),
        Err(Trouble::Gone) => Err(Trouble::Gone),
    }
}
