//! What a client may cost. Everything has a limit, and a client that meets one is told so where there is still a way to tell it.

use std::time::Duration;

/// How many connections are told, beyond [`Limits::connections`], that they are too many; more than that are just closed.
pub(super) const REFUSALS: usize = 32;

/// How long a connection that is one too many has to take its answer.
pub(super) const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest URI, in bytes. The longest that means anything here has some 150.
pub(super) const URI_BYTES_MAX: usize = 2048;

/// How many headers a request may have.
pub(super) const HEADERS_MAX: usize = 64;

/// How large a request's headers may be together, in bytes.
pub(super) const HEADER_BYTES_MAX: u32 = 16 << 10;

/// How many requests one HTTP/2 connection may have at once.
pub(super) const STREAMS_MAX: u32 = 128;

/// How much of the answers one HTTP/2 stream may hold unsent, in bytes.
pub(super) const STREAM_SEND_BYTES_MAX: usize = 256 << 10;

/// How many bytes of TLS records may wait for a socket, a connection.
pub(super) const TLS_SEND_BYTES_MAX: usize = 256 << 10;

/// The longest a client may ask to wait for WAL.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// How long `/v1/wait` waits unless told otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// What clients together, and each of them, may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open. Those beyond are answered 503, or closed.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long the headers of a request may take to come, and a connection may be silent between two over HTTP/1.1.
    pub header_timeout: Duration,
    /// How long a connection without a request is kept; over HTTP/1.1, `header_timeout` where that is shorter.
    pub idle_timeout: Duration,
    /// How many requests may be answered at once; half of them may be waits.
    pub requests: usize,
    /// How long requests may go on once the server is told to stop.
    pub shutdown_timeout: Duration,
    /// How long a client may take nothing of an answer that is being sent. One that takes less than a buffer (at most 256 KiB) in that
    /// time is cut off.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            requests: 1024,
            shutdown_timeout: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(60),
        }
    }
}
