//! What all side-by-side measurements share: spreads of runs, latencies of `pgbench`, what a process used, what machine it was,
//! QUIC as it is set, and how a report is given.

pub mod counted;
pub mod latency;
pub mod machine;
pub mod report;
pub mod spread;
pub mod transport;
pub mod usage;
