//! The command line of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use walbus::units::{parse_duration, parse_size};

use crate::log::Epoch;

const EXAMPLES: &str = "\
Examples:
  A first start, which makes slot and publication:
    beyond-pg-cdc serve --data-dir /var/lib/beyond-pg-cdc --upstream 'host=db1 user=cdc dbname=shop' \\
        --publication shop --create-slot --create-publication

  Then, with what it prints:
    walcat quic://cdc1:8433 --ca CA.pem --token-file TOKEN --table 'public.*' --from earliest

The role needs the REPLICATION attribute, and the server wal_level = logical.

The settings as a file, for --config:
    data-dir = \"/var/lib/beyond-pg-cdc\"
    upstream = \"host=db1 user=cdc dbname=shop\"
    publication = [\"shop\"]
    create-slot = true

A flag wins over the environment, the environment over the file, the file over the default.
Each flag --some-name is BEYOND_PG_CDC_SOME_NAME in the environment and some-name in the file.";

/// The variable that names the file of settings.
pub(crate) const CONFIG_VARIABLE: &str = "BEYOND_PG_CDC_CONFIG";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Follow one slot, keep its changes, and serve them to consumers.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES, next_display_order = None)]
pub struct ServeArgs {
    /// A TOML file with the settings below, each under its flag's name without the dashes
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub config: Option<PathBuf>,

    /// The folder for the event log, certificates and the places of consumers; made when it is not there
    #[arg(long, value_name = "DIR", env = "BEYOND_PG_CDC_DATA_DIR")]
    pub data_dir: PathBuf,

    /// The primary: a libpq connection string or URI, with the database to follow
    ///
    /// As psql takes it, PG* environment variables and passfile included. From PostgreSQL 16 on it may be a standby.
    #[arg(long, value_name = "CONNINFO", env = "BEYOND_PG_CDC_UPSTREAM", hide_env_values = true, help_heading = "Source")]
    pub upstream: String,

    /// The logical replication slot
    ///
    /// It keeps the WAL that is not yet in the event log. A slot whose program is gone for good fills the primary's disk: drop it by
    /// pg_drop_replication_slot, or bound it by max_slot_wal_keep_size.
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_CDC_SLOT", default_value = "beyond_pg_cdc", help_heading = "Source")]
    pub slot: String,

