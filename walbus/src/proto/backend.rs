//! What the server sends: frames cut out of a buffer without copying them, and their content.
//!
//! Follows the manual's chapters "Message Formats" and "Error and Notice Message Fields". Only what a client that runs simple
//! queries and replication commands may be sent is known here; any other type is an error that names it.

#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::cast_possible_truncation)]

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

#[cfg(test)]
mod tests;

/// The longest message taken while a server has not yet proved who it is: nothing sent before the end of authentication is long.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 64 * 1024;

/// The longest message taken of answers to commands and of physical replication: a WAL message is at most 512 KiB (16 WAL blocks
/// of 32 KiB, `MAX_SEND_SIZE`), a timeline history a few KiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest message taken of logical replication: a row comes in one, and Postgres makes none that is longer (`MaxAllocSize`). Memory is
/// taken for what has come of it, and not for what is announced.
pub const LOGICAL_MESSAGE_BYTES_MAX: usize = 1 << 30;

/// A type byte and the length that follows it.
const HEADER_BYTES: usize = 5;

/// Bytes that are no message of Postgres'. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message whose content does not follow its type.
    #[error("malformed {message}: {problem}")]
    Malformed {
        /// The message's name in the manual.
        message: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A message longer than the named limit.
    #[error("{message} of {length} bytes is longer than the limit of {limit}")]
    TooLong {
        /// The message's name in the manual.
        message: &'static str,
        /// The length that it claims, in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A type byte that this crate does not know.
    #[error("unknown message type {character:?} (0x{0:02X}): is this a Postgres server?", character = char::from(*.0))]
    UnknownType(u8),
    /// A message of CopyData whose first byte is unknown.
    #[error("unknown replication message {character:?} (0x{0:02X})", character = char::from(*.0))]
    UnknownReplicationMessage(u8),
}

/// One message as it came: its type and its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type byte; one that [`name`] knows.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{} bytes]", self.name(), self.body.len())
    }
}

/// The type of CopyData, which the hot path tells apart without [`Frame::parse`].
pub const COPY_DATA: u8 = b'd';

/// The manual's name for a type byte, `None` for one that this crate does not know.
#[must_use]
pub const fn name(tag: u8) -> Option<&'static str> {
    Some(match tag {
        b'A' => "NotificationResponse",
        b'C' => "CommandComplete",
        b'c' => "CopyDone",
        b'D' => "DataRow",
        b'd' => "CopyData",
        b'E' => "ErrorResponse",
        b'I' => "EmptyQueryResponse",
        b'K' => "BackendKeyData",
        b'N' => "NoticeResponse",
        b'R' => "Authentication",
        b'S' => "ParameterStatus",
        b'T' => "RowDescription",
        b'v' => "NegotiateProtocolVersion",
        b'W' => "CopyBothResponse",
        b'Z' => "ReadyForQuery",
        _ => return None,
    })
}

/// Cuts the first message out of `buf`; `None` means that more bytes are needed. The body shares the buffer's memory.
///
/// # Errors
/// Where the type is unknown or the length impossible or above `limit` bytes, as soon as that shows.
pub fn take_frame(buf: &mut BytesMut, limit: usize) -> Result<Option<Frame>, ProtocolError> {
    let Some((tag, total)) = peek(buf, limit)? else { return Ok(None) };
    if buf.len() < total {
        return Ok(None);
    }
    let mut body = buf.split_to(total).freeze();
    body.advance(HEADER_BYTES);
    Ok(Some(Frame { tag, body }))
}

/// How many bytes the first message in `buf` takes, header included, as far as is known yet.
///
/// # Errors
/// As [`take_frame`].
pub fn frame_bytes(buf: &[u8], limit: usize) -> Result<usize, ProtocolError> {
    Ok(peek(buf, limit)?.map_or(HEADER_BYTES, |(_, total)| total))
}

