//! The files that Postgres and PgBouncer read, rendered. Pure: [`crate::boot`] writes them.
//!
//! ```text
//!   data/conf.d/10-fixed.conf    what can't be changed later without a restart; how the server is reached
//!   data/conf.d/20-tuning.conf   what follows from memory and CPUs
//!   data/conf.d/30-tier.conf     who commits wait for, who is followed
//!   data/conf.d/90-*.conf        the user's, read last
//!   data/pg_hba.conf, pg_ident.conf
//!   run/pgbouncer.ini, pgbouncer_hba.conf, pgbouncer_ident.conf
//! ```

mod pgbouncer;
mod quote;
#[cfg(test)]
mod tests;

use std::path::Path;

use thiserror::Error;

use crate::ha::Endpoint;
use crate::settings::{HIDDEN, Settings};
use crate::tier::TierPlan;
use crate::tune::Tuning;
use quote::{ident_name, plain_path, quoted, shell_word};

/// What a file is rendered from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// What follows from the machine.
    pub tuning: &'a Tuning,
    /// What follows from the tier.
    pub tier: &'a TierPlan,
    /// The major version of Postgres.
    pub major: u32,
    /// The folder of sockets and of PgBouncer's files.
    pub run: &'a Path,
    /// Who Postgres and PgBouncer run as.
    pub os_name: &'a str,
    /// Who we run as.
    pub own_name: &'a str,
    /// The archiver, where there is an archive.
    pub archiver: Option<&'a Path>,
    /// The connections that the server takes: the tuning's, unless the user has said otherwise.
    pub max_connections: u64,
    /// Where PgBouncer sends to, if not to the server of this machine.
    pub primary: Option<&'a Endpoint>,
}

/// The superuser that `initdb` makes.
pub const SUPERUSER: &str = "postgres";

/// The role that PgBouncer looks passwords up as.
pub const LOOKUP_ROLE: &str = "beyond_pg_pgbouncer";

/// Which folder a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The data folder.
    Data,
    /// Its `conf.d`.
    Layer,
    /// The folder of sockets.
    Run,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RenderedFile {
    /// Where it belongs.
    pub place: Place,
    /// Its name there.
    pub name: &'static str,
    /// What is in it.
    pub text: String,
}

/// A value that no file can hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfError {
    /// A line's end, or another control character.
    #[error("{0}: a value with a line's end or another control character can't be written into a file of settings")]
    Control(String),
    /// A path or a name with characters that a file gives another meaning to.
    #[error("{setting}: {value:?} has characters that a file of settings gives another meaning to: take letters, digits and -_./")]
    Plain {
        /// Whose value.
        setting: &'static str,
        /// The value.
        value: String,
    },
}

/// Renders all files of a tier that runs Postgres.
///
/// # Errors
/// Where a value can't be written.
pub fn render(inputs: &Inputs<'_>) -> Result<Vec<RenderedFile>, ConfError> {
    let file = |place, name, text| RenderedFile { place, name, text };
    Ok(vec![
        file(Place::Layer, "10-fixed.conf", fixed(inputs)?),
        file(Place::Layer, "20-tuning.conf", tuning(inputs.tuning)?),
        file(Place::Layer, "30-tier.conf", tier(inputs.tier, false)?),
        file(Place::Data, "pg_hba.conf", hba(inputs)),
        file(Place::Data, "pg_ident.conf", ident(inputs)?),
        file(Place::Run, "pgbouncer.ini", pgbouncer::ini(inputs)?),
        file(Place::Run, "pgbouncer_hba.conf", pgbouncer::hba(inputs)),
        file(Place::Run, "pgbouncer_ident.conf", pgbouncer::ident(inputs)?),
    ])
}

/// The same, without what is secret: for eyes.
///
/// # Errors
/// Where a value can't be written.
pub fn render_shown(inputs: &Inputs<'_>) -> Result<Vec<RenderedFile>, ConfError> {
    let mut files = render(inputs)?;
    for file in files.iter_mut().filter(|file| file.name == "30-tier.conf") {
        file.text = tier(inputs.tier, true)?;
    }
    Ok(files)
}

/// The first lines of each layer.
const LAYER_HEAD: &str = "# Written by beyond-pg at each boot and reload: changes here are lost.\n\
                          # What is yours goes into a file of your own in this folder, 90-local.conf for one: it is read later, and wins.\n";

