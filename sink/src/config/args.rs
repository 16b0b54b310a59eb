//! The flags of `beyond-pg-sink serve`.

use std::fmt;
use std::path::PathBuf;

/// A text that may have a password in it, and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text itself. Not to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

const EXAMPLE: &str = "\
Example:
  On the primary (postgresql.conf):
      synchronous_standby_names = 'FIRST 1 (\"beyond-pg-sink\")'
      synchronous_commit = on

  On another host:
      beyond-pg-sink serve --data-dir /var/lib/beyond-pg-sink --slot beyond_pg_sink \\
          --upstream 'host=10.0.0.5 user=replicator passfile=/etc/sink/pgpass sslmode=require' \\
          --https 0.0.0.0:8432 --https-name sink.example.com --keep-size 100GB

  The same as a file, for --config:
      data-dir = \"/var/lib/beyond-pg-sink\"
      upstream = \"host=10.0.0.5 user=replicator passfile=/etc/sink/pgpass sslmode=require\"
      https = \"0.0.0.0:8432\"
      https-name = [\"sink.example.com\"]
      keep-size = \"100GB\"

  A flag wins over the environment, the environment over the file, the file over the default.
  Each flag --some-name is BEYOND_PG_SINK_SOME_NAME in the environment and some-name in the file.";

/// The flags of `beyond-pg-sink serve`, as they were given. [`super::ServeConfig::resolve`] makes sense of them.
// All texts: so that one from a flag, the environment or the file is read, and found fault with, in the same way.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub struct ServeArgs {
    /// A TOML file with the settings below, each under its flag's name without the dashes.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_CONFIG")]
    pub config: Option<PathBuf>,

    /// The folder for the WAL; made when it is not there. Required.
    ///
    /// One cluster's WAL, and one sink at a time. Files are named as Postgres names them, so that its tools can read the folder.
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_SINK_DATA_DIR")]
    pub data_dir: Option<String>,

    /// The primary: a libpq connection string or URI. Required.
    ///
    /// As psql takes it, PG* environment variables and passfile included; the role needs the REPLICATION attribute, and pg_hba.conf
    /// a line for the database `replication`. A password is better kept in a passfile: flags are seen by every user of the host.
    #[arg(long, value_name = "CONNINFO", env = "BEYOND_PG_SINK_UPSTREAM", hide_env_values = true, help_heading = "Receiving")]
    pub upstream: Option<SecretText>,

    /// The replication slot on the primary [default: beyond_pg_sink].
    ///
    /// It keeps the WAL that the sink has not yet received. A slot whose sink is gone for good fills the primary's disk: drop it by
    /// pg_drop_replication_slot, or bound it by max_slot_wal_keep_size.
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_SINK_SLOT", help_heading = "Receiving")]
    pub slot: Option<String>,

    /// Fail where the slot does not exist, instead of making it.
    #[arg(
        long, value_name = "BOOL", env = "BEYOND_PG_SINK_NO_CREATE_SLOT", help_heading = "Receiving",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub no_create_slot: Option<String>,

    /// The name that the sink has on the primary [default: beyond-pg-sink].
    ///
    /// It is what synchronous_standby_names has to list for commits to wait for this sink, and what pg_stat_replication shows.
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_SINK_APPLICATION_NAME", help_heading = "Receiving")]
    pub application_name: Option<String>,

    /// What is reported to the primary as applied: none or flush [default: none].
    ///
    /// A sink applies nothing. With `none`, commits under synchronous_commit = remote_apply wait for ever, or for another standby.
    /// With `flush`, what is durable here is reported as applied: such commits then return before any standby has applied them, so a
    /// query on a standby may miss what was committed before it.
    #[arg(long, value_name = "none|flush", env = "BEYOND_PG_SINK_ACK", help_heading = "Receiving")]
    pub ack: Option<String>,

    /// How often the primary is told where the sink is when nothing happens [default: 10s].
    ///
    /// Must be well below the primary's wal_sender_timeout. What is written or flushed is reported at once, whatever this says.
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_STATUS_INTERVAL", help_heading = "Receiving")]
    pub status_interval: Option<String>,

    /// How long to poll for more WAL before going to sleep, 0 for never [default: 300us].
    ///
    /// Being woken takes longer than all else that the sink does for a commit. So it polls while WAL comes at shorter intervals than
    /// this, and uses up to one processor then; it sleeps as soon as the primary has less to do.
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_BUSY_POLL", help_heading = "Receiving")]
    pub busy_poll: Option<String>,

    /// Remove the oldest segments when there is more WAL than this, as 100GB [default: keep all].
    #[arg(long, value_name = "SIZE", env = "BEYOND_PG_SINK_KEEP_SIZE", help_heading = "Keeping")]
    pub keep_size: Option<String>,

    /// Remove segments that were finished longer ago than this, as 7d [default: keep all].
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_KEEP_AGE", help_heading = "Keeping")]
    pub keep_age: Option<String>,

    /// Keep this many of the newest segments, whatever --keep-size and --keep-age say [default: 16].
    ///
    /// A primary that is recovered from this sink needs all WAL from its last checkpoint on: keep at least max_wal_size.
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_SINK_KEEP_SEGMENTS", help_heading = "Keeping")]
    pub keep_segments: Option<String>,

    /// Where to serve HTTPS, as HOST:PORT [default: 127.0.0.1:8432].
    ///
    /// TLS is always on. The default is reached from this host alone: give an address of it to be reached from others.
    #[arg(long, value_name = "ADDR", env = "BEYOND_PG_SINK_HTTPS", help_heading = "HTTPS")]
    pub https: Option<String>,

    /// A further host name or address that clients use, for the certificate that the sink makes itself. May be repeated.
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_SINK_HTTPS_NAME", help_heading = "HTTPS", value_delimiter = ',')]
    pub https_name: Vec<String>,

    /// A certificate of your own, with its chain, as PEM; read again when it changes [default: DATA-DIR/tls/server.pem, made by the
    /// sink].
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_TLS_CERT", help_heading = "HTTPS")]
    pub tls_cert: Option<String>,

    /// The private key of --tls-cert, as PEM.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_TLS_KEY", help_heading = "HTTPS")]
    pub tls_key: Option<String>,

    /// The file with the bearer token that clients must show; read again when it changes [default: DATA-DIR/token, made by the sink].
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_TOKEN_FILE", help_heading = "HTTPS")]
    pub token_file: Option<String>,

    /// Let clients in by certificate: those that chain to this authority need no token.
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_SINK_CLIENT_CA", help_heading = "HTTPS")]
    pub client_ca: Option<String>,

    /// Refuse every client without a certificate of --client-ca, those of /healthz and /readyz as well.
    #[arg(
        long, value_name = "BOOL", env = "BEYOND_PG_SINK_REQUIRE_CLIENT_CERT", help_heading = "HTTPS",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub require_client_cert: Option<String>,

    /// Serve /metrics without a token.
    #[arg(
        long, value_name = "BOOL", env = "BEYOND_PG_SINK_METRICS_PUBLIC", help_heading = "HTTPS",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub metrics_public: Option<String>,

    /// How many HTTPS connections may be open at once; those beyond are answered 503 [default: 1024].
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_SINK_HTTPS_CONNECTIONS", help_heading = "HTTPS limits")]
    pub https_connections: Option<String>,

    /// How many requests may be answered at once; half of them may be waits for WAL [default: 1024].
    #[arg(long, value_name = "NUMBER", env = "BEYOND_PG_SINK_HTTPS_REQUESTS", help_heading = "HTTPS limits")]
    pub https_requests: Option<String>,

    /// How long a TLS handshake may take [default: 10s].
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_HTTPS_HANDSHAKE_TIMEOUT", help_heading = "HTTPS limits")]
    pub https_handshake_timeout: Option<String>,

    /// How long the headers of a request may take to arrive, and an HTTP/1.1 connection may be silent between two requests [default:
    /// 15s].
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_HTTPS_HEADER_TIMEOUT", help_heading = "HTTPS limits")]
    pub https_header_timeout: Option<String>,

    /// How long an HTTP/2 connection without a request is kept [default: 75s].
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_HTTPS_IDLE_TIMEOUT", help_heading = "HTTPS limits")]
    pub https_idle_timeout: Option<String>,

    /// How long a client may take nothing of its answer before it is cut off [default: 60s].
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_SINK_HTTPS_STALL_TIMEOUT", help_heading = "HTTPS limits")]
    pub https_stall_timeout: Option<String>,

    /// How log lines are written: text or json [default: text].
    #[arg(long, value_name = "text|json", env = "BEYOND_PG_SINK_LOG_FORMAT", help_heading = "Logging")]
    pub log_format: Option<String>,

    /// What is logged: error, warn, info, debug or trace, or a filter as info,sink=debug [default: info].
    #[arg(long, value_name = "LEVEL", env = "BEYOND_PG_SINK_LOG_LEVEL", help_heading = "Logging")]
    pub log_level: Option<String>,
}

