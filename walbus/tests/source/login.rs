//! Every way to get in, and every way to be kept out.

use std::process::Command;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use walbus::conninfo::{Config, Environment};
use walbus::proto::backend::SqlState;
use walbus::source::{Class, Mode, SourceError, connect};

use crate::cluster::{Authority, Cluster, connect_to, major, self_signed, self_signed_in};

/// What a connection string leads to.
#[derive(Debug, Clone, Copy)]
enum Leads {
    Clear,
    Tls,
    /// An error of this class, with this in its text.
    No(Class, &'static str),
}

async fn check(conninfo: &str, leads: Leads) {
    match (connect_to(conninfo).await, leads) {
        (Ok(client), Clear) => assert!(!client.is_encrypted(), "{conninfo}: encrypted"),
        (Ok(client), Tls) => assert!(client.is_encrypted(), "{conninfo}: in the clear"),
        (Err(error), No(class, text)) => {
            let message = error.to_string();
            assert!(error.class() == class && message.contains(text), "{conninfo}: {:?}: {message}", error.class());
            assert!(!message.contains("secret"), "{conninfo}: {message}");
        }
        (outcome, leads) => panic!("{conninfo}: {:?} instead of {leads:?}", outcome.map_err(|error| error.to_string())),
    }
}

const HBA: &str = "
hostssl   replication only_tls   127.0.0.1/32 scram-sha-256
hostnossl replication only_clear 127.0.0.1/32 scram-sha-256
hostssl   replication certified  127.0.0.1/32 cert
host      replication scram      127.0.0.1/32 scram-sha-256
host      replication md5        127.0.0.1/32 md5
host      replication plain      127.0.0.1/32 password
host      replication powerless  127.0.0.1/32 trust
host      replication trusted    127.0.0.1/32 trust
local     replication scram                   scram-sha-256
";

const TLS_SETTINGS: &str = "
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'

";

struct Place {
    cluster: Cluster,
    ca: Authority,
}

/// A server with TLS, whose certificate names `localhost`, `*.db.example` and 127.0.0.1.
fn place() -> Place {
    let cluster = Cluster::start(HBA, "");
    let ca = Authority::new("right CA");
    cluster.sql(
        "CREATE ROLE only_tls REPLICATION LOGIN PASSWORD 'secret'; CREATE ROLE only_clear REPLICATION LOGIN PASSWORD 'secret';
         CREATE ROLE certified REPLICATION LOGIN; CREATE ROLE scram REPLICATION LOGIN PASSWORD 'secret';
         CREATE ROLE plain REPLICATION LOGIN PASSWORD 'secret'; CREATE ROLE trusted REPLICATION LOGIN; CREATE ROLE powerless LOGIN;
         SET password_encryption = md5; CREATE ROLE md5 REPLICATION LOGIN PASSWORD 'secret'",
    );
    let (certificate, key) = ca.issue("common.example", &["localhost", "*.db.example", "127.0.0.1"]);
    cluster.write("data/server.crt", &certificate, 0o600);
    cluster.write("data/server.key", &key, 0o600);
    cluster.write("data/ca.crt", &ca.pem, 0o600);
    cluster.write("ca.crt", &ca.pem, 0o644);
    cluster.write("other.crt", &Authority::new("other CA").pem, 0o644);
    let (certificate, key) = ca.issue("certified", &[]);
    cluster.write("client.crt", &certificate, 0o644);
    cluster.write("client.key", &key, 0o600);
    cluster.write("loose.key", &key, 0o644);
    let (certificate, key) = Authority::new("other CA").issue("certified", &[]);
    cluster.write("stranger.crt", &certificate, 0o644);
    cluster.write("stranger.key", &key, 0o600);
    let settings = std::fs::read_to_string(cluster.path("data/postgresql.auto.conf")).unwrap();
    cluster.write("data/postgresql.auto.conf", &format!("{settings}{TLS_SETTINGS}"), 0o600);
    cluster.pg_ctl("restart");
    Place { cluster, ca }
}

use Class::{Authentication, Configuration, Retry};
use Leads::{Clear, No, Tls};

/// Connection strings, `DIR/` being the cluster's folder, and what becomes of them.
const CASES: &[(&str, Leads)] = &[
    // Every mode where the server has TLS, and no roots.
    ("host=localhost user=scram sslmode=disable", Clear),
    ("host=localhost user=scram sslmode=allow", Clear),
    ("host=localhost user=scram sslmode=prefer", Tls),
    ("host=localhost user=scram", Tls),
    ("host=localhost user=scram sslmode=require", Tls),
    ("host=localhost user=scram sslmode=verify-ca", No(Configuration, "sslrootcert: is not said")),
    ("host=localhost user=scram sslmode=verify-full sslrootcert=DIR/none", No(Configuration, "does not exist")),
    // The same with roots.
    ("host=localhost user=scram sslmode=verify-ca sslrootcert=DIR/ca.crt", Tls),
    ("host=wrong user=scram sslmode=verify-ca sslrootcert=DIR/ca.crt", Tls),
    ("user=scram sslmode=verify-ca sslrootcert=DIR/ca.crt", Tls),
    ("host=localhost user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", Tls),
    ("host=LOCALHOST user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", Tls),
    ("host=a.db.example user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", Tls),
    ("host=127.0.0.1 user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", Tls),
    ("host=a.b.db.example user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", No(Configuration, "*.db.example")),
    ("host=common.example user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", No(Configuration, "not for \"common.example\"")),
    ("host=127.0.0.2 user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", No(Configuration, "not for \"127.0.0.2\"")),
    ("user=scram sslmode=verify-full sslrootcert=DIR/ca.crt", No(Configuration, "host: is missing")),
    ("host=localhost user=scram sslmode=verify-ca sslrootcert=DIR/other.crt", No(Configuration, "DIR/other.crt")),
    ("host=localhost user=scram sslmode=require sslrootcert=DIR/other.crt", No(Configuration, "not signed by")),
    ("host=localhost user=scram sslmode=require sslrootcert=DIR/none", Tls),
    ("host=localhost user=scram sslmode=prefer sslrootcert=DIR/other.crt", Clear),
    ("host=localhost user=scram sslrootcert=system", No(Configuration, "operating system's roots")),
    ("host=localhost user=scram sslmode=verify-ca sslrootcert=DIR/client.key", No(Configuration, "no certificate")),
    // The server wants TLS, or none.
    ("host=localhost user=only_tls sslmode=disable", No(Authentication, "no encryption")),
    ("host=localhost user=only_tls sslmode=allow", Tls),
    ("host=localhost user=only_tls sslmode=prefer", Tls),
    ("host=localhost user=only_clear sslmode=prefer", Clear),
    ("host=localhost user=only_clear sslmode=require", No(Authentication, "SSL encryption")),
    // Versions, and TLS from the first byte.
    ("host=localhost user=scram sslmode=require ssl_max_protocol_version=TLSv1.2", Tls),
    ("host=localhost user=scram sslmode=require ssl_min_protocol_version=TLSv1.3", Tls),
    ("host=localhost user=scram sslmode=require sslnegotiation=direct", Tls),
    ("host=localhost user=scram sslmode=verify-full sslrootcert=DIR/ca.crt sslnegotiation=direct", Tls),
    ("host=localhost user=scram sslmode=require sslsni=0", Tls),
    // Channel binding.
    ("host=localhost user=scram sslmode=require channel_binding=require", Tls),
    ("host=localhost user=scram sslmode=require channel_binding=require ssl_max_protocol_version=TLSv1.2", Tls),
    ("host=localhost user=scram sslmode=require channel_binding=disable", Tls),
    ("host=localhost user=scram sslmode=disable channel_binding=require", No(Authentication, "no TLS")),
    ("host=localhost user=md5 sslmode=require channel_binding=require", No(Authentication, "md5, which has no channel binding")),
    ("host=localhost user=plain sslmode=require channel_binding=require", No(Authentication, "password, which has no channel")),
    ("host=localhost user=trusted sslmode=require channel_binding=require", No(Authentication, "without channel binding")),
    // The other methods.
    ("host=localhost user=md5", Tls),
    ("host=localhost user=plain", Tls),
    ("host=localhost user=trusted", Tls),
    ("host=localhost user=scram require_auth=scram-sha-256", Tls),
    ("host=localhost user=scram require_auth=!scram-sha-256", No(Authentication, "by scram-sha-256, which require_auth")),
    ("host=localhost user=plain require_auth=scram-sha-256", No(Authentication, "by password, which require_auth")),
    ("host=localhost user=md5 require_auth=scram-sha-256", No(Authentication, "by md5, which require_auth")),
    ("host=localhost user=trusted require_auth=scram-sha-256", No(Authentication, "by none, which require_auth")),
    // Client certificates.
    ("host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/client.key", Tls),
    ("host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/client.key sslcertmode=require", Tls),
    ("host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/client.key sslnegotiation=direct", Tls),
    ("host=localhost user=certified sslmode=require", No(Authentication, "valid client certificate")),
    (
        "host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/client.key sslcertmode=disable",
        No(Authentication, "valid client certificate"),
    ),
    ("host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/loose.key", No(Configuration, "0600")),
    ("host=localhost user=certified sslmode=require sslcert=DIR/client.crt sslkey=DIR/stranger.key", No(Configuration, "sslkey")),
    ("host=localhost user=certified sslmode=require sslcert=DIR/none", No(Configuration, "sslcert: DIR/none")),
    ("host=localhost user=certified sslmode=require sslcertmode=require", No(Configuration, "sslcert: is not said")),
    (
        "host=localhost user=certified sslmode=require sslcert=DIR/stranger.crt sslkey=DIR/stranger.key",
        No(Configuration, "ssl_ca_file"),
    ),
    // Protocol versions.
    ("host=localhost user=scram max_protocol_version=3.2", Tls),
    ("host=localhost user=scram min_protocol_version=3.2", Tls),
    // No such role, no such password, no such kind of server.
    ("host=localhost user=nobody", No(Authentication, "28000")),
    ("host=localhost user=powerless", No(Authentication, "42501")),
    ("host=localhost user=scram password=wrong", No(Authentication, "28P01")),
    ("host=localhost user=only_tls password=wrong sslmode=prefer", No(Authentication, "28P01")),
    ("host=localhost user=scram target_session_attrs=primary", Tls),
    ("host=localhost user=scram target_session_attrs=read-write", Tls),
    ("host=localhost user=scram target_session_attrs=prefer-standby", Tls),
    ("host=localhost user=scram target_session_attrs=standby", No(Retry, "target_session_attrs=standby")),
    ("host=localhost user=scram target_session_attrs=read-only", No(Retry, "target_session_attrs=read-only")),
    ("host=localhost user=scram options='-c nonsense=1'", No(Configuration, "nonsense")),
];

#[tokio::test]
async fn every_sslmode_and_login() {
    let place = place();
    let dir = place.cluster.path("").display().to_string();
    let base = format!("hostaddr=127.0.0.1 port={} password=secret", place.cluster.port);
    for &(conninfo, leads) in CASES {
        let leads = match leads {
            No(class, text) if text.contains("DIR/") => No(class, Box::leak(text.replace("DIR/", &dir).into_boxed_str())),
            leads => leads,
        };
        let since = match conninfo {
            conninfo if conninfo.contains("min_protocol_version=3.2") => 18,
            conninfo if conninfo.contains("sslnegotiation=direct") => 17,
            _ => 0,
        };
        if major() < since {
            continue;
        }
        check(&format!("{base} {}", conninfo.replace("DIR/", &dir)), leads).await;
    }
    drop(place.ca);
}

#[tokio::test]
async fn certificates_of_every_signature_are_bound_to() {
    let cluster = Cluster::start("hostssl replication scram 127.0.0.1/32 scram-sha-256\n", "");
    cluster.sql("CREATE ROLE scram REPLICATION LOGIN PASSWORD 'secret'");
    let settings = std::fs::read_to_string(cluster.path("data/postgresql.auto.conf")).unwrap();
    let tls = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n";
    cluster.write("data/postgresql.auto.conf", &format!("{settings}{tls}"), 0o600);
    let base = format!("hostaddr=127.0.0.1 port={} user=scram password=secret host=db", cluster.port);
    for (algorithm, binds) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, true),
        (&rcgen::PKCS_ECDSA_P384_SHA384, true),
        (&rcgen::PKCS_RSA_SHA256, true),
        (&rcgen::PKCS_RSA_SHA384, true),
        (&rcgen::PKCS_RSA_SHA512, true),
        (&rcgen::PKCS_ED25519, false),
    ] {
        if !binds && major() < 17 {
            // Debian's OpenSSL of that time does not read the key.
            continue;
        }
        let (certificate, key) = self_signed("db", algorithm);
        cluster.write("data/server.crt", &certificate, 0o600);
        cluster.write("data/server.key", &key, 0o600);
        let root = cluster.write("root.crt", &certificate, 0o644);
        cluster.pg_ctl("restart");
        // The root is the server's own certificate, and its one name is the common name.
        let verified = format!("{base} sslmode=verify-full sslrootcert={}", root.display());
        check(&verified, Tls).await;
        check(&verified.replace("host=db", "host=bd"), No(Configuration, "is for db and not for \"bd\"")).await;
        let leads = if binds { Tls } else { No(Authentication, "no hash to bind to") };
        check(&format!("{verified} channel_binding=require"), leads).await;
    }
    for (years, text) in [(2000..2001, "expired"), (2900..2901, "not valid yet")] {
        let (certificate, key) = self_signed_in("db", years);
        cluster.write("data/server.crt", &certificate, 0o600);
        cluster.write("data/server.key", &key, 0o600);
        let root = cluster.write("root.crt", &certificate, 0o644);
        cluster.pg_ctl("restart");
        check(&format!("{base} sslmode=verify-ca sslrootcert={}", root.display()), No(Configuration, text)).await;
        check(&format!("{base} sslmode=require"), Tls).await;
    }
}

