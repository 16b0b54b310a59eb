//! A program's own authority, certificate and token, made on the first start so that TLS is never off.
//!
//! ```text
//!   DIR/tls/ca.key      made once; signs server.pem           0600
//!   DIR/tls/ca.pem      made once; clients get it as --ca     0644
//!   DIR/tls/server.key  made once                             0600
//!   DIR/tls/server.pem  made again when it is old, or its names change
//!   DIR/token           256 random bits, made once            0600
//! ```
//!
//! A certificate is always made for the key that is there, so that a process killed between the two leaves no pair that does not match.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustix::fs::FlockOperation;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::server::TlsFiles;
use crate::clock::{Clock, SystemClock};
use crate::disk::{self, OsDisk};
use crate::pem;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the authority is good for.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * DAY.as_secs());

/// How long a server certificate is good for. With less than a third of it left, another is made.
const CERT_LIFE: Duration = Duration::from_secs(398 * DAY.as_secs());

/// Clocks differ: a certificate is good from this much before it was made.
const CLOCK_SKEW: Duration = DAY;

/// The names that a server certificate always has.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Whose authority it is.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The program, as it stands in its certificates: `beyond-pg-sink`.
    pub program: &'static str,
    /// The setting that gives the certificate further names, for errors: `--https-name`.
    pub names_setting: &'static str,
}

/// What is there after [`provision`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// The authority's certificate: what clients take as `--ca`.
    pub ca_path: PathBuf,
    /// The token's file: what clients take as `--token-file`.
    pub token_path: PathBuf,
    /// The server certificate.
    pub cert_path: PathBuf,
    /// The server certificate's key.
    pub key_path: PathBuf,
    /// Whether authority or token were made now, so that their places should be told.
    pub created: bool,
}

impl Provisioned {
    /// The server's certificate and key, with no client certificates asked for.
    #[must_use]
    pub fn files(&self) -> TlsFiles {
        TlsFiles { cert: self.cert_path.clone(), key: self.key_path.clone(), client_ca: None, require_client_cert: false }
    }
}

/// What of a program's own authority can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The authority's key is not here, and without it no new certificate can be made.
    #[error(
        "{} is needed to renew the server's certificate, but is not there: put it back for this start, or give a certificate of your \
         own by --tls-cert and --tls-key", .0.display()
    )]
    CaKeyMissing(PathBuf),
    /// A certificate can't be made.
    #[error("{}: can't make a certificate: {reason}", path.display())]
    Certificate {
        /// The file it was for.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A name that no certificate can have.
    #[error("{setting} {name:?} is no host name and no IP address")]
    Name {
        /// The setting that it is from.
        setting: &'static str,
        /// The name.
        name: String,
    },
}

/// Sees to it that `dir` has an authority, a token, and a server certificate that is good for `localhost`, this host's name and `names`
/// for a third of its life at least. Two processes at once make no harm: one waits for the other. Blocks.
///
/// # Errors
/// See [`ProvisionError`].
pub fn provision(owner: Owner, dir: &Path, names: &[String]) -> Result<Provisioned, ProvisionError> {
    provision_at(owner, dir, names, &SystemClock::new())
}

/// [`provision`] by a clock.
///
/// # Errors
/// See [`ProvisionError`].
pub fn provision_at(owner: Owner, dir: &Path, names: &[String], clock: &dyn Clock) -> Result<Provisioned, ProvisionError> {
    let tls_dir = dir.join("tls");
    DirBuilder::new().recursive(true).mode(0o700).create(&tls_dir).map_err(|source| io_error(&tls_dir, source))?;
    let lock = File::open(&tls_dir).map_err(|source| io_error(&tls_dir, source))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|source| io_error(&tls_dir, source.into()))?;

    let micros = clock.now().to_unix_micros();
    let now = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    let tls = Folder::open(&tls_dir)?;
    let names = wanted_names(owner, names)?;
    let ca_made = tls.ca(owner, now)?;
    let key = tls.key("server.key")?;
    if ca_made || !tls.server_is_good(now, &names) {
        tls.sign_server(owner, now, &names, &key)?;
    }
    let (token_path, token_made) = provision_token(dir)?;
    Ok(Provisioned {
        ca_path: tls.path("ca.pem"),
        token_path,
        cert_path: tls.path("server.pem"),
        key_path: tls.path("server.key"),
        created: ca_made || token_made,
    })
}

/// Sees to it that `dir` has a token, and gives its file and whether it was made now. For a server with a certificate of the user's.
/// Blocks.
///
/// # Errors
/// See [`ProvisionError`].
pub fn provision_token(dir: &Path) -> Result<(PathBuf, bool), ProvisionError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| io_error(dir, source))?;
    let lock = File::open(dir).map_err(|source| io_error(dir, source))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|source| io_error(dir, source.into()))?;
    let made = Folder::open(dir)?.token()?;
    Ok((dir.join("token"), made))
}

fn io_error(path: &Path, source: io::Error) -> ProvisionError {
    ProvisionError::Io { path: path.to_owned(), source }
}

