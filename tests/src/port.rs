//! TCP ports that stay with their owner while its server is down.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use crate::scratch::shared;

/// The ports to choose from: below those that Linux hands out by itself (`ip_local_port_range` starts at 32768), so that no
/// connection and no `bind` to port 0 takes one while its server restarts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 that no other test has, in this process or another, until it is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Locked: what makes the port this one's, across processes.
    _lock: File,
}

impl Port {
    /// Takes a free one.
    pub(crate) fn reserve() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = shared()?.join("ports");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // Processes start to look in different places, so that they seldom meet.
        let from = std::process::id().wrapping_mul(97);
        for _ in 0..COUNT {
            let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + u16::try_from(from.wrapping_add(turn) % u32::from(COUNT))?;
            let lock = File::create(folder.join(number.to_string())).context("create a port's lock file")?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // Someone who knows nothing of the locks may listen there.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no port from {FIRST} on is free, of {COUNT}")
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}
