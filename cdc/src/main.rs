//! `beyond-pg-cdc`: changes of a `PostgreSQL` database, to any number of consumers.

use std::process::ExitCode;

fn main() -> ExitCode {
    cdc::program::main()
}
