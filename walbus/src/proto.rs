//! What Postgres sends and stores, as bytes to values and back. Pure: no socket, file, clock or task below here.

pub mod backend;
pub mod control;
pub mod history;
pub mod pgoutput;
pub mod replication;
pub mod wal;
