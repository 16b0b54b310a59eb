//! PgBouncer's files: transaction pooling, clients by SCRAM, their verifiers looked up in the database, servers by the Unix socket.

use super::quote::{ident_name, plain, plain_path};
use super::{ConfError, Inputs, LOOKUP_ROLE, SUPERUSER};
use crate::ha;
use crate::tune::pool;

const HEAD: &str =
    "Written by beyond-pg at each boot and reload: changes here are lost. What can be set is in `beyond-pg plan --settings`.";

/// Prepared statements that are kept a server connection (1.21 and later).
const PREPARED_STATEMENTS: u32 = 200;

pub(super) fn ini(inputs: &Inputs<'_>) -> Result<String, ConfError> {
    let settings = inputs.settings;
    let run = plain_path("BEYOND_PG_RUN_DIR", inputs.run)?;
    let databases = ha::pool_databases(&run, settings.port, inputs.primary);
    let follow = ha::pool_settings(inputs.primary);
    // All of the pool may go to one role or be shared by many.
    let pool = pool(inputs.max_connections);
    let clients = (pool * 10).max(1000);
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => format!(
            "client_tls_sslmode = prefer\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
            plain("BEYOND_PG_TLS_CERT", &cert.to_string_lossy())?,
            plain("BEYOND_PG_TLS_KEY", &key.to_string_lossy())?
        ),
        _ => String::new(),
    };
    let (address, port) = (settings.listen.ip(), settings.listen.port());
    Ok(format!(
        ";; {HEAD}\n\
         [databases]\n{databases}\
         [pgbouncer]\n{follow}{tls}\
         listen_addr = {address}\nlisten_port = {port}\nunix_socket_dir = {run}\n\
         auth_type = hba\nauth_hba_file = {run}/pgbouncer_hba.conf\nauth_ident_file = {run}/pgbouncer_ident.conf\n\
         auth_user = {LOOKUP_ROLE}\nauth_query = select uname, phash from beyond_pg.user_lookup($1)\n\
         pool_mode = transaction\nmax_prepared_statements = {PREPARED_STATEMENTS}\n\
         ; floor(0.9 x max_connections), max_connections = {}\n\
         max_db_connections = {pool}\ndefault_pool_size = {pool}\n\
         max_client_conn = {clients}\nignore_startup_parameters = extra_float_digits\n",
        inputs.max_connections
    ))
}

/// Who may connect: us, over the socket, to see whether all works; everyone else by password.
pub(super) fn hba(_inputs: &Inputs<'_>) -> String {
    format!(
        "# {HEAD}\n\
         local postgres,{} {SUPERUSER} peer map=beyond_pg\n\
         local all all scram-sha-256\n\
         host all all 0.0.0.0/0 scram-sha-256\n\
         host all all ::/0 scram-sha-256\n",
        ha::LOCAL_DATABASE
    )
}

pub(super) fn ident(inputs: &Inputs<'_>) -> Result<String, ConfError> {
    Ok(format!("# {HEAD}\nbeyond_pg {} {SUPERUSER}\n", ident_name("the user that beyond-pg runs as", inputs.own_name)?))
}
