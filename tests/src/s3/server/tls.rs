//! TLS before the server, for clients that speak nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How many connections may wait to be served.
const ACCEPTED_MAX: usize = 64;

/// Connections whose handshake is over: one that is slow holds up no other.
#[derive(Debug)]
pub(super) struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    /// Accepts on a task of its own, with this certificate and its key, both PEM.
    ///
    /// # Errors
    /// Where these are none.
    pub(super) fn new(listener: TcpListener, certificate: &[u8], key: &[u8]) -> Result<Self> {
        // Set already where another server of this process was first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().context("read the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).context("read the key")?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(async move {
            while let Ok((stream, address)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    // A client that knows no better is no concern of the others.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        sender.send((stream, address)).await.ok();
                    }
                });
            }
        });
        Ok(Self { accepted, address })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // Nobody accepts any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
