//! A logged-in session: messages in, messages out, and the settings that the server reports.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::buffer::ReadBuffer;
use super::tls::{self, Binding};
use super::transport::Transport;
use super::{Mode, SourceError, auth};
use crate::conninfo::{Config, Host, SslMode, TargetSession};
use crate::proto::backend::{Diagnostic, Frame, Message, ProtocolError, SqlState, UNAUTHENTICATED_BYTES_MAX};

/// A connection that messages are exchanged over.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) transport: Transport,
    pub(super) buffer: ReadBuffer,
    /// What the TLS connection can be bound to; `None` in the clear.
    pub(super) binding: Option<Binding>,
    parameters: BTreeMap<String, String>,
    backend_pid: Option<u32>,
    host: Host,
    ssl_mode: SslMode,
}

/// Asks in plain text whether the server has TLS.
pub(super) async fn ask_for_tls(stream: &mut TcpStream) -> Result<bool, SourceError> {
    const DOING: &str = "ask for TLS";
    let failed = |error| SourceError::io(DOING, error);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    // A server that has said S waits for a handshake. What else is there was put in by somebody between us and it, to be taken for
    // something said under TLS (CVE-2021-23222).
    let mut answer = [0; 2];
    match stream.read(&mut answer).await.map_err(failed)? {
        0 => Err(SourceError::Closed { doing: DOING, orderly: false }),
        1 => match answer[0] {
            b'S' => Ok(true),
            b'N' => Ok(false),
            // What a server that can't fork answers. Before TLS it may be anybody's: its text is not shown (CVE-2024-10977).
            b'E' => {
                Err(SourceError::refused(DOING, Box::new(no_resources("an error before TLS; see the server's log".to_owned()))))
            }
            other => Err(SourceError::Protocol { doing: DOING, reason: ProtocolError::UnknownType(other) }),
        },
        _ => Err(SourceError::Unexpected {
            doing: DOING,
            message: "bytes in the clear after the answer: somebody may be tampering with the connection".to_owned(),
        }),
    }
}

/// Starts a session and logs in.
pub(super) async fn log_in(
    config: &Config,
    mode: &Mode,
    host: &Host,
    transport: Transport,
    binding: Option<Binding>,
) -> Result<Session, SourceError> {
    let mut session = Session {
        transport,
        buffer: ReadBuffer::new(UNAUTHENTICATED_BYTES_MAX),
        binding,
        parameters: BTreeMap::new(),
        backend_pid: None,
        host: host.clone(),
        ssl_mode: config.tls.mode,
    };
    let startup = startup_message(config, mode);
    session.send("start a session", &startup).await?;
    auth::authenticate(&mut session, config, mode, host).await?;
    session.buffer.set_limit(mode.message_bytes_max());
    const DOING: &str = "wait for the session";
    loop {
        match session.receive(DOING).await? {
            Message::BackendKeyData { pid, .. } => session.backend_pid = Some(pid),
            Message::ReadyForQuery => return Ok(session),
            Message::ErrorResponse(diagnostic) => return Err(SourceError::LoginRefused { host: host.to_string(), diagnostic }),
            message => return Err(unexpected(DOING, &message)),
        }
    }
}

fn startup_message(config: &Config, mode: &Mode) -> BytesMut {
    let parameters = [
        ("user", Some(config.user())),
        ("database", Some(mode.dbname())),
        ("replication", Some(mode.parameter())),
        ("options", config.options.as_deref()),
        ("application_name", config.application_name()),
        ("client_encoding", Some("UTF8")),
    ];
    let mut body = BytesMut::new();
    body.put_u16(3);
    body.put_u16(u16::try_from(config.protocol.1).unwrap_or(0));
    for (name, value) in parameters {
        // A NUL in a value would end it; libpq's strings can't hold one.
        if let Some(value) = value.filter(|value| !value.contains('\0')) {
            for text in [name, value] {
                body.put_slice(text.as_bytes());
                body.put_u8(0);
            }
        }
    }
    body.put_u8(0);
    let mut message = BytesMut::new();
    message.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    message.put_slice(&body);
    message
}

/// The error for a message that has no place here.
pub(super) fn unexpected(doing: &'static str, message: &Message) -> SourceError {
    SourceError::Unexpected { doing, message: message.name().to_owned() }
}

