//! Commands of the replication protocol: the manual's chapter "Streaming Replication Protocol".

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;

use super::SourceError;
use super::copy::CopyStream;
use super::session::{Session, unexpected};
use crate::ident::{SystemId, Timeline};
use crate::lsn::Lsn;
use crate::proto::backend::{Diagnostic, Message};

/// A session that waits for commands. Its methods are not cancellation-safe: drop the client with the future.
#[derive(Debug)]
pub struct Client {
    session: Session,
}

/// What IDENTIFY_SYSTEM says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster.
    pub system_id: SystemId,
    /// Its current timeline.
    pub timeline: Timeline,
    /// Where its WAL is flushed to; what it has replayed, on a standby.
    pub flushed: Lsn,
    /// The database of the session, in logical replication.
    pub dbname: Option<String>,
}

/// What READ_REPLICATION_SLOT says of a physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysicalSlot {
    /// The oldest WAL that is kept for it; `None` until it reserves any.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<Timeline>,
}

/// Where a timeline that has ended goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    /// The next timeline.
    pub timeline: Timeline,
    /// Where it begins.
    pub start: Lsn,
}

/// The rows of one command's answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    columns: Vec<String>,
    pub(super) rows: Vec<Vec<Option<Bytes>>>,
}

/// How many rows an answer may have: commands give one at most, and queries are asked so that they stay below.
const ROWS_MAX: usize = 1000;

impl Answer {
    /// Takes in a message of an answer, or gives it back.
    pub(super) fn take_in(&mut self, doing: &'static str, message: Message) -> Result<Option<Message>, SourceError> {
        match message {
            Message::RowDescription(columns) => self.columns = columns,
            Message::DataRow(row) if row.len() == self.columns.len() && self.rows.len() < ROWS_MAX => self.rows.push(row),
            Message::DataRow(_) => {
                return Err(SourceError::Unexpected {
                    doing,
                    message: "row: it is not as described, or one of too many".to_owned(),
                });
            }
            Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
            message => return Ok(Some(message)),
        }
        Ok(None)
    }

    fn value(&self, doing: &'static str, column: &str) -> Result<Option<&Bytes>, SourceError> {
        let missing = || SourceError::Unexpected { doing, message: format!("answer: there is no column {column}") };
        let row = self.rows.first().ok_or_else(missing)?;
        let index = self.columns.iter().position(|name| name == column).ok_or_else(missing)?;
        Ok(row.get(index).ok_or_else(missing)?.as_ref())
    }

    fn text(&self, doing: &'static str, column: &str) -> Result<Option<&str>, SourceError> {
        let not_text = |_| SourceError::Unexpected { doing, message: format!("answer: {column} is no UTF-8") };
        self.value(doing, column)?.map(|value| std::str::from_utf8(value).map_err(not_text)).transpose()
    }

    fn parsed<T>(&self, doing: &'static str, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, SourceError> {
        let Some(text) = self.text(doing, column)? else { return Ok(None) };
        let wrong = || SourceError::Unexpected { doing, message: format!("answer: {column} is {text:?}") };
        parse(text).map(Some).ok_or_else(wrong)
    }

    pub(super) fn required<T>(
        &self,
        doing: &'static str,
        column: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SourceError> {
        let null = || SourceError::Unexpected { doing, message: format!("answer: {column} is null") };
        self.parsed(doing, column, parse)?.ok_or_else(null)
    }

    /// What is said at the end of a timeline's stream.
    pub(super) fn next_timeline(&self, doing: &'static str) -> Result<Option<NextTimeline>, SourceError> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let timeline = self.required(doing, "next_tli", timeline)?;
        let start = self.required(doing, "next_tli_startpos", |text| text.parse().ok())?;
        Ok(Some(NextTimeline { timeline, start }))
    }
}

fn timeline(text: &str) -> Option<Timeline> {
    text.parse().ok().and_then(Timeline::new)
}

/// A name as the replication grammar reads it back, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Client {
    pub(super) const fn new(session: Session) -> Self {
        Self { session }
    }

    /// What the server last reported of a setting, as `server_version`.
    #[must_use]
    pub fn parameter_status(&self, name: &str) -> Option<&str> {
        self.session.parameter(name)
    }

    /// The server's major version: 18 for 18.1 and for 18beta1.
    #[must_use]
    pub fn server_version_major(&self) -> Option<u32> {
        let version = self.session.parameter("server_version")?;
        let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        version[..end].parse().ok()
    }

