//! `beyond-pg-sink`: a synchronous WAL receiver for `PostgreSQL`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sink::program::main()
}
