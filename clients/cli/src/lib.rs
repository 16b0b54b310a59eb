//! `walcat`: the changes of a `PostgreSQL` database in a shell, as `kcat` is to Kafka.
//!
//! ```text
//!   beyond-pg-cdc ──QUIC──▶ client ──▶ follow (when to stop, what to acknowledge) ──▶ output (json, pretty, csv) ──▶ stdout
//! ```
pub mod args;
pub mod exit;
pub mod follow;
pub mod output;
pub mod place;
pub mod program;