    /// The publications to follow
    #[arg(
        long,
        value_name = "NAME[,NAME…]",
        env = "BEYOND_PG_CDC_PUBLICATION",
        value_delimiter = ',',
        required = true,
        help_heading = "Source"
    )]
    pub publication: Vec<String>,

    /// Make the slot where there is none
    #[arg(long, env = "BEYOND_PG_CDC_CREATE_SLOT", help_heading = "Source")]
    pub create_slot: bool,

    /// Make a publication that is not there, for all tables
    #[arg(long, env = "BEYOND_PG_CDC_CREATE_PUBLICATION", help_heading = "Source")]
    pub create_publication: bool,

    /// Leave this epoch of the log, and begin a new one where the slot stands
    ///
    /// For a slot that was lost or made anew: the log says so, with the epoch to give. What the log holds of it is removed, and consumers are told that
    /// there is a gap. Once it is left, the flag does nothing more.
    #[arg(long, value_name = "EPOCH", env = "BEYOND_PG_CDC_NEW_EPOCH", help_heading = "Source")]
    pub new_epoch: Option<Epoch>,

    /// Follow logical messages (pg_logical_emit_message) as well
    ///
    /// Large transactions then come when they are committed and not while they run: Postgres does not tell which savepoint wrote a message,
    /// and one that was rolled back must not be seen.
    #[arg(long, env = "BEYOND_PG_CDC_MESSAGES", help_heading = "Source")]
    pub messages: bool,

    /// Have a slot that is made decode transactions at their PREPARE TRANSACTION
    #[arg(long, env = "BEYOND_PG_CDC_TWO_PHASE", help_heading = "Source")]
    pub two_phase: bool,

    /// Have a slot that is made kept in step on standbys, so that it outlives a failover (PostgreSQL 17 and later)
    #[arg(long, env = "BEYOND_PG_CDC_FAILOVER", help_heading = "Source")]
    pub failover: bool,

    /// The name on the primary, as pg_stat_replication shows it [default: beyond-pg-cdc]
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_CDC_APPLICATION_NAME", help_heading = "Source")]
    pub application_name: Option<String>,

    /// The longest time without a report to the primary
    #[arg(
        long, value_name = "DURATION", env = "BEYOND_PG_CDC_STATUS_INTERVAL", default_value = "10s", value_parser = positive_duration,
        help_heading = "Source"
    )]
    pub status_interval: Duration,

    /// How much memory transactions that are not committed may take; what is more is spooled to the data folder
    #[arg(
        long, value_name = "SIZE", env = "BEYOND_PG_CDC_MEMORY", default_value = "16MB", value_parser = parse_size,
        help_heading = "Source"
    )]
    pub memory: u64,

    /// How long the disk of the data folder may be full before the connection to the primary is given up
    ///
    /// While it is full nothing is read, and a primary that is shut down waits for that. It connects again once there is room.
    #[arg(
        long, value_name = "DURATION", env = "BEYOND_PG_CDC_DISK_FULL_TIMEOUT", default_value = "60s", value_parser = positive_duration,
        help_heading = "Source"
    )]
    pub disk_full_timeout: Duration,

    /// Where to serve consumers over QUIC, as HOST:PORT; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR", env = "BEYOND_PG_CDC_QUIC", default_value = "127.0.0.1:8433", help_heading = "Consumers")]
    pub quic: String,

    /// A further host name or address that consumers use, for the certificate that the server makes itself; may be repeated
    #[arg(long, value_name = "NAME", env = "BEYOND_PG_CDC_QUIC_NAME", value_delimiter = ',', help_heading = "Consumers")]
    pub quic_name: Vec<String>,

    /// A certificate of your own, with its chain, as PEM; read again when it changes [default: DATA-DIR/tls/server.pem]
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_CDC_TLS_CERT", help_heading = "Consumers")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, as PEM
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_CDC_TLS_KEY", help_heading = "Consumers")]
    pub tls_key: Option<PathBuf>,

    /// The file with the bearer token; read again when it changes [default: DATA-DIR/token]
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_CDC_TOKEN_FILE", help_heading = "Consumers")]
    pub token_file: Option<PathBuf>,

    /// Let consumers in by certificate: those that chain to this authority need no token
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_CDC_CLIENT_CA", help_heading = "Consumers")]
    pub client_ca: Option<PathBuf>,

    /// Which principal may read which tables, as TOML; without it, whoever is let in reads all
    #[arg(long, value_name = "FILE", env = "BEYOND_PG_CDC_PRINCIPALS", help_heading = "Consumers")]
    pub principals: Option<PathBuf>,

    /// Where to serve health, metrics and lists over HTTP, as HOST:PORT; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDR", env = "BEYOND_PG_CDC_HTTP", default_value = "127.0.0.1:8434", help_heading = "Consumers")]
    pub http: String,

    /// Remove the oldest changes when the log is larger than this, as 100GB [default: keep all]
    #[arg(long, value_name = "SIZE", env = "BEYOND_PG_CDC_KEEP_SIZE", value_parser = parse_size, help_heading = "Keeping")]
    pub keep_size: Option<u64>,

    /// Remove changes that were committed longer ago than this, as 7d [default: keep all]
    #[arg(long, value_name = "DURATION", env = "BEYOND_PG_CDC_KEEP_AGE", value_parser = positive_duration, help_heading = "Keeping")]
    pub keep_age: Option<Duration>,

    /// How log lines are written
    #[arg(long, env = "BEYOND_PG_CDC_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, or a filter as info,cdc=debug
    #[arg(long, value_name = "LEVEL", env = "BEYOND_PG_CDC_LOG_LEVEL", default_value = "info", help_heading = "Logging")]
    pub log_level: String,
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}