/// Certificates as the manual's recipes make them with `openssl`, which does not make version 3 unless told.
#[tokio::test]
async fn certificates_of_openssl_are_taken_as_libpq_takes_them() {
    let cluster = Cluster::start("hostssl replication scram 127.0.0.1/32 scram-sha-256\n", "");
    cluster.sql("CREATE ROLE scram REPLICATION LOGIN PASSWORD 'secret'");
    let settings = std::fs::read_to_string(cluster.path("data/postgresql.auto.conf")).unwrap();
    let tls = "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n";
    cluster.write("data/postgresql.auto.conf", &format!("{settings}{tls}"), 0o600);
    let openssl = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(cluster.path("")).output().unwrap();
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let serve = || {
        for name in ["server.crt", "server.key"] {
            cluster.write(&format!("data/{name}"), &std::fs::read_to_string(cluster.path(name)).unwrap(), 0o600);
        }
        cluster.pg_ctl("restart");
    };
    let dir = cluster.path("").display().to_string();
    let base = format!("hostaddr=127.0.0.1 port={} user=scram password=secret host=db channel_binding=require", cluster.port);

    // Signed by a CA, of version 1: only its key can be used, and the certificate itself trusted.
    openssl("req -new -x509 -days 2 -nodes -subj /CN=root -newkey rsa:2048 -out ca.crt -keyout ca.key");
    openssl("req -new -nodes -subj /CN=db -newkey rsa:2048 -out server.csr -keyout server.key");
    openssl("x509 -req -in server.csr -days 2 -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt");
    serve();
    check(&format!("{base} sslmode=require"), Tls).await;
    check(&format!("{base} sslmode=verify-full sslrootcert={dir}server.crt"), Tls).await;
    let by_ca = format!("{base} sslmode=verify-ca sslrootcert={dir}ca.crt");
    if std::fs::read(cluster.path("server.crt")).is_ok_and(|pem| is_version_1(&pem)) {
        check(&by_ca, No(Configuration, "X.509 version 1")).await;
    } else {
        check(&by_ca, Tls).await;
    }

    // Signed by itself with RSASSA-PSS, whose hash is a parameter.
    openssl(
        "req -new -x509 -days 2 -nodes -subj /CN=db -newkey rsa:2048 -sigopt rsa_padding_mode:pss -sha384 -out server.crt -keyout server.key",
    );
    serve();
    check(&format!("{base} sslmode=require"), Tls).await;
    check(&format!("{base} sslmode=verify-full sslrootcert={dir}server.crt"), Tls).await;
}

