//! What an instance is told: one table of names, and values out of several places with one order among them. Pure: the places are read by
//! [`crate::sources`].
//!
//! The first place that has a value wins: metadata, file, environment, kernel command line. An empty value counts as none. All values are
//! checked, also those that lose: a name that is none, or a value that can't be, is an error in every place.

mod nearest;
mod origin;
mod parse;
mod passed;
mod reader;
mod table;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use origin::{HIDDEN, Origin, Problem, Provenance, Secret, Source};
pub use parse::bytes as parse_bytes;
pub use passed::Program;
use reader::Reader;
pub use table::{Applies, Name, TABLE, row};

/// The setting of the store that WAL is archived to: the archiver's own.
pub const ARCHIVE_STORE: &str = "BEYOND_PG_ARCHIVE_STORE";

/// What an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// A server that takes writes.
    Primary,
    /// A standby.
    Replica,
    /// No server: the WAL sink of one.
    Sink,
}

/// What happens while the sink is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkPolicy {
    /// Commits go on after a delay, and an alarm stands.
    Preferred,
    /// Commits wait.
    Required,
}

/// Where a replica's PgBouncer sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolTarget {
    /// To the server of its own machine.
    Local,
    /// To the primary, until it is one itself.
    Primary,
}

/// How lines are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// Who Postgres runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OsUser {
    /// By numbers, for a system without names.
    Ids {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// By name.
    Name(String),
}

/// Where recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PitrTarget {
    /// A position.
    Lsn(String),
    /// A moment, with its zone.
    Time(String),
}

impl PitrTarget {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Lsn(text) | Self::Time(text) => text,
        }
    }
}

/// Where settings are looked for: what the environment and the kernel command line say before all else is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The metadata service; `None` where there is none.
    pub metadata: Option<SocketAddr>,
    /// Whether somebody set it, so that it has to answer.
    pub metadata_is_set: bool,
    /// The object in it.
    pub metadata_path: String,
    /// How long boot waits for it.
    pub metadata_wait: Duration,
    /// How often it is looked at afterwards.
    pub metadata_interval: Duration,
    /// A file of settings.
    pub metadata_file: Option<PathBuf>,
}

