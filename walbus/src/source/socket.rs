//! Names to addresses, addresses to sockets.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};

use super::transport::Transport;
use super::{SourceError, environment};
use crate::conninfo::{Address, Config, ConninfoError, DEFAULT_SOCKET_DIR, Host, KeepaliveOptions};

/// The default socket folder of a Postgres that was built from its source as it is.
const UPSTREAM_SOCKET_DIR: &str = "/tmp";

/// One thing to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketAddress {
    Tcp(SocketAddr),
    /// A path; `@` stands for the abstract namespace.
    Unix(String),
}

impl SocketAddress {
    pub(super) const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

/// Every address of a host, in the resolver's order or in any.
pub(super) async fn resolve(host: &Host, any_order: bool) -> Result<Vec<SocketAddress>, SourceError> {
    let name = match &host.address {
        Address::Tcp { addr: Some(addr), .. } => return Ok(vec![SocketAddress::Tcp((*addr, host.port).into())]),
        Address::Tcp { host, addr: None } => host,
        Address::Unix(dir) => {
            let default = || if Path::new(DEFAULT_SOCKET_DIR).is_dir() { DEFAULT_SOCKET_DIR } else { UPSTREAM_SOCKET_DIR };
            let dir = dir.as_deref().unwrap_or_else(default);
            return Ok(vec![SocketAddress::Unix(format!("{dir}/.s.PGSQL.{}", host.port))]);
        }
    };
    let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
    let mut addresses: Vec<_> =
        found.map_err(|error| SourceError::io(format!("look up host {name:?}"), error))?.map(SocketAddress::Tcp).collect();
    if any_order {
        shuffle(&mut addresses);
    }
    Ok(addresses)
}

/// Puts a list into any order: what `load_balance_hosts=random` asks for.
pub(super) fn shuffle<T>(list: &mut [T]) {
    // Seeded by the operating system; nothing here needs better chance than that.
    let random = RandomState::new();
    for last in (1..list.len()).rev() {
        let bound = last as u64 + 1;
        list.swap(last, usize::try_from(random.hash_one(last) % bound).unwrap_or(0));
    }
}

pub(super) async fn dial(config: &Config, host: &Host, address: &SocketAddress) -> Result<Transport, SourceError> {
    let failed = |error| SourceError::io(format!("connect to {host} at {address}"), error);
    match address {
        SocketAddress::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            set_options(&stream, &config.keepalive).map_err(failed)?;
            Ok(Transport::Tcp(stream))
        }
        SocketAddress::Unix(path) => {
            let abstract_path = path.strip_prefix('@').map(|name| format!("\0{name}"));
            let stream = UnixStream::connect(abstract_path.as_ref().unwrap_or(path)).await.map_err(failed)?;
            if let Some(wanted) = &config.require_peer {
                check_peer(&stream, wanted)?;
            }
            Ok(Transport::Unix(stream))
        }
    }
}

fn set_options(stream: &TcpStream, keepalive: &KeepaliveOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if !keepalive.off {
        sockopt::set_socket_keepalive(stream, true)?;
        if let Some(idle) = keepalive.idle {
            sockopt::set_tcp_keepidle(stream, idle)?;
        }
        if let Some(interval) = keepalive.interval {
            sockopt::set_tcp_keepintvl(stream, interval)?;
        }
        if let Some(count) = keepalive.count {
            sockopt::set_tcp_keepcnt(stream, count)?;
        }
    }
    if let Some(timeout) = keepalive.user_timeout {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn check_peer(stream: &UnixStream, wanted: &str) -> Result<(), SourceError> {
    let uid = stream.peer_cred().map_err(|error| SourceError::io("ask who the server runs as", error))?.uid();
    let name = environment::user_name(uid);
    if name.as_deref() == Some(wanted) {
        return Ok(());
    }
    let is = name.unwrap_or_else(|| format!("user {uid}"));
    Err(ConninfoError::new("requirepeer", format!("the server runs as {is:?} and not as {wanted:?}")).into())
}