fn is_version_1(pem: &[u8]) -> bool {
    let der = CertificateDer::from_pem_slice(pem).unwrap();
    // Behind two sequences' headers of four bytes each stands the version, where there is one.
    der[8] != 0xA0
}

#[tokio::test]
async fn without_tls_on_the_server() {
    let cluster = Cluster::start("host replication postgres 127.0.0.1/32 trust\n", "");
    let base = format!("host=127.0.0.1 port={} user=postgres", cluster.port);
    for mode in ["disable", "allow", "prefer"] {
        check(&format!("{base} sslmode={mode}"), Clear).await;
    }
    check(&format!("{base} sslmode=require"), No(Configuration, "the server has no TLS")).await;
    check(&format!("{base} sslmode=require sslnegotiation=direct"), No(Configuration, "TLS to")).await;
    // The next host is tried where there is none, in order or not.
    let hosts = format!("host=/nowhere,127.0.0.1 port=1,{} user=postgres", cluster.port);
    check(&hosts, Clear).await;
    check(&format!("{hosts} load_balance_hosts=random"), Clear).await;
    check("host=127.0.0.1 port=1 user=postgres", No(Retry, "connect to 127.0.0.1 port 1")).await;
    check("host=host.invalid user=postgres", No(Retry, "look up host \"host.invalid\"")).await;
    // A unix socket, whatever sslmode says.
    check(&format!("{} sslmode=verify-full", cluster.socket()), Clear).await;
    check(&format!("{} requirepeer=somebody", cluster.socket()), No(Configuration, "requirepeer: the server runs as")).await;
    check(&format!("{} channel_binding=require", cluster.socket()), No(Authentication, "channel binding")).await;

    let database = Mode::Logical { dbname: "postgres".to_owned() };
    let config = Config::parse(&cluster.socket(), &Environment::default()).unwrap();
    let identity = connect(&config, database).await.unwrap().identify_system().await.unwrap();
    assert_eq!(identity.dbname.as_deref(), Some("postgres"));
    assert_eq!(connect_to(&cluster.socket()).await.unwrap().identify_system().await.unwrap().dbname, None);
}

