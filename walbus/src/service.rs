//! What every program that serves needs, whatever it serves: its own authority, certificate and token or the user's, and the lock on its
//! data folder.
//!
//! It knows no protocol: what to do with a connection is the program's.

pub mod lock;
pub mod settings;
pub mod stamp;
pub mod tls;
pub mod token;