/// All settings, checked. Each field is the setting of its name; [`TABLE`] says what they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `BEYOND_PG_TIER`
    pub tier: Tier,
    /// `BEYOND_PG_WAL_SINK`
    pub wal_sink: Option<String>,
    /// `BEYOND_PG_WAL_SINK_NAME`
    pub wal_sink_name: String,
    /// `BEYOND_PG_WAL_SINK_POLICY`
    pub wal_sink_policy: SinkPolicy,
    /// `BEYOND_PG_WAL_SINK_DELAY`
    pub wal_sink_delay: Duration,
    /// `BEYOND_PG_WAL_SINK_CA`
    pub wal_sink_ca: Option<PathBuf>,
    /// `BEYOND_PG_WAL_SINK_TOKEN_FILE`
    pub wal_sink_token_file: Option<PathBuf>,
    /// `BEYOND_PG_WAL_SINK_CLIENT_CERT`
    pub wal_sink_client_cert: Option<PathBuf>,
    /// `BEYOND_PG_WAL_SINK_CLIENT_KEY`
    pub wal_sink_client_key: Option<PathBuf>,
    /// `BEYOND_PG_HA_STANDBY`
    pub ha_standby: Option<String>,
    /// `BEYOND_PG_PEERS`
    pub peers: Vec<SocketAddr>,
    /// `BEYOND_PG_PGBOUNCER_TARGET`
    pub pgbouncer_target: PoolTarget,
    /// `BEYOND_VOLUME_EPHEMERAL`
    pub ephemeral: bool,
    /// `BEYOND_PG_PRIMARY_SLOT`
    pub primary_slot: Option<String>,
    /// `BEYOND_PG_PRIMARY_CONNINFO`
    pub primary_conninfo: Option<Secret>,
    /// `BEYOND_PG_PITR_TARGET`
    pub pitr_target: Option<PitrTarget>,
    /// `BEYOND_PG_PITR_STORE`.
    pub pitr_store: Option<String>,
    /// `BEYOND_PG_IDENTITY`
    pub identity: Option<String>,
    /// `BEYOND_PG_MEMORY_MB`
    pub memory_mb: Option<u64>,
    /// `BEYOND_PG_CPUS`
    pub cpus: Option<u32>,
    /// `BEYOND_PG_VOLUME`
    pub volume: PathBuf,
    /// `BEYOND_PG_WAL_DIR`
    pub wal_dir: Option<PathBuf>,
    /// `BEYOND_PG_RUN_DIR`
    pub run_dir: PathBuf,
    /// `BEYOND_PG_OS_USER`
    pub os_user: OsUser,
    /// `BEYOND_PG_BIN_DIR`
    pub bin_dir: Option<PathBuf>,
    /// `BEYOND_PG_PGBOUNCER`
    pub pgbouncer: Option<PathBuf>,
    /// `BEYOND_PG_ARCHIVER_PROGRAM`, `BEYOND_PG_CDC_PROGRAM` and `BEYOND_PG_SINK_PROGRAM`, where they are set.
    pub programs: BTreeMap<Program, PathBuf>,
    /// `BEYOND_PG_LISTEN`
    pub listen: SocketAddr,
    /// `BEYOND_PG_PORT`
    pub port: u16,
    /// `BEYOND_PG_REPLICATION_LISTEN`; the port is [`Self::port`].
    pub replication_listen: Option<IpAddr>,
    /// `BEYOND_PG_HEALTH_LISTEN`
    pub health_listen: Option<SocketAddr>,
    /// `BEYOND_PG_TLS_CERT`
    pub tls_cert: Option<PathBuf>,
    /// `BEYOND_PG_TLS_KEY`
    pub tls_key: Option<PathBuf>,
    /// `BEYOND_PG_USER`
    pub user: Option<String>,
    /// `BEYOND_PG_PASSWORD`
    pub password: Option<Secret>,
    /// `BEYOND_PG_PASSWORD_FILE`
    pub password_file: Option<PathBuf>,
    /// `BEYOND_PG_DATABASE`
    pub database: Option<String>,
    /// `BEYOND_PG_SIDECARS`: of [`Program::Archiver`] and [`Program::Cdc`].
    pub sidecars: Vec<Program>,
    /// `BEYOND_PG_LOG_FORMAT`
    pub log_format: LogFormat,
    /// `BEYOND_PG_STOP_TIMEOUT`
    pub stop_timeout: Duration,
    /// `BEYOND_PG_METADATA` and its kind.
    pub lookup: Lookup,
    /// What is passed on to each program, by its own names.
    passed: BTreeMap<&'static str, Secret>,
    /// Each setting, in the order of the table, then what is passed on.
    provenance: Vec<Provenance>,
}

impl Lookup {
    /// Where settings are looked for, out of the environment and the kernel command line. Wrong names are not its business, but
    /// [`Settings::resolve`]'s.
    ///
    /// # Errors
    /// Each bad value of the settings that it is made of.
    pub fn resolve(sources: &[Source]) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::of_rows(sources, |row| row.local);
        let lookup = Self::read(&mut reader);
        reader.finish(lookup).map(|(lookup, _)| lookup)
    }

    fn read(reader: &mut Reader) -> Option<Self> {
        let metadata = reader.required("BEYOND_PG_METADATA", parse::metadata);
        let path = reader.required("BEYOND_PG_METADATA_PATH", parse::url_path);
        let hour = Duration::from_secs(3600);
        let wait = reader.required("BEYOND_PG_METADATA_WAIT", |text| parse::duration(text, Duration::ZERO, hour));
        let interval = reader.required("BEYOND_PG_METADATA_INTERVAL", |text| parse::duration(text, Duration::from_secs(1), hour));
        let file = reader.optional("BEYOND_PG_METADATA_FILE", parse::path);
        Some(Self {
            metadata: metadata?,
            metadata_is_set: reader.is_set("BEYOND_PG_METADATA"),
            metadata_path: path?,
            metadata_wait: wait?,
            metadata_interval: interval?,
            metadata_file: file,
        })
    }
}

