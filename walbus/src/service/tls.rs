//! Certificates, keys and the token: the program's own, made on the first start, or the user's, read again when they change.

mod own;
mod peer;
mod server;

pub use own::{Owner, ProvisionError, Provisioned, provision, provision_at, provision_token};
pub use peer::common_name;
pub use server::{ServerTls, TlsFiles};
