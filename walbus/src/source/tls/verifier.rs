//! Who is at the other end.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use crate::source::certificate::Certificate;

/// Certificates that are trusted.
#[derive(Debug)]
pub(super) struct Roots {
    pub(super) store: RootCertStore,
    /// The same as they are: a server may show one of them as its own.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Where they are from.
    pub(super) shown: String,
}

/// Checks a server's certificate as far as `sslmode` and the roots at hand ask for.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    provider: Arc<CryptoProvider>,
    /// `None` checks no chain.
    roots: Option<Roots>,
    /// The name to check, `None` for any.
    name: Option<String>,
}

/// A certificate that is good for others, not for us.
#[derive(Debug)]
struct Unfit(String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

fn unfit(problem: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unfit(problem)))))
}

impl ServerVerifier {
    pub(super) const fn new(provider: Arc<CryptoProvider>, roots: Option<Roots>, name: Option<String>) -> Self {
        debug_assert!(roots.is_some() || name.is_none(), "a name proves nothing in a certificate that nobody signed");
        Self { provider, roots, name }
    }

    fn check_chain(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // A certificate that is trusted by itself, as the manual's recipe for a self-signed one makes it. webpki takes no CA's
        // certificate for a server's, and `openssl req -x509` makes a CA's.
        if roots.certificates.iter().any(|root| root == end_entity) {
            let (from, to) = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?.validity;
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            return match now {
                now if now < from => Err(CertificateError::NotValidYet.into()),
                now if now > to => Err(CertificateError::Expired.into()),
                _ => Ok(()),
            };
        }
        if Certificate::parse(end_entity).is_some_and(|certificate| certificate.is_v1) {
            return Err(unfit(
                "the server's certificate is of X.509 version 1, which can't be verified: make it anew with a subjectAltName, \
                 which makes it version 3, or put the certificate itself into sslrootcert's file"
                    .to_owned(),
            ));
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, algorithms)
    }

    fn check_name(&self, name: &str, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        if let (Ok(parsed), Ok(server)) = (ParsedCertificate::try_from(end_entity), ServerName::try_from(name))
            && verify_server_name(&parsed, &server).is_ok()
        {
            return Ok(());
        }
        // libpq takes the common name too, where there is no alternative one.
        let names = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?.names();
        if names.matches(name) {
            return Ok(());
        }
        let (is, mode) = (names.shown(), "sslmode=verify-full");
        Err(unfit(format!(
            "the server's certificate is for {is} and not for {name:?}: set host to a name that it has (and hostaddr to the address), \
             or use sslmode=verify-ca in place of {mode}"
        )))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            self.check_chain(roots, end_entity, intermediates, now)?;
        }
        if let Some(name) = &self.name {
            self.check_name(name, end_entity)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match Certificate::parse(certificate) {
            // webpki does not read version 1, which `openssl x509 -req` makes unless told otherwise; its key is a key all the same.
            Some(parsed) if parsed.is_v1 => {
                let key = SubjectPublicKeyInfoDer::from(parsed.public_key);
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            }
            _ => verify_tls13_signature(message, certificate, signature, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
