//! What QUIC is configured with.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use beyond_cdc_proto::DATAGRAM_BYTES_MAX;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use walbus::pem::PemError;

use super::limits::{CONTROL_WINDOW_BYTES, Limits, SEND_WINDOW_BYTES};

/// The endpoint's own keys, made of the certificate's private key: the same after a restart. A client of a process that was killed is then
/// told at its next packet that its connection is gone (RFC 9000, section 10.3), and need not wait for its idle timeout.
pub(super) fn endpoint_config(key_file: &Path) -> Result<EndpointConfig, PemError> {
    let secret = fs::read(key_file).map_err(|error| PemError::new("--tls-key", key_file, format!("can't be read: {error}")))?;
    let root = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let derive = |label: &str| hmac::sign(&root, label.as_bytes());
    let reset = hmac::Key::new(hmac::HMAC_SHA256, derive("beyond-cdc/1 stateless reset").as_ref());
    let ids = derive("beyond-cdc/1 connection ids");
    let ids = ids.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("is above QUIC's least of 1,200");
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    Ok(config)
}

/// What connections are configured with.
pub(super) fn server_config(tls: &Arc<rustls::ServerConfig>, limits: &Limits) -> Result<Arc<quinn::ServerConfig>, String> {
    let crypto = QuicServerConfig::try_from(Arc::clone(tls)).map_err(|error| format!("can't be used for QUIC: {error}"))?;
    let idle = IdleTimeout::try_from(limits.idle_timeout).map_err(|error| format!("the idle timeout: {error}"))?;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONTROL_WINDOW_BYTES))
        .mtu_discovery_config(Some(mtu))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(idle))
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(Arc::new(config))
}
