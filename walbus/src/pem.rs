//! Certificates and keys from PEM files, with errors that name the setting which named the file.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A file that a setting names and that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {}: {problem}", path.display())]
pub struct PemError {
    /// The setting, such as `--tls-cert`.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and the way out.
    pub problem: String,
}

impl PemError {
    /// What is wrong with the file that a setting names.
    #[must_use]
    pub fn new(setting: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self { setting, path: path.to_owned(), problem: problem.into() }
    }

    fn from_pem(setting: &'static str, path: &Path, what: &str, error: &pem::Error) -> Self {
        let problem = match error {
            pem::Error::Io(error) => format!("can't be read: {error}"),
            pem::Error::NoItemsFound => format!("holds no {what} in PEM"),
            other => format!("is no valid PEM: {other}"),
        };
        Self::new(setting, path, problem)
    }
}

/// The certificates in a file, at least one, in the order they stand.
///
/// # Errors
/// Where the file can't be read, is no PEM, or holds no certificate.
pub fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let failed = |error: &pem::Error| PemError::from_pem(setting, path, "certificate", error);
    let found = CertificateDer::pem_file_iter(path)
        .map_err(|error| failed(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    if found.is_empty() { Err(failed(&pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// The first private key in a file.
///
/// # Errors
/// Where the file can't be read, is no PEM, or holds no private key.
pub fn private_key(setting: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| PemError::from_pem(setting, path, "private key", &error))
}

/// The certificates in a file, as authorities to trust.
///
/// # Errors
/// As [`certificates`], and where one of them can be no authority.
pub fn roots(setting: &'static str, path: &Path) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(setting, path)? {
        store.add(certificate).map_err(|error| PemError::new(setting, path, format!("holds no usable authority: {error}")))?;
    }
    Ok(store)
}
