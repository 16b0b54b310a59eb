//! How often what happened in a round.

use std::fmt;

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub(super) postgres_killed: u32,
    pub(super) daemon_killed: u32,
    pub(super) pushes_killed: u32,
    pub(super) followers_killed: u32,
    pub(super) store_killed: u32,
    pub(super) all_killed: u32,
    /// Killed between what the store did and its answer.
    pub(super) between: u32,
    pub(super) outages: u32,
    /// Answers that Postgres has heard while the store was away.
    pub(super) failed: u64,
    pub(super) hangs: u32,
    pub(super) refused_daemons: u32,
    pub(super) clock_jumps: u32,
    pub(super) promotions: u32,
    pub(super) faults: u32,
    /// Requests that a fault has befallen.
    pub(super) hits: u64,
    pub(super) switches: u64,
    /// Recoveries that ended because the store was away.
    pub(super) recoveries_broken: u32,
    /// Files of the neighbour's.
    pub(super) neighbours_files: usize,
    /// Files with other content under the name of one that is there.
    pub(super) impostors: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: [(&str, u64); 19] = [
            ("postgres", self.postgres_killed.into()),
            ("push", self.pushes_killed.into()),
            ("daemon", self.daemon_killed.into()),
            ("follow", self.followers_killed.into()),
            ("store", self.store_killed.into()),
            ("all", self.all_killed.into()),
            ("between upload and answer", self.between.into()),
            ("outages", self.outages.into()),
            ("pushes failed", self.failed),
            ("daemon hung", self.hangs.into()),
            ("second daemons", self.refused_daemons.into()),
            ("clock jumps", self.clock_jumps.into()),
            ("promotions", self.promotions.into()),
            ("faults", self.faults.into()),
            ("requests befallen", self.hits),
            ("switches", self.switches),
            ("impostors", self.impostors.into()),
            ("neighbour's files", self.neighbours_files as u64),
            ("recoveries broken", self.recoveries_broken.into()),
        ];
        let (killed, rest) = counts.split_at(7);
        let list = |counts: &[(&str, u64)]| {
            let told = counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
            told.collect::<Vec<_>>().join(", ")
        };
        write!(f, "killed: {}; {}", list(killed), list(rest))
    }
}
