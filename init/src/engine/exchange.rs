//! Sessions with Postgres and PgBouncer, while the loop goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

use super::{Engine, Moment};
use crate::sql::{Rows, Session, SqlError, query, startup, terminate};

/// A server, and as who it is spoken to.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Settings of the session, as `options` has them; empty for PgBouncer, which takes none.
    pub options: String,
}

/// Why a session did not do what it should.
#[derive(Debug, Error)]
pub enum Failed {
    /// The server says so, or speaks another language.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The socket is not there, or closed in between.
    #[error("{}", .0.display())]
    Socket(PathBuf, #[source] std::io::Error),
    /// No answer in time.
    #[error("{}: no answer within {limit:?}", path.display())]
    TimedOut {
        /// Whose.
        path: PathBuf,
        /// How long that was waited for.
        limit: Duration,
    },
}

/// A session that is open.
#[derive(Debug)]
pub struct Talk {
    socket: OwnedFd,
    path: PathBuf,
    session: Session,
}

impl Engine {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Failed`], or [`super::Stopped`].
    pub fn open(&mut self, server: &Server, limit: Duration) -> Result<Talk> {
        let failed = |error: Errno| Failed::Socket(server.socket.clone(), error.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        let address = SocketAddrUnix::new(&server.socket).map_err(failed)?;
        let until = self.now() + limit;
        // AGAIN: more sessions wait to be taken than the server lets wait.
        while let Err(error) = connect(&socket, &address) {
            if error != Errno::AGAIN || self.now() >= until {
                return Err(failed(error).into());
            }
            self.pause(Duration::from_millis(5))?;
        }
        let mut talk = Talk { socket, path: server.socket.clone(), session: Session::default() };
        let mut parameters =
            vec![("user", server.user.as_str()), ("database", &server.database), ("application_name", "beyond-pg")];
        if !server.options.is_empty() {
            parameters.push(("options", &server.options));
        }
        self.exchange(&mut talk, &startup(&parameters), until, limit)?;
        Ok(talk)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Failed`], or [`super::Stopped`].
    pub fn ask(&mut self, talk: &mut Talk, sql: &str, limit: Duration) -> Result<Rows> {
        let until = self.now() + limit;
        self.exchange(talk, &query(sql), until, limit)
    }

    /// Opens a session, asks once, and closes it.
    ///
    /// # Errors
    /// [`Failed`], or [`super::Stopped`].
    pub fn ask_once(&mut self, server: &Server, sql: &str, limit: Duration) -> Result<Rows> {
        let mut talk = self.open(server, limit)?;
        let rows = self.ask(&mut talk, sql, limit)?;
        rustix::io::write(&talk.socket, &terminate()).ok();
        Ok(rows)
    }

    fn exchange(&mut self, talk: &mut Talk, mut send: &[u8], until: Moment, limit: Duration) -> Result<Rows> {
        let mut bytes = [0; 16 * 1024];
        loop {
            self.go_on()?;
            if self.now() >= until {
                return Err(Failed::TimedOut { path: talk.path.clone(), limit }.into());
            }
            let wanted = if send.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            if !self.turn(Some((talk.socket.as_fd(), wanted)), Some(until))? {
                continue;
            }
            let failed = |error: std::io::Error| Failed::Socket(talk.path.clone(), error);
            if !send.is_empty() {
                match rustix::io::write(&talk.socket, send) {
                    Ok(written) => send = send.get(written..).unwrap_or_default(),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(failed(error.into()).into()),
                }
            }
            match rustix::io::read(&talk.socket, &mut bytes) {
                Ok(0) => return Err(failed(std::io::ErrorKind::UnexpectedEof.into()).into()),
                Ok(read) => talk.session.handle_bytes(bytes.get(..read).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(failed(error.into()).into()),
            }
            if let Some(rows) = talk.session.poll_answer().map_err(Failed::from)? {
                return Ok(rows);
            }
        }
    }
}
