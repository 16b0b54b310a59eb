//! What a client may cost. Everything has a limit, and a client that meets one is told so where there is still a way to tell it.

use std::time::Duration;

/// How much of what is sent on one connection may be unacknowledged, in bytes: what a peer that does not read makes the server hold, beside
/// one batch a subscription.
pub(super) const SEND_WINDOW_BYTES: u64 = 1 << 20;

/// How much of one control stream may wait to be read, in bytes.
pub(super) const CONTROL_WINDOW_BYTES: u32 = 128 << 10;

/// How much the socket may hold that was not read yet, or not sent, in bytes: the acknowledgements of thousands come at once.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How many bytes of ready batches are written at once: many small ones cost the packets of one large one.
pub(super) const GATHERED_BYTES: usize = 64 << 10;

/// How many subscribers may read files at once; the others wait for their turn.
pub(super) const FILE_READERS: usize = 4;

/// How many bytes of encodings all filters together may keep.
pub(super) const CLASS_CACHE_BYTES: usize = 64 << 20;

/// The longest text that a client may call itself, in bytes; the rest is cut off.
pub(super) const AGENT_BYTES_MAX: usize = 128;

/// What clients together, and each of them, may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open. Those beyond are refused.
    pub connections: usize,
    /// How many subscriptions a connection may have at once.
    pub subscriptions: usize,
    /// The largest control message, in bytes.
    pub control_bytes: usize,
    /// How long a connection may take from its first packet to its hello.
    pub handshake_timeout: Duration,
    /// How long a connection lasts that nothing is heard of.
    pub idle_timeout: Duration,
    /// How long a client may leave the answers to its control messages unread.
    pub control_timeout: Duration,
    /// How long clients have to take the last word, once the server is told to stop.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            subscriptions: 64,
            control_bytes: beyond_cdc_proto::frame::CONTROL_BYTES_MAX,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15),
            control_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(2),
        }
    }
}
