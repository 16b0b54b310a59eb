use proptest::prelude::*;

use super::quote::*;
use super::*;
use crate::settings::{Origin, Source};
use crate::tune::{Floor, Machine, tune};
use crate::{ha, tier};

fn rendered(values: &[(&str, &str)], major: u32, archiver: Option<&str>) -> Vec<RenderedFile> {
    let settings = Settings::resolve(&[Source::new(Origin::Environment, values.iter().copied())]).unwrap();
    let tuning = tune(&Machine::new(16 << 30, 4, major), Floor::default());
    let plan = tier::plan(&settings, None);
    let inputs = Inputs {
        settings: &settings,
        tuning: &tuning,
        tier: &plan,
        major,
        run: Path::new("/run/beyond-pg"),
        os_name: "postgres",
        own_name: "root",
        archiver: archiver.map(Path::new),
        max_connections: tuning.max_connections,
        primary: None,
    };
    render(&inputs).unwrap()
}

fn text(files: &[RenderedFile], name: &str) -> String {
    files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name}")).text.clone()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with(['#', ';'])).collect()
}

#[test]
fn what_can_not_change_later_is_there_from_day_one() {
    let files = rendered(&[], 18, None);
    assert_eq!(
        lines(&text(&files, "10-fixed.conf")),
        [
            "wal_level = 'logical'",
            "max_wal_senders = '10'",
            "max_replication_slots = '10'",
            "hot_standby = 'on'",
            "archive_mode = 'on'",
            "archive_command = 'true'",
            "listen_addresses = '127.0.0.1'",
            "port = '5433'",
            "unix_socket_directories = '/run/beyond-pg'",
            "unix_socket_permissions = '0777'",
            "password_encryption = 'scram-sha-256'",
        ]
    );
    let tuning = text(&files, "20-tuning.conf");
    assert!(tuning.contains("\nshared_buffers = '4096MB'  # max(128 MB, memory / 4), at most memory / 2\n"), "{tuning}");
    assert_eq!(
        lines(&text(&files, "30-tier.conf"))[1],
        "synchronous_standby_names = ''  # who has to hold a commit before it returns"
    );
}

#[test]
fn every_file_says_who_wrote_it() {
    for file in rendered(&[], 18, None) {
        let first = file.text.lines().next().unwrap();
        assert!(first.contains("Written by beyond-pg") && first.contains("changes here are lost"), "{}: {first}", file.name);
    }
}

#[test]
fn archive_and_addresses() {
    let values = [
        ("BEYOND_PG_ARCHIVE_STORE", "s3://b/p"),
        ("BEYOND_PG_REPLICATION_LISTEN", "10.0.0.1"),
        ("BEYOND_PG_TLS_CERT", "/etc/it's.pem"),
        ("BEYOND_PG_TLS_KEY", "/etc/key.pem"),
    ];
    let settings = Settings::resolve(&[Source::new(Origin::Environment, values)]).unwrap();
    assert!(settings.has_archive());
    let files = rendered(&values[..2], 18, Some("/opt/100% new/it's/beyond-pg-archiver"));
    let fixed = text(&files, "10-fixed.conf");
    // The shell's quotes, inside of Postgres'.
    assert!(fixed.contains(r"archive_command = '''/opt/100%% new/it''\\''''s/beyond-pg-archiver'' push %p'"), "{fixed}");
    assert!(fixed.contains("listen_addresses = '127.0.0.1,10.0.0.1'\n"), "{fixed}");
    let files = rendered(&values[..1], 18, Some("/usr/bin/beyond-pg-archiver"));
    assert!(text(&files, "10-fixed.conf").contains("archive_command = '/usr/bin/beyond-pg-archiver push %p'\n"));
}

