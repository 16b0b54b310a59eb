//! A server's data folder, as programs see it that act on it while the server is down.
//!
//! ```text
//!   config     what configuration files say                       pure
//!   label      backup_label                                       pure
//!   settings   a block of settings that can be taken back         pure
//!   running    whether a server runs on the folder
//!   owned      new files, owned as the server's own are
//! ```

mod config;
mod label;
#[cfg(feature = "disk")]
mod owned;
#[cfg(feature = "disk")]
mod running;
mod settings;

pub use config::{ConfigLine, config_lines};
pub use label::{BackupHistory, BackupLabel, LabelError};
#[cfg(feature = "disk")]
pub use owned::{NotOwner, OwnedDisk, Owner, read_whole};
#[cfg(feature = "disk")]
pub use running::{RunningError, refuse_running};
pub use settings::{AUTO_CONF, Block};
