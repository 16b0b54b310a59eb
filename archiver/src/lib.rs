//! WAL in object storage, and recovery to any point of it.
//!
//! ```text
//!   archive_command ──▶ push ──▶ walfile (is it what its name says?) ──▶ walbus::archive ──▶ store
//!   restore_command ◀── fetch ◀── walfile ◀───────────────────────────────────┤
//!   replication slot ──▶ follow ──▶ walbus::archive                             │
//!                         push, fetch ── daemon: may say yes ──▶ serve           ▼
//!   window, locate, restore, verify, prune ◀── search ◀── records ◀── holdings (what is held)
//!                  │
//!                  └── plan: chains, targets, bases, decided out of names, indexes and histories
//! ```
//!
//! What the objects are called and what is in them is [`walbus::archive`]'s; this crate is the program.

pub mod cluster;
pub mod daemon;
pub mod fetch;
pub mod fill;
pub mod follow;
pub mod holdings;
pub mod locate;
pub mod ls;
pub mod moment;
mod output;
pub mod pgdata;
pub mod plan;
pub mod probe;
pub mod program;
pub mod prune;
pub mod push;
pub mod records;
pub mod restore;
pub mod search;
pub mod serve;
pub mod settings;
pub mod verify;
pub mod walfile;
pub mod window;
