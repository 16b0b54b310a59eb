//! From the log to any number of subscribers.
//!
//! ```text
//!   log ──▶ Cursor (ring, or files on a bounded pool) ──▶ Class: one re-encoding for all with the same filter ──▶ whoever writes to a socket
//!                                                          ▲
//!   Consumers: names, acknowledged positions               └── Selection: what passes (pure)
//! ```
//!
//! A subscriber is a cursor and at most one batch: however far behind it is, and whether it reads or not, that is all it holds. Nothing here
//! ever waits for a subscriber, and the log never waits for anything here.

pub mod class;
pub mod consumers;
pub mod cursor;
pub mod equals;
pub mod pattern;
pub mod select;
