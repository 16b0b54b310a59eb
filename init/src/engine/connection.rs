//! Who connects to us: the control socket (a JSON line each way) and the health port (HTTP/1.1, one request a connection).

use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use serde::{Deserialize, Serialize};

use crate::status::{Phase, Status};
use crate::supervise::Moment;

/// The most bytes of a request.
const REQUEST_MAX: usize = 8192;
/// The most connections at once of each kind; further ones wait. Those of the health port, which everybody reaches, keep nobody from the control
/// socket.
const CONNECTIONS_MAX: usize = 64;
/// How long one connection may take.
const TIME: Duration = Duration::from_secs(5);

/// The request that is answered by the end of the program.
const WAIT: &[u8] = b"{\"command\":\"wait\"}\n";

/// What is asked for over the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "command")]
pub(crate) enum Command {
    /// Become the primary. Answered when that is done, or refused.
    Promote {
        /// In spite of what may be lost.
        force: bool,
    },
    /// Read settings again.
    Reload,
    /// Tell how it is.
    Status,
    /// End.
    Stop,
    /// No answer: the end of the program closes the connection.
    Wait,
}

/// What the engine has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Promote { force: bool },
    Reload,
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Control,
    Health,
}

#[derive(Debug)]
struct Connection {
    kind: Kind,
    socket: OwnedFd,
    received: Vec<u8>,
    answer: Vec<u8>,
    /// Its answer comes when what it asks for is done.
    waits: bool,
    until: Moment,
}

/// The listeners and their connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    listeners: Vec<(Kind, OwnedFd)>,
    open: Vec<Connection>,
    control: PathBuf,
}

impl Connections {
    pub(super) fn control_path(&self) -> PathBuf {
        self.control.clone()
    }

    pub(super) fn listen_control(&mut self, path: &Path) -> Result<()> {
        // A socket of a program that was killed; that no other runs is known by the volume's lock.
        std::fs::remove_file(path).ok();
        let listener = UnixListener::bind(path).with_context(|| format!("open the control socket {}", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        path.clone_into(&mut self.control);
        self.listeners.push((Kind::Control, listener.into()));
        Ok(())
    }

    pub(super) fn listen_health(&mut self, address: SocketAddr) -> Result<SocketAddr> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("open the health port, BEYOND_PG_HEALTH_LISTEN={address}"))?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        self.listeners.push((Kind::Health, listener.into()));
        Ok(bound)
    }

    pub(super) fn add_to<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let with_room = self.listeners.iter().filter(|(kind, _)| self.has_room(*kind));
        fds.extend(with_room.map(|(_, listener)| PollFd::new(listener, PollFlags::IN)));
        fds.extend(self.open.iter().map(|connection| {
            let wanted = if connection.answer.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            PollFd::new(&connection.socket, wanted)
        }));
    }

    fn has_room(&self, kind: Kind) -> bool {
        self.open.iter().filter(|connection| connection.kind == kind).count() < CONNECTIONS_MAX
    }

    /// When a connection has taken too long.
    pub(super) fn timeout(&self) -> Option<Moment> {
        self.open.iter().map(|connection| connection.until).min()
    }

    /// Takes connections, reads requests, writes answers.
    pub(super) fn serve(&mut self, now: Moment, status: &Status) -> Vec<Request> {
        for at in 0..self.listeners.len() {
            while let Some((kind, listener)) = self.listeners.get(at).filter(|(kind, _)| self.has_room(*kind)) {
                let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { break };
                let (received, answer) = (Vec::new(), Vec::new());
                let connection = Connection { kind: *kind, socket, received, answer, waits: false, until: now + TIME };
                self.open.push(connection);
            }
        }
        let mut asked = Vec::new();
        self.open.retain_mut(|connection| now < connection.until && connection.go_on(status, &mut asked));
        asked
    }
}

impl Connections {
    /// Answers those who wait for what they asked for.
    pub(super) fn answer_waiting(&mut self, answer: &serde_json::Value, now: Moment) {
        for connection in self.open.iter_mut().filter(|connection| connection.waits) {
            connection.answer = format!("{answer}\n").into_bytes();
            (connection.waits, connection.until) = (false, now + TIME);
        }
    }
}

