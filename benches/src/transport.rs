//! QUIC's settings as `beyond-pg-cdc` and its client library have them, for those who stand in for one of the two.

use std::time::Duration;

use beyond_cdc_proto::DATAGRAM_BYTES_MAX;
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};

/// As `beyond-cdc-client` has it.
#[must_use]
pub fn of_client() -> TransportConfig {
    let mut transport = of_either();
    transport
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .max_concurrent_uni_streams(VarInt::from_u32(128))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(32 << 20));
    transport
}

/// As `beyond-pg-cdc` has it.
#[must_use]
pub fn of_server() -> TransportConfig {
    let mut transport = of_either();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(128 << 10))
        .receive_window(VarInt::from_u32(128 << 10))
        .send_window(1 << 20);
    transport
}

fn of_either() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(VarInt::from_u32(15_000).into()))
        .datagram_receive_buffer_size(None);
    transport
}
