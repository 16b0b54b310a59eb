//! What can be done with what an archive holds: decided out of names, indexes, histories and what a data folder says. No file, no
//! socket, no clock.
//!
//! ```text
//!   names ──▶ Inventory ──▶ Chain along a timeline's history ──▶ Window
//!                                │       ▲
//!                   Goal ──▶ which segments may hold the stop (indexes) ──▶ records, read one by one ──▶ Found
//!                                │                                                                        │
//!   pg_control, backup_label ──▶ Base: from where replay starts, where it is consistent ─────▶ judge ◀────┘
//! ```
//!
//! The rules are those of Postgres' recovery: the manual's chapter "Continuous Archiving and Point-in-Time Recovery", the settings of
//! "Recovery Target", and, where these leave a question open, what `xlogrecovery.c` of Postgres 15 to 18 does.

pub mod base;
pub mod chain;
pub mod inventory;
pub mod parameters;
pub mod prune;

pub mod target;
pub mod window;

#[cfg(test)]
mod tests;

pub use base::{Base, Consistency, Kind, Refusal};
pub use chain::{Chain, Gap, Held, Link, Run};
pub use inventory::{Inventory, NoHistory};
pub use parameters::ParameterChange;
pub use target::{Goal, Side, Target};
