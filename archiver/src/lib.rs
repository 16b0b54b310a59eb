//! WAL in object storage, and recovery to any point of it.
//!
//! ```text
//!   archive_command ──▶ push ──▶ walfile (is it what its name says?) ──▶ walbus::archive ──▶ store
//!   restore_command ◀── fetch ◀── walfile ◀───────────────────────────────────┘
//! ```
//!
//! What the objects are called and what is in them is [`walbus::archive`]'s; this crate is the program.

pub mod fetch;
pub mod ls;
pub mod pgdata;
pub mod probe;
pub mod program;
pub mod push;
pub mod settings;
pub mod walfile;