fn fixed(inputs: &Inputs<'_>) -> Result<String, ConfError> {
    let settings = inputs.settings;
    let run = plain_path("BEYOND_PG_RUN_DIR", inputs.run)?;
    let archive = match inputs.archiver {
        // `%` is Postgres' own in a command.
        Some(program) => format!("{} push %p", shell_word(&program.to_string_lossy()).replace('%', "%%").replace("%%p", "%p")),
        // Archiving is on from day one, since turning it on later takes a restart; it has no target yet.
        None => "true".to_owned(),
    };
    let listen = settings.replication_listen.map(|address| format!(",{address}")).unwrap_or_default();
    let mut lines = vec![
        ("wal_level", "logical".to_owned()),
        ("max_wal_senders", "10".to_owned()),
        ("max_replication_slots", "10".to_owned()),
        ("hot_standby", "on".to_owned()),
        ("archive_mode", "on".to_owned()),
        ("archive_command", archive),
        ("listen_addresses", format!("127.0.0.1{listen}")),
        ("port", settings.port.to_string()),
        ("unix_socket_directories", run),
        ("unix_socket_permissions", if inputs.major < 16 { "0700" } else { "0777" }.to_owned()),
        ("password_encryption", "scram-sha-256".to_owned()),
    ];
    if let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        lines.push(("ssl", "on".to_owned()));
        lines.push(("ssl_cert_file", cert.display().to_string()));
        lines.push(("ssl_key_file", key.display().to_string()));
    }
    let mut text = LAYER_HEAD.to_owned();
    for (name, value) in lines {
        text.push_str(&format!("{name} = {}\n", quoted(name, &value)?));
    }
    Ok(text)
}

fn tuning(tuning: &Tuning) -> Result<String, ConfError> {
    let mut text = LAYER_HEAD.to_owned();
    for one in &tuning.settings {
        text.push_str(&format!("{} = {}  # {}\n", one.name, quoted(one.name, &one.value)?, one.formula));
    }
    Ok(text)
}

fn tier(tier: &TierPlan, hide: bool) -> Result<String, ConfError> {
    let mut text = LAYER_HEAD.to_owned();
    for one in &tier.parameters {
        let value = if hide && one.secret { HIDDEN } else { &one.value };
        text.push_str(&format!("{} = {}  # {}\n", one.name, quoted(&one.name, value)?, one.why));
    }
    Ok(text)
}

/// Who may connect. The first line that fits counts.
fn hba(inputs: &Inputs<'_>) -> String {
    // 15 can't map a user of the system to every role. Its socket is for that user and root alone (`unix_socket_permissions`).
    let local = if inputs.major < 16 { "trust" } else { "peer map=beyond_pg" };
    let mut text = format!(
        "# Written by beyond-pg at each boot and reload: changes here are lost.\n\
         # For rules of your own, name a file of your own by hba_file in conf.d/90-local.conf, and have these lines in it as well\n\
         # (from 16 on: `include {{}}/pg_hba.conf`, with the data folder's path).\n\
         local all all {local}\n\
         local replication all {local}\n\
         host all all 127.0.0.1/32 scram-sha-256\n\
         host all all ::1/128 scram-sha-256\n\
         host replication all 127.0.0.1/32 scram-sha-256\n\
         host replication all ::1/128 scram-sha-256\n\
         host replication all samenet scram-sha-256\n"
    )
    .replace("{}", "PATH");
    if inputs.settings.ha_standby.is_some() {
        // The other's PgBouncer, and pg_rewind.
        text.push_str("host all all samenet scram-sha-256\n");
    }
    text
}

/// Which users of the system are which roles, over the socket.
fn ident(inputs: &Inputs<'_>) -> Result<String, ConfError> {
    let os_name = ident_name("BEYOND_PG_OS_USER", inputs.os_name)?;
    let mut text =
        "# Written by beyond-pg at each boot and reload: changes here are lost. For maps of your own, name a file by ident_file\n\
                    # in conf.d/90-local.conf, and have these lines in it as well.\n"
            .to_owned();
    text.push_str(&format!("beyond_pg {os_name} all\n"));
    if inputs.own_name != inputs.os_name {
        text.push_str(&format!("beyond_pg {} {SUPERUSER}\n", ident_name("the user that beyond-pg runs as", inputs.own_name)?));
    }
    Ok(text)
}
