//! Certificates, keys and the token: the sink's own, made on the first start, or the user's, read again when they change.

mod own;
pub mod pem;
mod server;

pub use own::{ProvisionError, Provisioned, provision, provision_at, provision_token};
pub use server::{ServerTls, TlsFiles};
