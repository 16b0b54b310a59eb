//! Before a stream: is the primary set up for it, and is the slot still ours.

use tracing::{info, warn};
use walbus::source::{self, Client, LogicalSlotOptions, Mode, Rows, SourceError, SystemIdentity};
use walbus::{Lsn, SystemId, Timeline};

use super::{SessionEnd, Settings};

const PLUGIN: &str = "pgoutput";
/// The oldest and the newest major version whose messages are known here.
const VERSIONS: std::ops::RangeInclusive<u32> = 15..=18;
/// How many tables a warning names.
const TABLES_NAMED: usize = 20;

/// What the session's settings have to be, so that values are written as they are read here.
const PINNED: [&str; 6] = [
    "SET datestyle = 'ISO, YMD'",
    "SET intervalstyle = 'postgres'",
    "SET timezone = 'UTC'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET standard_conforming_strings = on",
];

/// A session that is ready to stream.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) client: Client,
    /// Another session, to look from beside while the first one streams.
    pub(super) beside: Client,
    pub(super) version: u32,
    pub(super) system_id: SystemId,
    /// Where its WAL ended a moment ago.
    pub(super) flushed: Lsn,
    pub(super) timeline: Timeline,
    pub(super) slot: Slot,
    /// Whether the slot was made.
    pub(super) made: bool,
}

/// What matters of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where it stands: everything behind it is sent.
    pub(super) confirmed: Lsn,
    pub(super) two_phase: bool,
}

/// What the slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// To go on with a log that is there: a slot that is missing is lost, and another one would have a gap before it.
    Held,
    /// For a log that begins with it.
    New,
}

/// Connects, checks, and makes what it was told to make; the slot last, and only for a new log.
pub(super) async fn prepare(settings: &Settings, purpose: Use) -> Result<Prepared, SessionEnd> {
    let dbname = dbname(settings);
    let mut client = connect(settings).await?;
    let version = client.server_version_major().unwrap_or_default();
    if !VERSIONS.contains(&version) {
        let (oldest, newest) = (VERSIONS.start(), VERSIONS.end());
        return Err(SessionEnd::Setting(format!(
            "the upstream runs PostgreSQL {version}: this program knows {oldest} to {newest}"
        )));
    }
    let SystemIdentity { system_id, timeline, flushed, .. } = client.identify_system().await?;
    for pin in PINNED {
        client.query(pin).await?;
    }
    let wal_level = client.show("wal_level").await?;
    if wal_level != "logical" {
        return Err(SessionEnd::Setting(format!(
            "the upstream's wal_level is {wal_level}, and has to be logical: ALTER SYSTEM SET wal_level = 'logical', then restart it"
        )));
    }
    publications(&mut client, settings).await?;
    let mut beside = connect(settings).await?;
    identities(&mut beside, settings).await?;
    let (slot, made) = match slot(&mut client, settings, version, &dbname).await? {
        Some(slot) => (slot, false),
        None => (create(&mut client, settings, purpose, version).await?, true),
    };
    Ok(Prepared { client, beside, version, system_id, timeline, flushed, slot, made })
}

fn dbname(settings: &Settings) -> String {
    settings.upstream.dbname().unwrap_or_else(|| settings.upstream.user()).to_owned()
}

async fn connect(settings: &Settings) -> Result<Client, SourceError> {
    let mut client = source::connect(&settings.upstream, Mode::Logical { dbname: dbname(settings) }).await?;
    // There the server knows of no encoding, and fails at the first value or name that is no UTF-8.
    if client.show("server_encoding").await? == "SQL_ASCII" {
        client.query("SET client_encoding = 'SQL_ASCII'").await?;
    }
    Ok(client)
}

/// Looks at the slot once more; `None` where it is gone.
pub(super) async fn look(client: &mut Client, name: &str) -> Result<Option<Slot>, SourceError> {
    let sql = format!("SELECT confirmed_flush_lsn, two_phase FROM pg_replication_slots WHERE slot_name = {}", literal(name));
    let rows = client.query(&sql).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let confirmed = rows.text(0, 0)?.and_then(|text| text.parse().ok());
    let two_phase = rows.text(0, 1)? == Some("t");
    Ok(confirmed.map(|confirmed| Slot { confirmed, two_phase }))
}

/// Drops the slot.
pub(super) async fn drop_slot(settings: &Settings) -> Result<(), SourceError> {
    connect(settings).await?.drop_slot(&settings.slot).await
}

/// A text as SQL reads it back.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ")
}

fn column(rows: &Rows, index: usize) -> Result<Vec<String>, SourceError> {
    (0..rows.len()).map(|row| Ok(rows.text(row, index)?.unwrap_or_default().to_owned())).collect()
}

async fn publications(client: &mut Client, settings: &Settings) -> Result<(), SessionEnd> {
    let names = &settings.publications;
    let rows = client.query(&format!("SELECT pubname FROM pg_publication WHERE pubname IN ({})", list(names))).await?;
    let there = column(&rows, 0)?;
    for name in names.iter().filter(|name| !there.contains(name)) {
        if !settings.create_publication {
            return Err(SessionEnd::Setting(format!(
                "the upstream's database has no publication {name:?} (--publication). Create it with CREATE PUBLICATION {} FOR ALL TABLES, or for \
                 those that are wanted; or give --create-publication",
                identifier(name)
            )));
        }
        let created = client.query(&format!("CREATE PUBLICATION {} FOR ALL TABLES", identifier(name))).await;
        created.map_err(|error| {
            SessionEnd::Setting(format!(
                "--create-publication: {error}. A publication for all tables takes a superuser: have one create it"
            ))
        })?;
        info!(publication = name, "created the publication, for all tables");
    }
    Ok(())
}

