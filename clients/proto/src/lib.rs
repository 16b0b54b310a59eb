//! The contract of beyond-cdc/1: what travels between `beyond-pg-cdc` and its clients, and what its event log holds.
//!
//! ```text
//!   beyond_cdc.proto ──▶ v1 (generated) ──▶ json (a change as one JSON object)
//!                          ▲
//!   walbus::Position ──────┘
//! ```
//!
//! All of it is pure: no socket, file, clock or task.

pub mod frame;
pub mod json;
mod position;

/// The messages of `beyond_cdc.proto`, as prost makes them.
#[allow(
    missing_docs,
    unused_qualifications,
    rustdoc::all,
    clippy::all,
    clippy::use_self,
    reason = "generated code follows the generator's taste; the messages are described in the .proto file"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/beyond_cdc.v1.rs"));
}

pub use prost;

/// The protocol's name in TLS (ALPN).
pub const ALPN: &[u8] = b"beyond-cdc/1";

/// The largest UDP payload that either side sends or takes, in bytes, where the path between them carries it: what the path carries is
/// searched for. Within a host and on networks with jumbo frames a packet then costs a quarter of what it does at the Internet's 1,452.
/// Ten of them, as many as QUIC implementations hand to the kernel at once, are less than the 65,507 bytes that it takes.
pub const DATAGRAM_BYTES_MAX: u16 = 6_500;
