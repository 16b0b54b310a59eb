//! The steps of a boot, by name and in order.

use std::fmt;

/// One step. Each looks at what is there before it acts, so that a boot that was killed anywhere ends in the same place when it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// As PID 1: what a system has mounted.
    Mounts,
    /// What this instance is told.
    Settings,
    /// The volume, its lock, its folders.
    Volume,
    /// A cluster, where there is none.
    Initdb,
    /// On a replica: a copy of the primary, where there is none.
    Base,
    /// WAL where it shall be.
    WalDir,
    /// The layers of configuration.
    Config,
    /// The WAL that the volume lacks and the sink has.
    SinkRecover,
    /// The recovery target.
    Pitr,
    /// Whether Postgres takes its configuration.
    Check,
    /// Whether this is a fork, and what it is freed of then.
    Identity,
    /// The server.
    Start,
    /// Roles and databases.
    Roles,
    /// The proof that the server has replayed what was recovered.
    Verify,
    /// The pool.
    PgBouncer,
    /// What runs beside.
    Sidecars,
    /// A query through the pool.
    Ready,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 17] = [
        Self::Mounts,
        Self::Settings,
        Self::Volume,
        Self::Initdb,
        Self::Base,
        Self::WalDir,
        Self::Config,
        Self::SinkRecover,
        Self::Pitr,
        Self::Check,
        Self::Identity,
        Self::Start,
        Self::Roles,
        Self::Verify,
        Self::PgBouncer,
        Self::Sidecars,
        Self::Ready,
    ];

    /// Its name in the log, in status and in `plan`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Check => "check",
            Self::Config => "config",
            Self::Identity => "identity",
            Self::Initdb => "initdb",
            Self::Mounts => "mounts",
            Self::PgBouncer => "pgbouncer",
            Self::Pitr => "pitr",
            Self::Ready => "ready",
            Self::Roles => "roles",
            Self::Settings => "settings",
            Self::Sidecars => "sidecars",
            Self::SinkRecover => "sink_recover",
            Self::Start => "start",
            Self::Verify => "verify",
            Self::Volume => "volume",
            Self::WalDir => "wal_dir",
        }
    }

    /// The step of this name.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn of_name(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|step| step.name() == name);
        found.ok_or_else(|| format!("no step of that name; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for step in Step::ALL {
            assert_eq!(Step::of_name(step.name()), Ok(step));
        }
        assert!(Step::of_name("nap").unwrap_err().contains("sink_recover"));
        assert!(Step::ALL.is_sorted());
    }
}