/// Warns of tables whose updates and deletes fail, or whose old values are lost.
///
/// In a session beside: `pg_publication_tables` opens every published table, and a session that then starts decoding reads older rows by
/// the definitions that it has in its cache by then, which are those of now.
async fn identities(client: &mut Client, settings: &Settings) -> Result<(), SessionEnd> {
    let sql = format!(
        "SELECT DISTINCT p.schemaname || '.' || p.tablename FROM pg_publication_tables p \
         JOIN pg_namespace n ON n.nspname = p.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         WHERE p.pubname IN ({}) AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS \
         (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)) ORDER BY 1 LIMIT {}",
        list(&settings.publications),
        TABLES_NAMED + 1
    );
    let rows = client.query(&sql).await?;
    let mut tables: Vec<String> = (0..rows.len()).map(|row| rows.shown(row, 0)).collect();
    if !tables.is_empty() {
        let more = if tables.len() > TABLES_NAMED { " and more" } else { "" };
        tables.truncate(TABLES_NAMED);
        warn!(
            tables = format!("{}{more}", tables.join(", ")),
            "published tables without a replica identity: Postgres refuses their updates and deletes. Give them a primary key, or ALTER TABLE … REPLICA \
             IDENTITY FULL"
        );
    }
    Ok(())
}

/// The slot, `None` where there is none.
async fn slot(client: &mut Client, settings: &Settings, version: u32, dbname: &str) -> Result<Option<Slot>, SessionEnd> {
    let name = &settings.slot;
    let reason = if version >= 17 { "invalidation_reason" } else { "NULL" };
    let failover = if version >= 17 { "failover" } else { "false" };
    let sql = format!(
        "SELECT slot_type, plugin, database, active_pid, wal_status, confirmed_flush_lsn, two_phase, {reason}, {failover} \
         FROM pg_replication_slots WHERE slot_name = {}",
        literal(name)
    );
    let rows = client.query(&sql).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let text = |column| Ok::<_, SourceError>(rows.text(0, column)?.unwrap_or_default());
    let wrong = |problem: String| Err(SessionEnd::Setting(format!("the slot {name:?} (--slot) {problem}")));
    if text(0)? != "logical" {
        return wrong("is a physical one: name another, or drop it by pg_drop_replication_slot".into());
    }
    if text(1)? != PLUGIN {
        return wrong(format!("has the output plugin {:?}, and {PLUGIN} is needed: name another", text(1)?));
    }
    if text(2)? != dbname {
        return wrong(format!("is of the database {:?}, and --upstream names {dbname:?}", text(2)?));
    }
    if !text(7)?.is_empty() || text(4)? == "lost" {
        let why =
            if text(7)?.is_empty() { "WAL that it needs was removed".to_owned() } else { format!("invalidated: {}", text(7)?) };
        return Err(SessionEnd::SlotLost(format!(
            "the slot {name:?} is lost ({why}): what it has not sent can't be had from it. max_slot_wal_keep_size bounds what a slot may keep. Drop it by \
             pg_drop_replication_slot, and give --create-slot"
        )));
    }
    if !text(3)?.is_empty() {
        return Err(SessionEnd::Busy(format!(
            "the slot {name:?} is in use by another connection (process {}): one reader a slot. Stop the other one; it is tried again meanwhile",
            text(3)?
        )));
    }
    let two_phase = text(6)? == "t";
    if settings.two_phase && !two_phase {
        return wrong(
            "does not decode prepared transactions, which only its making can set: drop it, or leave out --two-phase".into(),
        );
    }
    if settings.failover && text(8)? != "t" {
        warn!(slot = name, "--failover has no effect on a slot that exists: standbys do not keep it in step");
    }
    let confirmed = text(5)?.parse().map_err(|_| SessionEnd::Setting(format!("the slot {name:?} has no confirmed_flush_lsn")))?;
    Ok(Some(Slot { confirmed, two_phase }))
}

async fn create(client: &mut Client, settings: &Settings, purpose: Use, version: u32) -> Result<Slot, SessionEnd> {
    let name = &settings.slot;
    if purpose == Use::Held {
        return Err(SessionEnd::SlotLost(format!(
            "the upstream has no replication slot {name:?} (--slot): it was dropped, or a standby was promoted that did not have it, and what it has \
             not sent can't be had from another one. Give --create-slot, or make it by pg_create_logical_replication_slot('{name}', '{PLUGIN}')"
        )));
    }
    if !settings.create_slot {
        return Err(SessionEnd::NoSlot(format!(
            "the upstream has no replication slot {name:?} (--slot). Create it with SELECT pg_create_logical_replication_slot('{name}', '{PLUGIN}'), or \
             give --create-slot"
        )));
    }
    let rows = client.query("SELECT count(*), current_setting('max_replication_slots')::int FROM pg_replication_slots").await?;
    let number = |column| Ok::<u64, SourceError>(rows.text(0, column)?.and_then(|text| text.parse().ok()).unwrap_or_default());
    if number(0)? >= number(1)? {
        return Err(SessionEnd::Setting(format!(
            "all {} replication slots of the upstream are taken: drop one that is not used (pg_drop_replication_slot), or raise \
             max_replication_slots and restart it",
            number(1)?
        )));
    }
    let failover = settings.failover && version >= 17;
    if settings.failover && !failover {
        warn!("--failover needs PostgreSQL 17: the slot is made without");
    }
    let options = LogicalSlotOptions { failover, two_phase: settings.two_phase };
    let created = client.create_logical_slot(name, PLUGIN, options).await?;
    info!(slot = name, at = %created.consistent_point, "created the replication slot");
    Ok(Slot { confirmed: created.consistent_point, two_phase: settings.two_phase })
}
