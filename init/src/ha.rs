//! High availability: a pair of servers, one of which the other's commits wait for; who of them is the primary; and where clients go.
//! Pure: `boot` and `live` do what follows.
//!
//! ```text
//!   primary, timeline T                                standby
//!   names = FIRST 1 ("name:copy") ── WAL ───────────▶ application_name = name:copy
//!   sees it in step, twice ──▶ row of beyond_pg.ha ──▶ replayed: "nothing acknowledged on T is missing here"
//!        ✗ lost                                          promote: that row is there ──▶ timeline T + 1, without a standby
//!   comes back, asks its peers ◀──── /ha: primary on T + 1 ──┘
//!        └──▶ fenced ──▶ standby of the other by pg_rewind ──▶ in step ──▶ commits wait for it again
//! ```
//!
//! Why a row: it is WAL itself. What a standby has replayed says that all before it is there as well; that commits after it wait for the
//! standby is what the primary saw before it wrote the row. No clock and no network has a part in that.
//!
//! Why a copy has a name of its own: two standbys under one name, as when one is replaced by the other, would acknowledge commits in each other's
//! place, and the row of the first would speak for the second, whose copy of the database has it as well. Commits wait for one copy, and the
//! row is that copy's.

mod conninfo;
mod control;
mod fence;
mod report;
mod standby;

pub use conninfo::{Conninfo, Endpoint};
pub use control::{Control, newest_history};
pub use fence::{Answer, Own, Verdict, body, decide};
pub use report::{HaStatus, PeerStatus, Role, StandbyStatus};
pub use standby::{Order, Seen, StandbyWatch};

/// The value of `synchronous_standby_names`.
///
/// With a sink and a standby it is `FIRST 2`: a commit is acknowledged when both have it. With `ANY 1` or `FIRST 1` a commit could be in
/// the sink alone when the primary is lost, and the standby that is promoted would lack it; or in the standby alone, and a primary that
/// lost its volume and recovers from the sink would. Each of the two ways back has to have all.
#[must_use]
pub fn synchronous_names(standby: Option<&str>, sink: Option<&str>) -> String {
    match (standby, sink) {
        (None, None) => String::new(),
        (Some(one), None) | (None, Some(one)) => format!("FIRST 1 (\"{one}\")"),
        (Some(standby), Some(sink)) => format!("FIRST 2 (\"{standby}\", \"{sink}\")"),
    }
}

/// How long the name of a pair may be: with that of a copy it is an `application_name`, which Postgres cuts off at 63 bytes.
pub const NAME_BYTES_MAX: usize = 54;

/// The name of one copy of a pair's standby.
#[must_use]
pub fn copy_name(pair: &str, copy: &str) -> String {
    format!("{pair}:{copy}")
}

/// Whether a standby of this name is of the pair: one of its copies, or a server that nobody gave a name of its own. Whoever connects chooses
/// the name: no other is written into a file.
#[must_use]
pub fn is_of_pair(name: &str, pair: &str) -> bool {
    name.strip_prefix(pair).is_some_and(|copy| copy.is_empty() || copy.strip_prefix(':').is_some_and(is_copy))
}

