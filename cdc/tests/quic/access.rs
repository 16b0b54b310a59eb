//! Who is let in, and what each may read.

use std::fs;
use std::path::{Path, PathBuf};

use beyond_cdc_client::{Error, Options, Start, Subscription, connect};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::harness::{Raw, Server, insert, settings};
use crate::stream::{error_of, positions};

async fn refused(options: Options) -> Error {
    match connect(options).await {
        Ok(_) => panic!("let in"),
        Err(error) => error,
    }
}

fn settings_error(error: &Error, word: &str) {
    assert!(matches!(error, Error::Settings(text) if text.contains(word)), "{error:?} says nothing of {word}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_has_to_be_right() {
    let server = Server::start().await;
    server.client().await;
    settings_error(&refused(server.client_options().token("wrong")).await, "token");
    settings_error(&refused(server.client_options()).await, "token or a client certificate");
    let file = server.dir.path().join("given");
    settings_error(&refused(server.client_options().token_file(&file)).await, "given");
    fs::write(&file, "\n").unwrap();
    settings_error(&refused(server.client_options().token_file(&file)).await, "empty");
    fs::write(&file, server.token()).unwrap();
    connect(server.client_options().token_file(&file)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_has_to_be_the_right_one() {
    let (server, other) = (Server::start().await, Server::start().await);
    let error = refused(server.client_options().ca(other.ca()).token(server.token())).await;
    settings_error(&error, "not to be trusted");
    let port = server.handle.address().port();
    let by_address = Options::new(&format!("quic://127.0.0.2:{port}")).unwrap().ca(server.ca()).token(server.token());
    assert!(connect(by_address.connect_timeout(std::time::Duration::from_millis(300))).await.is_err());
    let nobody = Options::new("quic://localhost:9").unwrap().ca(server.ca()).connect_timeout(std::time::Duration::from_millis(300));
    assert!(refused(nobody).await.is_retry());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_is_refused_in_the_handshake() {
    let server = Server::start().await;
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(walbus::pem::roots("--ca", &server.ca()).unwrap())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let error = Raw::connect(&server, tls).await.err().unwrap();
    // No application protocol: TLS alert 120.
    assert!(matches!(&error, quinn::ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == 0x178), "{error:?}");
}

/// An authority, and certificates of it.
struct Clients {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Clients {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn identity(&self, name: &str, year_end: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year_end, 1, 1);
        let (cert_path, key_path) = (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        fs::write(&cert_path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        (cert_path, key_path)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_the_clients_authority_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let (clients, others) = (Clients::new(dir.path(), "clients"), Clients::new(dir.path(), "others"));
    let mut server = Server::start_with(|options| options.tls.client_ca = Some(clients.dir.join("ca.pem")), settings()).await;
    server.fill(1);
    let with = |(cert, key)| server.client_options().identity(cert, key);
    let (client, driver) = connect(with(clients.identity("a", 2999))).await.unwrap();
    tokio::spawn(driver.run());
    positions(&mut client.subscribe(Subscription::new(Start::Earliest)), 1).await;
    // TLS tells a client only after it believes to be connected: the failure comes with the first answer.
    settings_error(&refused(with(clients.identity("old", 2001))).await, "certificate");
    settings_error(&refused(with(others.identity("b", 2999))).await, "certificate");
    connect(server.client_options().token(server.token())).await.unwrap();
    settings_error(&refused(server.client_options()).await, "token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_can_be_required() {
    let dir = tempfile::tempdir().unwrap();
    let clients = Clients::new(dir.path(), "clients");
    let server = Server::start_with(
        |options| {
            options.tls.client_ca = Some(clients.dir.join("ca.pem"));
            options.tls.require_client_cert = true;
        },
        settings(),
    )
    .await;
    settings_error(&refused(server.client_options().token(server.token())).await, "certificate");
    let (cert, key) = clients.identity("a", 2999);
    connect(server.client_options().identity(cert, key)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn principals_read_what_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let clients = Clients::new(dir.path(), "clients");
    let path = dir.path().join("principals.toml");
    fs::write(dir.path().join("users.token"), "users!").unwrap();
    fs::write(
        &path,
        "[[principal]]\nname = 'u'\ntoken-file = 'users.token'\ntables = ['public.users']\n\
         [[principal]]\nname = 'o'\ncommon-name = 'orders'\ntables = ['*.orders']\n",
    )
    .unwrap();
    let mut server = Server::start_with(
        |options| {
            options.tls.client_ca = Some(clients.dir.join("ca.pem"));
            options.principals = Some(path.clone());
        },
        settings(),
    )
    .await;
    server.commit(vec![insert(1, 1, "a"), insert(2, 2, "b"), insert(3, 1, "c")]);
    let ordinals = async |options: Options, count| {
        let (client, driver) = connect(options).await.unwrap();
        tokio::spawn(driver.run());
        let mut events = client.subscribe(Subscription::new(Start::Earliest));
        positions(&mut events, count).await.iter().map(|at| at.ordinal).collect::<Vec<_>>()
    };
    assert_eq!(ordinals(server.client_options().token("users!"), 2).await, [1, 3]);
    let (cert, key) = clients.identity("orders", 2999);
    assert_eq!(ordinals(server.client_options().identity(cert, key), 1).await, [2]);
    // The server's own token is nobody's here, and neither is a certificate that is in no principal.
    settings_error(&refused(server.client_options().token(server.token())).await, "token");
    let (cert, key) = clients.identity("nobody", 2999);
    settings_error(&refused(server.client_options().identity(cert, key)).await, "nobody");
    let (client, driver) = connect(server.client_options().token("users!")).await.unwrap();
    tokio::spawn(driver.run());
    let error = error_of(client.subscribe(Subscription::new(Start::Earliest).table("public.*"))).await;
    settings_error(&error, "may not read public.*");
}
