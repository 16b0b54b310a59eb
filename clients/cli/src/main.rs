//! `walcat`: the changes of a `PostgreSQL` database, in a shell.

use std::process::ExitCode;

fn main() -> ExitCode {
    walcat::program::main()
}