impl Session {
    /// The server's process, where it told.
    pub(super) const fn backend_pid(&self) -> Option<u32> {
        self.backend_pid
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Sends all of `data`. Not cancellation-safe: a message may be left half sent.
    pub(super) async fn send(&mut self, doing: &'static str, data: &[u8]) -> Result<(), SourceError> {
        let mut sent = 0;
        let transport = &mut self.transport;
        let written = poll_fn(|cx| {
            while sent < data.len() {
                match ready!(transport.poll_write(cx, &data[sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    bytes => sent += bytes,
                }
            }
            transport.poll_flush(cx)
        });
        written.await.map_err(|error| self.lost(doing, error))
    }

    /// The next message that is not about the session itself. Cancellation-safe.
    pub(super) async fn receive(&mut self, doing: &'static str) -> Result<Message, SourceError> {
        loop {
            while let Some(frame) = self.next_frame(doing)? {
                if let Some(message) = self.take_in(doing, frame)? {
                    return Ok(message);
                }
            }
            if poll_fn(|cx| self.poll_fill(cx, doing)).await? == 0 {
                return Err(SourceError::Closed { doing, orderly: false });
            }
        }
    }

    /// The next whole message in the buffer.
    pub(super) fn next_frame(&mut self, doing: &'static str) -> Result<Option<Frame>, SourceError> {
        self.buffer.next_frame().map_err(|error| match error {
            // A postmaster that can't fork says so as servers did before protocol 3: E and a line of text.
            ProtocolError::TooLong { message: "ErrorResponse", .. } if self.parameters.is_empty() => {
                SourceError::refused(doing, Box::new(old_error(self.buffer.rest())))
            }
            reason => SourceError::Protocol { doing, reason },
        })
    }

    /// Keeps what the message says of the session itself, or gives it back.
    pub(super) fn take_in(&mut self, doing: &'static str, frame: Frame) -> Result<Option<Message>, SourceError> {
        match frame.parse().map_err(|reason| SourceError::Protocol { doing, reason })? {
            Message::NoticeResponse(notice) => tracing::debug!(%notice, "the server notes"),
            Message::NotificationResponse => {}
            Message::ParameterStatus { name, value } => {
                self.parameters.insert(name, value);
            }
            message => return Ok(Some(message)),
        }
        Ok(None)
    }

    /// Reads what is there into the buffer; 0 is the connection's end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, doing: &'static str) -> Poll<Result<usize, SourceError>> {
        let room = self.buffer.room().map_err(|reason| SourceError::Protocol { doing, reason })?;
        match ready!(self.transport.poll_read(cx, room)) {
            Ok(bytes) => {
                self.buffer.has_read(bytes);
                Poll::Ready(Ok(bytes))
            }
            // A TLS peer that goes without a word is one that goes.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(self.lost(doing, error))),
        }
    }

    /// What the loss of the connection means.
    pub(super) fn lost(&self, doing: &'static str, error: io::Error) -> SourceError {
        tls::late_alert(&self.host, self.ssl_mode, &error).unwrap_or_else(|| SourceError::io(doing, error))
    }

    /// Whether the session is such as `target_session_attrs` asks for, by what the server reports of itself (PostgreSQL 14 on).
    pub(super) fn check_target(&self, target: TargetSession, host: &Host) -> Result<(), SourceError> {
        let reports = |name: &str| {
            let problem = format!("{host} does not report {name}, which target_session_attrs={target} needs: is it older than 14?");
            self.parameter(name).map(|value| value == "on").ok_or(SourceError::NoServer { problem })
        };
        let standby = || reports("in_hot_standby");
        let read_only = || Ok::<_, SourceError>(standby()? || reports("default_transaction_read_only")?);
        let fits = match target {
            TargetSession::Any | TargetSession::PreferStandby => true,
            TargetSession::Primary => !standby()?,
            TargetSession::ReadOnly => read_only()?,
            TargetSession::ReadWrite => !read_only()?,
            TargetSession::Standby => standby()?,
        };
        let problem = || format!("{host} is not what target_session_attrs={target} asks for");
        if fits { Ok(()) } else { Err(SourceError::NoServer { problem: problem() }) }
    }
}

/// An error as of protocol 2, which has no code: what can't fork has no resources.
fn old_error(buffered: &[u8]) -> Diagnostic {
    const SHOWN_BYTES_MAX: usize = 200;
    let text = buffered.get(1..).unwrap_or_default();
    let text = text.split(|byte| *byte == 0 || *byte == b'\n').next().unwrap_or_default();
    let shown = String::from_utf8_lossy(text.get(..SHOWN_BYTES_MAX).unwrap_or(text));
    no_resources(shown.chars().filter(|c| !c.is_control()).collect())
}

fn no_resources(message: String) -> Diagnostic {
    Diagnostic { severity: "FATAL".to_owned(), code: SqlState::INSUFFICIENT_RESOURCES, message, detail: None, hint: None }
}
