use super::*;
use crate::ident::PgTime;

/// A clock that stands still.
#[derive(Debug)]
struct At(Duration);

impl Clock for At {
    fn monotonic(&self) -> Duration {
        self.0
    }

    fn now(&self) -> PgTime {
        PgTime::from_unix_micros(i64::try_from(self.0.as_micros()).unwrap())
    }
}

const OWNER: Owner = Owner { program: "beyond-pg-sink", names_setting: "--https-name" };

const START: At = At(Duration::from_secs(1_800_000_000));

fn later(time: Duration) -> At {
    At(START.0 + time)
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn the_first_start_makes_all_of_it_and_the_next_ones_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = provision_at(OWNER, dir.path(), &[], &START).unwrap();
    assert!(first.created);
    assert_eq!(first.token_path, dir.path().join("token"));
    let files = ["tls/ca.pem", "tls/ca.key", "tls/server.pem", "tls/server.key", "token"];
    let made = files.map(|name| read(dir.path(), name));
    for name in ["tls/ca.key", "tls/server.key", "token"] {
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(URL_SAFE_NO_PAD.decode(made[4].trim()).unwrap().len(), 32);

    let again = provision_at(OWNER, dir.path(), &[], &later(DAY)).unwrap();
    assert!(!again.created);
    assert_eq!(files.map(|name| read(dir.path(), name)), made);
}

#[test]
fn the_certificate_is_made_again_when_it_is_old_and_the_authority_stays() {
    let dir = tempfile::tempdir().unwrap();
    provision_at(OWNER, dir.path(), &[], &START).unwrap();
    let (ca, server, key) =
        (read(dir.path(), "tls/ca.pem"), read(dir.path(), "tls/server.pem"), read(dir.path(), "tls/server.key"));
    provision_at(OWNER, dir.path(), &[], &later(CERT_LIFE * 2 / 3 - DAY)).unwrap();
    assert_eq!(read(dir.path(), "tls/server.pem"), server);
    provision_at(OWNER, dir.path(), &[], &later(CERT_LIFE * 2 / 3 + DAY)).unwrap();
    assert_ne!(read(dir.path(), "tls/server.pem"), server);
    assert_eq!(read(dir.path(), "tls/server.key"), key);
    assert_eq!(read(dir.path(), "tls/ca.pem"), ca);
}

#[test]
fn the_certificate_follows_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let names = |extra: &[&str]| {
        let extra: Vec<String> = extra.iter().map(|&name| name.to_owned()).collect();
        provision_at(OWNER, dir.path(), &extra, &START).unwrap();
        let chain = pem::certificates("--tls-cert", &dir.path().join("tls/server.pem")).unwrap();
        names_of(&chain[0]).unwrap()
    };
    let plain = names(&["0.0.0.0"]);
    assert!(LOCAL_NAMES.iter().all(|&name| plain.contains(name)), "{plain:?}");
    let more = names(&["Sink.Example.com", "10.0.0.7", "[fd00::7]"]);
    let added: Vec<_> = more.difference(&plain).collect();
    assert_eq!(added, ["10.0.0.7", "fd00::7", "sink.example.com"]);
    assert_eq!(names(&[]), plain);
    let error = provision_at(OWNER, dir.path(), &["no host".to_owned()], &START).unwrap_err().to_string();
    assert!(error.contains("--https-name"), "{error}");
}

#[test]
fn killed_between_two_files_it_goes_on() {
    for missing in
        [&["tls/ca.pem", "tls/server.pem", "token"][..], &["tls/server.pem"], &["token"], &["tls/server.key", "tls/server.pem"]]
    {
        let dir = tempfile::tempdir().unwrap();
        provision_at(OWNER, dir.path(), &[], &START).unwrap();
        for name in missing {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let made = provision_at(OWNER, dir.path(), &[], &START).unwrap();
        super::super::ServerTls::open(made.files(), &["h2"]).unwrap();
    }
}

#[test]
fn another_authority_signs_another_certificate() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&dir, &other] {
        provision_at(OWNER, dir.path(), &[], &START).unwrap();
    }
    let server = read(dir.path(), "tls/server.pem");
    for name in ["tls/ca.pem", "tls/ca.key"] {
        fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
    }
    provision_at(OWNER, dir.path(), &[], &START).unwrap();
    assert_ne!(read(dir.path(), "tls/server.pem"), server);
}

#[test]
fn an_authority_kept_elsewhere_is_missed_only_when_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    provision_at(OWNER, dir.path(), &[], &START).unwrap();
    fs::remove_file(dir.path().join("tls/ca.key")).unwrap();
    provision_at(OWNER, dir.path(), &[], &later(DAY)).unwrap();
    let error = provision_at(OWNER, dir.path(), &[], &later(CERT_LIFE)).unwrap_err();
    assert!(matches!(error, ProvisionError::CaKeyMissing(_)), "{error}");
}

#[test]
fn many_at_once_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| provision_at(OWNER, dir.path(), &[], &START).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.created).count(), 1);
}
