//! TLS as libpq's `ssl…` keywords want it, by rustls.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::SourceError;
use super::certificate::Certificate;
use super::transport::{TLS_READ_BYTES, Transport};
use crate::conninfo::{
    Address, CertificateMode, ConninfoError, Host, RootCertificate, SslMode, SslNegotiation, TlsOptions, TlsVersion,
};

mod verifier;
use verifier::{Roots, ServerVerifier};

/// What a TLS connection can be bound to, and what was learnt of it.
#[derive(Debug)]
pub(super) struct Binding {
    /// The hash of the server's certificate, `None` where its signature has none.
    pub(super) end_point: Option<Vec<u8>>,
    /// Whether the server asked for a client certificate.
    pub(super) certificate_asked: bool,
}

const ALPN: &[u8] = b"postgresql";

/// Shakes hands over a connected socket.
pub(super) async fn handshake(options: &TlsOptions, host: &Host, stream: TcpStream) -> Result<(Transport, Binding), SourceError> {
    let name = verified_name(host);
    if options.mode == SslMode::VerifyFull && name.is_empty() {
        let problem = "is missing, and sslmode=verify-full compares it with the certificate's names: give it beside hostaddr";
        return Err(ConninfoError::new("host", problem).into());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = load_roots(options)?;
    let roots_shown = roots.as_ref().map(|roots| roots.shown.clone());
    let asked = Arc::new(AtomicBool::new(false));
    let config = client_config(options, provider, roots, &name, &asked)?;
    // Of use for SNI alone, which an address does without; the verifier knows the name.
    let server = ServerName::try_from(name.clone()).unwrap_or_else(|_| ServerName::from(IpAddr::from([0, 0, 0, 0])));
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = connector.connect(server, BufReader::with_capacity(TLS_READ_BYTES, stream)).await;
    let stream = shaken.map_err(|error| failed(options, host, roots_shown.as_deref(), error))?;
    let (_, session) = stream.get_ref();
    if options.negotiation == SslNegotiation::Direct && session.alpn_protocol() != Some(ALPN) {
        let problem =
            "the server took a direct TLS connection without agreeing on ALPN \"postgresql\": is it Postgres 17 or later?";
        return Err(tls_error(host, problem));
    }
    let end_entity = session.peer_certificates().and_then(|chain| chain.first());
    let end_point = end_entity.and_then(|der| Certificate::parse(der)?.end_point_hash());
    let binding = Binding { end_point, certificate_asked: asked.load(Ordering::Relaxed) };
    Ok((Transport::Tls(Box::new(stream)), binding))
}

/// What the certificate is checked against: `host`, never `hostaddr`.
fn verified_name(host: &Host) -> String {
    match &host.address {
        Address::Tcp { host, .. } => host.clone(),
        Address::Unix(_) => String::new(),
    }
}

/// The error where a server has no TLS and `sslmode` wants it.
pub(super) fn not_offered(options: &TlsOptions, host: &Host) -> SourceError {
    let mode = options.mode;
    tls_error(host, format!("the server has no TLS, and sslmode={mode} needs it: set ssl = on there, or use a lower sslmode"))
}

fn tls_error(host: &Host, problem: impl Into<String>) -> SourceError {
    SourceError::Tls { host: host.to_string(), problem: problem.into() }
}

fn client_config(
    options: &TlsOptions,
    provider: Arc<CryptoProvider>,
    roots: Option<Roots>,
    name: &str,
    asked: &Arc<AtomicBool>,
) -> Result<ClientConfig, SourceError> {
    let versions: Vec<_> = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (options.min..=options.max).contains(version))
        .map(|(_, version)| version)
        .collect();
    let certificate = load_certificate(options, &provider)?;
    let full = (options.mode == SslMode::VerifyFull).then(|| name.to_owned());
    let verifier = ServerVerifier::new(Arc::clone(&provider), roots, full);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| ConninfoError::new("ssl_min_protocol_version", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(ClientCertificate { key: certificate, asked: Arc::clone(asked) }));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = options.sni;
    // A connection a configuration: there is never a session to resume.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The roots to check against, `None` where there are none and `sslmode` does not ask for any. As libpq does it, roots that are
/// there count in every mode.
fn load_roots(options: &TlsOptions) -> Result<Option<Roots>, SourceError> {
    let verifies = options.mode >= SslMode::VerifyCa;
    let file = match &options.root {
        RootCertificate::System => return system_roots().map(Some),
        RootCertificate::File(file) => Some(file),
        RootCertificate::Default(file) => file.as_ref(),
    };
    let refuse = |problem: String| Err(ConninfoError::new("sslrootcert", problem).into());
    let way_out = "name the server's CA with sslrootcert, or use the operating system's with sslrootcert=system";
    let Some(file) = file else {
        return if verifies { refuse(format!("is not said, and there is no home folder: {way_out}")) } else { Ok(None) };
    };
    if !file.exists() {
        if verifies {
            return refuse(format!("{} does not exist, and sslmode={} needs it: {way_out}", file.display(), options.mode));
        }
        if matches!(options.root, RootCertificate::File(_)) {
            tracing::warn!(file = %file.display(), sslmode = %options.mode, "sslrootcert does not exist: the server is not verified");
        }
        return Ok(None);
    }
    if let Some(crl) = options.default_crl.as_ref().filter(|crl| crl.exists()) {
        let problem = format!("{} exists, and revocation lists are not supported: move it away", crl.display());
        return Err(ConninfoError::new("sslcrl", problem).into());
    }
    let mut roots = Roots { store: RootCertStore::empty(), certificates: Vec::new(), shown: file.display().to_string() };
    for certificate in read_certificates(file, "sslrootcert")? {
        if let Err(error) = roots.store.add(certificate.clone()) {
            return refuse(format!("a certificate in {} is none that can be trusted: {error}", file.display()));
        }
        roots.certificates.push(certificate);
    }
    Ok(Some(roots))
}

fn system_roots() -> Result<Roots, SourceError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        let problem = format!("system found no roots on this machine{why}: install ca-certificates, or name a file");
        return Err(ConninfoError::new("sslrootcert", problem).into());
    }
    Ok(Roots { store, certificates: Vec::new(), shown: "the operating system's roots".to_owned() })
}