/// Whether this is what a copy is called: eight hexadecimal digits.
#[must_use]
pub fn is_copy(text: &str) -> bool {
    text.len() == COPY_BYTES && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// How long the name of a copy is.
const COPY_BYTES: usize = 8;

/// The layer in which a primary does without its standby: after it was promoted, until it has one again.
pub const LAYER: &str = "60-ha.conf";

/// What is in [`LAYER`].
#[must_use]
pub fn layer(sink: Option<&str>) -> String {
    format!(
        "# This server was promoted and has no standby yet. Taken back when one has caught up.\nsynchronous_standby_names = '{}'\n",
        synchronous_names(None, sink)
    )
}

/// What both of a pair are told. How long either waits for a sign of life of the other: the server's own minute would leave a standby with
/// a dead primary for as long. And WAL that is kept: for a standby that was away, and for `pg_rewind`, which needs it back to the last
/// checkpoint before the promotion, while the recovery that it begins with removes what it does not need itself.
pub const SETTINGS: &str = "wal_sender_timeout = 10s\nwal_receiver_timeout = 10s\nwal_keep_size = 512MB\n";

/// The database of PgBouncer that is this machine's server, wherever others go.
pub const LOCAL_DATABASE: &str = "beyond_pg_local";

/// PgBouncer's `[databases]`: all to the server of this machine, or all to the primary. Passwords are looked up here in both cases: a
/// standby has the primary's verifiers, and with the same verifier on both sides PgBouncer needs no password of its own to go on with.
#[must_use]
pub fn pool_databases(run: &str, port: u16, primary: Option<&Endpoint>) -> String {
    primary.map_or_else(
        || format!("* = host={run} port={port} auth_dbname=postgres\n"),
        |primary| {
            let local = format!("{LOCAL_DATABASE} = host={run} port={port} dbname=postgres\n");
            format!("{local}* = host={} port={} auth_dbname={LOCAL_DATABASE}\n", primary.host, primary.port)
        },
    )
}

/// What PgBouncer is told beside that where it goes to another machine. A query that finds no server waits, and is tried again soon; a
/// machine that has vanished is given up after ten seconds.
#[must_use]
pub fn pool_settings(primary: Option<&Endpoint>) -> String {
    let mut text = "server_login_retry = 0.25\nquery_wait_timeout = 300\n".to_owned();
    if let Some(primary) = primary {
        text.push_str("server_connect_timeout = 5\ntcp_user_timeout = 10000\n");
        if let Some(mode) = &primary.sslmode {
            text.push_str(&format!("server_tls_sslmode = {mode}\n"));
        }
        if let Some(authority) = &primary.sslrootcert {
            text.push_str(&format!("server_tls_ca_file = {authority}\n"));
        }
    }
    text
}

/// What a primary is asked: its cluster and timeline, and how the pair's standby is: the copy that commits wait for, or another where that is
/// away.
#[must_use]
pub fn primary_sql(pair: Option<&str>, copy: Option<&str>) -> String {
    let literal = |text: Option<&str>| crate::sql::literal(text.unwrap_or_default());
    let (name, copies, held) = (literal(pair), crate::sql::literal(&copy_name(pair.unwrap_or_default(), "")), literal(copy));
    format!(
        "select (select system_identifier from pg_control_system()), {TIMELINE_SQL}, s.application_name, s.sync_state, s.caught_up, s.of_name > 1, \
         current_setting('synchronous_standby_names') \
         from (select 1) as one left join lateral (select application_name, sync_state, \
         count(*) over (partition by application_name) as of_name, \
         pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn) < 16777216 as caught_up from pg_stat_replication \
         where (application_name = {name} or (starts_with(application_name, {copies}) \
         and substr(application_name, length({copies}) + 1) ~ '^[0-9a-f]{{{COPY_BYTES}}}$')) and state = 'streaming' \
         order by application_name <> {held}, sync_state <> 'sync', caught_up desc nulls last limit 1) as s on true"
    )
}

/// What shows that commits wait for a standby, asked in a session of its own: a new one has the configuration that the server has told all its
/// processes to read.
pub const NAMES_SQL: &str = "show synchronous_standby_names";

/// Comes back when the checkpointer, which tells all others whether commits wait, has read its configuration.
pub const SETTLE_SQL: &str = "set statement_timeout = 0; checkpoint";

/// The timeline that a primary writes.
pub const TIMELINE_SQL: &str = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";

/// What a standby is asked: its cluster, the newest timeline that it knows of, whether its primary streams, and how far it is.
pub const STANDBY_SQL: &str = "select (select system_identifier from pg_control_system()), \
     greatest((select timeline_id from pg_control_checkpoint()), (select min_recovery_end_timeline from pg_control_recovery()), \
     (select received_tli from pg_stat_wal_receiver), \
     (select max(('x' || substr(name, 1, 8))::bit(32)::int) from pg_ls_waldir() where name ~ '^[0-9A-F]{8}\\.history$')), \
     (select status from pg_stat_wal_receiver), coalesce(pg_last_wal_replay_lsn()::text, ''), \
     coalesce(pg_last_xact_replay_timestamp()::text, 'none'), to_regclass('beyond_pg.ha') is not null";

/// Whether the primary has seen this copy of the standby in step on this timeline, as far as that has replayed.
#[must_use]
pub fn in_step_sql(standby: &str, timeline: u32) -> String {
    format!("select 1 from beyond_pg.ha where standby = {} and timeline = {timeline}", crate::sql::literal(standby))
}

/// Notes that this copy of the standby is in step, and no other. Once a timeline.
#[must_use]
pub fn record_sql(standby: &str, timeline: u32) -> String {
    let name = crate::sql::literal(standby);
    format!(
        "create schema if not exists beyond_pg; \
         create table if not exists beyond_pg.ha (standby text not null, timeline int not null, since timestamptz not null default now(), \
         primary key (standby, timeline)); \
         delete from beyond_pg.ha where standby <> {name} or timeline <> {timeline}; \
         insert into beyond_pg.ha (standby, timeline) values ({name}, {timeline}) on conflict do nothing"
    )
}

/// Takes that back: commits do not wait for a standby any more.
pub const FORGET_SQL: &str =
    "do $ha$ begin if to_regclass('beyond_pg.ha') is not null then delete from beyond_pg.ha; end if; end $ha$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_standby_are_of_its_pair() {
        assert!(is_of_pair("twin", "twin") && is_of_pair(&copy_name("twin", "0a1b2c3d"), "twin"));
        assert!(!is_of_pair("twins", "twin") && !is_of_pair("twin", "twins") && !is_of_pair("twi:n", "twin"));
        for name in ["twin:", "twin:0a", "twin:0A1B2C3D", "twin:0a1b2c3\"", "twin:0a1b2c3d0"] {
            assert!(!is_of_pair(name, "twin"), "{name}");
        }
        assert_eq!(copy_name(&"n".repeat(NAME_BYTES_MAX), "01234567").len(), 63);
    }

    #[test]
    fn commits_wait_for_each_that_is_named() {
        assert_eq!(synchronous_names(None, None), "");
        assert_eq!(synchronous_names(Some("b"), None), "FIRST 1 (\"b\")");
        assert_eq!(synchronous_names(None, Some("sink")), "FIRST 1 (\"sink\")");
        assert_eq!(synchronous_names(Some("b"), Some("sink")), "FIRST 2 (\"b\", \"sink\")");
        assert!(layer(Some("sink")).ends_with("synchronous_standby_names = 'FIRST 1 (\"sink\")'\n"));
    }

    #[test]
    fn the_pool_goes_where_it_should_and_looks_passwords_up_here() {
        assert_eq!(pool_databases("/run/x", 5433, None), "* = host=/run/x port=5433 auth_dbname=postgres\n");
        let conninfo = Conninfo::parse("host=10.0.0.1 port=6000 sslmode=verify-ca sslrootcert=/ca.pem").unwrap();
        let primary = conninfo.endpoint().unwrap();
        assert_eq!(
            pool_databases("/run/x", 5433, Some(&primary)),
            "beyond_pg_local = host=/run/x port=5433 dbname=postgres\n* = host=10.0.0.1 port=6000 auth_dbname=beyond_pg_local\n"
        );
        let settings = pool_settings(Some(&primary));
        assert!(settings.contains("server_tls_sslmode = verify-ca\nserver_tls_ca_file = /ca.pem\n"), "{settings}");
        assert!(!pool_settings(None).contains("tls"));
    }
}
