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
