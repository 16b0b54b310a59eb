use super::*;
use clap::{CommandFactory, Parser};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    serve: ServeArgs,
}

fn resolve(flags: &[&str], file: &str) -> Result<ServeConfig, ConfigError> {
    let args = Command::try_parse_from([&["serve"], flags].concat()).unwrap().serve;
    ServeConfig::resolve_with(&args, Some((Path::new("sink.toml"), file)))
}

const NEEDED: &str = "data-dir = '/d'\nupstream = 'host=a'\n";

#[test]
fn every_flag_has_its_variable_and_its_key() {
    let command = Command::command();
    let keys: Vec<&str> = ServeArgs::default().entries().map(|(key, _)| key).to_vec();
    let mut flags = Vec::new();
    for arg in command.get_arguments() {
        let flag = arg.get_long().unwrap();
        let variable = format!("BEYOND_PG_SINK_{}", flag.to_ascii_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()));
        assert!(arg.get_help().is_some(), "{flag} has no help");
        assert!(keys.contains(&flag), "{flag} is no key");
        flags.push(flag);
    }
    assert_eq!(flags.len(), keys.len());
}

#[test]
fn every_entry_is_read_from_its_own_flag() {
    for (key, _) in ServeArgs::default().entries().into_iter().filter(|(key, _)| *key != "config") {
        let args = Command::try_parse_from(["serve", &format!("--{key}=1")]).unwrap().serve;
        let given: Vec<_> = args.entries().into_iter().filter(|(_, value)| value.is_some()).collect();
        assert_eq!(given, [(key, Some("1".to_owned()))]);
    }
}

#[test]
fn defaults_are_those_that_the_help_names() {
    let config = resolve(&[], NEEDED).unwrap();
    assert_eq!(config.slot, "beyond_pg_sink");
    assert!(config.create_slot);
    assert_eq!(config.application_name, None);
    assert_eq!(config.ack, Ack::None);
    assert_eq!(config.status_interval, Duration::from_secs(10));
    assert_eq!(config.busy_poll, Duration::from_micros(300));
    assert_eq!(config.keep, Keep { size: None, age: None, segments: 16 });
    assert_eq!(config.https.listen, "127.0.0.1:8432");
    assert_eq!(config.https.names, ["127.0.0.1"]);
    assert_eq!(config.https.limits, Limits::default());
    assert_eq!((config.log_format, config.log_filter.as_str()), (LogFormat::Text, "info"));
    let help = Command::command().render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    for default in [
        "beyond_pg_sink]",
        "beyond-pg-sink]",
        "none]",
        "10s]",
        "300us]",
        "16]",
        "127.0.0.1:8432]",
        "1024]",
        "15s]",
        "75s]",
        "60s]",
        "info]",
    ] {
        assert!(help.contains(&format!("[default: {default}")), "{default}");
    }
}

#[test]
fn a_flag_wins_over_the_file() {
    let file = format!("{NEEDED}keep-size = '1GB'\nack = 'flush'\nhttps-connections = 7\nmetrics-public = true\n");
    let config = resolve(&["--keep-size", "2GB", "--https-name", "a.example,b.example", "--no-create-slot"], &file).unwrap();
    assert_eq!(config.keep.size, Some(2 << 30));
    assert_eq!(config.ack, Ack::Flush);
    assert_eq!(config.https.limits.connections, 7);
    assert_eq!(config.https.names, ["a.example", "b.example", "127.0.0.1"]);
    assert!(config.https.metrics_public && !config.create_slot);
    assert!(!resolve(&["--metrics-public=false"], &file).unwrap().https.metrics_public);
}

#[test]
fn the_environment_lies_between_flag_and_file() {
    const VARIABLE: &str = "BEYOND_PG_SINK_KEEP_SIZE";
    const NAME: &str = "config::serve::tests::the_environment_lies_between_flag_and_file";
    if std::env::var_os(VARIABLE).is_none() {
        // The environment is the whole process's, so a child gets one of its own.
        let child =
            std::process::Command::new(std::env::current_exe().unwrap()).args(["--exact", NAME]).env(VARIABLE, "3GB").output();
        let child = child.unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    let file = format!("{NEEDED}keep-size = '1GB'\n");
    assert_eq!(resolve(&[], &file).unwrap().keep.size, Some(3 << 30));
    assert_eq!(resolve(&["--keep-size=2GB"], &file).unwrap().keep.size, Some(2 << 30));
}

#[test]
fn all_faults_are_told_at_once_each_by_its_names() {
    let flags = ["--keep-age=7 days", "--ack=apply", "--slot=Sink", "--tls-cert=c.pem", "--require-client-cert"];
    let ConfigError(faults) = resolve(&flags, "status-interval = '0'\nbusy-poll = '1s'").unwrap_err();
    for name in ["data-dir", "upstream", "keep-age", "ack", "slot", "tls-key", "client-ca", "status-interval", "busy-poll"] {
        let variable = name.to_ascii_uppercase().replace('-', "_");
        let names = format!("(set by --{name}, BEYOND_PG_SINK_{variable}, or {name} in the --config file)");
        assert!(faults.iter().any(|fault| fault.starts_with(name) && fault.ends_with(&names)), "{name} in {faults:#?}");
    }
    assert_eq!(faults.len(), 9, "{faults:#?}");
}

#[test]
fn an_unknown_key_is_an_error_with_the_file_in_it() {
    let error = resolve(&[], &format!("{NEEDED}keep_size = '1GB'")).unwrap_err().to_string();
    assert_eq!(error, "--config sink.toml: there is no setting \"keep_size\": is keep-size meant?");
    assert!(resolve(&[], &format!("{NEEDED}[clusters.a]\nslot = 'b'")).is_err());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let args = ServeArgs { config: Some("/nowhere/sink.toml".into()), ..ServeArgs::default() };
    let error = ServeConfig::resolve(&args).unwrap_err().to_string();
    assert!(error.starts_with("--config /nowhere/sink.toml: can't be read"), "{error}");
}

#[test]
fn a_password_is_not_shown() {
    let flags = ["--data-dir=/d", "--upstream", "host=a password=sesame"];
    let args = Command::try_parse_from([&["serve"], &flags[..]].concat()).unwrap();
    assert!(!format!("{args:?}").contains("sesame"));
    let config = resolve(&flags, "").unwrap();
    assert!(!format!("{config:?}").contains("sesame"));
    assert_eq!(config.upstream.expose(), "host=a password=sesame");
}

#[test]
fn addresses_are_checked() {
    for good in ["0.0.0.0:8432", "[::]:1", "sink.example.com:443", "localhost:0"] {
        assert_eq!(parse_address(good).as_deref(), Ok(good));
    }
    for bad in ["", "8432", ":8432", "::1:8432", "a b:1", "host:", "host:70000", "[::1:1", "[x]:1"] {
        assert!(parse_address(bad).is_err(), "{bad}");
    }
}
