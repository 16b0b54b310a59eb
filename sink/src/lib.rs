//! A synchronous WAL receiver: commits wait for it, and what it has acknowledged is never lost.
//!
//! ```text
//!   primary ──▶ receiver (one thread) ──▶ DIR/SEG, SEG.partial ──▶ https ──▶ status · recover · any client
//!                    │                                                ▲
//!                    └──────────────▶ state (positions, catalog) ─────┘
//! ```
pub mod api;
pub mod check;
pub mod client;
pub mod config;
pub mod facts;
pub mod https;
pub mod metrics;
pub mod program;
pub mod receiver;
pub mod recover;
pub mod retention;
pub mod serve;
pub mod state;
pub mod status;
pub mod tls;
