//! The metadata service, asked while the loop goes on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Result;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::{Engine, Moment};
use crate::settings::Source;
use crate::sources::mmds::{Exchange, FetchError, Progress};

impl Engine {
    /// Reads the metadata once, within `limit`. `None`: there is a service, and nothing in it yet.
    ///
    /// # Errors
    /// [`super::Stopped`]; what failed of the reading itself is in the inner result.
    pub fn fetch_metadata(
        &mut self,
        address: SocketAddr,
        path: &str,
        limit: Duration,
    ) -> Result<Result<Option<Source>, FetchError>> {
        let until = self.now() + limit;
        let mut exchange = Exchange::new(address, path);
        loop {
            match self.converse(address, &mut exchange, until)? {
                Ok(Progress::Again | Progress::More) => {}
                Ok(Progress::Done(source)) => return Ok(Ok(Some(source))),
                Ok(Progress::NotYet) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// One connection: a request, and its answer.
    fn converse(&mut self, address: SocketAddr, exchange: &mut Exchange, until: Moment) -> Result<Result<Progress, FetchError>> {
        let away = |error: Errno| Ok(Err(FetchError::Away(address, error.into())));
        let socket = match open(address) {
            Ok(socket) => socket,
            Err(error) => return away(error),
        };
        let request = exchange.request();
        let mut send = request.as_slice();
        let mut bytes = [0; 16 * 1024];
        loop {
            self.go_on()?;
            if self.now() >= until {
                return Ok(Err(FetchError::Away(address, io::ErrorKind::TimedOut.into())));
            }
            let wanted = if send.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            if !self.turn(Some((socket.as_fd(), wanted)), Some(until))? {
                continue;
            }
            if !send.is_empty() {
                // A connection that failed says so here.
                match rustix::io::write(&socket, send) {
                    Ok(written) => send = send.get(written..).unwrap_or_default(),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return away(error),
                }
                continue;
            }
            let read = match rustix::io::read(&socket, &mut bytes) {
                Ok(read) => read,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return away(error),
            };
            match exchange.handle_bytes(bytes.get(..read).unwrap_or_default()) {
                Ok(Progress::More) => {}
                Ok(progress) => return Ok(Ok(progress)),
                Err(error) => return Ok(Err(FetchError::Mmds(address, error))),
            }
        }
    }
}

fn open(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}