    /// The process that serves this session, as `pg_stat_replication.pid` has it.
    #[must_use]
    pub fn backend_pid(&self) -> Option<u32> {
        self.session.backend_pid()
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.session.binding.is_some()
    }

    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// Of the server or the connection.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, SourceError> {
        const DOING: &str = "identify the system";
        let answer = self.run(DOING, "IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_id: answer.required(DOING, "systemid", |text| text.parse().ok())?,
            timeline: answer.required(DOING, "timeline", timeline)?,
            flushed: answer.required(DOING, "xlogpos", |text| text.parse().ok())?,
            dbname: answer.text(DOING, "dbname")?.map(str::to_owned),
        })
    }

    /// `SHOW name`: a setting's value, with its unit.
    ///
    /// # Errors
    /// Of the server or the connection; there may be no such setting.
    pub async fn show(&mut self, name: &str) -> Result<String, SourceError> {
        const DOING: &str = "show a setting";
        let parts: Vec<_> = name.split('.').map(quoted).collect();
        let answer = self.run(DOING, &format!("SHOW {}", parts.join("."))).await?;
        let column = answer.columns.first().cloned().unwrap_or_default();
        answer.required(DOING, &column, |text| Some(text.to_owned()))
    }

    /// `CREATE_REPLICATION_SLOT … PHYSICAL`, in the syntax of PostgreSQL 15 and later. Unless it reserves WAL now, the server may
    /// remove what is needed before the first connection.
    ///
    /// # Errors
    /// Of the server or the connection; `SqlState::DUPLICATE_OBJECT` where there is one of that name.
    pub async fn create_physical_slot(&mut self, name: &str, reserve_wal: bool) -> Result<(), SourceError> {
        let options = if reserve_wal { " (RESERVE_WAL)" } else { "" };
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL{options}", quoted(name));
        self.run("create the slot", &command).await.map(drop)
    }

    /// `DROP_REPLICATION_SLOT`.
    ///
    /// # Errors
    /// Of the server or the connection; there may be no such slot, or it may be in use.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), SourceError> {
        self.run("drop the slot", &format!("DROP_REPLICATION_SLOT {}", quoted(name))).await.map(drop)
    }

    /// `READ_REPLICATION_SLOT` (PostgreSQL 15 and later); `None` where there is no such slot.
    ///
    /// # Errors
    /// Of the server or the connection; it may be a logical slot.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<PhysicalSlot>, SourceError> {
        const DOING: &str = "read the slot";
        let answer = self.run(DOING, &format!("READ_REPLICATION_SLOT {}", quoted(name))).await?;
        if answer.value(DOING, "slot_type")?.is_none() {
            return Ok(None);
        }
        Ok(Some(PhysicalSlot {
            restart_lsn: answer.parsed(DOING, "restart_lsn", |text| text.parse().ok())?,
            restart_timeline: answer.parsed(DOING, "restart_tli", timeline)?,
        }))
    }

    /// `TIMELINE_HISTORY`: the name and the content of a timeline's history file. Timeline 1 has none.
    ///
    /// # Errors
    /// Of the server or the connection; the server may not have the file.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<(String, Bytes), SourceError> {
        const DOING: &str = "read a timeline's history";
        let answer = self.run(DOING, &format!("TIMELINE_HISTORY {timeline}")).await?;
        let name = answer.required(DOING, "filename", |text| Some(text.to_owned()))?;
        Ok((name, answer.value(DOING, "content")?.cloned().unwrap_or_default()))
    }

    /// `START_REPLICATION … PHYSICAL`: WAL of `timeline` from `start` on.
    ///
    /// # Errors
    /// Of the server or the connection: by [`SourceError::class`] the slot may be in use, missing or unusable, or the WAL removed.
    pub async fn start_physical(self, slot: Option<&str>, start: Lsn, timeline: Timeline) -> Result<CopyStream, SourceError> {
        let slot = slot.map(|name| format!("SLOT {} ", quoted(name))).unwrap_or_default();
        self.start_replication(&format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}")).await
    }

    /// Runs a START_REPLICATION command as it stands.
    ///
    /// # Errors
    /// As [`Self::start_physical`].
    pub async fn start_replication(mut self, command: &str) -> Result<CopyStream, SourceError> {
        const DOING: &str = "start replication";
        self.send_query(DOING, command).await?;
        match self.finish_answer(DOING).await? {
            (_, End::CopyBoth) => Ok(CopyStream::new(self.session)),
            // A timeline that ends where streaming was to start has nothing to stream: the server says at once what comes after it.
            (answer, End::Ready) => Ok(CopyStream::ended(self.session, answer.next_timeline(DOING)?)),
        }
    }

    pub(super) async fn run(&mut self, doing: &'static str, command: &str) -> Result<Answer, SourceError> {
        self.send_query(doing, command).await?;
        match self.finish_answer(doing).await? {
            (answer, End::Ready) => Ok(answer),
            (_, End::CopyBoth) => Err(unexpected(doing, &Message::CopyBothResponse)),
        }
    }

    async fn send_query(&mut self, doing: &'static str, command: &str) -> Result<(), SourceError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| SourceError::io(doing, error))?;
        self.session.send(doing, &message).await
    }

    /// Reads an answer to its end.
    async fn finish_answer(&mut self, doing: &'static str) -> Result<(Answer, End), SourceError> {
        let mut answer = Answer::default();
        let mut refusal: Option<Box<Diagnostic>> = None;
        loop {
            let message = match self.session.receive(doing).await {
                // A server that ends the session says why first.
                Err(error) => return Err(refusal.map_or(error, |diagnostic| SourceError::refused(doing, diagnostic))),
                Ok(message) => message,
            };
            match answer.take_in(doing, message)? {
                None => {}
                Some(Message::CopyBothResponse) => return Ok((answer, End::CopyBoth)),
                Some(Message::ErrorResponse(diagnostic)) => {
                    refusal.get_or_insert(diagnostic);
                }
                Some(Message::ReadyForQuery) => {
                    return refusal.map_or(Ok((answer, End::Ready)), |diagnostic| Err(SourceError::refused(doing, diagnostic)));
                }
                Some(message) => return Err(unexpected(doing, &message)),
            }
        }
    }
}

/// How an answer ends.
enum End {
    CopyBoth,
    Ready,
}