fn peek(mut buf: &[u8], limit: usize) -> Result<Option<(u8, usize)>, ProtocolError> {
    let Ok(tag) = buf.try_get_u8() else { return Ok(None) };
    let message = name(tag).ok_or(ProtocolError::UnknownType(tag))?;
    let Ok(length) = buf.try_get_u32() else { return Ok(None) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length < 4 {
        return Err(ProtocolError::Malformed { message, problem: "its length does not even cover itself" });
    }
    if length > limit {
        return Err(ProtocolError::TooLong { message, length, limit });
    }
    Ok(Some((tag, length.saturating_add(1))))
}

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A step of authentication.
    Authentication(Authentication),
    /// What a cancel request needs.
    BackendKeyData {
        /// The server process.
        pid: u32,
        /// Its secret: 4 bytes, more since protocol 3.2.
        key: Bytes,
    },
    /// A command is done; its tag, as in `SELECT`.
    CommandComplete(String),
    /// Both sides may send CopyData now.
    CopyBothResponse,
    /// The payload of CopyData.
    CopyData(Bytes),
    /// The server sends no more CopyData.
    CopyDone,
    /// A row: a value a column, `None` for NULL.
    DataRow(Vec<Option<Bytes>>),
    /// An empty command was run.
    EmptyQueryResponse,
    /// Something failed.
    ErrorResponse(Box<Diagnostic>),
    /// The server speaks a lower minor version, or does not know some of the startup's `_pq_.` options.
    NegotiateProtocolVersion {
        /// The newest minor version of protocol 3 that the server speaks.
        minor: u32,
        /// The options it does not know.
        unknown_options: Vec<String>,
    },
    /// A warning or a piece of information.
    NoticeResponse(Box<Diagnostic>),
    /// Somebody's NOTIFY.
    NotificationResponse,
    /// A setting's value, at the start and on each change.
    ParameterStatus {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// The server waits for a command.
    ReadyForQuery,
    /// The names of the columns to come.
    RowDescription(Vec<String>),
}

impl Message {
    /// Its name in the manual.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authentication(_) => "Authentication",
            Self::BackendKeyData { .. } => "BackendKeyData",
            Self::CommandComplete(_) => "CommandComplete",
            Self::CopyBothResponse => "CopyBothResponse",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::DataRow(_) => "DataRow",
            Self::EmptyQueryResponse => "EmptyQueryResponse",
            Self::ErrorResponse(_) => "ErrorResponse",
            Self::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
            Self::NoticeResponse(_) => "NoticeResponse",
            Self::NotificationResponse => "NotificationResponse",
            Self::ParameterStatus { .. } => "ParameterStatus",
            Self::ReadyForQuery => "ReadyForQuery",
            Self::RowDescription(_) => "RowDescription",
        }
    }
}

/// A step of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The password as it is.
    CleartextPassword,
    /// GSSAPI.
    Gss,
    /// A further step of GSSAPI or SSPI.
    GssContinue,
    /// The password, hashed with this salt.
    Md5Password([u8; 4]),
    /// Done.
    Ok,
    /// SASL by one of these mechanisms.
    Sasl(Vec<String>),
    /// The server's challenge.
    SaslContinue(Bytes),
    /// The server's proof.
    SaslFinal(Bytes),
    /// SSPI.
    Sspi,
    /// A method that this crate does not know, by its number.
    Unknown(u32),
}