#[tokio::test]
async fn passwords_come_from_the_passfile_and_the_environment() {
    let cluster = Cluster::start("host replication scram 127.0.0.1/32 scram-sha-256\n", "");
    cluster.sql("CREATE ROLE scram REPLICATION LOGIN PASSWORD 'se:cr\\et'");
    let passfile = cluster.write("pgpass", &format!("127.0.0.1:{}:replication:scram:se\\:cr\\\\et\n", cluster.port), 0o600);
    let variables = [
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", cluster.port.to_string()),
        ("PGUSER", "scram".to_owned()),
        ("PGAPPNAME", "from the environment".to_owned()),
    ];
    let environment = |more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).chain(more))
    };
    let try_it = async |more: &[(&str, &str)]| {
        let config = Config::parse("", &environment(more)).unwrap().or_connect_timeout(Duration::from_secs(30));
        connect(&config, Mode::Physical).await
    };
    let path = passfile.display().to_string();
    let mut client = try_it(&[("PGPASSFILE", &path)]).await.unwrap();
    assert_eq!(client.show("application_name").await.unwrap(), "from the environment");
    try_it(&[("PGPASSWORD", "se:cr\\et")]).await.unwrap();
    let error = try_it(&[("PGPASSWORD", "other"), ("PGPASSFILE", &path)]).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::INVALID_PASSWORD), "the password that is said counts");
    cluster.write("pgpass", &std::fs::read_to_string(&passfile).unwrap(), 0o644);
    let error = try_it(&[("PGPASSFILE", &path)]).await.unwrap_err();
    assert!(matches!(&error, SourceError::Authentication { problem, .. } if problem.contains(&path)), "{error}");
}
