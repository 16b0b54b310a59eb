//! Who is measured, and what.

use std::fmt;

/// Who starts Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// `beyond-pg boot`
    Boot,
    /// `pg_ctl start -w` alone: no PgBouncer, nobody who watches
    PgCtl,
    /// tini and a shell script
    Tini,
}

impl Contender {
    pub(crate) const ALL: [Self; 3] = [Self::PgCtl, Self::Boot, Self::Tini];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boot => "beyond-pg boot",
            Self::PgCtl => "pg_ctl start -w",
            Self::Tini => "tini + sh",
        })
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Run {
    /// Until `pg_ctl` came back, or the first answer through PgBouncer.
    pub(crate) ready_ms: f64,
    /// Until all had ended.
    pub(crate) stop_ms: f64,
    /// What stays resident beside Postgres and PgBouncer, in kB of 1,024 bytes; and how much of that is no file's, so that nobody shares it.
    pub(crate) resident_kib: Option<(u64, u64)>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready after {:.1} ms, stopped in {:.1} ms", self.ready_ms, self.stop_ms)?;
        match self.resident_kib {
            Some((all, own)) => write!(f, ", {all} kB resident, {own} of them its own"),
            None => Ok(()),
        }
    }
}