fn read_certificates(file: &Path, keyword: &str) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let refuse = |problem: String| SourceError::from(ConninfoError::new(keyword, format!("{}: {problem}", file.display())));
    let pem = fs::read(file).map_err(|error| refuse(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(refuse("there is no certificate in it: expected PEM".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// The client's certificate and key, where there are such.
fn load_certificate(options: &TlsOptions, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, SourceError> {
    let refuse = |keyword: &str, problem: String| Err(ConninfoError::new(keyword, problem).into());
    if options.certificate_mode == CertificateMode::Disable {
        return Ok(None);
    }
    let Some(file) = options.certificate.as_ref().filter(|file| options.certificate_said || file.exists()) else {
        return match options.certificate_mode {
            CertificateMode::Require => refuse("sslcert", "is not said, and sslcertmode=require needs it".to_owned()),
            _ => Ok(None),
        };
    };
    let chain = read_certificates(file, "sslcert")?;
    let Some(key_file) = &options.key else {
        return refuse("sslkey", format!("is not said, and {} needs its private key", file.display()));
    };
    let key = match read_key(key_file) {
        Ok(key) => key,
        Err(problem) => return refuse("sslkey", format!("{}: {problem}", key_file.display())),
    };
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => Ok(Some(Arc::new(certified))),
        Err(error) => refuse("sslkey", format!("{} is no key for {}: {error}", key_file.display(), file.display())),
    }
}

/// Reads a private key that nobody else may read, by libpq's rule.
fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let meta = fs::metadata(file).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Err("is not a plain file".to_owned());
    }
    let others = if meta.uid() == 0 { 0o027 } else { 0o077 };
    if meta.mode() & others != 0 {
        return Err("others may read it: set its mode to 0600, or 0640 where root owns it".to_owned());
    }
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    if String::from_utf8_lossy(&pem).contains("ENCRYPTED") {
        return Err("is encrypted, which is not supported: give a key without a password".to_owned());
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| format!("{error}: expected a private key as PEM"))
}

/// Gives the server what it asks for, and remembers that it did.
#[derive(Debug)]
struct ClientCertificate {
    key: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // Or `resolve` would not be called, and that the server asked would not be known.
        true
    }
}

/// Says what a failed handshake means, and the way out.
fn failed(options: &TlsOptions, host: &Host, roots: Option<&str>, error: io::Error) -> SourceError {
    let mode = options.mode;
    let roots = roots.unwrap_or("no roots");
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let problem = match reason {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => format!(
            "the server's certificate is not signed by any of {roots} (sslmode={mode}): point sslrootcert at the CA that signed it"
        ),
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            format!("{other} (sslmode={mode}, roots: {roots})")
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            "the server's certificate has expired: make it anew, or set this machine's clock right".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
            "the server's certificate is not valid yet: set the clocks of both machines right".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("the server's certificate is not valid: {reason} (sslmode={mode}, roots: {roots})")
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "what the server answers is no TLS: is something else listening there?".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => alert_meaning(*alert, mode),
        Some(reason) => format!("{reason} (sslmode={mode})"),
        None if options.negotiation == SslNegotiation::Direct => {
            format!("{error}: sslnegotiation=direct needs Postgres 17 or later, use sslnegotiation=postgres with an older one")
        }
        None => return SourceError::io(format!("TLS handshake with {host}"), error),
    };
    tls_error(host, problem)
}

/// Says what the server's alert means, and the way out.
fn alert_meaning(alert: rustls::AlertDescription, mode: SslMode) -> String {
    use rustls::AlertDescription as A;
    let way_out = match alert {
        A::CertificateRequired | A::HandshakeFailure => "it may want a client certificate: set sslcert and sslkey",
        A::UnknownCA
        | A::BadCertificate
        | A::CertificateUnknown
        | A::CertificateExpired
        | A::CertificateRevoked
        | A::DecryptError => "it does not take the client certificate: check sslcert against the server's ssl_ca_file",
        A::ProtocolVersion => "no TLS version is common to both: check ssl_min_protocol_version on both sides",
        A::NoApplicationProtocol => "it does not speak Postgres' protocol",
        _ => "see the server's log",
    };
    format!("the server broke it off with {alert:?} (sslmode={mode}): {way_out}")
}

/// An alert that came once the handshake was done, as TLS 1.3 sends one about a client certificate.
pub(super) fn late_alert(host: &Host, mode: SslMode, error: &io::Error) -> Option<SourceError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(tls_error(host, alert_meaning(*alert, mode))),
        _ => None,
    }
}