impl ServeArgs {
    /// Each setting's key with what the flag or the environment says.
    pub(super) fn entries(&self) -> [(&'static str, Option<String>); 28] {
        let names = (!self.https_name.is_empty()).then(|| self.https_name.join(","));
        [
            ("data-dir", self.data_dir.clone()),
            ("upstream", self.upstream.as_ref().map(|text| text.expose().to_owned())),
            ("slot", self.slot.clone()),
            ("no-create-slot", self.no_create_slot.clone()),
            ("application-name", self.application_name.clone()),
            ("ack", self.ack.clone()),
            ("status-interval", self.status_interval.clone()),
            ("busy-poll", self.busy_poll.clone()),
            ("keep-size", self.keep_size.clone()),
            ("keep-age", self.keep_age.clone()),
            ("keep-segments", self.keep_segments.clone()),
            ("https", self.https.clone()),
            ("https-name", names),
            ("tls-cert", self.tls_cert.clone()),
            ("tls-key", self.tls_key.clone()),
            ("token-file", self.token_file.clone()),
            ("client-ca", self.client_ca.clone()),
            ("require-client-cert", self.require_client_cert.clone()),
            ("metrics-public", self.metrics_public.clone()),
            ("https-connections", self.https_connections.clone()),
            ("https-requests", self.https_requests.clone()),
            ("https-handshake-timeout", self.https_handshake_timeout.clone()),
            ("https-header-timeout", self.https_header_timeout.clone()),
            ("https-idle-timeout", self.https_idle_timeout.clone()),
            ("https-stall-timeout", self.https_stall_timeout.clone()),
            ("log-format", self.log_format.clone()),
            ("log-level", self.log_level.clone()),
            ("config", None),
        ]
    }
}
