//! The server's side of TLS: its certificate and the authority of its clients, read again when their files change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, crypto};

use crate::pem::{self, PemError};
use crate::service::stamp::Stamp;

/// Which files TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with its chain (`--tls-cert`).
    pub cert: PathBuf,
    /// Its private key (`--tls-key`).
    pub key: PathBuf,
    /// The authority of client certificates (`--client-ca`).
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is turned away in the handshake (`--require-client-cert`).
    pub require_client_cert: bool,
}

/// TLS as the files have it now.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    alpn: Vec<Vec<u8>>,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    stamps: Vec<Option<Stamp>>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// TLS from these files, for the protocols that `alpn` names, the preferred one first.
    ///
    /// # Errors
    /// Where one can't be read, or key and certificate are no pair.
    pub fn open(files: TlsFiles, alpn: &[&str]) -> Result<Self, PemError> {
        // Stamped before they are read: what changes in between is read once more.
        let stamps = stamps(&files);
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = config(&files, &alpn)?;
        Ok(Self { files, alpn, last: Mutex::new(Last { stamps, config }) })
    }

    /// The configuration for a new connection. Looks at the files, and where one has changed reads them all; what can't be used is
    /// logged, and what was in force stays so.
    pub fn current(&self) -> Arc<ServerConfig> {
        let now = stamps(&self.files);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.stamps != now {
            match config(&self.files, &self.alpn) {
                Ok(config) => {
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
                    last.config = config;
                }
                // Certificate and key are often replaced one after the other: the second change is seen too.
                Err(error) => tracing::warn!(%error, "the new certificate can't be used; the one before stays in force"),
            }
            last.stamps = now;
        }
        Arc::clone(&last.config)
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()].into_iter().flatten().map(|path| Stamp::of(path).ok()).collect()
}

fn config(files: &TlsFiles, alpn: &[Vec<u8>]) -> Result<Arc<ServerConfig>, PemError> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| PemError::new("--tls-cert", &files.cert, format!("can't set up TLS: {error}")))?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(pem::roots("--client-ca", path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if files.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
            let failed = |error| PemError::new("--client-ca", path, format!("can't be used as an authority: {error}"));
            config.with_client_cert_verifier(verifier.build().map_err(failed)?)
        }
    };
    let mut config = config
        .with_single_cert(pem::certificates("--tls-cert", &files.cert)?, pem::private_key("--tls-key", &files.key)?)
        .map_err(|error| {
            PemError::new("--tls-cert", &files.cert, format!("can't be used with --tls-key {}: {error}", files.key.display()))
        })?;
    config.alpn_protocols = alpn.to_vec();
    Ok(Arc::new(config))
}
