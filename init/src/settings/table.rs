//! The table of all settings: what `beyond-pg plan --settings` prints.

/// When a value that has changed takes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    /// At the next boot.
    Boot,
    /// At once: configuration is rendered again and reloaded.
    Now,
    /// In part at once; what Postgres takes at its start alone is reported as pending.
    Restart,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Name {
    /// What it is called, in every source.
    pub name: &'static str,
    /// What values it takes, as a message says it.
    pub allowed: &'static str,
    /// What it is where nobody sets it.
    pub default: Option<&'static str>,
    /// What it does.
    pub doc: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Whether it says where settings are found, so that it can't be found there.
    pub local: bool,
    /// When a change takes hold.
    pub applies: Applies,
}

use Applies::{Boot, Now, Restart};

const fn setting(
    name: &'static str,
    allowed: &'static str,
    default: Option<&'static str>,
    applies: Applies,
    doc: &'static str,
) -> Name {
    Name { name, allowed, default, doc, secret: false, local: false, applies }
}

const fn secret(name: &'static str, allowed: &'static str, applies: Applies, doc: &'static str) -> Name {
    Name { name, allowed, default: None, doc, secret: true, local: false, applies }
}

const fn local(name: &'static str, allowed: &'static str, default: Option<&'static str>, doc: &'static str) -> Name {
    Name { name, allowed, default, doc, secret: false, local: true, applies: Boot }
}

const ABSOLUTE: &str = "an absolute path";
const FLAG: &str = "1 or 0 (also on, off, true, false, yes, no)";
const SOCKET: &str = "ADDRESS:PORT in numbers, as in 0.0.0.0:5432 or [::]:5432; port 0 takes a free one";
const SOCKET_OR_NONE: &str = "ADDRESS:PORT in numbers, as in 127.0.0.1:8431, or none; port 0 takes a free one";
const PLAIN: &str = "1 to 63 letters, digits, dots, dashes and underscores";

