//! Commands of logical replication, and SQL beside them on the same connection.
//!
//! A walsender that is connected to a database runs SQL as well, by the simple query protocol: what a program has to ask before it streams needs
//! no second connection with a login of its own.

use bytes::Bytes;

use super::client::{Answer, Client, quoted};
use super::{CopyStream, SourceError};
use crate::lsn::Lsn;

/// How a logical slot is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogicalSlotOptions {
    /// Whether standbys keep it in step, so that it outlives a failover (PostgreSQL 17 and later).
    pub failover: bool,
    /// Whether transactions are decoded at their `PREPARE TRANSACTION`.
    pub two_phase: bool,
}

/// What CREATE_REPLICATION_SLOT … LOGICAL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Where its changes begin.
    pub consistent_point: Lsn,
}

/// The rows that a query gave, as text.
#[derive(Debug)]
pub struct Rows {
    answer: Answer,
}

impl Rows {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.answer.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answer.rows.is_empty()
    }

    /// A value by row and column, `None` where it is NULL or not there.
    ///
    /// # Errors
    /// Where it is no UTF-8.
    pub fn text(&self, row: usize, column: usize) -> Result<Option<&str>, SourceError> {
        let value = self.value(row, column);
        let not_text =
            |_| SourceError::Unexpected { doing: "read a row", message: format!("value in column {column}: it is no UTF-8") };
        value.map(|value| std::str::from_utf8(value).map_err(not_text)).transpose()
    }

    /// A value for people to read, empty where it is NULL or not there: what is no UTF-8 in it is shown as such.
    #[must_use]
    pub fn shown(&self, row: usize, column: usize) -> String {
        self.value(row, column).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    fn value(&self, row: usize, column: usize) -> Option<&Bytes> {
        self.answer.rows.get(row)?.get(column)?.as_ref()
    }
}

/// A text as the replication grammar, and SQL with `standard_conforming_strings`, reads it back.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Client {
    /// Runs SQL, one statement or several, and gives the rows of the last that has any: not above a thousand. In a session of
    /// [`Mode::Logical`](super::Mode::Logical) only.
    ///
    /// # Errors
    /// Of the server or the connection.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, SourceError> {
        Ok(Rows { answer: self.run("run a query", sql).await? })
    }

    /// `CREATE_REPLICATION_SLOT … LOGICAL`, in the syntax of PostgreSQL 15 and later. Waits for all transactions that are running.
    ///
    /// # Errors
    /// Of the server or the connection; `SqlState::DUPLICATE_OBJECT` where there is one of that name.
    pub async fn create_logical_slot(
        &mut self,
        name: &str,
        plugin: &str,
        options: LogicalSlotOptions,
    ) -> Result<CreatedSlot, SourceError> {
        const DOING: &str = "create the slot";
        let mut wanted = vec!["SNAPSHOT 'nothing'"];
        if options.two_phase {
            wanted.push("TWO_PHASE true");
        }
        if options.failover {
            wanted.push("FAILOVER true");
        }
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL {} ({})", quoted(name), quoted(plugin), wanted.join(", "));
        let answer = self.run(DOING, &command).await?;
        Ok(CreatedSlot { consistent_point: answer.required(DOING, "consistent_point", |text| text.parse().ok())? })
    }

    /// `START_REPLICATION … LOGICAL`: what the slot's plugin makes of transactions that are committed behind `start`, or behind what was confirmed
    /// where that is later.
    ///
    /// # Errors
    /// Of the server or the connection: by [`SourceError::class`] the slot may be in use, missing or unusable, or the WAL removed.
    pub async fn start_logical(self, slot: &str, start: Lsn, options: &[(&str, String)]) -> Result<CopyStream, SourceError> {
        let options: Vec<_> = options.iter().map(|(name, value)| format!("{} {}", quoted(name), literal(value))).collect();
        let command = format!("START_REPLICATION SLOT {} LOGICAL {start} ({})", quoted(slot), options.join(", "));
        self.start_replication(&command).await
    }
}
