//! The settings of the programs that run beside Postgres: passed on to them, under the names that they have there, as they are.

/// A program of this repository that init runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `beyond-pg-archiver`.
    Archiver,
    /// `beyond-pg-cdc`.
    Cdc,
    /// `beyond-pg-sink`.
    Sink,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Archiver, Self::Cdc, Self::Sink];

    /// What all names of its settings begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Archiver => "BEYOND_PG_ARCHIVE_",
            Self::Cdc => "BEYOND_PG_CDC_",
            Self::Sink => "BEYOND_PG_SINK_",
        }
    }

    /// The name of its file.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Archiver => "beyond-pg-archiver",
            Self::Cdc => "beyond-pg-cdc",
            Self::Sink => "beyond-pg-sink",
        }
    }

    /// The names of its settings, as its `--help` has them.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Archiver => &ARCHIVER,
            Self::Cdc => &CDC,
            Self::Sink => &SINK,
        }
    }
}

/// Names whose values may have a password in them.
pub(super) const SECRET: [&str; 3] = ["BEYOND_PG_ARCHIVE_FROM", "BEYOND_PG_CDC_UPSTREAM", "BEYOND_PG_SINK_UPSTREAM"];

/// Names that the repository's own scripts and tests read. In the environment, where such a script may have started us, they are skipped.
pub(super) const SCRIPTS: [&str; 8] = [
    "BEYOND_PG_BIN_15",
    "BEYOND_PG_BIN_16",
    "BEYOND_PG_BIN_17",
    "BEYOND_PG_BIN_18",
    "BEYOND_PG_CACHE",
    "BEYOND_PG_DEMO_CLIENTS",
    "BEYOND_PG_DEMO_RELEASE",
    "BEYOND_PG_KEEP",
];

const ARCHIVER: [&str; 16] = [
    "BEYOND_PG_ARCHIVE_ALLOW_HTTP",
    "BEYOND_PG_ARCHIVE_COMPRESS",
    "BEYOND_PG_ARCHIVE_FROM",
    "BEYOND_PG_ARCHIVE_HTTP",
    "BEYOND_PG_ARCHIVE_JOBS",
    "BEYOND_PG_ARCHIVE_KEY_FILE",
    "BEYOND_PG_ARCHIVE_LOG_LEVEL",
    "BEYOND_PG_ARCHIVE_PGDATA",
    "BEYOND_PG_ARCHIVE_SLOT",
    "BEYOND_PG_ARCHIVE_SOCKET",
    "BEYOND_PG_ARCHIVE_SPOOL",
    "BEYOND_PG_ARCHIVE_SPOOL_SIZE",
    "BEYOND_PG_ARCHIVE_STORE",
    "BEYOND_PG_ARCHIVE_SYSTEM_ID",
    "BEYOND_PG_ARCHIVE_TAIL_INTERVAL",
    "BEYOND_PG_ARCHIVE_TIMEOUT",
];

const CDC: [&str; 27] = [
    "BEYOND_PG_CDC_APPLICATION_NAME",
    "BEYOND_PG_CDC_CLIENT_CA",
    "BEYOND_PG_CDC_CONFIG",
    "BEYOND_PG_CDC_CREATE_PUBLICATION",
    "BEYOND_PG_CDC_CREATE_SLOT",
    "BEYOND_PG_CDC_DATA_DIR",
    "BEYOND_PG_CDC_DISK_FULL_TIMEOUT",
    "BEYOND_PG_CDC_FAILOVER",
    "BEYOND_PG_CDC_HTTP",
    "BEYOND_PG_CDC_KEEP_AGE",
    "BEYOND_PG_CDC_KEEP_SIZE",
    "BEYOND_PG_CDC_LOG_FORMAT",
    "BEYOND_PG_CDC_LOG_LEVEL",
    "BEYOND_PG_CDC_MEMORY",
    "BEYOND_PG_CDC_MESSAGES",
    "BEYOND_PG_CDC_NEW_EPOCH",
    "BEYOND_PG_CDC_PRINCIPALS",
    "BEYOND_PG_CDC_PUBLICATION",
    "BEYOND_PG_CDC_QUIC",
    "BEYOND_PG_CDC_QUIC_NAME",
    "BEYOND_PG_CDC_SLOT",
    "BEYOND_PG_CDC_STATUS_INTERVAL",
    "BEYOND_PG_CDC_TLS_CERT",
    "BEYOND_PG_CDC_TLS_KEY",
    "BEYOND_PG_CDC_TOKEN_FILE",
    "BEYOND_PG_CDC_TWO_PHASE",
    "BEYOND_PG_CDC_UPSTREAM",
];

const SINK: [&str; 33] = [
    "BEYOND_PG_SINK_ACK",
    "BEYOND_PG_SINK_APPLICATION_NAME",
    "BEYOND_PG_SINK_BUSY_POLL",
    "BEYOND_PG_SINK_CA",
    "BEYOND_PG_SINK_CLIENT_CA",
    "BEYOND_PG_SINK_CLIENT_CERT",
    "BEYOND_PG_SINK_CLIENT_KEY",
    "BEYOND_PG_SINK_CONFIG",
    "BEYOND_PG_SINK_CONNECT_TIMEOUT",
    "BEYOND_PG_SINK_DATA_DIR",
    "BEYOND_PG_SINK_HTTPS",
    "BEYOND_PG_SINK_HTTPS_CONNECTIONS",
    "BEYOND_PG_SINK_HTTPS_HANDSHAKE_TIMEOUT",
    "BEYOND_PG_SINK_HTTPS_HEADER_TIMEOUT",
    "BEYOND_PG_SINK_HTTPS_IDLE_TIMEOUT",
    "BEYOND_PG_SINK_HTTPS_NAME",
    "BEYOND_PG_SINK_HTTPS_REQUESTS",
    "BEYOND_PG_SINK_HTTPS_STALL_TIMEOUT",
    "BEYOND_PG_SINK_KEEP_AGE",
    "BEYOND_PG_SINK_KEEP_SEGMENTS",
    "BEYOND_PG_SINK_KEEP_SIZE",
    "BEYOND_PG_SINK_LOG_FORMAT",
    "BEYOND_PG_SINK_LOG_LEVEL",
    "BEYOND_PG_SINK_METRICS_PUBLIC",
    "BEYOND_PG_SINK_NO_CREATE_SLOT",
    "BEYOND_PG_SINK_REQUIRE_CLIENT_CERT",
    "BEYOND_PG_SINK_SLOT",
    "BEYOND_PG_SINK_STATUS_INTERVAL",
    "BEYOND_PG_SINK_TLS_CERT",
    "BEYOND_PG_SINK_TLS_KEY",
    "BEYOND_PG_SINK_TOKEN_FILE",
    "BEYOND_PG_SINK_UPSTREAM",
    "BEYOND_PG_SINK_URL",
];
