//! Makes types of `beyond_cdc.proto`, without an installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=beyond_cdc.proto");
    prost_build::compile_fds(protox::compile(["beyond_cdc.proto"], ["."])?)?;
    Ok(())
}
