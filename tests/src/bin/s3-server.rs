//! The S3 of the harness as a program, so that it can be killed and started again.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

/// An S3 over a folder, for tests: what it has acknowledged, it has after a SIGKILL.
#[derive(Debug, Parser)]
#[command(name = "s3-server")]
struct Args {
    /// The address that it listens on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The folder that it keeps all in; made where it is missing.
    #[arg(long)]
    folder: PathBuf,

    /// A certificate, PEM: it then speaks TLS alone.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's key, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Syncs what it acknowledges: it survives the loss of power as well.
    #[arg(long)]
    sync: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen).with_context(|| format!("listen on {}", args.listen))?;
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let tls = match args.tls_cert.as_ref().zip(args.tls_key.as_ref()) {
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        None => None,
    };
    println!("listening on http://{}", listener.local_addr()?);
    harness::s3::serve(listener, &args.folder, tls, args.sync).await
}
