//! `beyond-pg-archiver`.

fn main() {}
