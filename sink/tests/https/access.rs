//! Who is let in: tokens, certificates, and what happens when they change.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use sink::client::{Client, ClientError};
use sink::config::{ClientArgs, ServeArgs, ServeConfig};
use sink::https::{self, BindError};
use sink::tls;
use walbus::clock::{Clock, SystemClock};

use crate::harness::{Sink, problem, text};

#[tokio::test]
async fn without_the_token_only_health_is_told() {
    let sink = Sink::start(|_| {}).await;
    let paths = ["/v1/status", "/v1/segments", "/v1/segments/x", "/v1/history/2", "/v1/wal", "/v1/wait", "/metrics", "/nothing"];
    for path in paths {
        for header in [None, Some("Bearer wrong"), Some("Basic eDp5"), Some("Bearer")] {
            let mut request = sink.http().get(sink.url(path));
            if let Some(value) = header {
                request = request.header(AUTHORIZATION, value);
            }
            let answer = request.send().await.unwrap();
            assert!(text(answer.headers(), WWW_AUTHENTICATE.as_str()).starts_with("Bearer"), "{path}");
            let (code, problem) = problem(answer).await;
            assert_eq!((code, problem.code.as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{path} {header:?}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(sink.http().get(sink.url(path)).send().await.unwrap().status(), StatusCode::OK);
    }
    let scraped = sink.get("/metrics").await;
    assert!(text(scraped.headers(), "content-type").starts_with("application/openmetrics-text"));
    let scraped = scraped.text().await.unwrap();
    assert!(scraped.contains("beyond_pg_sink_https_requests_total{route=\"/v1/status\",code=\"401\"} 4"), "{scraped}");
}

#[tokio::test]
async fn metrics_are_public_on_demand() {
    let sink = Sink::start(|options| options.metrics_public = true).await;
    assert_eq!(sink.http().get(sink.url("/metrics")).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(sink.http().get(sink.url("/v1/status")).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_new_token_is_in_force_at_once() {
    let sink = Sink::start(|_| {}).await;
    let old = sink.client();
    old.status().await.unwrap();
    fs::write(sink.dir.path().join("token"), "another-token-altogether\n").unwrap();
    assert!(matches!(old.status().await, Err(ClientError::Settings(_))));
    sink.client().status().await.unwrap();
}

#[tokio::test]
async fn the_client_names_the_flag_that_is_wrong() {
    let sink = Sink::start(|_| {}).await;
    let with = |change: &dyn Fn(&mut ClientArgs)| {
        let mut args = sink.client_args();
        change(&mut args);
        Client::new(&sink.url(""), &args)
    };
    let failed = async |client: Client| match client.status().await {
        Err(ClientError::Settings(text)) => text,
        other => panic!("{other:?}"),
    };
    let other = Sink::empty(|_| {}).await;
    let wrong_ca = failed(with(&|args| args.ca = other.client_args().ca).unwrap()).await;
    assert!(wrong_ca.contains("--ca"), "{wrong_ca}");
    let no_ca = failed(with(&|args| args.ca = None).unwrap()).await;
    assert!(no_ca.contains("--ca"), "{no_ca}");
    for wrong in [None, other.client_args().token_file] {
        let text = failed(with(&|args| args.token_file = wrong.clone()).unwrap()).await;
        assert!(text.contains("--token-file"), "{text}");
    }
    for (args, flag) in [
        (ClientArgs { ca: Some("/nowhere".into()), ..ClientArgs::default() }, "--ca"),
        (ClientArgs { ca: Some(sink.dir.path().join("token")), ..ClientArgs::default() }, "--ca"),
        (ClientArgs { token_file: Some("/nowhere".into()), ..ClientArgs::default() }, "--token-file"),
        (ClientArgs { client_cert: Some("/nowhere".into()), ..ClientArgs::default() }, "--client-key"),
    ] {
        let error = Client::new("https://localhost:1", &args).unwrap_err();
        assert!(matches!(&error, ClientError::Settings(text) if text.contains(flag)), "{error}");
    }
    for url in ["http://localhost:1", "localhost:1", "https://", "ftp://x"] {
        assert!(matches!(Client::new(url, &ClientArgs::default()), Err(ClientError::Settings(_))), "{url}");
    }
    let nobody = Client::new("https://127.0.0.1:1", &ClientArgs::default()).unwrap();
    assert!(matches!(nobody.status().await, Err(ClientError::Retry(_))));
}

/// An authority of clients in `dir`, and a certificate of it.
fn client_certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let mut params = CertificateParams::new(vec!["reader".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let write = |kind: &str, text: String| {
        let path = dir.join(format!("{name}-{kind}.pem"));
        fs::write(&path, text).unwrap();
        path
    };
    (write("ca", ca.pem()), write("cert", certificate.pem()), write("key", key.serialize_pem()))
}

#[tokio::test]
async fn a_certificate_stands_for_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, cert, key) = client_certificate(dir.path(), "good");
    let (_, bad_cert, bad_key) = client_certificate(dir.path(), "bad");
    let client = |sink: &Sink, pair: Option<(&PathBuf, &PathBuf)>, token: bool| {
        let mut args = sink.client_args();
        args.client_cert = pair.map(|(cert, _)| cert.clone());
        args.client_key = pair.map(|(_, key)| key.clone());
        args.token_file = args.token_file.filter(|_| token);
        Client::new(&sink.url(""), &args).unwrap()
    };
    let sink = Sink::start(|options| options.tls.client_ca = Some(ca.clone())).await;
    client(&sink, Some((&cert, &key)), false).status().await.unwrap();
    client(&sink, None, true).status().await.unwrap();
    assert!(matches!(client(&sink, None, false).status().await, Err(ClientError::Settings(_))));
    // A certificate of a stranger is no reason to look at the token: it ends the handshake.
    assert!(client(&sink, Some((&bad_cert, &bad_key)), true).status().await.is_err());

    let strict = Sink::start(|options| {
        options.tls.client_ca = Some(ca.clone());
        options.tls.require_client_cert = true;
    })
    .await;
    client(&strict, Some((&cert, &key)), false).status().await.unwrap();
    let refused = client(&strict, None, true).status().await.unwrap_err().to_string();
    assert!(refused.contains("--client-cert"), "{refused}");
}

#[tokio::test]
async fn a_new_certificate_is_in_force_at_once_and_a_bad_one_never() {
    let sink = Sink::start(|_| {}).await;
    let served = async || sink.raw().await.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let first = served().await;
    assert!(served().await == first);
    fs::write(sink.options.tls.cert.clone(), "no certificate").unwrap();
    sink.handle.reload();
    assert!(served().await == first);
    fs::remove_file(sink.options.tls.cert.clone()).unwrap();
    tls::provision(sink.dir.path(), &["another.example".to_owned()]).unwrap();
    assert!(served().await != first);
}

#[tokio::test]
async fn what_can_not_be_served_with_is_named() {
    let sink = Sink::start(|_| {}).await;
    let fails = async |change: &dyn Fn(&mut https::Options)| {
        let mut options = sink.options.clone();
        change(&mut options);
        https::bind(options, sink.state.clone(), sink.metrics.clone()).await.map(|_| ()).unwrap_err()
    };
    let taken = fails(&|options| options.listen = sink.handle.address().to_string()).await;
    assert!(matches!(taken, BindError::Listen { .. }) && taken.to_string().contains("--https"), "{taken}");
    let token = fails(&|options| options.token_file = "/nowhere".into()).await;
    assert!(token.to_string().contains("--token-file /nowhere"), "{token}");
    let cert = fails(&|options| options.tls.cert = "/nowhere".into()).await;
    assert!(cert.to_string().contains("--tls-cert /nowhere"), "{cert}");
    let key = fails(&|options| options.tls.key = options.tls.cert.clone()).await;
    assert!(key.to_string().contains("--tls-key"), "{key}");
    let pair = fails(&|options| options.tls.key = sink.dir.path().join("tls/ca.key")).await;
    assert!(pair.to_string().contains("--tls-key"), "{pair}");
    let ca = fails(&|options| options.tls.client_ca = Some(sink.dir.path().join("token"))).await;
    assert!(ca.to_string().contains("--client-ca"), "{ca}");
}

#[tokio::test]
async fn the_first_start_makes_what_clients_need() {
    let (dir, other) = (tempfile::tempdir().unwrap(), Sink::empty(|_| {}).await);
    let args = ServeArgs {
        data_dir: Some(dir.path().join("data").to_str().unwrap().to_owned()),
        upstream: Some("host=nowhere".to_owned().into()),
        https: Some("127.0.0.1:0".to_owned()),
        ..ServeArgs::default()
    };
    let prepared = https::Options::prepare(&ServeConfig::resolve(&args).unwrap()).unwrap();
    assert!(prepared.created);
    let (ca, token_file) = (prepared.ca_path, Some(prepared.options.token_file.clone()));
    let (handle, driver) = https::bind(prepared.options, other.state.clone(), other.metrics.clone()).await.unwrap();
    let running = tokio::spawn(driver.run());
    let client_args = ClientArgs { ca, token_file, ..ClientArgs::default() };
    for host in ["localhost", "127.0.0.1"] {
        let client = Client::new(&format!("https://{host}:{}", handle.address().port()), &client_args).unwrap();
        assert_eq!(client.status().await.unwrap().slot, "beyond_pg_sink");
    }
    handle.shutdown();
    running.await.unwrap();
    assert!(!https::Options::prepare(&ServeConfig::resolve(&args).unwrap()).unwrap().created);

    // With a certificate of the user's own, only the token is made.
    let own = ServeArgs {
        data_dir: Some(dir.path().join("own").to_str().unwrap().to_owned()),
        tls_cert: Some(other.options.tls.cert.to_str().unwrap().to_owned()),
        tls_key: Some(other.options.tls.key.to_str().unwrap().to_owned()),
        ..args
    };
    let prepared = https::Options::prepare(&ServeConfig::resolve(&own).unwrap()).unwrap();
    assert!(prepared.created && prepared.ca_path.is_none() && prepared.options.renew.is_none());
    assert!(dir.path().join("own/token").exists() && !dir.path().join("own/tls").exists());
    https::bind(prepared.options, other.state.clone(), other.metrics.clone()).await.unwrap();
}

#[test]
fn a_certificate_of_the_sink_is_good_now() {
    let dir = tempfile::tempdir().unwrap();
    let first = tls::provision(dir.path(), &[]).unwrap();
    let now = SystemClock::new().now();
    assert!(now.to_unix_micros() > 0 && first.created);
    assert!(!tls::provision(dir.path(), &[]).unwrap().created);
}
