//! What befalls requests on their way to an S3 and their answers on the way back: a proxy that knows HTTP.
//!
//! A fault holds for the requests that its [`When`] names, from [`Faults::add`] to [`Faults::heal`], and counts them in [`Hits`].
//! Where several hold for one request, all of them happen to it.

mod link;
mod message;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{oneshot, watch};

use message::RequestHead;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset once so many bytes of the request's body have gone to the store.
    CutRequest(u64),
    /// The connection is reset once so many bytes of the answer's body have gone to the client.
    CutResponse(u64),
    /// The request waits this long before it goes to the store.
    Delay(Duration),
    /// One bit of this byte of the request's body is inverted; there is none where the body is shorter.
    FlipRequest(u64),
    /// One bit of this byte of the answer's body is inverted; there is none where the body is shorter.
    FlipResponse(u64),
    /// Nothing is answered, and the connection stays open, until [`Faults::heal`] resets it.
    Hang,
    /// The store does it, and its answer is held back until [`Faults::heal`] resets the connection.
    HoldAnswer,
    /// `If-None-Match` is taken out: a store that does not know conditional puts.
    IgnoreConditions,
    /// The store does it, and its answer never comes: the connection is reset.
    LoseAnswer,
    /// The store is not asked; this is answered in its place.
    Refuse(Refuse),
    /// The answer's body ends after so many bytes, and its length says no more than that.
    Shorten(u64),
    /// The answer's body ends after so many bytes, while its length says more; the connection is closed in order.
    Truncate(u64),
}

/// How a store refuses what it would do at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuse {
    /// 403: these credentials may not do this.
    AccessDenied,
    /// 403: these credentials are of yesterday.
    ExpiredToken,
    /// 500.
    InternalError,
    /// 403: this request was signed by a clock that is wrong.
    RequestTimeTooSkewed,
    /// 503, as Amazon's throttles.
    SlowDown,
    /// 429, as others throttle.
    TooManyRequests,
}

impl Refuse {
    /// Its status line's end, its code and its message.
    const fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::AccessDenied => ("403 Forbidden", "AccessDenied", "Access Denied"),
            Self::ExpiredToken => ("403 Forbidden", "ExpiredToken", "The provided token has expired."),
            Self::InternalError => ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
            Self::RequestTimeTooSkewed => (
                "403 Forbidden",
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            ),
            Self::SlowDown => ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
            Self::TooManyRequests => ("429 Too Many Requests", "TooManyRequests", "Too many requests."),
        }
    }
}

/// The requests that a fault befalls; all of them until told otherwise.
#[derive(Debug, Clone, Default)]
#[must_use = "it does nothing before Faults::add()"]
pub struct When {
    method: Option<&'static str>,
    part: String,
    signed_by: String,
    spared: u64,
    times: Option<u64>,
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Those of this method, such as `PUT`.
    pub fn method(method: &'static str) -> Self {
        Self { method: Some(method), ..Self::default() }
    }

    /// Of these, those whose target has this in it: a part of a key, or of a list's query.
    pub fn of(mut self, part: &str) -> Self {
        part.clone_into(&mut self.part);
        self
    }

    /// Of these, those that are signed with this access key.
    pub fn signed_by(mut self, key: &str) -> Self {
        self.signed_by = format!("Credential={key}/");
        self
    }

    /// Of these, all but the first so many.
    pub const fn after(mut self, spared: u64) -> Self {
        self.spared = spared;
        self
    }

    /// Of these, no more than so many.
    pub const fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }
}

/// How many requests a fault has befallen.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<AtomicU64>);

impl Hits {
    /// So many until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    seen: u64,
    hits: Hits,
}

impl Rule {
    /// Whether it befalls this request, which is then counted.
    fn befalls(&mut self, head: &RequestHead) -> bool {
        let When { method, part, signed_by, .. } = &self.when;
        let is_method = method.is_none_or(|method| head.method() == method);
        if !is_method || !head.target().contains(part) || !head.authorization().contains(signed_by) {
            return false;
        }
        self.seen += 1;
        let befalls = self.seen > self.when.spared && self.when.times.is_none_or(|times| self.seen <= self.when.spared + times);
        if befalls {
            self.hits.0.fetch_add(1, Ordering::SeqCst);
        }
        befalls
    }
}

/// What all connections share.
#[derive(Debug, Default)]
struct Rules {
    rules: Mutex<Vec<Rule>>,
    requests: AtomicU64,
}

impl Rules {
    /// What befalls this request.
    fn of(&self, head: &RequestHead) -> Vec<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.iter_mut().filter_map(|rule| rule.befalls(head).then_some(rule.fault)).collect()
    }
}

/// A proxy before one S3, on a port of its own, which stays while what is behind it comes and goes. It runs on a thread of its own.
#[derive(Debug)]
pub struct Faults {
    port: u16,
    rules: Arc<Rules>,
    /// Counts the healings: what hangs since before the last one ends.
    healed: watch::Sender<u64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Faults {
    /// A proxy before the server at this port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn before(port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the proxy")?;
        listener.set_nonblocking(true)?;
        let own = listener.local_addr()?.port();
        let rules = Arc::new(Rules::default());
        let (healed, see_healed) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        let link = link::Link::new(port, Arc::clone(&rules), see_healed);
        let thread = std::thread::Builder::new().name("s3-faults".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = link.accept(listener) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { port: own, rules, healed, stop: Some(stop), thread: Some(thread) })
    }

    /// Its own port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From now on, this goes wrong.
    pub fn add(&self, when: When, fault: Fault) -> Hits {
        let hits = Hits::default();
        let rule = Rule { when, fault, seen: 0, hits: hits.clone() };
        self.rules.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
        hits
    }

    /// No faults from now on; what hangs is reset.
    pub fn heal(&self) {
        self.rules.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.healed.send_modify(|healed| *healed += 1);
    }

    /// How many requests have come, those included that the store never saw.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.rules.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails where the thread has ended by itself.
            stop.send(()).ok();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread of the faults panicked");
        }
    }
}
