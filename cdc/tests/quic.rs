//! The server over real QUIC on the loopback interface, against a real log in a temporary folder, through the public client and by hand.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "quic/access.rs"]
mod access;
#[path = "quic/consumers.rs"]
mod consumers;
#[path = "quic/harness.rs"]
mod harness;
#[path = "quic/hostile.rs"]
mod hostile;
#[path = "quic/stream.rs"]
mod stream;
#[path = "quic/walcat.rs"]
mod walcat;
