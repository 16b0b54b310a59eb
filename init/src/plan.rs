//! What a boot would do: the steps that have something to do, and the files that they would write. Pure; `beyond-pg plan` prints it.

use serde::Serialize;

use crate::boot::Step;
use crate::conf::RenderedFile;
use crate::machine::Resources;
use crate::settings::{Program, Provenance, Settings, Tier};
use crate::tier::{Kind, TierPlan};
use crate::tune::{Tuned, Tuning};

/// What is there before a boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The major version of the cluster on the volume, where there is one.
    pub cluster: Option<u32>,
    /// Whether the recovery target of the settings was reached by an earlier boot.
    pub target_is_done: bool,
    /// Whether the volume is another instance's.
    pub is_fork: bool,
    /// Whether we are PID 1.
    pub is_pid_1: bool,
}

/// One step, and what it would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// Its name, as in the log.
    pub step: &'static str,
    /// What it would do.
    pub does: String,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What the instance is.
    pub tier: Kind,
    /// Who commits wait for.
    pub waits_for: Vec<String>,
    /// The steps that have something to do.
    pub steps: Vec<PlannedStep>,
    /// The settings, with where each value is from.
    pub settings: Vec<Provenance>,
    /// Memory and CPUs; `None` where no Postgres runs.
    pub machine: Option<Resources>,
    /// What follows from them.
    pub tuning: Vec<Tuned>,
    /// The files, without secrets.
    pub files: Vec<RenderedFile>,
    /// What could not be found out here, and was assumed.
    pub assumed: Vec<String>,
}

/// Puts a plan together.
#[must_use]
pub fn plan(settings: &Settings, tier: &TierPlan, held: Held, machine: Option<Resources>, tuning: Option<Tuning>) -> Plan {
    Plan {
        tier: tier.kind,
        waits_for: tier.waits_for.clone(),
        steps: steps(settings, tier, held),
        settings: settings.provenance().to_vec(),
        machine,
        tuning: tuning.map(|tuning| tuning.settings).unwrap_or_default(),
        files: Vec::new(),
        assumed: Vec::new(),
    }
}

/// The steps that have something to do, in their order.
#[must_use]
pub fn steps(settings: &Settings, tier: &TierPlan, held: Held) -> Vec<PlannedStep> {
    let mut steps = Vec::new();
    let mut add = |wanted: bool, step: Step, does: String| {
        if wanted {
            steps.push(PlannedStep { step: step.name(), does });
        }
    };
    let volume = settings.volume.display();
    add(held.is_pid_1, Step::Mounts, "mount what a system has mounted".to_owned());
    add(true, Step::Settings, "read the settings: done here as well".to_owned());
    add(true, Step::Volume, format!("lock {volume}, and look at what it holds"));
    if !tier.runs_postgres {
        add(true, Step::Start, format!("run {} with its data in {volume}/sink", Program::Sink.file_name()));
        add(true, Step::Ready, "once it serves".to_owned());
        return steps;
    }
    let (primary, empty) = (settings.tier == Tier::Primary, held.cluster.is_none());
    add(primary && empty, Step::Initdb, "make a cluster: the volume is empty".to_owned());
    add(!primary && empty, Step::Base, "copy the primary by pg_basebackup: the volume is empty".to_owned());
    let wal = settings.wal_dir.as_ref().map_or_else(|| format!("{volume}/wal"), |folder| folder.display().to_string());
    add(true, Step::WalDir, format!("see to it that pg_wal is a link to {wal}"));
    add(true, Step::Config, "write the files below, those that differ".to_owned());
    let target = settings.pitr_target.as_ref().filter(|_| primary && !held.target_is_done);
    let sink = settings.wal_sink.as_ref().filter(|_| primary && !empty && !held.is_fork && target.is_none());
    if let Some(url) = sink {
        add(true, Step::SinkRecover, format!("lay the WAL on the volume that it lacks and {url} has; wait for it, if need be"));
    }
    if let Some(target) = target {
        add(true, Step::Pitr, format!("prove that {} can be reached out of the archive, and recover to it", target.as_str()));
    }
    add(true, Step::Check, "try the configuration by postgres -C; set aside what of the user's it does not take".to_owned());
    add(held.is_fork, Step::Identity, "free the fork of its parent: slots, subscriptions, cron jobs, synchronous names".to_owned());
    add(true, Step::Start, format!("start Postgres on 127.0.0.1:{}", settings.port));
    add(primary, Step::Roles, "make the roles and the database that are missing".to_owned());
    add(sink.is_some(), Step::Verify, "prove that the server has replayed what the sink had".to_owned());
    add(true, Step::PgBouncer, format!("start PgBouncer on {}", settings.listen));
    if !tier.programs.is_empty() {
        let names: Vec<&str> = tier.programs.iter().map(|program| program.file_name()).collect();
        add(true, Step::Sidecars, format!("run {}", names.join(", ")));
    }
    add(true, Step::Ready, "once a query through PgBouncer is answered".to_owned());
    steps
}

