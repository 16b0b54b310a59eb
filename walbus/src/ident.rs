//! Who a stream belongs to, and when things happened in it.

use std::fmt;
use std::str::FromStr;

/// A timeline of a cluster: 1 at first, a greater one after each promotion or point-in-time recovery. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(u32);

impl Timeline {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: Self = Self(1);

    /// The timeline with this number, `None` for 0, which Postgres does not use.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The timeline's number, at least 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that `initdb` gives a cluster, and that its every copy keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A moment as Postgres counts it: microseconds since 2000-01-01 00:00 UTC (`TimestampTz`), negative before.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

/// Seconds from 1970-01-01 to 2000-01-01, UTC.
const UNIX_TO_PG_SECONDS: i64 = 946_684_800;

impl PgTime {
    /// The moment this many microseconds after 1970-01-01 00:00 UTC. Saturates.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(UNIX_TO_PG_SECONDS * 1_000_000))
    }

    /// Microseconds since 1970-01-01 00:00 UTC. Saturates.
    #[must_use]
    pub const fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(UNIX_TO_PG_SECONDS * 1_000_000)
    }
}

impl fmt::Debug for PgTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}