/// The five characters that name an error: the manual's appendix "PostgreSQL Error Codes".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `57P01`: an administrator ended the connection, or the server shuts down.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `57P03`: the server starts up or shuts down.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `42710`: there is one of this name.
    pub const DUPLICATE_OBJECT: Self = Self(*b"42710");
    /// `53000`: the server lacks memory, processes or the like.
    pub const INSUFFICIENT_RESOURCES: Self = Self(*b"53000");
    /// `28000`: refused by `pg_hba.conf`, or no such role.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `28P01`: wrong password.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `55006`: the slot is in use.
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// `55000`: the slot was invalidated, or is of the other kind.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// `53300`: no connection or walsender is free.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `58P01`: a WAL segment was removed already.
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");
    /// `42704`: no such slot.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");

    /// The state of this text, `None` where it is not five digits and upper-case letters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let code: [u8; 5] = text.as_bytes().try_into().ok()?;
        code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// The first two characters, which stand for a family of errors.
    #[must_use]
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("??")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an ErrorResponse or a NoticeResponse says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING` and so on, untranslated.
    pub severity: String,
    /// What kind of error it is.
    pub code: SqlState,
    /// The message.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl Frame {
    /// The manual's name of the message.
    #[must_use]
    pub fn name(&self) -> &'static str {
        name(self.tag).unwrap_or("unknown message")
    }

    /// The message's content.
    ///
    /// # Errors
    /// Where it does not follow its type, or bytes are left over.
    pub fn parse(self) -> Result<Message, ProtocolError> {
        let mut body = Body { message: self.name(), left: self.body };
        let message = match self.tag {
            b'A' => {
                body.left.clear();
                Message::NotificationResponse
            }
            b'C' => Message::CommandComplete(body.text()?),
            b'c' => Message::CopyDone,
            b'D' => Message::DataRow(body.row()?),
            b'd' => return Ok(Message::CopyData(body.left)),
            b'E' => Message::ErrorResponse(Box::new(body.diagnostic()?)),
            b'I' => Message::EmptyQueryResponse,
            b'K' => Message::BackendKeyData { pid: body.u32()?, key: std::mem::take(&mut body.left) },
            b'N' => Message::NoticeResponse(Box::new(body.diagnostic()?)),
            b'R' => Message::Authentication(body.authentication()?),
            b'S' => Message::ParameterStatus { name: body.text()?, value: body.text()? },
            b'T' => Message::RowDescription(body.columns()?),
            b'v' => body.negotiation()?,
            b'W' => {
                body.copy_formats()?;
                Message::CopyBothResponse
            }
            b'Z' => {
                body.u8()?;
                Message::ReadyForQuery
            }
            tag => return Err(ProtocolError::UnknownType(tag)),
        };
        if body.left.is_empty() { Ok(message) } else { Err(body.malformed("bytes are left over at its end")) }
    }
}

/// What is left of a message's content.
struct Body {
    message: &'static str,
    left: Bytes,
}

impl Body {
    const fn malformed(&self, problem: &'static str) -> ProtocolError {
        ProtocolError::Malformed { message: self.message, problem }
    }

    fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.left.try_get_u8().map_err(|_| self.malformed("it ends early"))
    }

    fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.left.try_get_u16().map_err(|_| self.malformed("it ends early"))
    }

    fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.left.try_get_u32().map_err(|_| self.malformed("it ends early"))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, ProtocolError> {
        if length > self.left.len() {
            return Err(self.malformed("it ends early"));
        }
        Ok(self.left.split_to(length))
    }

    /// A text that a zero byte ends. What is no UTF-8 in it is replaced: such texts are shown, or compared with plain ASCII.
    fn text(&mut self) -> Result<String, ProtocolError> {
        let end = self.left.iter().position(|byte| *byte == 0).ok_or_else(|| self.malformed("a text in it has no end"))?;
        let text = self.take(end)?;
        self.u8()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn row(&mut self) -> Result<Vec<Option<Bytes>>, ProtocolError> {
        let columns = self.u16()?;
        let mut row = Vec::new();
        for _ in 0..columns {
            // -1 is NULL; no other value is negative.
            let length = self.u32()?;
            row.push(match usize::try_from(length) {
                Ok(_) if length == u32::MAX => None,
                Ok(length) => Some(self.take(length)?),
                Err(_) => return Err(self.malformed("it ends early")),
            });
        }
        Ok(row)
    }

    fn columns(&mut self) -> Result<Vec<String>, ProtocolError> {
        let columns = self.u16()?;
        let mut names = Vec::new();
        for _ in 0..columns {
            names.push(self.text()?);
            // Table, attribute number, type, its length, its modifier, format.
            self.take(4 + 2 + 4 + 2 + 4 + 2)?;
        }
        Ok(names)
    }

    fn copy_formats(&mut self) -> Result<(), ProtocolError> {
        self.u8()?;
        let columns = self.u16()?;
        self.take(usize::from(columns).saturating_mul(2))?;
        Ok(())
    }

    fn diagnostic(&mut self) -> Result<Diagnostic, ProtocolError> {
        let (mut severity, mut untranslated, mut code) = (None, None, None);
        let (mut message, mut detail, mut hint) = (None, None, None);
        loop {
            let field = self.u8()?;
            if field == 0 {
                break;
            }
            let text = self.text()?;
            match field {
                b'C' => code = Some(SqlState::new(&text).ok_or_else(|| self.malformed("its SQLSTATE is none"))?),
                b'D' => detail = Some(text),
                b'H' => hint = Some(text),
                b'M' => message = Some(text),
                b'S' => severity = Some(text),
                b'V' => untranslated = Some(text),
                // "Frontends should silently ignore fields of unrecognized type."
                _ => {}
            }
        }
        Ok(Diagnostic {
            severity: untranslated.or(severity).ok_or_else(|| self.malformed("it has no severity"))?,
            code: code.ok_or_else(|| self.malformed("it has no SQLSTATE"))?,
            message: message.ok_or_else(|| self.malformed("it has no message"))?,
            detail,
            hint,
        })
    }

    fn authentication(&mut self) -> Result<Authentication, ProtocolError> {
        Ok(match self.u32()? {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => Authentication::Md5Password(self.u32()?.to_be_bytes()),
            7 => Authentication::Gss,
            8 => {
                self.left.clear();
                Authentication::GssContinue
            }
            9 => Authentication::Sspi,
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    let mechanism = self.text()?;
                    if mechanism.is_empty() {
                        break Authentication::Sasl(mechanisms);
                    }
                    mechanisms.push(mechanism);
                }
            }
            11 => Authentication::SaslContinue(std::mem::take(&mut self.left)),
            12 => Authentication::SaslFinal(std::mem::take(&mut self.left)),
            method => {
                self.left.clear();
                Authentication::Unknown(method)
            }
        })
    }

    fn negotiation(&mut self) -> Result<Message, ProtocolError> {
        // Servers before 18 send the minor version alone, later ones the whole version: only its lower half counts.
        let minor = self.u32()? & 0xFFFF;
        let mut unknown_options = Vec::new();
        for _ in 0..self.u32()? {
            unknown_options.push(self.text()?);
        }
        Ok(Message::NegotiateProtocolVersion { minor, unknown_options })
    }
}