impl Plan {
    /// For eyes.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from("steps\n");
        for step in &self.steps {
            text.push_str(&format!("  {:<12} {}\n", step.step, step.does));
        }
        text.push_str("\nsettings\n");
        for one in &self.settings {
            let Some(value) = &one.value else { continue };
            text.push_str(&format!("  {}={value}  ({})\n", one.name, one.origin));
        }
        if let Some(machine) = &self.machine {
            text.push_str(&format!(
                "\nmachine\n  memory {} MB  ({})\n  CPUs {}  ({})\n",
                machine.memory_bytes.value >> 20,
                machine.memory_bytes.origin,
                machine.cpus.value,
                machine.cpus.origin
            ));
        }
        for line in &self.assumed {
            text.push_str(&format!("\nassumed: {line}\n"));
        }
        for file in &self.files {
            let folder = match file.place {
                crate::conf::Place::Data => "data/",
                crate::conf::Place::Layer => "data/conf.d/",
                crate::conf::Place::Run => "",
            };
            text.push_str(&format!("\n--- {folder}{}\n{}", file.name, file.text));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Origin, Source};
    use crate::tier;

    fn names(values: &[(&str, &str)], held: Held) -> Vec<&'static str> {
        let settings = Settings::resolve(&[Source::new(Origin::Environment, values.iter().copied())]).unwrap();
        steps(&settings, &tier::plan(&settings, None), held).iter().map(|step| step.step).collect()
    }

    const CLUSTER: Held = Held { cluster: Some(18), target_is_done: false, is_fork: false, is_pid_1: false };

    #[test]
    fn only_steps_with_something_to_do() {
        let empty = names(&[], Held::default());
        assert_eq!(empty, ["settings", "volume", "initdb", "wal_dir", "config", "check", "start", "roles", "pgbouncer", "ready"]);
        assert!(!names(&[], CLUSTER).contains(&"initdb"));
        let sink = [("BEYOND_PG_WAL_SINK", "https://s:8432")];
        assert!(!names(&sink, Held::default()).contains(&"sink_recover"), "a new cluster lacks nothing");
        let recovers = names(&sink, CLUSTER);
        assert!(recovers.contains(&"sink_recover") && recovers.contains(&"verify"));
        assert!(!names(&sink, Held { is_fork: true, ..CLUSTER }).contains(&"sink_recover"), "the sink is its parent's");
        assert!(names(&sink, Held { is_fork: true, ..CLUSTER }).contains(&"identity"));
    }

    #[test]
    fn a_target_is_for_once() {
        let target = [("BEYOND_PG_PITR_TARGET", "0/1"), ("BEYOND_PG_ARCHIVE_STORE", "file:///a")];
        assert!(names(&target, CLUSTER).contains(&"pitr"));
        assert!(!names(&target, Held { target_is_done: true, ..CLUSTER }).contains(&"pitr"));
    }

    #[test]
    fn other_tiers() {
        let replica = [("BEYOND_PG_TIER", "replica"), ("BEYOND_PG_PRIMARY_CONNINFO", "host=a")];
        let steps = names(&replica, Held::default());
        assert!(steps.contains(&"base") && !steps.contains(&"initdb") && !steps.contains(&"roles"));
        let sink = [("BEYOND_PG_TIER", "sink"), ("BEYOND_PG_SINK_UPSTREAM", "host=a")];
        assert_eq!(names(&sink, Held { is_pid_1: true, ..CLUSTER }), ["mounts", "settings", "volume", "start", "ready"]);
    }
}
