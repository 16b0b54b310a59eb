//! The real server, in this process, over a folder and a state that the tests drive by hand.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "https/access.rs"]
mod access;
#[path = "https/harness.rs"]
mod harness;
#[path = "https/limits.rs"]
mod limits;
#[path = "https/segments.rs"]
mod segments;
#[path = "https/wal.rs"]
mod wal;
