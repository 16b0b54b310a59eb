//! A link that can be broken: a TCP proxy with faults.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// The most bytes passed on at once.
const PIECE: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the sink to the primary.
    ToServer,
    /// From the primary to the sink.
    ToClient,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In order, as if the other side had closed it.
    Close,
    /// By a reset, on both sides; what was on its way is lost.
    Reset,
}

/// What befalls the bytes on their way.
#[derive(Debug, Clone, Default)]
struct Faults {
    delay: Duration,
    bytes_per_second: Option<u64>,
    blackhole: bool,
    refuse: bool,
    /// Counts the cuts: a connection made before the last one ends.
    cuts: u64,
    cut: Option<Cut>,
    /// Once so many bytes have gone that way on one connection.
    cut_after: Option<(Direction, u64, Cut)>,
    corrupt: Option<Corruption>,
}

/// The byte of that number, going that way on a connection, is inverted: on each, or on the first that gets there.
#[derive(Debug, Clone)]
struct Corruption {
    direction: Direction,
    byte: u64,
    spent: Option<Arc<AtomicBool>>,
}

/// Counters of what has passed.
#[derive(Debug, Default)]
struct Passed {
    connections: AtomicU64,
    to_client: AtomicU64,
    to_server: AtomicU64,
}

/// A TCP proxy on a port of its own, which stays while what is behind it comes and goes. It runs on a thread of its own.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    faults: watch::Sender<Faults>,
    target: watch::Sender<SocketAddr>,
    passed: Arc<Passed>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to this port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn to(port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the proxy")?;
        listener.set_nonblocking(true)?;
        let own = listener.local_addr()?.port();
        let (faults, see_faults) = watch::channel(Faults::default());
        let (target, see_target) = watch::channel(local(port));
        let (stop, stopped) = oneshot::channel();
        let passed = Arc::new(Passed::default());
        let link = Link { faults: see_faults, target: see_target, passed: Arc::clone(&passed) };
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = link.accept(listener) => {}
                    _ = stopped => {}
                }
            });
            // Connections are dropped here, and with them closed.
        })?;
        Ok(Self { port: own, faults, target, passed, stop: Some(stop), thread: Some(thread) })
    }

    /// Its own port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends connections made from now on to another port.
    pub fn retarget(&self, port: u16) {
        self.target.send_replace(local(port));
    }

    /// Ends all connections now.
    pub fn cut(&self, how: Cut) {
        self.faults.send_modify(|faults| {
            faults.cuts += 1;
            faults.cut = Some(how);
        });
    }

    /// Ends a connection once so many bytes have gone that way on it: also each one made after it, until [`heal`](Self::heal).
    pub fn cut_after(&self, direction: Direction, bytes: u64, how: Cut) {
        self.faults.send_modify(|faults| faults.cut_after = Some((direction, bytes, how)));
    }

    /// Inverts the byte of this number, counted from 0, going that way on a connection.
    pub fn corrupt(&self, direction: Direction, byte: u64) {
        self.faults.send_modify(|faults| faults.corrupt = Some(Corruption { direction, byte, spent: None }));
    }

    /// The same on one connection alone: the first on which so many bytes have gone that way.
    pub fn corrupt_once(&self, direction: Direction, byte: u64) {
        let spent = Some(Arc::default());
        self.faults.send_modify(|faults| faults.corrupt = Some(Corruption { direction, byte, spent }));
    }

    /// Holds each piece back for this long, both ways.
    pub fn delay(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Lets so many bytes through a second, each way of each connection.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.faults.send_modify(|faults| faults.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Lets nothing through either way, and ends no connection: what is sent waits until [`heal`](Self::heal).
    pub fn blackhole(&self) {
        self.faults.send_modify(|faults| faults.blackhole = true);
    }

    /// Resets each new connection at once.
    pub fn refuse(&self) {
        self.faults.send_modify(|faults| faults.refuse = true);
    }

    /// No faults from now on. What was cut stays cut.
    pub fn heal(&self) {
        self.faults.send_modify(|faults| *faults = Faults { cuts: faults.cuts, cut: faults.cut, ..Faults::default() });
    }

    /// How many connections were made through it.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.passed.connections.load(Ordering::Relaxed)
    }

    /// How many bytes have gone this way.
    #[must_use]
    pub fn passed(&self, direction: Direction) -> u64 {
        self.passed.of(direction).load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails where the thread has ended by itself.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the proxy's thread panicked");
        }
    }
}