impl Settings {
    /// The settings that these places make together. The order of `sources` says nothing: their origins do.
    ///
    /// # Errors
    /// Everything that is wrong, in every source.
    pub fn resolve(sources: &[Source]) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::of_all(sources);
        let settings = Self::read(&mut reader);
        let (mut settings, provenance) = reader.finish(settings)?;
        settings.provenance = provenance;
        let problems = settings.contradictions();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// Each setting with its value (a secret's hidden) and where that is from.
    #[must_use]
    pub fn provenance(&self) -> &[Provenance] {
        &self.provenance
    }

    /// Where a setting's value is from.
    #[must_use]
    pub fn origin(&self, name: &str) -> Origin {
        self.provenance.iter().find(|one| one.name == name).map_or(Origin::Default, |one| one.origin)
    }

    /// What a program is given in its environment, by its own names.
    pub fn passed(&self, program: Program) -> impl Iterator<Item = (&'static str, &str)> {
        self.passed.iter().filter(move |(name, _)| program.names().contains(name)).map(|(name, value)| (*name, value.reveal()))
    }

    /// The server that `BEYOND_PG_PRIMARY_CONNINFO` names.
    ///
    /// # Errors
    /// Where it is not set, does not parse, or names none or more than one.
    pub fn primary_endpoint(&self) -> Result<crate::ha::Endpoint, String> {
        let conninfo = self.primary_conninfo.as_ref().ok_or("it is not set")?;
        crate::ha::Conninfo::parse(conninfo.reveal()).ok_or("it does not parse")?.endpoint()
    }

    /// Whether there is an archive to push WAL to.
    #[must_use]
    pub fn has_archive(&self) -> bool {
        self.archive_store().is_some()
    }

    /// The archive that WAL is pushed to.
    #[must_use]
    pub fn archive_store(&self) -> Option<&str> {
        self.passed.get(ARCHIVE_STORE).map(Secret::reveal)
    }

