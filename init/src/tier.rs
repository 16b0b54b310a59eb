//! What an instance is: what runs, who commits wait for, who is followed. Pure.
//!
//! ```text
//!   tier     sink  standby  ephemeral │ runs                  commits wait for
//!   primary   -      -         -      │ Postgres, PgBouncer   the own disk
//!   primary   x      -         -      │ Postgres, PgBouncer   the sink
//!   primary   -      x         -      │ Postgres, PgBouncer   the standby
//!   primary   x      x         -      │ Postgres, PgBouncer   both
//!   primary   -      -         x      │ Postgres, PgBouncer   nothing
//!   replica                           │ Postgres, PgBouncer   nothing of its own: it follows
//!   sink                              │ beyond-pg-sink        -
//! ```
//!
//! What holds for a while only has layers of its own, which are read later: a sink that is preferred and away, a primary that was promoted
//! and has no standby yet.

use crate::ha;
use crate::settings::{Program, Settings, Tier};

/// What the tier is called in status and plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Commits wait for nothing.
    Ephemeral,
    /// Commits wait for a standby, and for a sink where there is one.
    Ha,
    /// Commits wait for the own disk.
    Single,
    /// Commits wait for a sink.
    WalSink,
    /// A standby.
    Replica,
    /// The sink itself.
    Sink,
}

/// One parameter of Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The parameter.
    pub name: String,
    /// Its value, unquoted.
    pub value: String,
    /// Why.
    pub why: &'static str,
    /// Whether it is left out of what is shown.
    pub secret: bool,
}

/// What follows from the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierPlan {
    /// What it is called.
    pub kind: Kind,
    /// Whether Postgres runs, and PgBouncer before it.
    pub runs_postgres: bool,
    /// Programs that run beside Postgres, or instead.
    pub programs: Vec<Program>,
    /// Who commits wait for.
    pub waits_for: Vec<String>,
    /// What Postgres is told.
    pub parameters: Vec<Parameter>,
}

/// What follows from these settings. `standby` is the name of one copy of the pair's standby ([`ha::copy_name`]), where it is known: on a primary
/// the one that commits wait for, on a standby its own.
#[must_use]
pub fn plan(settings: &Settings, standby: Option<&str>) -> TierPlan {
    if settings.tier == Tier::Sink {
        let programs = vec![Program::Sink];
        return TierPlan { kind: Kind::Sink, runs_postgres: false, programs, waits_for: Vec::new(), parameters: Vec::new() };
    }
    let primary = settings.tier == Tier::Primary && !settings.ephemeral;
    let standby = standby.or(settings.ha_standby.as_deref()).filter(|_| settings.ha_standby.is_some());
    let own = standby;
    let standby = standby.filter(|_| primary);
    let sink = settings.wal_sink.as_ref().filter(|_| primary).map(|_| settings.wal_sink_name.as_str());
    let commit = if settings.ephemeral { "off" } else { "on" };
    let mut parameters = vec![
        parameter("synchronous_commit", commit, "off where the volume may be lost (BEYOND_VOLUME_EPHEMERAL)"),
        parameter("synchronous_standby_names", &ha::synchronous_names(standby, sink), "who has to hold a commit before it returns"),
    ];
    if settings.ha_standby.is_some() {
        parameters.extend(ha::SETTINGS.lines().filter_map(|line| {
            let (name, value) = line.split_once(" = ")?;
            Some(parameter(name, value, "both of a pair"))
        }));
    }
    if settings.tier == Tier::Replica {
        parameters.extend(following(settings, own));
    }
    let waits_for = standby.into_iter().chain(sink).map(str::to_owned).collect();
    TierPlan { kind: kind(settings), runs_postgres: true, programs: settings.sidecars.clone(), waits_for, parameters }
}

fn kind(settings: &Settings) -> Kind {
    match settings.tier {
        Tier::Replica => Kind::Replica,
        Tier::Sink => Kind::Sink,
        Tier::Primary if settings.ephemeral => Kind::Ephemeral,
        Tier::Primary if settings.ha_standby.is_some() => Kind::Ha,
        Tier::Primary if settings.wal_sink.is_some() => Kind::WalSink,
        Tier::Primary => Kind::Single,
    }
}

fn following(settings: &Settings, own: Option<&str>) -> Vec<Parameter> {
    let told = settings.primary_conninfo.as_ref().map_or("", |conninfo| conninfo.reveal());
    let named = own.and_then(|name| Some(ha::Conninfo::parse(told)?.with("application_name", name).text()));
    let conninfo = named.unwrap_or_else(|| told.to_owned());
    vec![
        Parameter { name: "primary_conninfo".to_owned(), value: conninfo, why: "BEYOND_PG_PRIMARY_CONNINFO", secret: true },
        parameter("primary_slot_name", settings.primary_slot.as_deref().unwrap_or_default(), "BEYOND_PG_PRIMARY_SLOT"),
    ]
}