/// The names to certify, each once.
fn wanted_names(owner: Owner, extra: &[String]) -> Result<BTreeSet<String>, ProvisionError> {
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own = own.trim().to_ascii_lowercase();
    let mut names: BTreeSet<String> = LOCAL_NAMES.iter().map(|&name| name.to_owned()).collect();
    // A host name that is none (an underscore in it, say) is nobody's fault: it is left out.
    names.extend(ServerName::try_from(own.as_str()).is_ok().then_some(own));
    for name in extra {
        let plain = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // `0.0.0.0` is where to listen, and nobody's address.
        let address = plain.parse::<IpAddr>().ok();
        if address.is_some_and(|address| address.is_unspecified()) {
            continue;
        }
        if address.is_none() && ServerName::try_from(plain.trim_start_matches("*.")).is_err() {
            return Err(ProvisionError::Name { setting: owner.names_setting, name: name.clone() });
        }
        names.insert(address.map_or(plain, |address| address.to_string()));
    }
    Ok(names)
}

/// A folder whose files are made whole or not at all.
struct Folder<'p> {
    path: &'p Path,
    disk: OsDisk,
}

impl<'p> Folder<'p> {
    fn open(path: &'p Path) -> Result<Self, ProvisionError> {
        let disk = OsDisk::open(path).map_err(|source| io_error(path, source))?;
        Ok(Self { path, disk })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn exists(&self, name: &str) -> Result<bool, ProvisionError> {
        let path = self.path(name);
        path.try_exists().map_err(|source| io_error(&path, source))
    }

    fn read(&self, name: &str) -> Result<String, ProvisionError> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|source| io_error(&path, source))
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> Result<(), ProvisionError> {
        let path = self.path(name);
        disk::write_whole(&self.disk, name, content.as_bytes())
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(|source| io_error(&path, source))
    }

    /// The private key in that file, made where there is none.
    fn key(&self, name: &str) -> Result<KeyPair, ProvisionError> {
        let failed = |error: rcgen::Error| ProvisionError::Certificate { path: self.path(name), reason: error.to_string() };
        if !self.exists(name)? {
            self.write(name, &KeyPair::generate().map_err(failed)?.serialize_pem(), 0o600)?;
        }
        KeyPair::from_pem(&self.read(name)?).map_err(failed)
    }

    /// Makes the authority where there is none, and says whether it did.
    fn ca(&self, owner: Owner, now: Duration) -> Result<bool, ProvisionError> {
        if self.exists("ca.pem")? {
            return Ok(false);
        }
        let key = self.key("ca.key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{} authority", owner.program));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_life(&mut params, now, CA_LIFE);
        let failed = |error: rcgen::Error| ProvisionError::Certificate { path: self.path("ca.pem"), reason: error.to_string() };
        self.write("ca.pem", &params.self_signed(&key).map_err(failed)?.pem(), 0o644)?;
        Ok(true)
    }

    /// Whether the server certificate is of the authority, has just these names, and a third of its life left.
    fn server_is_good(&self, now: Duration, names: &BTreeSet<String>) -> bool {
        // What can't be read is made again: whoever wants another certificate has --tls-cert.
        let Ok(chain) = pem::certificates("--tls-cert", &self.path("server.pem")) else { return false };
        let Some(certificate) = chain.first() else { return false };
        names_of(certificate).as_ref() == Some(names)
            && self.is_signed(certificate, now)
            && self.is_signed(certificate, now + CERT_LIFE / 3)
    }

    /// Whether a client that trusts the authority would take the certificate at that time.
    fn is_signed(&self, certificate: &CertificateDer<'_>, at: Duration) -> bool {
        let Ok(roots) = pem::roots("--ca", &self.path("ca.pem")) else { return false };
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else { return false };
        let Ok(localhost) = ServerName::try_from("localhost") else { return false };
        verifier.verify_server_cert(certificate, &[], &localhost, &[], UnixTime::since_unix_epoch(at)).is_ok()
    }

    fn sign_server(&self, owner: Owner, now: Duration, names: &BTreeSet<String>, key: &KeyPair) -> Result<(), ProvisionError> {
        let failed = |error: rcgen::Error| ProvisionError::Certificate { path: self.path("server.pem"), reason: error.to_string() };
        if !self.exists("ca.key")? {
            return Err(ProvisionError::CaKeyMissing(self.path("ca.key")));
        }
        let ca_key = KeyPair::from_pem(&self.read("ca.key")?).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.read("ca.pem")?, ca_key).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, owner.program);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
            });
        }
        set_life(&mut params, now, CERT_LIFE);
        self.write("server.pem", &params.signed_by(key, &issuer).map_err(failed)?.pem(), 0o644)
    }

    /// Makes the token where there is none, and says whether it did.
    fn token(&self) -> Result<bool, ProvisionError> {
        if self.exists("token")? {
            return Ok(false);
        }
        let mut random = [0; 32];
        crypto::aws_lc_rs::default_provider()
            .secure_random
            .fill(&mut random)
            .map_err(|_none| io_error(&self.path("token"), io::Error::other("the system has no random bytes")))?;
        self.write("token", &format!("{}\n", URL_SAFE_NO_PAD.encode(random)), 0o600)?;
        Ok(true)
    }
}

fn set_life(params: &mut CertificateParams, now: Duration, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + life;
}

/// The names that a certificate has; `None` where one is of a kind that none of ours has.
fn names_of(certificate: &CertificateDer<'_>) -> Option<BTreeSet<String>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