    fn read(reader: &mut Reader) -> Option<Self> {
        let lookup = Lookup::read(reader);
        let (second, hour, day) = (Duration::from_secs(1), Duration::from_secs(3600), Duration::from_secs(86_400));
        let port = reader.required("BEYOND_PG_PORT", parse::port);
        // All are read before the first that is missing ends this: each of them has its problem told.
        let (tier, name) =
            (reader.required("BEYOND_PG_TIER", parse::tier), reader.required("BEYOND_PG_WAL_SINK_NAME", parse::plain_name));
        let policy = reader.required("BEYOND_PG_WAL_SINK_POLICY", parse::policy);
        let delay = reader.required("BEYOND_PG_WAL_SINK_DELAY", |text| parse::duration(text, second, hour));
        let ephemeral = reader.required("BEYOND_VOLUME_EPHEMERAL", parse::flag);
        let (volume, run_dir) =
            (reader.required("BEYOND_PG_VOLUME", parse::path), reader.required("BEYOND_PG_RUN_DIR", parse::path));
        let (os_user, listen) =
            (reader.required("BEYOND_PG_OS_USER", parse::os_user), reader.required("BEYOND_PG_LISTEN", parse::socket));
        let pgbouncer_target = reader.required("BEYOND_PG_PGBOUNCER_TARGET", parse::pool_target);
        let health_listen = reader.required("BEYOND_PG_HEALTH_LISTEN", parse::socket_or_none);
        let log_format = reader.required("BEYOND_PG_LOG_FORMAT", parse::log_format);
        let stop_timeout = reader.required("BEYOND_PG_STOP_TIMEOUT", |text| parse::duration(text, second, day));
        let mut settings = Self {
            wal_sink_name: name.unwrap_or_default(),
            wal_sink: reader.optional("BEYOND_PG_WAL_SINK", parse::sink_url),
            wal_sink_ca: reader.optional("BEYOND_PG_WAL_SINK_CA", parse::path),
            wal_sink_token_file: reader.optional("BEYOND_PG_WAL_SINK_TOKEN_FILE", parse::path),
            wal_sink_client_cert: reader.optional("BEYOND_PG_WAL_SINK_CLIENT_CERT", parse::path),
            wal_sink_client_key: reader.optional("BEYOND_PG_WAL_SINK_CLIENT_KEY", parse::path),
            ha_standby: reader.optional("BEYOND_PG_HA_STANDBY", parse::pair_name),
            peers: reader.optional("BEYOND_PG_PEERS", parse::peers).unwrap_or_default(),
            primary_slot: reader.optional("BEYOND_PG_PRIMARY_SLOT", parse::slot),
            primary_conninfo: reader.optional("BEYOND_PG_PRIMARY_CONNINFO", parse::text).map(Secret::new),
            pitr_target: reader.optional("BEYOND_PG_PITR_TARGET", parse::pitr_target),
            pitr_store: reader.optional("BEYOND_PG_PITR_STORE", parse::store),
            identity: reader.optional("BEYOND_PG_IDENTITY", |text| parse::text(text).filter(|text| text.len() <= 200)),
            memory_mb: reader.optional("BEYOND_PG_MEMORY_MB", |text| parse::count(text, 64, 4 << 20)),
            cpus: reader.optional("BEYOND_PG_CPUS", |text| parse::count(text, 1, 512)?.try_into().ok()),
            wal_dir: reader.optional("BEYOND_PG_WAL_DIR", parse::path),
            bin_dir: reader.optional("BEYOND_PG_BIN_DIR", parse::path),
            pgbouncer: reader.optional("BEYOND_PG_PGBOUNCER", parse::path),
            programs: Self::read_programs(reader),
            replication_listen: Self::read_replication_listen(reader, port),
            tls_cert: reader.optional("BEYOND_PG_TLS_CERT", parse::path),
            tls_key: reader.optional("BEYOND_PG_TLS_KEY", parse::path),
            user: reader.optional("BEYOND_PG_USER", parse::role),
            password: reader.optional("BEYOND_PG_PASSWORD", parse::text).map(Secret::new),
            password_file: reader.optional("BEYOND_PG_PASSWORD_FILE", parse::path),
            database: reader.optional("BEYOND_PG_DATABASE", parse::database),
            sidecars: reader.optional("BEYOND_PG_SIDECARS", parse::sidecars).unwrap_or_default(),
            pgbouncer_target: pgbouncer_target?,
            tier: tier?,
            wal_sink_policy: policy?,
            wal_sink_delay: delay?,
            ephemeral: ephemeral?,
            volume: volume?,
            run_dir: run_dir?,
            os_user: os_user?,
            listen: listen?,
            port: port?,
            health_listen: health_listen?,
            log_format: log_format?,
            stop_timeout: stop_timeout?,
            lookup: lookup?,
            passed: BTreeMap::new(),
            provenance: Vec::new(),
        };
        settings.passed = reader.passed();
        Some(settings)
    }

    fn read_programs(reader: &mut Reader) -> BTreeMap<Program, PathBuf> {
        let mut programs = BTreeMap::new();
        for program in Program::ALL {
            let name = match program {
                Program::Archiver => "BEYOND_PG_ARCHIVER_PROGRAM",
                Program::Cdc => "BEYOND_PG_CDC_PROGRAM",
                Program::Sink => "BEYOND_PG_SINK_PROGRAM",
            };
            programs.extend(reader.optional(name, parse::path).map(|path| (program, path)));
        }
        programs
    }

    fn read_replication_listen(reader: &mut Reader, port: Option<u16>) -> Option<IpAddr> {
        let (address, own) = reader.optional("BEYOND_PG_REPLICATION_LISTEN", parse::address)?;
        if let (Some(own), Some(port)) = (own, port)
            && own != port
        {
            reader.combination(format!(
                "BEYOND_PG_REPLICATION_LISTEN names port {own}, but Postgres has one port for all addresses, BEYOND_PG_PORT = {port}: leave the port away"
            ));
        }
        Some(address)
    }

