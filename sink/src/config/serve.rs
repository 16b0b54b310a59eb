//! The settings of `beyond-pg-sink serve`, made sense of.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tracing_subscriber::EnvFilter;
use walbus::service::settings;
use walbus::units::{parse_duration, parse_size};

use super::args::{SecretText, ServeArgs};
use crate::https::Limits;

/// The name on the primary, unless the settings or the connection string give another.
pub const DEFAULT_APPLICATION_NAME: &str = "beyond-pg-sink";

const DEFAULT_HTTPS: &str = "127.0.0.1:8432";
const DEFAULT_SLOT: &str = "beyond_pg_sink";
const DEFAULT_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Longer than what a primary with one busy client needs from a report to its next commit, and short beside any wait that is noticed.
const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(300);
const BUSY_POLL_MAX: Duration = Duration::from_millis(10);
const DEFAULT_KEEP_SEGMENTS: u64 = 16;

/// The longest slot name: Postgres' `NAMEDATALEN` less one.
const SLOT_BYTES_MAX: usize = 63;

/// What is reported to the primary as applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// What is flushed, though nothing was applied.
    Flush,
    /// Nothing.
    None,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// For people.
    Text,
}

/// Which WAL is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The most bytes of WAL, `None` for no bound.
    pub size: Option<u64>,
    /// The greatest age, `None` for no bound.
    pub age: Option<Duration>,
    /// How many of the newest segments stay, whatever the bounds say.
    pub segments: u64,
}

/// How HTTPS is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsConfig {
    /// Where to listen, `HOST:PORT`.
    pub listen: String,
    /// Further names for the sink's own certificate, the host of `listen` among them.
    pub names: Vec<String>,
    /// A certificate of the user's and its key; `None` for the sink's own.
    pub cert_and_key: Option<(PathBuf, PathBuf)>,
    /// A token of the user's; `None` for the sink's own.
    pub token_file: Option<PathBuf>,
    /// The authority of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether every client needs one.
    pub require_client_cert: bool,
    /// Whether `/metrics` needs no token.
    pub metrics_public: bool,
    /// What clients may cost.
    pub limits: Limits,
}

/// The settings of `beyond-pg-sink serve`.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The folder of the WAL.
    pub data_dir: PathBuf,
    /// The primary's connection string.
    pub upstream: SecretText,
    /// The slot.
    pub slot: String,
    /// Whether to make the slot where there is none.
    pub create_slot: bool,
    /// The name on the primary where it was set; else the connection string's, or [`DEFAULT_APPLICATION_NAME`].
    pub application_name: Option<String>,
    /// What is reported as applied.
    pub ack: Ack,
    /// The longest time without a report to the primary.
    pub status_interval: Duration,
    /// How long the link is polled before sleeping; zero is never.
    pub busy_poll: Duration,
    /// Which WAL is kept.
    pub keep: Keep,
    /// How HTTPS is served.
    pub https: HttpsConfig,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What is logged: a filter that `tracing_subscriber` takes.
    pub log_filter: String,
}

/// Settings that are missing or make no sense, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl ServeConfig {
    /// What flags and environment (both in `args`), the file that they name, and the defaults say, in this order. Reads that file.
    ///
    /// # Errors
    /// With every fault that was found, each naming its setting and the way out.
    pub fn resolve(args: &ServeArgs) -> Result<Self, ConfigError> {
        let text = match &args.config {
            None => None,
            Some(path) => {
                let failed = |error| ConfigError(vec![format!("--config {}: can't be read: {error}", path.display())]);
                Some((path.as_path(), std::fs::read_to_string(path).map_err(failed)?))
            }
        };
        Self::resolve_with(args, text.as_ref().map(|(path, text)| (*path, text.as_str())))
    }

    /// [`ServeConfig::resolve`] with the file's content given.
    pub(super) fn resolve_with(args: &ServeArgs, file: Option<(&Path, &str)>) -> Result<Self, ConfigError> {
        let mut settings = Settings::gather(args, file)?;
        let s = &mut settings;
        let config = Self {
            data_dir: s.required("data-dir", "the folder for the WAL", parse_path),
            upstream: SecretText::from(s.required("upstream", "the primary's connection string", parse_text)),
            slot: s.or("slot", DEFAULT_SLOT.to_owned(), parse_slot),
            create_slot: !s.or("no-create-slot", false, parse_bool),
            application_name: s.optional("application-name", parse_text),
            ack: s.or("ack", Ack::None, parse_ack),
            status_interval: s.or("status-interval", DEFAULT_STATUS_INTERVAL, parse_positive_duration),
            busy_poll: s.or("busy-poll", DEFAULT_BUSY_POLL, parse_busy_poll),
            keep: Keep {
                size: s.optional("keep-size", |text| parse_size(text).map_err(|error| error.to_string())),
                age: s.optional("keep-age", parse_positive_duration),
                segments: s.or("keep-segments", DEFAULT_KEEP_SEGMENTS, parse_number),
            },
            https: https(s),
            log_format: s.or("log-format", LogFormat::Text, parse_log_format),
            log_filter: s.or("log-level", "info".to_owned(), parse_log_level),
        };
        if settings.faults.is_empty() { Ok(config) } else { Err(ConfigError(settings.faults)) }
    }
}

