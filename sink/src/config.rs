//! What people set: flags, the environment, and a TOML file.

mod client;
pub mod units;

pub use client::ClientArgs;