    /// What can't be had together, and what needs something else.
    fn contradictions(&self) -> Vec<Problem> {
        let mut found = self.contradictions_of_a_pair();
        let mut say = |wrong: bool, text: &str| {
            if wrong {
                found.push(Problem::Combination(text.to_owned()));
            }
        };
        let primary = self.tier == Tier::Primary;
        say(
            self.ephemeral && primary && self.wal_sink.is_some(),
            "BEYOND_PG_WAL_SINK and BEYOND_VOLUME_EPHEMERAL exclude each other: with synchronous_commit = off no commit waits for the sink. Leave one of them",
        );
        say(
            self.tier == Tier::Replica && self.primary_conninfo.is_none(),
            "BEYOND_PG_TIER = replica needs BEYOND_PG_PRIMARY_CONNINFO: how the primary is reached",
        );
        say(
            self.tier == Tier::Replica && self.pitr_target.is_some(),
            "BEYOND_PG_PITR_TARGET is for a primary: a replica follows its primary. Leave it, or set BEYOND_PG_TIER = primary",
        );
        say(
            self.tier == Tier::Primary && self.pitr_target.is_some() && self.pitr_store.is_none() && !self.has_archive(),
            "BEYOND_PG_PITR_TARGET needs BEYOND_PG_PITR_STORE or BEYOND_PG_ARCHIVE_STORE: the archive that WAL is restored from",
        );
        say(
            self.tier == Tier::Sink
                && !self.passed.contains_key("BEYOND_PG_SINK_UPSTREAM")
                && !self.passed.contains_key("BEYOND_PG_SINK_CONFIG"),
            "BEYOND_PG_TIER = sink needs BEYOND_PG_SINK_UPSTREAM, how the primary is reached, or BEYOND_PG_SINK_CONFIG",
        );
        say(
            self.wal_sink_client_cert.is_some() != self.wal_sink_client_key.is_some(),
            "BEYOND_PG_WAL_SINK_CLIENT_CERT and BEYOND_PG_WAL_SINK_CLIENT_KEY belong together: set both or none",
        );
        say(
            self.tls_cert.is_some() != self.tls_key.is_some(),
            "BEYOND_PG_TLS_CERT and BEYOND_PG_TLS_KEY belong together: set both or none",
        );
        say(
            self.password.is_some() && self.password_file.is_some(),
            "BEYOND_PG_PASSWORD and BEYOND_PG_PASSWORD_FILE are two passwords of one role: leave one of them",
        );
        say(
            self.user.is_none() && (self.password.is_some() || self.password_file.is_some()),
            "BEYOND_PG_PASSWORD and BEYOND_PG_PASSWORD_FILE need BEYOND_PG_USER: whose password it is",
        );
        say(
            self.sidecars.contains(&Program::Archiver) && !self.has_archive(),
            "BEYOND_PG_SIDECARS has the archiver, which needs BEYOND_PG_ARCHIVE_STORE",
        );
        say(
            self.tier != Tier::Primary && self.sidecars.contains(&Program::Cdc),
            "BEYOND_PG_SIDECARS has cdc, which follows a primary: leave it away, or set BEYOND_PG_TIER = primary",
        );
        say(
            self.listen.port() != 0
                && self.listen.port() == self.port
                && (self.listen.ip().is_loopback() || self.listen.ip().is_unspecified()),
            "BEYOND_PG_LISTEN and BEYOND_PG_PORT are the same port of the loopback: PgBouncer and Postgres need one each",
        );
        found
    }

    fn contradictions_of_a_pair(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut say = |wrong: bool, text: &str| {
            if wrong {
                found.push(Problem::Combination(text.to_owned()));
            }
        };
        say(
            self.ephemeral && self.ha_standby.is_some(),
            "BEYOND_PG_HA_STANDBY and BEYOND_VOLUME_EPHEMERAL exclude each other: commits can't both wait for a standby and not even for the disk. Leave one of them",
        );
        say(
            self.wal_sink.is_some() && self.ha_standby.as_deref() == Some(self.wal_sink_name.as_str()),
            "BEYOND_PG_HA_STANDBY and BEYOND_PG_WAL_SINK_NAME are the same name: Postgres could not tell the standby from the sink",
        );
        say(
            self.tier == Tier::Replica && self.pgbouncer_target == PoolTarget::Primary && self.primary_endpoint().is_err(),
            "BEYOND_PG_PGBOUNCER_TARGET = primary needs one host and one port in BEYOND_PG_PRIMARY_CONNINFO: where PgBouncer sends to",
        );
        found
    }
}
