//! Peers: one short request over TCP, while the loop goes on.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::Engine;
use crate::ha::{Answer, HaStatus, body};

/// The most bytes of an answer.
const ANSWER_MAX: usize = 64 << 10;

impl Engine {
    /// Asks a peer how it is.
    ///
    /// # Errors
    /// [`super::Stopped`]; a peer that does not answer is an answer.
    pub fn ask_peer(&mut self, address: SocketAddr, limit: Duration) -> Result<Answer> {
        let fetched = self.fetch(address, "/ha", limit);
        self.go_on()?;
        let read = fetched.and_then(|answer| {
            let body = body(&answer).map_err(anyhow::Error::msg)?;
            Ok(serde_json::from_slice::<HaStatus>(body)?)
        });
        Ok(read.map_or_else(|error| Answer::Nothing(format!("{error:#}")), Answer::Said))
    }

    /// GETs a path: the whole answer, head included.
    fn fetch(&mut self, address: SocketAddr, path: &str, limit: Duration) -> Result<Vec<u8>> {
        let until = self.now() + limit;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("connect"),
        }
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let (mut send, mut received, mut bytes) = (request.as_bytes(), Vec::new(), [0; 4096]);
        loop {
            self.go_on()?;
            if self.now() >= until {
                bail!("no answer within {limit:?}");
            }
            let wanted = if send.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            if !self.turn(Some((socket.as_fd(), wanted)), Some(until))? {
                continue;
            }
            if !send.is_empty() {
                sockopt::socket_error(&socket)?.map_err(std::io::Error::from).context("connect")?;
                match rustix::io::write(&socket, send) {
                    Ok(written) => send = send.get(written..).unwrap_or_default(),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error).context("ask"),
                }
                continue;
            }
            match rustix::io::read(&socket, &mut bytes) {
                Ok(0) => return Ok(received),
                Ok(read) => received.extend_from_slice(bytes.get(..read).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("read the answer"),
            }
            if received.len() > ANSWER_MAX {
                bail!("an answer of more than {ANSWER_MAX} bytes");
            }
        }
    }
}
