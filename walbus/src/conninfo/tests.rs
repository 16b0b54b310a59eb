use super::*;
use proptest::prelude::*;

fn environment() -> Environment {
    Environment::default().with_home("/home/operator").with_user("operator")
}

fn parse(text: &str) -> Config {
    Config::parse(text, &environment()).unwrap()
}

fn problem(text: &str) -> (String, String) {
    let error = Config::parse(text, &environment()).unwrap_err();
    (error.keyword.clone(), error.to_string())
}

fn tcp(host: &str, port: u16) -> Host {
    Host { address: Address::Tcp { host: host.to_owned(), addr: None }, port }
}

#[test]
fn nothing_said_is_what_libpq_takes_it_for() {
    let config = parse("");
    assert_eq!(config.hosts, [Host { address: Address::Unix(None), port: 5432 }]);
    assert_eq!((config.user(), config.dbname(), config.ssl_mode()), ("operator", None, SslMode::Prefer));
    assert_eq!(config.passfile, Some("/home/operator/.pgpass".into()));
    assert_eq!(config.tls.root, RootCertificate::Default(Some("/home/operator/.postgresql/root.crt".into())));
    assert_eq!(config.connect_timeout, None);
    assert_eq!(config.protocol, (0, 0));
    assert_eq!(Config::parse("", &Environment::default()).unwrap_err().keyword, "user");
}

#[test]
fn values_are_quoted_and_escaped() {
    let config = parse(r" host = db  user='al ice' password = 'it\'s \\' dbname=a\ b application_name='' options=-c\ x=y");
    assert_eq!(config.hosts, [tcp("db", 5432)]);
    assert_eq!((config.user(), config.dbname(), config.options.as_deref()), ("al ice", Some("a b"), Some("-c x=y")));
    assert_eq!(config.password, Some(Secret::new(br"it's \".to_vec())));
    assert_eq!(config.application_name(), None);
    assert_eq!(parse("port=1 port=2").hosts[0].port, 2, "the last one counts");
}

#[test]
fn a_uri_says_the_same() {
    let uri = "postgresql://al%20ice:p%40ss@db1:5433,[::1],/db%2Fname?sslmode=verify-full&application_name=a%26b";
    let config = parse(uri);
    assert_eq!(config.hosts, [tcp("db1", 5433), tcp("::1", 5432), Host { address: Address::Unix(None), port: 5432 }]);
    assert_eq!((config.user(), config.dbname(), config.ssl_mode()), ("al ice", Some("db/name"), SslMode::VerifyFull));
    assert_eq!(config.password, Some(Secret::new(b"p@ss".to_vec())));
    assert_eq!(config.application_name(), Some("a&b"));
    let socket = parse("postgres://%2Fvar%2Frun/db?ssl=true&port=7");
    assert_eq!(socket.hosts, [Host { address: Address::Unix(Some("/var/run".into())), port: 7 }]);
    assert_eq!(socket.ssl_mode(), SslMode::Require);
    assert_eq!(parse("postgres:///db?host=@sock").hosts, [Host { address: Address::Unix(Some("@sock".into())), port: 5432 }]);
    assert_eq!(parse("postgresql://").hosts, parse("").hosts);
    assert_eq!(parse("postgres://u:a?b@h/d?user=v").user(), "v");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, keyword) in [
        ("hots=x", "hots"),
        ("host", "host"),
        ("host x", "host"),
        ("=x", "an option without a name"),
        ("password='x", "password"),
        ("port=0", "port"),
        ("port=65536", "port"),
        ("port=1,2", "port"),
        ("host=a,b port=1,2,3", "port"),
        ("host=a,b hostaddr=127.0.0.1", "hostaddr"),
        ("hostaddr=db", "hostaddr"),
        ("sslmode=verify", "sslmode"),
        ("sslmode=require sslrootcert=system", "sslmode"),
        ("sslnegotiation=direct", "sslnegotiation"),
        ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "ssl_min_protocol_version"),
        ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version"),
        ("sslsni=yes", "sslsni"),
        ("sslcrl=/x", "sslcrl"),
        ("service=x", "service"),
        ("replication=database", "replication"),
        ("gssencmode=require", "gssencmode"),
        ("channel_binding=on", "channel_binding"),
        ("connect_timeout=ten", "connect_timeout"),
        ("require_auth=md5,!password", "require_auth"),
        ("require_auth=md5,md5", "require_auth"),
        ("require_auth=kerberos", "require_auth"),
        ("target_session_attrs=master", "target_session_attrs"),
        ("load_balance_hosts=on", "load_balance_hosts"),
        ("min_protocol_version=3.1", "min_protocol_version"),
        ("min_protocol_version=3.2 max_protocol_version=3.0", "min_protocol_version"),
        ("postgres://h%zz/", "host"),
        ("postgres://u:%00@h/", "password"),
        ("postgres://h:x/", "port"),
        ("postgres://[::1/", "host"),
        ("postgres://[::1]x/", "host"),
        ("postgres://h/?sslmode", "sslmode"),
        ("postgres://h/?sslmode=a=b", "sslmode"),
        ("postgres://h/?nope=1", "nope"),
        ("postgres://h/%FF", "dbname"),
    ] {
        let (named, message) = problem(text);
        assert_eq!(named, keyword, "{text}: {message}");
        assert!(message.starts_with(keyword), "{message}");
    }
}

#[test]
fn the_environment_stands_in_and_is_named() {
    let with = |variables: &[(&str, &str)], text| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, &Environment::new(variables).with_user("operator"))
    };
    let config = with(&[("PGHOST", "a,b"), ("PGPORT", "1"), ("PGUSER", "bob"), ("PGAPPNAME", "env")], "user=carol").unwrap();
    assert_eq!(config.hosts, [tcp("a", 1), tcp("b", 1)]);
    assert_eq!((config.user(), config.application_name()), ("carol", Some("env")));
    assert_eq!(with(&[("PGSSLMODE", "on")], "").unwrap_err().to_string().find("sslmode (from PGSSLMODE): "), Some(0));
    assert_eq!(with(&[("PGSSLMODE", "on")], "sslmode=disable").unwrap().ssl_mode(), SslMode::Disable);
    assert_eq!(with(&[("PGSSLROOTCERT", "system")], "").unwrap().ssl_mode(), SslMode::VerifyFull);
    assert_eq!(with(&[("PGREQUIRESSL", "1")], "").unwrap().ssl_mode(), SslMode::Require);
    assert_eq!(with(&[("PGSERVICE", "x")], "").unwrap_err().keyword, "service");
    assert_eq!(with(&[("PGHOST", "x")], "host=''").unwrap().hosts[0].address, Address::Unix(None));
}

