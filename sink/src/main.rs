//! A synchronous WAL receiver for `PostgreSQL`.
fn main() {}