fn parameter(name: &str, value: &str, why: &'static str) -> Parameter {
    Parameter { name: name.to_owned(), value: value.to_owned(), why, secret: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Origin, Source};

    fn of(values: &[(&str, &str)]) -> TierPlan {
        plan(&resolved(values), None)
    }

    fn resolved(values: &[(&str, &str)]) -> Settings {
        Settings::resolve(&[Source::new(Origin::Environment, values.iter().copied())]).unwrap()
    }

    fn value(plan: &TierPlan, name: &str) -> Option<String> {
        plan.parameters.iter().find(|one| one.name == name).map(|one| one.value.clone())
    }

    const SINK: (&str, &str) = ("BEYOND_PG_WAL_SINK", "https://s:8432");
    const STANDBY: (&str, &str) = ("BEYOND_PG_HA_STANDBY", "b");

    #[test]
    fn who_commits_wait_for() {
        for (values, kind, names, commit) in [
            (&[][..], Kind::Single, "", "on"),
            (&[SINK][..], Kind::WalSink, "FIRST 1 (\"beyond-pg-sink\")", "on"),
            (&[SINK, ("BEYOND_PG_WAL_SINK_POLICY", "preferred")], Kind::WalSink, "FIRST 1 (\"beyond-pg-sink\")", "on"),
            (&[STANDBY], Kind::Ha, "FIRST 1 (\"b\")", "on"),
            (&[STANDBY, SINK], Kind::Ha, "FIRST 2 (\"b\", \"beyond-pg-sink\")", "on"),
            (&[("BEYOND_VOLUME_EPHEMERAL", "1")], Kind::Ephemeral, "", "off"),
        ] {
            let plan = of(values);
            assert_eq!(plan.kind, kind, "{values:?}");
            assert_eq!(value(&plan, "synchronous_standby_names").as_deref(), Some(names), "{values:?}");
            assert_eq!(value(&plan, "synchronous_commit").as_deref(), Some(commit), "{values:?}");
            assert!(plan.runs_postgres);
        }
        assert_eq!(value(&of(&[STANDBY]), "wal_sender_timeout").as_deref(), Some("10s"), "what a pair is told");
        assert_eq!(value(&of(&[SINK]), "wal_sender_timeout"), None);
    }

    #[test]
    fn a_replica_follows_and_waits_for_nobody() {
        let replica = of(&[
            ("BEYOND_PG_TIER", "replica"),
            ("BEYOND_PG_PRIMARY_CONNINFO", "host=a port=5433"),
            STANDBY,
            SINK,
            ("BEYOND_PG_PRIMARY_SLOT", "s"),
        ]);
        assert_eq!(replica.kind, Kind::Replica);
        let conninfo = value(&replica, "primary_conninfo").unwrap();
        assert!(conninfo.contains("application_name") && conninfo.contains('b') && conninfo.contains("5433"), "{conninfo}");
        assert_eq!(value(&replica, "primary_slot_name").as_deref(), Some("s"));
        assert_eq!(value(&replica, "synchronous_standby_names").as_deref(), Some(""));
        assert!(replica.waits_for.is_empty());
        assert!(replica.parameters.iter().any(|one| one.secret && one.name == "primary_conninfo"));
    }

    #[test]
    fn commits_wait_for_one_copy_of_the_standby() {
        let names = |values: &[_], copy| value(&plan(&resolved(values), Some(copy)), "synchronous_standby_names");
        assert_eq!(names(&[STANDBY], "b:1").as_deref(), Some("FIRST 1 (\"b:1\")"));
        assert_eq!(names(&[], "b:1").as_deref(), Some(""), "without a pair there is none");
        let replica = [("BEYOND_PG_TIER", "replica"), ("BEYOND_PG_PRIMARY_CONNINFO", "host=a"), STANDBY];
        let conninfo = value(&plan(&resolved(&replica), Some("b:2")), "primary_conninfo");
        assert_eq!(conninfo.as_deref(), Some("host='a' application_name='b:2'"));
    }

    #[test]
    fn a_sink_runs_alone() {
        let sink = of(&[("BEYOND_PG_TIER", "sink"), ("BEYOND_PG_SINK_UPSTREAM", "host=a")]);
        assert_eq!((sink.kind, sink.runs_postgres, sink.programs), (Kind::Sink, false, vec![Program::Sink]));
    }
}
