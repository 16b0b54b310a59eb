//! Who the other side is, by its certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The common name of a certificate's subject; `None` where it has none, or several. That the certificate is to be trusted is for others to
/// see to.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_subject_s_common_name() {
        assert_eq!(common_name(&certificate(&["reports.example.com"])).as_deref(), Some("reports.example.com"));
        assert_eq!(common_name(&certificate(&[])), None);
        assert_eq!(common_name(&CertificateDer::from(vec![0; 9])), None);
    }
}
