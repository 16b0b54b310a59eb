//! What people set: flags, the environment, and a TOML file.

mod args;
mod client;
mod serve;

pub use args::{SecretText, ServeArgs};
pub use client::ClientArgs;
pub use serve::{Ack, ConfigError, DEFAULT_APPLICATION_NAME, HttpsConfig, Keep, LogFormat, ServeConfig};
