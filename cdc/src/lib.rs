//! Change data capture: one logical slot, a durable event log, any number of consumers.
//!
//! ```text
//!   walsender ──▶ source ──▶ encode ──▶ log (files, ring) ──▶ fanout ──▶ quic ──▶ consumers
//! ```
pub mod args;
pub mod config;
pub mod encode;
pub mod fanout;
pub mod http;
pub mod log;
pub mod program;
pub mod quic;
pub mod serve;
pub mod source;
pub mod state;