impl Passed {
    const fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// What each connection's tasks know.
#[derive(Debug, Clone)]
struct Link {
    faults: watch::Receiver<Faults>,
    target: watch::Receiver<SocketAddr>,
    passed: Arc<Passed>,
}

impl Link {
    async fn accept(self, listener: std::net::TcpListener) {
        // Fails outside of a runtime, where this is not.
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        while let Ok((client, _)) = listener.accept().await {
            let link = self.clone();
            tokio::spawn(async move { link.connection(client).await });
        }
    }

    async fn connection(mut self, client: TcpStream) {
        self.passed.connections.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults.borrow_and_update().clone();
        let target = *self.target.borrow();
        let server = if faults.refuse { None } else { TcpStream::connect(target).await.ok() };
        let Some(server) = server else {
            reset(&client);
            return;
        };
        // A delay of the kernel's would come on top of those asked for.
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let (mut client_read, mut client_write) = client.into_split();
        let (mut server_read, mut server_write) = server.into_split();
        let cut = tokio::select! {
            cut = self.clone().pass(Direction::ToServer, &mut client_read, &mut server_write, faults.cuts) => cut,
            cut = self.clone().pass(Direction::ToClient, &mut server_read, &mut client_write, faults.cuts) => cut,
        };
        if cut == Cut::Reset {
            reset(client_read.as_ref());
            reset(server_read.as_ref());
            // Dropped, these would close their direction in order first.
            client_write.forget();
            server_write.forget();
        }
    }

    /// Passes bytes on one way, until it says how the connection is to end.
    async fn pass(mut self, direction: Direction, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, born: u64) -> Cut {
        let mut buffer = vec![0; PIECE];
        let mut passed = 0;
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                cut = cut_since(&mut self.faults, born) => return cut,
            };
            let Ok(read @ 1..) = read else { return Cut::Close };
            let mut cuts = self.faults.clone();
            let faults = tokio::select! {
                faults = self.hold(read) => faults,
                cut = cut_since(&mut cuts, born) => return cut,
            };
            let mut piece = &mut buffer[..read];
            let end = cut_point(&faults, direction, passed, piece.len());
            if let Some((keep, _)) = end {
                piece = &mut piece[..keep];
            }
            if let Some(corruption) = faults.corrupt.filter(|corruption| corruption.direction == direction)
                && let Some(byte) = corruption.byte.checked_sub(passed).and_then(|at| piece.get_mut(usize::try_from(at).ok()?))
                && corruption.spent.is_none_or(|spent| !spent.swap(true, Ordering::Relaxed))
            {
                *byte = !*byte;
            }
            if to.write_all(piece).await.is_err() {
                return Cut::Close;
            }
            passed += piece.len() as u64;
            self.passed.of(direction).fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some((_, how)) = end {
                return how;
            }
        }
    }

    /// Waits for as long as the faults hold a piece back, and gives the faults as they are then.
    async fn hold(&mut self, bytes: usize) -> Faults {
        let faults = self.faults.borrow_and_update().clone();
        let rate =
            faults.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1).mul_f64(bytes as f64 / rate as f64));
        let delay = faults.delay + rate;
        if !delay.is_zero() {
            // The delay itself is the fault.
            tokio::time::sleep(delay).await;
        }
        while self.faults.borrow_and_update().blackhole {
            if self.faults.changed().await.is_err() {
                break;
            }
        }
        self.faults.borrow().clone()
    }
}

/// Where in a piece the connection is to be cut, and how; `None` where it is not.
fn cut_point(faults: &Faults, direction: Direction, passed: u64, len: usize) -> Option<(usize, Cut)> {
    let (_, at, how) = faults.cut_after.filter(|(way, ..)| *way == direction)?;
    let keep = usize::try_from(at.saturating_sub(passed)).ok()?;
    (keep <= len).then_some((keep, how))
}

/// Waits for a cut after the connection's birth.
async fn cut_since(faults: &mut watch::Receiver<Faults>, born: u64) -> Cut {
    match faults.wait_for(|faults| faults.cuts > born).await {
        Ok(faults) => faults.cut.unwrap_or(Cut::Close),
        Err(_) => Cut::Close,
    }
}

fn reset(stream: &TcpStream) {
    // The kernel sends a reset in place of what is left when such a socket is closed.
    drop(stream.set_zero_linger());
}

#[cfg(test)]
mod tests;
