//! The replication connection against a real Postgres, and against servers that are none.

#![allow(clippy::unwrap_used)]

mod cluster;
mod fake;
mod login;
mod stream;