fn https(s: &mut Settings) -> HttpsConfig {
    let listen = s.or("https", DEFAULT_HTTPS.to_owned(), parse_address);
    let mut names = s.or("https-name", Vec::new(), parse_names);
    let host = listen.rsplit_once(':').map_or("", |(host, _)| host);
    if !host.is_empty() {
        names.push(host.to_owned());
    }
    let (cert, key) = (s.optional("tls-cert", parse_path), s.optional("tls-key", parse_path));
    let cert_and_key = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            s.fault("tls-key", "is missing: --tls-cert needs the key of its certificate");
            None
        }
        (None, Some(_)) => {
            s.fault("tls-cert", "is missing: --tls-key needs the certificate that it is of");
            None
        }
    };
    let client_ca = s.optional("client-ca", parse_path);
    let require_client_cert = s.or("require-client-cert", false, parse_bool);
    if require_client_cert && client_ca.is_none() {
        s.fault("client-ca", "is missing: --require-client-cert needs the authority of the certificates that it requires");
    }
    let limits = Limits::default();
    HttpsConfig {
        listen,
        names,
        cert_and_key,
        token_file: s.optional("token-file", parse_path),
        client_ca,
        require_client_cert,
        metrics_public: s.or("metrics-public", false, parse_bool),
        limits: Limits {
            connections: s.or("https-connections", limits.connections, parse_count),
            requests: s.or("https-requests", limits.requests, parse_count),
            handshake_timeout: s.or("https-handshake-timeout", limits.handshake_timeout, parse_positive_duration),
            header_timeout: s.or("https-header-timeout", limits.header_timeout, parse_positive_duration),
            idle_timeout: s.or("https-idle-timeout", limits.idle_timeout, parse_positive_duration),
            stall_timeout: s.or("https-stall-timeout", limits.stall_timeout, parse_positive_duration),
            shutdown_timeout: limits.shutdown_timeout,
        },
    }
}

/// What is set, by key, and what was found wrong so far.
struct Settings {
    given: BTreeMap<&'static str, String>,
    faults: Vec<String>,
}

impl Settings {
    fn gather(args: &ServeArgs, file: Option<(&Path, &str)>) -> Result<Self, ConfigError> {
        let entries = args.entries();
        let known: Vec<&'static str> = entries.iter().map(|(key, _)| *key).filter(|key| *key != "config").collect();
        let mut given = match file {
            None => BTreeMap::new(),
            Some((path, text)) => settings::parse(text, &known, "beyond-pg-sink serve").map_err(|faults| {
                ConfigError(faults.into_iter().map(|fault| format!("--config {}: {fault}", path.display())).collect())
            })?,
        };
        given.extend(entries.into_iter().filter_map(|(key, value)| Some((key, value?))));
        Ok(Self { given, faults: Vec::new() })
    }

    fn fault(&mut self, key: &str, problem: &str) {
        let variable = key.to_ascii_uppercase().replace('-', "_");
        self.faults.push(format!("{key} {problem} (set by --{key}, BEYOND_PG_SINK_{variable}, or {key} in the --config file)"));
    }

    fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.given.get(key)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(key, &format!("can't be used: {problem}"));
                None
            }
        }
    }

    fn or<T>(&mut self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    fn required<T: Default>(&mut self, key: &'static str, what: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if !self.given.contains_key(key) {
            self.fault(key, &format!("is missing: {what}"));
        }
        self.or(key, T::default(), parse)
    }
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    parse_text(text).map(PathBuf::from)
}

fn parse_slot(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain && (1..=SLOT_BYTES_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no slot's name: Postgres takes up to {SLOT_BYTES_MAX} lower-case letters, digits and underscores"))
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn parse_ack(text: &str) -> Result<Ack, String> {
    match text {
        "flush" => Ok(Ack::Flush),
        "none" => Ok(Ack::None),
        _ => Err(format!("{text:?} is neither none nor flush")),
    }
}

fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration > BUSY_POLL_MAX => {
            Err(format!("it is more than {}ms: a sink with little to do is to sleep", BUSY_POLL_MAX.as_millis()))
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_no_number| format!("{text:?} is no whole number"))
}

fn parse_count(text: &str) -> Result<usize, String> {
    // What a semaphore can count.
    const MAX: usize = 1 << 20;
    match text.parse() {
        Ok(count @ 1..=MAX) => Ok(count),
        _ => Err(format!("{text:?} is no number from 1 to {MAX}")),
    }
}

fn parse_address(text: &str) -> Result<String, String> {
    let problem = || format!("{text:?} is no address: write HOST:PORT, as 0.0.0.0:8432, [::]:8432 or sink.example.com:8432");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    port.parse::<u16>().map_err(|_no_port| problem())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        // An IPv6 address without brackets is no telling where it ends.
        None => !host.contains(':') && ServerName::try_from(host).is_ok(),
    };
    if good { Ok(text.to_owned()) } else { Err(problem()) }
}

fn parse_names(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|name| parse_text(name.trim())).collect()
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}

fn parse_log_level(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is no level: error, warn, info, debug or trace, or a filter as info,sink=debug")),
    }
}

#[cfg(test)]
mod tests;
