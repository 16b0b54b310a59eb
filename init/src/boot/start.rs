//! What runs: Postgres, the pool, sidecars; and the query that proves it.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};

use super::programs::own;
use super::{ANSWER, Boot, SUPERUSER};
use crate::engine::{Server, Spec, Talk};
use crate::settings::{Program, Tier};
use crate::sql::{identifier, literal};
use crate::supervise::Child;

impl Boot<'_> {
    /// How Postgres is started, with settings that win over all files.
    pub(crate) fn postgres_spec(&self, settings: &[String]) -> Result<Spec> {
        let data = self.data_arg();
        let mut args = vec!["-D", &data];
        for setting in settings {
            args.extend(["-c", setting]);
        }
        let mut spec = self.of_postgres("postgres", &args)?.envs(self.archive_environment());
        spec.folder.clone_from(&self.layout.data);
        Ok(spec)
    }

    /// What of its configuration is ours alone: without it we could not reach the server.
    pub(super) fn own_settings(&self) -> Vec<String> {
        vec![
            format!("port={}", self.settings.port),
            format!("unix_socket_directories={}", self.layout.run.display()),
            "log_destination=stderr".to_owned(),
            "logging_collector=off".to_owned(),
        ]
    }

    /// Starts Postgres, and waits until it takes connections.
    pub(super) fn start(&mut self) -> Result<()> {
        let from = self.engine.now();
        self.begin_promotion_anew()?;
        let spec = self.postgres_spec(&self.own_settings())?;
        self.engine.want(Child::Postgres, spec);
        self.await_postgres()?;
        let took = self.engine.now().saturating_sub(from);
        self.engine.board.boot_postgres_ms = u64::try_from(took.as_millis()).ok();
        if self.settings.tier == Tier::Primary { self.finish_promotion() } else { Ok(()) }
    }

    /// Roles, the function that PgBouncer asks, the user's role and database: each where it is missing.
    pub(super) fn roles(&mut self) -> Result<()> {
        let server = self.server("postgres");
        let mut talk = self.engine.open(&server, ANSWER)?;
        self.ask_max_connections(&mut talk)?;
        self.engine.ask(&mut talk, LOOKUP, ANSWER)?;
        let settings = &self.settings;
        if let Some(user) = settings.user.clone() {
            let exists = format!("select 1 from pg_roles where rolname = {}", literal(&user));
            if self.engine.ask(&mut talk, &exists, ANSWER)?.is_empty() {
                let password = self.password()?.map(|password| format!(" password {}", literal(&password))).unwrap_or_default();
                let create =
                    format!("set password_encryption = 'scram-sha-256'; create role {} login{password}", identifier(&user));
                self.engine.ask(&mut talk, &create, ANSWER)?;
                self.engine.log().info("roles", format_args!("role {user} made"));
            }
        }
        if let Some(database) = self.settings.database.clone() {
            let exists = format!("select 1 from pg_database where datname = {}", literal(&database));
            if self.engine.ask(&mut talk, &exists, ANSWER)?.is_empty() {
                let owner = self.settings.user.as_ref().map(|user| format!(" owner {}", identifier(user))).unwrap_or_default();
                self.engine.ask(&mut talk, &format!("create database {}{owner}", identifier(&database)), ANSWER)?;
                self.engine.log().info("roles", format_args!("database {database} made"));
            }
        }
        Ok(())
    }

    /// The user may have said otherwise than the tuning. Asked in a session that is there: to begin one takes the server its time.
    fn ask_max_connections(&mut self, talk: &mut Talk) -> Result<()> {
        let rows = self.engine.ask(talk, "show max_connections", ANSWER)?;
        self.max_connections = super::identity::first(&rows).parse().ok();
        Ok(())
    }

    fn password(&self) -> Result<Option<String>> {
        if let Some(password) = &self.settings.password {
            return Ok(Some(password.reveal().to_owned()));
        }
        let Some(path) = &self.settings.password_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).with_context(|| format!("read BEYOND_PG_PASSWORD_FILE={}", path.display()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Starts the pool. A port of 0 is chosen here, once.
    pub(super) fn pgbouncer(&mut self) -> Result<()> {
        self.settings.listen = free_port(self.settings.listen)?;
        if self.max_connections.is_none() {
            let mut talk = self.engine.open(&self.server("postgres"), ANSWER)?;
            self.ask_max_connections(&mut talk)?;
        }
        self.write_layers()?;
        let ini = self.layout.run.join("pgbouncer.ini").display().to_string();
        let spec = Spec::new(self.programs()?.pgbouncer.clone(), [ini], self.account.as_ref());
        self.engine.want(Child::PgBouncer, spec);
        self.engine.board.listen = Some(self.settings.listen.to_string());
        Ok(())
    }

    /// Starts what runs beside.
    pub(super) fn sidecars(&mut self) -> Result<()> {
        for program in self.settings.sidecars.clone() {
            let child = match program {
                Program::Archiver if !self.archives() => continue,
                Program::Archiver => Child::Archiver,
                Program::Cdc => Child::Cdc,
                Program::Sink => continue,
            };
            let mut env: Vec<(String, String)> =
                self.settings.passed(program).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            env.extend(self.archive_environment());
            if program == Program::Archiver {
                env.push(("BEYOND_PG_ARCHIVE_PGDATA".to_owned(), self.data_arg()));
            }
            let spec = Spec::new(own(&self.settings, program)?, ["serve"], self.account.as_ref()).envs(env);
            self.engine.want(child, spec);
        }
        Ok(())
    }

    /// A query through the pool answers.
    pub(super) fn ready(&mut self) -> Result<()> {
        let server = self.pool();
        let mut last = String::new();
        loop {
            match self.engine.ask_once(&server, "select 1", Duration::from_secs(5)) {
                Ok(_) => return Ok(()),
                Err(error) if error.downcast_ref::<crate::engine::Stopped>().is_some() => return Err(error),
                Err(error) => {
                    let text = format!("no query through PgBouncer yet: {error:#}");
                    if text != last {
                        self.engine.board.not_ready = Some(text.clone());
                        last = text;
                    }
                }
            }
            self.engine.pause_whole(Duration::from_millis(5))?;
        }
    }

    /// The pool, over its socket.
    pub(crate) fn pool(&self) -> Server {
        Server {
            socket: self.layout.socket(self.settings.listen.port()),
            user: SUPERUSER.to_owned(),
            // What others are sent to is not this machine's to prove.
            database: self.pool_primary().map_or("postgres", |_| crate::ha::LOCAL_DATABASE).to_owned(),
            options: String::new(),
        }
    }

    /// The sink tier's server.
    pub(super) fn start_sink(&mut self) -> Result<()> {
        let env: Vec<(String, String)> =
            self.settings.passed(Program::Sink).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let has_folder = env.iter().any(|(name, _)| name == "BEYOND_PG_SINK_DATA_DIR");
        let folder = self.layout.sink.display().to_string();
        let args = if has_folder { vec!["serve"] } else { vec!["serve", "--data-dir", &folder] };
        let spec = Spec::new(own(&self.settings, Program::Sink)?, args, self.account.as_ref()).envs(env);
        self.engine.want(Child::Sink, spec);
        Ok(())
    }

    /// The sink says where it answers.
    pub(super) fn sink_is_ready(&mut self) -> Result<()> {
        loop {
            let said = self.engine.said(Child::Sink, "listening on ");
            if let Some((_, url)) = said.as_deref().and_then(|line| line.split_once("listening on ")) {
                let url = url.split_whitespace().next().unwrap_or_default();
                self.engine.board.listen = Some(url.to_owned());
                return Ok(());
            }
            self.engine.pause_whole(Duration::from_millis(10))?;
        }
    }
}

/// A free port, where the address has none.
fn free_port(address: SocketAddr) -> Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(address);
    }
    // Closed again: PgBouncer opens it a moment later.
    let listener = TcpListener::bind(address).with_context(|| format!("BEYOND_PG_LISTEN={address}: take a free port"))?;
    Ok(listener.local_addr()?)
}

/// What PgBouncer needs. Only where it is missing: a boot does not write for nothing.
const LOOKUP: &str = r"
do $boot$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'beyond_pg_pgbouncer') then
        create role beyond_pg_pgbouncer login;
    end if;
    if to_regprocedure('beyond_pg.user_lookup(text)') is null then
        create schema if not exists beyond_pg;
        create function beyond_pg.user_lookup(username text, out uname text, out phash text)
            returns record language sql security definer stable set search_path = pg_catalog as
            'select rolname::text, rolpassword from pg_catalog.pg_authid where rolname = username and rolcanlogin and (rolvaliduntil is null or rolvaliduntil > now())';
        revoke all on function beyond_pg.user_lookup(text) from public;
        grant usage on schema beyond_pg to beyond_pg_pgbouncer;
        grant execute on function beyond_pg.user_lookup(text) to beyond_pg_pgbouncer;
    end if;
end
$boot$";