/// All settings, but those of `passed`, which have their own lists.
pub const TABLE: &[Name] = &[
    setting("BEYOND_PG_TIER", "primary, replica or sink", Some("primary"), Boot, "What this instance is"),
    setting(
        "BEYOND_PG_WAL_SINK",
        "https://HOST:PORT",
        None,
        Now,
        "The WAL sink: commits wait for it, and boot fills the WAL that the volume lacks from it",
    ),
    setting("BEYOND_PG_WAL_SINK_NAME", PLAIN, Some("beyond-pg-sink"), Now, "The application_name that the sink connects with"),
    setting(
        "BEYOND_PG_WAL_SINK_POLICY",
        "required or preferred",
        Some("required"),
        Now,
        "While the sink is away: commits wait (required), or go on after a delay, with an alarm (preferred)",
    ),
    setting(
        "BEYOND_PG_WAL_SINK_DELAY",
        "a duration from 1s to 1h, as in 30s",
        Some("30s"),
        Now,
        "How long commits wait for a sink that is away, where it is preferred",
    ),
    setting("BEYOND_PG_WAL_SINK_CA", ABSOLUTE, None, Boot, "The authority that signed the sink's certificate, as PEM"),
    setting("BEYOND_PG_WAL_SINK_TOKEN_FILE", ABSOLUTE, None, Boot, "A file with the sink's bearer token"),
    setting("BEYOND_PG_WAL_SINK_CLIENT_CERT", ABSOLUTE, None, Boot, "A client certificate for the sink, as PEM"),
    setting("BEYOND_PG_WAL_SINK_CLIENT_KEY", ABSOLUTE, None, Boot, "The private key of that certificate, as PEM"),
    setting(
        "BEYOND_PG_HA_STANDBY",
        "1 to 54 letters, digits, dots, dashes and underscores",
        None,
        Now,
        "The pair's name, the same on both. On the primary: commits wait for the standby. On the replica: what it is called, with a name for the copy \
         that it is",
    ),
    setting(
        "BEYOND_PG_PEERS",
        "up to 8 of ADDRESS:PORT in numbers, with commas between",
        None,
        Now,
        "The health ports of the other servers of this cluster: a primary that finds one on a later timeline ends, and is fenced",
    ),
    setting(
        "BEYOND_PG_PGBOUNCER_TARGET",
        "local or primary",
        Some("local"),
        Now,
        "Where a replica's PgBouncer sends to: to its own server, or to the primary until it is one itself",
    ),
    setting(
        "BEYOND_VOLUME_EPHEMERAL",
        FLAG,
        Some("0"),
        Now,
        "The volume may be lost: synchronous_commit = off. Not with a standby or a sink that commits wait for",
    ),
    setting(
        "BEYOND_PG_PRIMARY_SLOT",
        "1 to 63 lower-case letters, digits and underscores",
        None,
        Now,
        "On a replica: the slot on the primary that it streams from",
    ),
    secret("BEYOND_PG_PRIMARY_CONNINFO", "a libpq connection string", Now, "On a replica: how the primary is reached"),
    setting(
        "BEYOND_PG_PITR_TARGET",
        "an LSN, as in 16/B374D848, or a moment with its zone, as in 2026-11-20 14:30:00+00",
        None,
        Boot,
        "Recover up to here, once, out of BEYOND_PG_PITR_STORE",
    ),
    setting(
        "BEYOND_PG_PITR_STORE",
        "a store's URL, as in s3://bucket/prefix",
        None,
        Boot,
        "The archive that is recovered from; BEYOND_PG_ARCHIVE_STORE where it is not set. Nothing is written to it",
    ),
    setting(
        "BEYOND_PG_IDENTITY",
        "a text of at most 200 bytes",
        None,
        Boot,
        "Whose database this is: the same wherever its volume goes, another one for a fork. A volume under another identity is freed of its parent",
    ),
    setting(
        "BEYOND_PG_MEMORY_MB",
        "a whole number from 64 to 4194304",
        None,
        Restart,
        "Memory that tuning is for, in MB; found out (cgroup, then host) where it is not set",
    ),
    setting(
        "BEYOND_PG_CPUS",
        "a whole number from 1 to 512",
        None,
        Restart,
        "CPUs that tuning is for; found out (quota, then affinity) where it is not set",
    ),
    setting("BEYOND_PG_VOLUME", ABSOLUTE, Some("/var/lib/beyond-pg"), Boot, "The folder that all data lies in"),
    setting("BEYOND_PG_WAL_DIR", ABSOLUTE, None, Boot, "Where pg_wal lies, if not on the volume; it is moved there, and back"),
    setting("BEYOND_PG_RUN_DIR", ABSOLUTE, Some("/run/beyond-pg"), Boot, "Sockets, and PgBouncer's configuration"),
    setting(
        "BEYOND_PG_OS_USER",
        "a user's name, or UID:GID",
        Some("postgres"),
        Boot,
        "Who Postgres and PgBouncer run as, where we are root",
    ),
    setting(
        "BEYOND_PG_BIN_DIR",
        ABSOLUTE,
        None,
        Boot,
        "The folder of Postgres' programs; the newest below /usr/lib/postgresql, then PATH, where it is not set",
    ),
    setting("BEYOND_PG_PGBOUNCER", ABSOLUTE, None, Boot, "PgBouncer's program; found in PATH where it is not set"),
    setting(
        "BEYOND_PG_ARCHIVER_PROGRAM",
        ABSOLUTE,
        None,
        Boot,
        "beyond-pg-archiver; found beside beyond-pg, then in PATH, where it is not set",
    ),
    setting("BEYOND_PG_CDC_PROGRAM", ABSOLUTE, None, Boot, "beyond-pg-cdc; found likewise"),
    setting("BEYOND_PG_SINK_PROGRAM", ABSOLUTE, None, Boot, "beyond-pg-sink; found likewise"),
    setting("BEYOND_PG_LISTEN", SOCKET, Some("0.0.0.0:5432"), Boot, "Where PgBouncer listens"),
    setting(
        "BEYOND_PG_PORT",
        "a port from 1 to 65535",
        Some("5433"),
        Boot,
        "Postgres' port on the loopback, and in the name of its socket",
    ),
    setting(
        "BEYOND_PG_REPLICATION_LISTEN",
        "ADDRESS or ADDRESS:PORT in numbers; the port is BEYOND_PG_PORT",
        None,
        Boot,
        "An address on which sinks and standbys reach Postgres itself",
    ),
    setting("BEYOND_PG_HEALTH_LISTEN", SOCKET_OR_NONE, Some("127.0.0.1:8431"), Boot, "Where health and metrics are served"),
    setting(
        "BEYOND_PG_TLS_CERT",
        ABSOLUTE,
        None,
        Restart,
        "The certificate that clients are shown, as PEM: TLS is offered with one",
    ),
    setting("BEYOND_PG_TLS_KEY", ABSOLUTE, None, Restart, "Its private key, as PEM; the user of BEYOND_PG_OS_USER reads it"),
    setting(
        "BEYOND_PG_USER",
        "a role's name of at most 63 bytes, not beginning with pg_ or beyond_pg",
        None,
        Boot,
        "A role that is made where it is missing",
    ),
    secret("BEYOND_PG_PASSWORD", "a text", Boot, "That role's password, set when it is made"),
    setting("BEYOND_PG_PASSWORD_FILE", ABSOLUTE, None, Boot, "A file with that role's password"),
    setting(
        "BEYOND_PG_DATABASE",
        "a database's name of at most 63 bytes, no template",
        None,
        Boot,
        "A database that is made where it is missing; it belongs to that role",
    ),
    setting("BEYOND_PG_SIDECARS", "archiver and cdc, with a comma between", None, Boot, "Programs that run beside Postgres"),
    setting("BEYOND_PG_LOG_FORMAT", "text or json", Some("text"), Boot, "How lines are logged"),
    setting(
        "BEYOND_PG_STOP_TIMEOUT",
        "a duration from 1s to 1d, as in 120s",
        Some("120s"),
        Now,
        "How long Postgres has for a fast shutdown, its checkpoint included, before an immediate one",
    ),
    local(
        "BEYOND_PG_METADATA",
        "ADDRESS or ADDRESS:PORT in numbers, or none",
        Some("169.254.169.254"),
        "The metadata service. One that is set has to answer; the default one is skipped where nothing is there",
    ),
    local("BEYOND_PG_METADATA_PATH", "a path from / on", Some("/latest/meta-data"), "The object in it whose keys are settings"),
    local(
        "BEYOND_PG_METADATA_WAIT",
        "a duration from 0 to 1h, as in 30s",
        Some("30s"),
        "How long boot waits for metadata that is not there yet",
    ),
    local(
        "BEYOND_PG_METADATA_INTERVAL",
        "a duration from 1s to 1h, as in 5s",
        Some("5s"),
        "How often the metadata is looked at for changes",
    ),
    local("BEYOND_PG_METADATA_FILE", ABSOLUTE, None, "A file of settings: one JSON object"),
];

/// The row of a name.
#[must_use]
pub fn row(name: &str) -> Option<&'static Name> {
    TABLE.iter().find(|row| row.name == name)
}