#[test]
fn names_and_times_have_defaults_of_the_caller() {
    assert_eq!(parse("").or_application_name("sink").application_name(), Some("sink"));
    assert_eq!(parse("fallback_application_name=f").or_application_name("sink").application_name(), Some("f"));
    assert_eq!(parse("application_name=a fallback_application_name=f").or_application_name("sink").application_name(), Some("a"));
    let ten = Duration::from_secs(10);
    assert_eq!(parse("").or_connect_timeout(ten).connect_timeout, Some(ten));
    assert_eq!(parse("connect_timeout=3").or_connect_timeout(ten).connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(parse("connect_timeout=0").or_connect_timeout(ten).connect_timeout, Some(Duration::MAX));
}

#[test]
fn methods_are_taken_or_left_out() {
    use AuthMethod as M;
    assert_eq!(parse("require_auth=scram-sha-256,none").require_auth, Some(vec![M::None, M::ScramSha256]));
    assert_eq!(parse("require_auth=!password,!md5").require_auth, Some(vec![M::Gss, M::None, M::Oauth, M::ScramSha256, M::Sspi]));
    assert_eq!(parse("").require_auth, None);
}

#[test]
fn a_password_is_never_shown() {
    let secret = "hunter2";
    let config = parse(&format!("password={secret}"));
    assert!(!format!("{config:?}").contains(secret));
    let environment = Environment::new([("PGPASSWORD".to_owned(), secret.to_owned())]).with_user("operator");
    assert!(!format!("{environment:?} {:?}", Config::parse("", &environment)).contains(secret));
    for text in [format!("password='{secret}"), format!("postgres://u:{secret}%zz@h/"), format!("password={secret} port=x")] {
        assert!(!problem(&text).1.contains(secret));
    }
}

#[test]
fn every_keyword_is_there_once() {
    let names: std::collections::BTreeSet<_> = keyword::KEYWORDS.iter().map(|keyword| keyword.name).collect();
    assert_eq!(names.len(), keyword::KEYWORDS.len());
    for keyword in keyword::KEYWORDS {
        if let keyword::Treatment::Refused(why) = keyword.treatment {
            assert_eq!(problem(&format!("{}=x", keyword.name)), (keyword.name.to_owned(), format!("{}: {why}", keyword.name)));
        }
    }
}

mod passfiles {
    use super::passfile::{Wanted, find};
    use super::*;

    fn look(content: &str, host: &str, user: &str) -> Option<String> {
        let wanted = Wanted { host, port: 5432, dbname: "replication", user };
        find(content.as_bytes(), wanted).map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let content = "# a:b:c:d:e\nnonsense\ndb:5432:replication:bob:first\r\n*:*:*:bob:second\ndb:5433:*:*:other\n";
        assert_eq!(look(content, "db", "bob").as_deref(), Some("first"));
        assert_eq!(look(content, "db2", "bob").as_deref(), Some("second"));
        assert_eq!(look(content, "db", "eve"), None);
        assert_eq!(look("", "db", "bob"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(look(r"\:\:1:*:*:a\\b:p\:w\\x:rest", "::1", r"a\b").as_deref(), Some(r"p:w\x"));
        assert_eq!(look(r"\*:*:*:u:p", "h", "u"), None, "only a bare star is one");
        assert_eq!(look(r"h\", "h", "u"), None);
        assert_eq!(look("h:5432:replication:u:", "h", "u"), None, "an empty password is none");
    }

    #[test]
    fn hosts_have_their_names() {
        let name = |text| parse(text).hosts[0].passfile_name();
        assert_eq!(name(""), "localhost");
        assert_eq!(name("host=/var/run/postgresql"), "localhost");
        assert_eq!(name("host=/tmp"), "/tmp");
        assert_eq!(name("host=db hostaddr=127.0.0.1"), "db");
        assert_eq!(name("hostaddr=127.0.0.1"), "127.0.0.1");
    }

    proptest! {
        #[test]
        fn any_file_is_an_answer(content: Vec<u8>) {
            drop(find(&content, Wanted { host: "h", port: 1, dbname: "d", user: "u" }));
        }

        #[test]
        fn what_is_escaped_is_found(user in "[^\n\r\0]{1,12}", password in "[^\n\r\0]{1,12}") {
            let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
            let line = format!("*:*:*:{}:{}", escape(&user), escape(&password));
            prop_assert_eq!(look(&line, "h", &user), Some(password));
        }
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>().prop_filter("no NUL", |c| *c != '\0'), 1..12).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn quoted_values_come_back(user in any_text(), password in any_text()) {
        let quote = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        let config = parse(&format!("user={} password={}", quote(&user), quote(&password)));
        prop_assert_eq!(config.user(), user);
        prop_assert_eq!(config.password, Some(Secret::new(password.into_bytes())));
    }

    #[test]
    fn encoded_values_come_back(user in any_text(), dbname in any_text(), name in any_text()) {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let config = parse(&format!("postgresql://{}@h/{}?application_name={}", encode(&user), encode(&dbname), encode(&name)));
        prop_assert_eq!(config.user(), user);
        prop_assert_eq!(config.dbname(), Some(&*dbname));
        prop_assert_eq!(config.application_name(), Some(&*name));
    }

    #[test]
    fn any_string_is_an_answer_or_an_error(text: String, scheme in prop::sample::select(vec!["", "postgres://", "host="])) {
        drop(Config::parse(&format!("{scheme}{text}"), &environment()));
    }
}
