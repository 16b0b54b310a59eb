//! `beyond-pg-archiver`: WAL in object storage, and recovery to any point of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    archiver::program::main()
}
