//! Planted lies: what the rounds have to find, or they prove nothing.

use std::str::FromStr;

use anyhow::{Error, bail};

/// A lie that `archive_command` or `restore_command` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// `restore_command` says of a store that is away that it has no such file.
    Absent,
    /// `archive_command` says that all is archived, whatever `push` said.
    Always,
    /// `archive_command` believes that the daemon, where there is one, has uploaded all there is.
    Claimed,
    /// `archive_command` says that a file is archived before the store has said so.
    Early,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Absent, Self::Always, Self::Claimed, Self::Early];

    /// `archive_command`, with `push` in it.
    pub(super) fn archive_command(lie: Option<Self>, push: &str) -> String {
        match lie {
            None | Some(Self::Absent) => push.to_owned(),
            Some(Self::Always) => format!("{{ {push} || true; }}"),
            Some(Self::Claimed) => format!("{{ test -S pg_wal/.s.beyond-pg-archiver || {push}; }}"),
            Some(Self::Early) => format!("{{ ({push} &); true; }}"),
        }
    }

    /// `restore_command`, with `fetch` in it.
    pub(super) fn restore_command(lie: Option<Self>, fetch: &str) -> String {
        if lie == Some(Self::Absent) { format!("{fetch} || exit 1") } else { fetch.to_owned() }
    }
}

impl FromStr for Lie {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "absent" => Self::Absent,
            "always" => Self::Always,
            "claimed" => Self::Claimed,
            "early" => Self::Early,
            _ => bail!("expected absent, always, claimed or early"),
        })
    }
}
