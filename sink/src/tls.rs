//! The sink's own authority, certificate and token.

use std::path::Path;

use walbus::service::tls::{self, Owner, ProvisionError, Provisioned};

/// Who the sink is in its certificates.
const OWNER: Owner = Owner { program: "beyond-pg-sink", names_setting: "--https-name" };

/// [`tls::provision`] for a sink. Blocks.
///
/// # Errors
/// See [`ProvisionError`].
pub fn provision(dir: &Path, names: &[String]) -> Result<Provisioned, ProvisionError> {
    tls::provision(OWNER, dir, names)
}