impl Connection {
    /// `false` when it is over.
    fn go_on(&mut self, status: &Status, asked: &mut Vec<Request>) -> bool {
        let mut bytes = [0; 4096];
        while self.answer.is_empty() {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return false,
                Ok(read) => self.received.extend_from_slice(bytes.get(..read).unwrap_or_default()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
            if self.waits {
                // It has asked already.
                self.received.clear();
                continue;
            }
            let asked_before = asked.len();
            let answer = match self.kind {
                Kind::Control => control(&self.received, status, asked),
                Kind::Health => health(&self.received, status),
            };
            if self.kind == Kind::Control && self.received.starts_with(WAIT) {
                self.until = Moment::MAX;
            }
            if answer.is_none() && asked.len() > asked_before {
                (self.waits, self.until) = (true, Moment::MAX);
            }
            match answer {
                Some(answer) => self.answer = answer,
                None if self.received.len() > REQUEST_MAX => return false,
                None => {}
            }
        }
        match rustix::io::write(&self.socket, &self.answer) {
            Ok(written) => {
                self.answer.drain(..written);
                !self.answer.is_empty()
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }
}

/// The answer to a line, `None` while it is not whole.
fn control(received: &[u8], status: &Status, asked: &mut Vec<Request>) -> Option<Vec<u8>> {
    let line = received.split(|byte| *byte == b'\n').next().filter(|line| line.len() < received.len())?;
    let mut answer = match serde_json::from_slice(line) {
        Ok(Command::Promote { .. }) if status.phase != Phase::Running => {
            let why = status.not_ready.as_deref().unwrap_or("it boots");
            serde_json::json!({ "error": format!("not now: {why}") }).to_string().into_bytes()
        }
        Ok(Command::Promote { force }) => {
            asked.push(Request::Promote { force });
            return None;
        }
        Ok(Command::Reload) => {
            asked.push(Request::Reload);
            br#"{"ok":true}"#.to_vec()
        }
        Ok(Command::Status) => serde_json::to_vec(status).unwrap_or_default(),
        Ok(Command::Stop) => {
            asked.push(Request::Stop);
            br#"{"ok":true}"#.to_vec()
        }
        Ok(Command::Wait) => return None,
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string().into_bytes(),
    };
    answer.push(b'\n');
    Some(answer)
}

/// The answer to a request, `None` while its head is not whole.
fn health(received: &[u8], status: &Status) -> Option<Vec<u8>> {
    let head = received.windows(4).position(|window| window == b"\r\n\r\n")?;
    let line = received.get(..head)?.split(|byte| *byte == b'\r').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let not_ready = || format!("not ready: {}\n", status.not_ready.as_deref().unwrap_or("still booting"));
    let text = "text/plain; charset=utf-8";
    let (code, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/livez") if status.phase == Phase::Failed => ("503 Service Unavailable", text, not_ready()),
        ("GET" | "HEAD", "/livez") => ("200 OK", text, "alive\n".to_owned()),
        ("GET" | "HEAD", "/readyz") if status.ready => ("200 OK", text, "ready\n".to_owned()),
        ("GET" | "HEAD", "/readyz") => ("503 Service Unavailable", text, not_ready()),
        ("GET" | "HEAD", "/ha") => match &status.ha {
            Some(ha) => ("200 OK", "application/json", ha.to_peers()),
            None => ("404 Not Found", text, "it has no peers, or does not know yet what it is\n".to_owned()),
        },
        ("GET" | "HEAD", "/metrics") => ("200 OK", "text/plain; version=0.0.4", status.metrics()),
        ("GET" | "HEAD", _) => ("404 Not Found", text, "there is /livez, /readyz, /ha and /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", text, "only GET\n".to_owned()),
    };
    let length = body.len();
    let sent = if method == "HEAD" { "" } else { &body };
    Some(
        format!("HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{sent}")
            .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str, status: &Status) -> String {
        String::from_utf8(health(request.as_bytes(), status).unwrap()).unwrap()
    }

    #[test]
    fn health_tells_why_not() {
        let mut status = Status { not_ready: Some("the sink is away".to_owned()), ..Status::default() };
        assert_eq!(health(b"GET /readyz HTTP/1.1\r\nHost: x\r\n", &status), None);
        let answer = ask("GET /readyz HTTP/1.1\r\n\r\n", &status);
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: the sink is away\n"), "{answer}");
        status.ready = true;
        assert!(ask("GET /readyz?x HTTP/1.1\r\n\r\n", &status).starts_with("HTTP/1.1 200"));
        assert!(ask("HEAD /livez HTTP/1.1\r\n\r\n", &status).ends_with("\r\n\r\n"));
        assert!(ask("GET /metrics HTTP/1.0\r\n\r\n", &status).contains("beyond_pg_ready 1\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n", &status).starts_with("HTTP/1.1 404"));
        assert!(ask("POST /livez HTTP/1.1\r\n\r\n", &status).starts_with("HTTP/1.1 405"));
        status.phase = Phase::Failed;
        assert!(ask("GET /livez HTTP/1.1\r\n\r\n", &status).starts_with("HTTP/1.1 503"));
    }

    #[test]
    fn the_control_socket_takes_lines() {
        let mut asked = Vec::new();
        let status = Status::default();
        assert_eq!(control(br#"{"command":"stop"}"#, &status, &mut asked), None);
        assert_eq!(control(b"{\"command\":\"stop\"}\n", &status, &mut asked).unwrap(), b"{\"ok\":true}\n");
        assert_eq!(asked, [Request::Stop]);
        let answer = control(b"{\"command\":\"status\"}\n", &status, &mut asked).unwrap();
        assert_eq!(serde_json::from_slice::<Status>(&answer).unwrap(), status);
        assert_eq!(
            control(b"{\"command\":\"promote\",\"force\":true}\n", &Status { phase: Phase::Running, ..status.clone() }, &mut asked),
            None
        );
        assert_eq!(asked, [Request::Stop, Request::Promote { force: true }]);
        let answer = control(b"{\"command\":\"promote\",\"force\":true}\n", &status, &mut asked).unwrap();
        assert!(answer.starts_with(b"{\"error\":\"not now"), "while it boots");
        let answer = control(b"nonsense\n", &status, &mut asked).unwrap();
        assert!(answer.starts_with(b"{\"error\":"));
    }
}
