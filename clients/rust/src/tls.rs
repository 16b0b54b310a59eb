//! TLS as a client has it, and what its failures ask for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use beyond_cdc_proto::v1::{self, ErrorCode};
use beyond_cdc_proto::{ALPN, DATAGRAM_BYTES_MAX};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::{ClientConfig, RootCertStore, crypto};
use walbus::pem::{self, PemError};

use crate::error::Error;
use crate::options::Options;

/// How long a connection lasts that nothing is heard of.
const IDLE_TIMEOUT_MS: u32 = 15_000;
/// How often something is said where there is nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How much of one stream may wait for its reader, in bytes.
const STREAM_WINDOW: u32 = 4 << 20;
/// How much of all streams of a connection may wait for their readers, in bytes.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// How many subscriptions a connection may have.
const STREAMS_MAX: u32 = 128;

/// TLS alerts that a server ends a handshake with (RFC 8446, section 6); in QUIC they come as 0x100 + alert (RFC 9001, section 4.8).
const ALERT_BASE: u64 = 0x100;
const NO_APPLICATION_PROTOCOL: u64 = 120;
const CERTIFICATE_ALERTS: [u64; 8] = [42, 43, 44, 45, 46, 48, 49, 116];

/// The configuration of a connection, from files as they are now. Blocks for a moment.
pub(crate) fn config(options: &Options) -> Result<quinn::ClientConfig, Error> {
    let tls = rustls_config(options)?;
    let quic = QuicClientConfig::try_from(tls).map_err(|error| Error::Settings(format!("can't set up TLS for QUIC: {error}")))?;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What the socket's end of a connection is configured with.
pub(crate) fn endpoint_config() -> Result<EndpointConfig, Error> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).map_err(|error| Error::Settings(format!("the size of packets: {error}")))?;
    Ok(config)
}

fn rustls_config(options: &Options) -> Result<ClientConfig, Error> {
    let settings = |error: PemError| Error::Settings(error.to_string());
    let roots = match &options.ca {
        Some(path) => pem::roots("ca", path).map_err(settings)?,
        None => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            store
        }
    };
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Settings(format!("can't set up TLS: {error}")))?
        .with_root_certificates(roots);
    let mut config = match &options.identity {
        Some((certificate, key)) => with_identity(config, certificate, key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

type WithRoots = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn with_identity(config: WithRoots, certificate: &Path, key: &Path) -> Result<ClientConfig, Error> {
    let settings = |error: PemError| Error::Settings(error.to_string());
    let chain = pem::certificates("cert", certificate).map_err(settings)?;
    let private = pem::private_key("key", key).map_err(settings)?;
    config.with_client_auth_cert(chain, private).map_err(|error| {
        Error::Settings(format!("cert {} and key {} can't be used together: {error}", certificate.display(), key.display()))
    })
}

/// What a connection that failed asks for.
pub(crate) fn explain(url: &str, error: &ConnectionError) -> Error {
    match error {
        ConnectionError::TransportError(error) => transport(url, error.code.into(), &error.reason),
        ConnectionError::ConnectionClosed(close) => {
            transport(url, close.error_code.into(), &String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::ApplicationClosed(close) => {
            let code = i32::try_from(close.error_code.into_inner()).unwrap_or_default();
            let message = String::from_utf8_lossy(&close.reason).into_owned();
            match ErrorCode::try_from(code) {
                Ok(code) if code != ErrorCode::Unspecified => {
                    Error::from_server(&v1::Error { code: code.into(), message, ..v1::Error::default() })
                }
                _ => Error::Retry(format!("{url} closed the connection: {message}")),
            }
        }
        ConnectionError::VersionMismatch => Error::Settings(format!("{url} speaks no version of QUIC that this client knows")),
        other => Error::Retry(format!("{url}: {other}")),
    }
}

fn transport(url: &str, code: u64, reason: &str) -> Error {
    match code.checked_sub(ALERT_BASE).filter(|alert| *alert < 0x100) {
        Some(NO_APPLICATION_PROTOCOL) => {
            Error::Settings(format!("{url} does not speak beyond-cdc/1: is it the QUIC port of a beyond-pg-cdc of this version?"))
        }
        Some(alert) if reason.contains("invalid peer certificate") => Error::Settings(format!(
            "the certificate of {url} is not to be trusted ({reason}, alert {alert}): give the authority that signed it; a server that made \
             its own has it at DATA-DIR/tls/ca.pem. Is the host's name not in the certificate, start the server with that name"
        )),
        Some(alert) if CERTIFICATE_ALERTS.contains(&alert) => Error::Settings(format!(
            "{url} does not take this client's certificate, or wants one (TLS alert {alert}): {reason}. It has to be of the server's \
             --client-ca, and valid today"
        )),
        Some(alert) => Error::Settings(format!("{url} can't be talked to over TLS (alert {alert}): {reason}")),
        // CONNECTION_REFUSED (RFC 9000, section 20.1): more connections than the server takes.
        None if code == 2 => Error::Retry(format!("{url} takes no further connection now")),
        None => Error::Retry(format!("{url}: QUIC error {code:#x}: {reason}")),
    }
}
