//! Certificates and keys.

pub mod pem;
