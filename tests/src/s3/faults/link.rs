//! One connection of a client, its requests passed on one after the other, each on a connection of its own to the server.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::message::{HEAD_MAX, RequestHead, ResponseHead, end_of_head};
use super::{Fault, Refuse, Rules};
use crate::s3::server::error_document;

/// The most bytes passed on at once.
const PIECE: usize = 64 * 1024;

/// What each connection knows.
#[derive(Debug, Clone)]
pub(super) struct Link {
    target: u16,
    rules: Arc<Rules>,
    healed: watch::Receiver<u64>,
}

/// How a client's connection goes on after an answer.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Close,
    Next,
    Reset,
}

/// What befalls one request.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    delay: Duration,
    hang: bool,
    hold_answer: bool,
    refuse: Option<Refuse>,
    ignore_conditions: bool,
    lose_answer: bool,
    request: Damage,
    response: Damage,
    shorten: Option<u64>,
    truncate: Option<u64>,
}

/// What befalls a body.
#[derive(Debug, Clone, Copy, Default)]
struct Damage {
    cut: Option<u64>,
    flip: Option<u64>,
}

impl Plan {
    fn of(faults: &[Fault]) -> Self {
        let mut plan = Self::default();
        for fault in faults {
            match *fault {
                Fault::CutRequest(after) => plan.request.cut = Some(after),
                Fault::CutResponse(after) => plan.response.cut = Some(after),
                Fault::Delay(delay) => plan.delay += delay,
                Fault::FlipRequest(byte) => plan.request.flip = Some(byte),
                Fault::FlipResponse(byte) => plan.response.flip = Some(byte),
                Fault::Hang => plan.hang = true,
                Fault::HoldAnswer => plan.hold_answer = true,
                Fault::IgnoreConditions => plan.ignore_conditions = true,
                Fault::LoseAnswer => plan.lose_answer = true,
                Fault::Refuse(refuse) => plan.refuse = Some(refuse),
                Fault::Shorten(to) => plan.shorten = Some(to),
                Fault::Truncate(to) => plan.truncate = Some(to),
            }
        }
        plan
    }
}

impl Link {
    pub(super) const fn new(target: u16, rules: Arc<Rules>, healed: watch::Receiver<u64>) -> Self {
        Self { target, rules, healed }
    }

    pub(super) async fn accept(self, listener: std::net::TcpListener) {
        // Fails outside of a runtime, where this is not.
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        while let Ok((client, _)) = listener.accept().await {
            client.set_nodelay(true).ok();
            let link = self.clone();
            tokio::spawn(async move { link.connection(client).await });
        }
    }

    async fn connection(mut self, client: TcpStream) {
        let mut client = Half::new(client);
        loop {
            match self.request(&mut client).await {
                Ok(After::Next) => {}
                Ok(After::Close) => return,
                // To its client, a store that is away and one that breaks off look the same.
                Ok(After::Reset) | Err(_) => {
                    client.stream.set_zero_linger().ok();
                    return;
                }
            }
        }
    }

    async fn request(&mut self, client: &mut Half) -> Result<After> {
        let Some(head) = client.head().await? else { return Ok(After::Close) };
        let since = *self.healed.borrow();
        let mut head = RequestHead::parse(&head).context("read a request's head")?;
        let plan = Plan::of(&self.rules.of(&head));
        if !plan.delay.is_zero() {
            // The delay itself is the fault.
            tokio::time::sleep(plan.delay).await;
        }
        if plan.hang {
            self.healed.wait_for(|healed| *healed > since).await?;
            return Ok(After::Reset);
        }
        if head.expects() {
            client.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if let Some(refuse) = plan.refuse {
            client.pass(&mut tokio::io::sink(), Some(head.length()), Damage::default()).await?;
            client.stream.write_all(&refusal(refuse, &head)).await?;
            return Ok(After::Next);
        }
        if plan.ignore_conditions {
            head.ignore_conditions();
        }
        let mut server = Half::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).await?);
        server.stream.set_nodelay(true)?;
        server.stream.write_all(&head.to_server()).await?;
        if client.pass(&mut server.stream, Some(head.length()), plan.request).await? {
            server.stream.set_zero_linger()?;
            return Ok(After::Reset);
        }
        if plan.hold_answer {
            server.head().await?;
            self.healed.wait_for(|healed| *healed > since).await?;
            return Ok(After::Reset);
        }
        answer(client, &mut server, &head, plan).await
    }
}

/// Passes the answer on.
async fn answer(client: &mut Half, server: &mut Half, request: &RequestHead, plan: Plan) -> Result<After> {
    let head = server.head().await?.context("the server closed the connection")?;
    let mut head = ResponseHead::parse(&head).context("read an answer's head")?;
    if plan.lose_answer {
        return Ok(After::Reset);
    }
    let mut length = head.length(request.method());
    if let Some((whole, to)) = length.zip(plan.shorten).filter(|(whole, to)| whole > to) {
        ensure!(whole > 0, "an answer without a body can't be shortened");
        head.set_length(to);
        length = Some(to);
    }
    let truncated = length.zip(plan.truncate).filter(|(whole, to)| whole > to).map(|(_, to)| to);
    let closes = length.is_none() || truncated.is_some();
    client.stream.write_all(&head.to_client(closes)).await?;
    let cut = server.pass(&mut client.stream, truncated.or(length), plan.response).await?;
    match (cut, closes) {
        (true, _) => Ok(After::Reset),
        (false, true) => {
            client.stream.shutdown().await?;
            Ok(After::Close)
        }
        (false, false) => Ok(After::Next),
    }
}

fn refusal(refuse: Refuse, head: &RequestHead) -> Vec<u8> {
    let (status, code, message) = refuse.parts();
    let body = if head.method() == "HEAD" { String::new() } else { error_document(code, message, head.target()) };
    format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// One side's stream, and what of it was read and not yet used.
struct Half {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Half {
    const fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The next head, its empty line included; `None` where the stream ends before it.
    async fn head(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = end_of_head(&self.unread) {
                let rest = self.unread.split_off(end);
                return Ok(Some(std::mem::replace(&mut self.unread, rest)));
            }
            ensure!(self.unread.len() <= HEAD_MAX, "a head of more than {HEAD_MAX} bytes");
            self.unread.reserve(PIECE);
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return if self.unread.is_empty() { Ok(None) } else { bail!("a head broke off") };
            }
        }
    }

    /// Passes on a body of this length, or all up to the end, and says whether it was cut.
    async fn pass(&mut self, to: &mut (impl AsyncWriteExt + Unpin), length: Option<u64>, damage: Damage) -> Result<bool> {
        let mut passed = 0;
        loop {
            if damage.cut.is_some_and(|cut| passed >= cut) {
                return Ok(true);
            }
            if length.is_some_and(|length| passed >= length) {
                to.flush().await?;
                return Ok(false);
            }
            if self.unread.is_empty() {
                self.unread.reserve(PIECE);
                if self.stream.read_buf(&mut self.unread).await? == 0 {
                    ensure!(length.is_none(), "a body broke off");
                    return Ok(false);
                }
            }
            let most = [length, damage.cut].into_iter().flatten().min().map_or(u64::MAX, |end| end - passed);
            let take = self.unread.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            let rest = self.unread.split_off(take);
            let mut piece = std::mem::replace(&mut self.unread, rest);
            if let Some(byte) = damage.flip.and_then(|byte| piece.get_mut(usize::try_from(byte.checked_sub(passed)?).ok()?)) {
                *byte ^= 1;
            }
            to.write_all(&piece).await?;
            passed += piece.len() as u64;
        }
    }
}
