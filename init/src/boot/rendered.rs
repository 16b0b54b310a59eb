//! The files that a boot writes.

use std::path::PathBuf;

use anyhow::Result;

use super::programs::own;
use super::start::LOOKUP_ROLE;
use super::{Boot, SUPERUSER};
use crate::settings::{Program, Settings, Tier};
use crate::{account, ha};

/// What is written where.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    /// Layers of `conf.d`.
    pub(super) layers: Vec<(&'static str, String)>,
    /// Other files.
    pub(super) files: Vec<(PathBuf, String)>,
}

pub(super) fn render(boot: &Boot<'_>) -> Result<Rendered> {
    let settings = &boot.settings;
    let run = boot.layout.run.display();
    let fixed = fixed(boot)?;
    let tier = tier(settings);
    let own_name =
        account::of_uid(rustix::process::geteuid().as_raw(), &account::passwd()).map(|account| account.name).unwrap_or_default();
    let os_name = boot.os_name();
    let ident = format!("beyond_pg \"{os_name}\" all\nbeyond_pg \"{own_name}\" {SUPERUSER}\n");
    let others = if settings.ha_standby.is_some() { "host all all samenet scram-sha-256\n" } else { "" };
    let hba = "local all all peer map=beyond_pg\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n\
               local replication all peer map=beyond_pg\nhost replication all 127.0.0.1/32 scram-sha-256\nhost replication all samenet scram-sha-256\n";
    let listen = settings.listen;
    let primary = boot.pool_primary();
    let databases = ha::pool_databases(&run.to_string(), settings.port, primary.as_ref());
    let follow = ha::pool_settings(primary.as_ref());
    let ini = format!(
        "[databases]\n{databases}[pgbouncer]\n{follow}listen_addr = {}\nlisten_port = {}\nunix_socket_dir = {run}\n\
         auth_type = hba\nauth_hba_file = {run}/pgbouncer_hba.conf\nauth_ident_file = {run}/pgbouncer_ident.conf\nauth_user = {LOOKUP_ROLE}\n\
         auth_query = select uname, phash from beyond_pg.user_lookup($1)\npool_mode = transaction\nmax_prepared_statements = 200\n\
         max_db_connections = 90\ndefault_pool_size = 90\nmax_client_conn = 1000\nignore_startup_parameters = extra_float_digits\n",
        listen.ip(),
        listen.port()
    );
    let pool_hba = "local postgres,beyond_pg_local postgres peer map=beyond_pg\nlocal all all scram-sha-256\nhost all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256\n";
    let pool_ident = format!("beyond_pg {own_name} {SUPERUSER}\n");
    let data = &boot.layout.data;
    let in_run = |name: &str| boot.layout.run.join(name);
    Ok(Rendered {
        layers: vec![("10-fixed.conf", fixed), ("30-tier.conf", tier)],
        files: vec![
            (data.join("pg_hba.conf"), format!("{hba}{others}")),
            (data.join("pg_ident.conf"), ident),
            (in_run("pgbouncer.ini"), ini),
            (in_run("pgbouncer_hba.conf"), pool_hba.to_owned()),
            (in_run("pgbouncer_ident.conf"), pool_ident),
        ],
    })
}

/// What can't be changed later without a restart, from day one; and how the server is reached.
fn fixed(boot: &Boot<'_>) -> Result<String> {
    let settings = &boot.settings;
    let archive = if settings.has_archive() {
        format!("{} push %p", own(settings, Program::Archiver)?.display())
    } else {
        // Archiving is on from day one, and has no target yet.
        "true".to_owned()
    };
    let listen = settings.replication_listen.map(|address| format!(",{address}")).unwrap_or_default();
    Ok(format!(
        "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\nhot_standby = on\narchive_mode = on\n\
         archive_command = {}\nlisten_addresses = '127.0.0.1{listen}'\nport = {}\nunix_socket_directories = {}\n\
         password_encryption = scram-sha-256\n",
        quoted(&archive),
        settings.port,
        quoted(&boot.layout.run.display().to_string()),
    ))
}

/// Who commits wait for, and who a standby follows.
fn tier(settings: &Settings) -> String {
    let sink = settings.wal_sink.as_ref().map(|_| settings.wal_sink_name.as_str());
    let names = match settings.tier {
        Tier::Primary => ha::synchronous_names(settings.ha_standby.as_deref(), sink),
        Tier::Replica | Tier::Sink => String::new(),
    };
    let pair = if settings.ha_standby.is_some() { ha::SETTINGS } else { "" };
    let commit = if settings.ephemeral { "off" } else { "on" };
    let text = format!("synchronous_commit = {commit}\nsynchronous_standby_names = {}\n{pair}", quoted(&names));
    let (Tier::Replica, Some(conninfo)) = (settings.tier, &settings.primary_conninfo) else { return text };
    let named = settings.ha_standby.as_ref().and_then(|name| {
        let conninfo = ha::Conninfo::parse(conninfo.reveal())?;
        Some(conninfo.with("application_name", name).text())
    });
    format!(
        "{text}primary_conninfo = {}\nprimary_slot_name = {}\n",
        quoted(named.as_deref().unwrap_or_else(|| conninfo.reveal())),
        quoted(settings.primary_slot.as_deref().unwrap_or_default())
    )
}

/// A value of `postgresql.conf`.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}