#[test]
fn versions_differ_in_who_comes_over_the_socket() {
    let of = |major| text(&rendered(&[], major, None), "pg_hba.conf");
    assert!(of(15).contains("\nlocal all all trust\n") && !of(15).contains("map="));
    assert!(of(16).contains("\nlocal all all peer map=beyond_pg\n"));
    assert!(text(&rendered(&[], 15, None), "10-fixed.conf").contains("unix_socket_permissions = '0700'"), "trust needs it");
    let ident = text(&rendered(&[], 18, None), "pg_ident.conf");
    assert_eq!(lines(&ident), ["beyond_pg \"postgres\" all", "beyond_pg \"root\" postgres"]);
}

#[test]
fn the_pool_is_nine_tenths() {
    let ini = text(&rendered(&[], 18, None), "pgbouncer.ini");
    for line in [
        "listen_port = 5432",
        "pool_mode = transaction",
        "max_db_connections = 90",
        "default_pool_size = 90",
        "max_client_conn = 1000",
        "* = host=/run/beyond-pg port=5433 auth_dbname=postgres",
        "max_prepared_statements = 200",
    ] {
        assert!(ini.lines().any(|own| own == line), "{line} is not in:\n{ini}");
    }
    assert!(!ini.contains("tls"));
    assert!(text(&rendered(&[], 18, None), "pgbouncer_hba.conf").contains(ha::LOCAL_DATABASE));
}

#[test]
fn passwords_are_not_for_eyes() {
    let values = [("BEYOND_PG_TIER", "replica"), ("BEYOND_PG_PRIMARY_CONNINFO", "host=a password='it''s geheim'")];
    let settings = Settings::resolve(&[Source::new(Origin::Environment, values)]).unwrap();
    let (tuning, plan) = (tune(&Machine::new(1 << 30, 1, 18), Floor::default()), tier::plan(&settings, None));
    let inputs = Inputs {
        settings: &settings,
        tuning: &tuning,
        tier: &plan,
        major: 18,
        run: Path::new("/run/x"),
        os_name: "a",
        own_name: "a",
        archiver: None,
        max_connections: 100,
        primary: None,
    };
    assert!(text(&render(&inputs).unwrap(), "30-tier.conf").contains("primary_conninfo = 'host=a password=''it''''s geheim'''"));
    let shown = render_shown(&inputs).unwrap();
    assert!(shown.iter().all(|file| !file.text.contains("geheim")));
    assert!(text(&shown, "30-tier.conf").contains("primary_conninfo = '(hidden)'"));
    let spaced = Inputs { run: Path::new("/run/a b"), ..inputs };
    assert!(render(&spaced).unwrap_err().to_string().contains("BEYOND_PG_RUN_DIR"));
}

/// As `GUC_scanstr` of guc-file.l reads: octal escapes, `\n` and its like, any other character behind a backslash as itself, two quotes as
/// one.
fn scanned(text: &str) -> Option<String> {
    let inner: Vec<char> = text.strip_prefix('\'')?.strip_suffix('\'')?.chars().collect();
    let (mut read, mut at) = (String::new(), 0);
    while at < inner.len() {
        match (inner[at], inner.get(at + 1)) {
            ('\\', Some(c @ ('0'..='7' | 'b' | 'f' | 'n' | 'r' | 't'))) => panic!("an escape \\{c}"),
            ('\\', Some(c)) => {
                read.push(*c);
                at += 1;
            }
            ('\'', Some('\'')) => {
                read.push('\'');
                at += 1;
            }
            ('\\' | '\'', _) => return None,
            (c, _) => read.push(c),
        }
        at += 1;
    }
    Some(read)
}

proptest! {
    #[test]
    fn any_value_survives_postgres_quoting(value in "[\\PC'\\\\]{0,40}") {
        match quoted("x", &value) {
            Ok(written) => prop_assert_eq!(scanned(&written), Some(value)),
            Err(_) => prop_assert!(value.chars().any(char::is_control)),
        }
    }

    #[test]
    fn line_ends_are_refused(before in "[a-z]{0,5}", after in "[a-z]{0,5}", end in "[\n\r\u{0}]") {
        let value = format!("{before}{end}{after}");
        prop_assert_eq!(quoted("x", &value), Err(ConfError::Control("x".to_owned())));
    }
}
