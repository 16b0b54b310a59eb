//! Whose volume this is. One that finds itself under a new identity is a fork: what ties it to its parent is cut, once, by a server that
//! nobody but we can reach, before anything can use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{ANSWER, Boot};
use crate::engine::{Server, Talk};
use crate::sql::{Rows, identifier, literal};
use crate::supervise::{Child, State};
use crate::volume::{PostmasterPid, make_folder_within};

/// Settings by which a server reaches others, or waits for them.
const TIES: [&str; 8] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "restore_command",
    "synchronous_standby_names",
];

impl Boot<'_> {
    /// Whether the volume is another instance's.
    pub(super) fn is_fork(&self) -> bool {
        matches!((&self.remembered.identity, &self.settings.identity), (Some(held), Some(own)) if held != own)
    }

    /// Frees a fork of what it has of its parent, and remembers whose volume this is.
    pub(super) fn identity(&mut self) -> Result<()> {
        self.engine.board.identity = self.settings.identity.clone().or_else(|| self.remembered.identity.clone());
        let Some(own) = self.settings.identity.clone() else { return Ok(()) };
        if self.remembered.identity.as_ref() == Some(&own) {
            return Ok(());
        }
        if self.is_fork() {
            let parent = self.remembered.identity.clone().unwrap_or_default();
            self.engine.log().warn("identity", format_args!("this volume is {parent}'s, and this is {own}: a fork"));
            self.fork = true;
            self.remembered.cleared = self.free(&parent)?;
            self.remembered.sink_has_wal = false;
            let store = self.remembered.archive_store.take();
            self.remembered.parents_stores.extend(store);
            self.engine.board.cleared = self.remembered.cleared.clone();
        }
        self.remembered.identity = Some(own);
        self.remembered.write(&self.layout)?;
        self.remember_store()
    }

    /// Cuts the ties, and says which there were.
    fn free(&mut self, parent: &str) -> Result<Vec<String>> {
        let mut cleared = vec![format!("the volume was {parent}'s")];
        cleared.extend(self.free_files()?);
        let private = self.start_alone()?;
        let mut talk = self.engine.open(&self.alone(&private, "postgres"), ANSWER)?;
        if first(&self.engine.ask(&mut talk, "select pg_is_in_recovery()", ANSWER)?) == "t" {
            // The copy of a standby has nobody to follow.
            self.leave_recovery(&mut talk, &mut cleared)?;
        }
        self.free_settings(&mut talk, &mut cleared)?;
        self.free_slots(&mut talk, &mut cleared)?;
        let databases = self.engine.ask(&mut talk, "select datname from pg_database where datallowconn order by 1", ANSWER)?;
        for name in databases.into_iter().flatten().flatten() {
            let server = self.alone(&private, &name);
            self.free_database(&name, &server, &mut cleared)?;
        }
        drop(talk);
        self.engine.unwant(Child::Postgres)?;
        for line in &cleared {
            self.engine.log().warn("identity", format_args!("fork: {line}"));
        }
        Ok(cleared)
    }

    /// The server that nobody else reaches.
    pub(super) fn alone(&self, folder: &Path, database: &str) -> Server {
        Server { socket: folder.join(format!(".s.PGSQL.{}", self.settings.port)), ..self.server(database) }
    }

    /// The user's files that hold a tie: they are read last, so they would win over what is cleared.
    fn free_files(&mut self) -> Result<Vec<String>> {
        let mut cleared = Vec::new();
        for path in super::configure::user_files(&self.layout) {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let held: Vec<&str> = TIES.into_iter().filter(|tie| sets(&text, tie)).collect();
            if !held.is_empty() {
                let aside = super::configure::set_aside(&self.layout, self.account.as_ref(), &path)?;
                self.note_set_aside(aside.display().to_string())?;
                cleared.push(format!("{} sets {}: set aside as {}", path.display(), held.join(", "), aside.display()));
            }
        }
        Ok(cleared)
    }

    /// Starts the server for ourselves alone: no network, a socket in a folder of its own, nothing that reaches out.
    pub(super) fn start_alone(&mut self) -> Result<PathBuf> {
        let private = self.layout.run.join("private");
        make_folder_within(&private, 0o700, self.owner())?;
        let mut settings = vec![
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={}", private.display()),
            "archive_cleanup_command=".to_owned(),
            "archive_command=".to_owned(),
            "archive_library=".to_owned(),
            "recovery_end_command=".to_owned(),
            "cron.launch_active_jobs=off".to_owned(),
            "max_logical_replication_workers=0".to_owned(),
            "primary_conninfo=".to_owned(),
            "synchronous_standby_names=".to_owned(),
        ];
        if self.major >= 17 {
            settings.push("event_triggers=off".to_owned());
        }
        let spec = self.postgres_spec(&settings)?;
        self.engine.want(Child::Postgres, spec);
        self.await_postgres()?;
        Ok(private)
    }

    fn leave_recovery(&mut self, talk: &mut Talk, cleared: &mut Vec<String>) -> Result<()> {
        if self.settings.tier != crate::settings::Tier::Primary {
            return Ok(());
        }
        self.engine.ask(talk, "select pg_promote(false)", ANSWER)?;
        cleared.push("the standby that this was is promoted".to_owned());
        while first(&self.engine.ask(talk, "select pg_is_in_recovery()", ANSWER)?) == "t" {
            self.engine.pause_whole(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// What `ALTER SYSTEM` has set of them.
    fn free_settings(&mut self, talk: &mut Talk, cleared: &mut Vec<String>) -> Result<()> {
        let ties = TIES.map(literal).join(",");
        let sql = format!(
            "select name from pg_file_settings where name in ({ties}) and sourcefile like '%/postgresql.auto.conf' and setting <> '' order by 1"
        );
        let held = self.engine.ask(talk, &sql, ANSWER)?;
        for name in held.into_iter().flatten().flatten() {
            self.engine.ask(talk, &format!("alter system reset {}", identifier(&name)), ANSWER)?;
            cleared.push(format!("{name}, set by ALTER SYSTEM, is reset"));
        }
        Ok(())
    }

    fn free_slots(&mut self, talk: &mut Talk, cleared: &mut Vec<String>) -> Result<()> {
        let slots = self.engine.ask(talk, "select slot_name, slot_type from pg_replication_slots order by 1", ANSWER)?;
        for slot in slots {
            let (name, kind) = pair(slot);
            self.engine.ask(talk, &format!("select pg_drop_replication_slot({})", literal(&name)), ANSWER)?;
            cleared.push(format!("{kind} slot {name} is dropped"));
        }
        Ok(())
    }

    fn free_database(&mut self, name: &str, server: &Server, cleared: &mut Vec<String>) -> Result<()> {
        let mut talk = self.engine.open(server, ANSWER)?;
        let standby = first(&self.engine.ask(&mut talk, "select pg_is_in_recovery()", ANSWER)?) == "t";
        if standby {
            return Ok(());
        }
        let mine = "select subname from pg_subscription where subdbid = (select oid from pg_database where datname = current_database()) order by 1";
        for subscription in self.engine.ask(&mut talk, mine, ANSWER)?.into_iter().flatten().flatten() {
            let quoted = identifier(&subscription);
            for change in ["disable", "set (slot_name = none)"] {
                self.engine.ask(&mut talk, &format!("alter subscription {quoted} {change}"), ANSWER)?;
            }
            cleared.push(format!("{name}: subscription {subscription} is disabled and has no slot"));
        }
        // Of the extension, and not a table that somebody named so for us to touch; nor does a trigger of theirs run.
        let is_cron = "select exists (select from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid \
                       where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                       and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
                       and d.objid = pg_catalog.to_regclass('cron.job') and e.extname = 'pg_cron')";
        if first(&self.engine.ask(&mut talk, is_cron, ANSWER)?) == "t" {
            self.engine.ask(&mut talk, "set session_replication_role = replica", ANSWER)?;
            let jobs = "update cron.job set active = false where active returning coalesce(jobname, jobid::text), command";
            for job in self.engine.ask(&mut talk, jobs, ANSWER)? {
                let (job, command) = pair(job);
                cleared.push(format!("{name}: cron job {job} is not active: {command}"));
            }
        }
        self.free_mappings(name, &mut talk, cleared)
    }

    /// Passwords of foreign servers: the fork is not who they were given to.
    fn free_mappings(&mut self, name: &str, talk: &mut Talk, cleared: &mut Vec<String>) -> Result<()> {
        let sql = "select coalesce(usename, 'public'), srvname, split_part(option, '=', 1) from pg_user_mappings, unnest(umoptions) as option \
                   where split_part(option, '=', 1) in ('password', 'passfile', 'sslkey', 'sslpassword') order by 1, 2, 3";
        for mapping in self.engine.ask(talk, sql, ANSWER)? {
            let mut fields = mapping.into_iter().map(Option::unwrap_or_default);
            let (user, foreign, option) =
                (fields.next().unwrap_or_default(), fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let who = if user == "public" { "public".to_owned() } else { identifier(&user) };
            let sql =
                format!("alter user mapping for {who} server {} options (drop {})", identifier(&foreign), identifier(&option));
            self.engine.ask(talk, &sql, ANSWER)?;
            cleared.push(format!("{name}: {option} of {user} at the foreign server {foreign} is dropped"));
        }
        Ok(())
    }

    /// Whether the server that runs takes connections, as it says itself.
    pub(crate) fn postgres_is_ready(&self) -> bool {
        let own = self.engine.pid(Child::Postgres).map(|pid| pid.as_raw_nonzero().get());
        let held = PostmasterPid::of(&self.layout.data);
        held.is_some_and(|held| Some(held.pid) == own && matches!(held.status.as_str(), "ready" | "standby"))
    }

    /// Waits until the server that was asked for takes connections, for as long as its recovery needs.
    pub(crate) fn await_postgres(&mut self) -> Result<()> {
        let from = self.engine.now();
        let mut told = from;
        loop {
            self.engine.go_on()?;
            if self.postgres_is_ready() {
                return Ok(());
            }
            let now = self.engine.now();
            if now.saturating_sub(told) > Duration::from_secs(15) {
                told = now;
                self.engine
                    .log()
                    .info("start", format_args!("Postgres has not been ready for {} s", now.saturating_sub(from).as_secs()));
            }
            if let (State::Waiting { .. } | State::NoSpace, Some(death)) =
                (self.engine.core().state(Child::Postgres), self.engine.core().last_death(Child::Postgres))
            {
                self.engine.board.not_ready = Some(format!("Postgres does not start: {}", death.text));
            }
            self.engine.look_for_space(&self.layout.root)?;
            // A server that starts is soon there; one that replays much is not looked at all the time.
            let pause = if now.saturating_sub(from) < Duration::from_secs(2) { 2 } else { 50 };
            self.engine.pause(Duration::from_millis(pause))?;
        }
    }
}

pub(super) fn first(rows: &Rows) -> String {
    rows.first().and_then(|row| row.first()).cloned().flatten().unwrap_or_default()
}

fn pair(row: Vec<Option<String>>) -> (String, String) {
    let mut fields = row.into_iter().map(Option::unwrap_or_default);
    (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
}

/// Whether a file of configuration gives this setting a value.
pub(super) fn sets(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        line.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
            && line.get(name.len()..).is_some_and(|rest| rest.starts_with([' ', '\t', '=']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_sets_is_found() {
        assert!(sets("a = 1\n  Archive_Command='x'\n", "archive_command"));
        assert!(sets("archive_command 'x'", "archive_command"));
        assert!(!sets("#archive_command = 'x'\narchive_commands = 1\narchive_command", "archive_command"));
    }
}
