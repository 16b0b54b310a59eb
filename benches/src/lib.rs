//! What all side-by-side measurements share: spreads of runs, latencies of `pgbench`, what a process used, what machine it was,
//! and QUIC as it is set.

pub mod counted;
pub mod latency;
pub mod machine;
pub mod spread;
pub mod transport;
pub mod usage;
