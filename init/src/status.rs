//! What `beyond-pg status`, the health port and `/metrics` tell: one value, in three shapes. Pure.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::ha::HaStatus;

/// Where the program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// On the way to ready.
    #[default]
    Booting,
    /// It can't go on.
    Failed,
    /// All that should run does, or is being started again.
    Running,
    /// On the way to its end.
    Stopping,
}

impl Phase {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// One child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// Which.
    pub name: String,
    /// `up`, `down`, `waiting`, `no-space` or `stopping`.
    pub state: String,
    /// Its process, while it runs.
    pub pid: Option<i32>,
    /// How often it has ended without being told to.
    pub deaths: u64,
    /// How it ended last.
    pub last_death: Option<String>,
    /// The class of that.
    pub last_class: Option<String>,
}

/// One setting, and where its value is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingStatus {
    /// Its name.
    pub name: String,
    /// Its value; a secret's is hidden.
    pub value: String,
    /// Which source had it.
    pub source: String,
}

/// The volume's space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// Whether the database is read-only for want of space.
    pub read_only: bool,
}

/// The WAL sink, as the primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// `required` or `preferred`.
    pub policy: String,
    /// Whether it streams, and has caught up.
    pub streaming: bool,
    /// Whether commits wait for it at present.
    pub commits_wait: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of `beyond-pg`.
    pub version: String,
    /// Of `beyond-pg`.
    pub pid: u32,
    /// Where it is.
    pub phase: Phase,
    /// The step of the boot, while it boots.
    pub step: Option<String>,
    /// Whether a query through PgBouncer answers, and all that was to be proven is.
    pub ready: bool,
    /// Why it is not.
    pub not_ready: Option<String>,
    /// What it is.
    pub tier: String,
    /// Whose volume it is.
    pub identity: Option<String>,
    /// Where PgBouncer listens.
    pub listen: Option<String>,
    /// Where health is told.
    pub health: Option<String>,
    /// How long the boot took to be ready, and how much of it was Postgres' own start.
    pub boot_ms: Option<u64>,
    /// The part of [`Self::boot_ms`] that passed between the start of Postgres and its being ready.
    pub boot_postgres_ms: Option<u64>,
    /// What is wrong and stays so until somebody does something.
    pub alarms: Vec<String>,
    /// Its children.
    pub children: Vec<ChildStatus>,
    /// Settings that wait for a restart, and why.
    pub pending_restart: Vec<String>,
    /// What this fork was freed of.
    pub cleared: Vec<String>,
    /// The user's files that are not in force.
    pub set_aside: Vec<String>,
    /// What recovery has proven.
    pub recovered: Option<String>,
    /// Space.
    pub disk: Option<DiskStatus>,
    /// The WAL sink.
    pub sink: Option<SinkStatus>,
    /// The pair that this is one of.
    #[serde(default)]
    pub ha: Option<HaStatus>,
    /// Orphans that were reaped.
    pub reaped: u64,
    /// All settings.
    pub settings: Vec<SettingStatus>,
}

impl Status {
    /// The exit code of `beyond-pg status`: 0 ready, 1 not (yet), 3 failed for good.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.phase {
            Phase::Failed => 3,
            Phase::Booting | Phase::Running | Phase::Stopping if self.ready => 0,
            Phase::Booting | Phase::Running | Phase::Stopping => 1,
        }
    }

    /// For eyes.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![("state".to_owned(), self.state_line())];
        let mut say = |name: &str, value: Option<String>| lines.extend(value.map(|value| (name.to_owned(), value)));
        say("tier", Some(self.tier.clone()).filter(|tier| !tier.is_empty()));
        say("identity", self.identity.clone());
        say("listens on", self.listen.clone());
        say("health", self.health.clone());
        say("recovered", self.recovered.clone());
        say("disk", self.disk.as_ref().map(DiskStatus::line));
        say("wal sink", self.sink.as_ref().map(SinkStatus::line));
        say("ha", self.ha.as_ref().map(HaStatus::line));
        for peer in self.ha.iter().flat_map(|ha| &ha.peers) {
            say("peer", Some(format!("{}: {}", peer.address, peer.said)));
        }
        say("boot", self.boot_ms.map(|total| boot_line(total, self.boot_postgres_ms)));
        for alarm in &self.alarms {
            say("ALARM", Some(alarm.clone()));
        }
        for pending in &self.pending_restart {
            say("pending restart", Some(pending.clone()));
        }
        for file in &self.set_aside {
            say("set aside", Some(file.clone()));
        }
        for cleared in &self.cleared {
            say("fork, cleared", Some(cleared.clone()));
        }
        for child in &self.children {
            say(&child.name, Some(child.line()));
        }
        for setting in self.settings.iter().filter(|setting| setting.source != "default") {
            say(&setting.name, Some(format!("{}  ({})", setting.value, setting.source)));
        }
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        lines.iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a string does not fail.
            writeln!(text, "{name:width$}  {value}").ok();
            text
        })
    }

    fn state_line(&self) -> String {
        let step = self.step.as_ref().map(|step| format!(", step {step}")).unwrap_or_default();
        let ready = match (&self.not_ready, self.ready) {
            (_, true) => ", ready".to_owned(),
            (Some(why), false) => format!(", not ready: {why}"),
            (None, false) => ", not ready".to_owned(),
        };
        format!("{}{step}{ready}", self.phase.name())
    }

    /// Prometheus' text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = Metrics::default();
        text.gauge("beyond_pg_up", "Whether the program is not failed", "", u64::from(self.phase != Phase::Failed));
        text.gauge("beyond_pg_ready", "Whether a query through PgBouncer answers", "", u64::from(self.ready));
        text.gauge("beyond_pg_alarms", "What is wrong until somebody does something", "", count(self.alarms.len()));
        text.gauge("beyond_pg_pending_restart", "Settings that wait for a restart", "", count(self.pending_restart.len()));
        text.gauge("beyond_pg_set_aside_files", "Files of the user's that are not in force", "", count(self.set_aside.len()));
        text.counter("beyond_pg_reaped_total", "Orphans that were reaped", "", self.reaped);
        if let Some(millis) = self.boot_ms {
            text.gauge("beyond_pg_boot_milliseconds", "From the start of the program to ready", "", millis);
        }
        for child in &self.children {
            let label = format!("{{child=\"{}\"}}", child.name);
            text.gauge("beyond_pg_child_up", "Whether the child runs", &label, u64::from(child.state == "up"));
        }
        for child in &self.children {
            let label = format!("{{child=\"{}\"}}", child.name);
            text.counter("beyond_pg_child_deaths_total", "Ends that nobody asked for", &label, child.deaths);
        }
        if let Some(disk) = &self.disk {
            text.gauge("beyond_pg_volume_free_bytes", "Free space of the volume", "", disk.free_bytes);
            text.gauge("beyond_pg_volume_bytes", "Size of the volume", "", disk.total_bytes);
            text.gauge("beyond_pg_read_only", "Whether the database is read-only for want of space", "", u64::from(disk.read_only));
        }
        if let Some(ha) = &self.ha {
            let primary = u64::from(ha.role == crate::ha::Role::Primary);
            text.gauge("beyond_pg_ha_primary", "Whether it is the primary of its pair", "", primary);
            text.gauge("beyond_pg_ha_timeline", "The newest timeline that it knows of", "", ha.timeline.into());
            text.gauge("beyond_pg_ha_in_step", "Whether a standby holds all that was acknowledged", "", u64::from(ha.is_safe()));
        }
        if let Some(sink) = &self.sink {
            text.gauge("beyond_pg_sink_streaming", "Whether the WAL sink streams", "", u64::from(sink.streaming));
            text.gauge("beyond_pg_sink_commits_wait", "Whether commits wait for the WAL sink", "", u64::from(sink.commits_wait));
        }
        text.text
    }
}

impl ChildStatus {
    fn line(&self) -> String {
        let mut line = self.state.clone();
        // Writing to a string does not fail.
        if let Some(pid) = self.pid {
            write!(line, ", pid {pid}").ok();
        }
        if self.deaths > 0 {
            write!(line, ", ended {} times", self.deaths).ok();
        }
        if let (Some(death), Some(class)) = (&self.last_death, &self.last_class) {
            write!(line, ", last ({class}): {death}").ok();
        }
        line
    }
}

impl DiskStatus {
    fn line(&self) -> String {
        let read_only = if self.read_only { ", READ-ONLY until there is space" } else { "" };
        format!("{} MB of {} MB free{read_only}", self.free_bytes >> 20, self.total_bytes >> 20)
    }
}

impl SinkStatus {
    fn line(&self) -> String {
        let streams = if self.streaming { "streaming" } else { "away" };
        let waits = if self.commits_wait { "commits wait for it" } else { "commits do not wait for it" };
        format!("{}, {streams}, {waits}", self.policy)
    }
}

fn boot_line(total: u64, postgres: Option<u64>) -> String {
    postgres.map_or_else(|| format!("{total} ms"), |postgres| format!("{total} ms, of which Postgres' start {postgres} ms"))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Prometheus' text, with a head before the first sample of each name.
#[derive(Default)]
struct Metrics {
    text: String,
    last: String,
}

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        self.sample("gauge", name, help, labels, value);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        self.sample("counter", name, help, labels, value);
    }

    fn sample(&mut self, kind: &str, name: &str, help: &str, labels: &str, value: u64) {
        // Writing to a string does not fail.
        if self.last != name {
            write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
            name.clone_into(&mut self.last);
        }
        writeln!(self.text, "{name}{labels} {value}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let child = ChildStatus {
            name: "postgres".to_owned(),
            state: "up".to_owned(),
            pid: Some(7),
            deaths: 2,
            last_death: Some("killed".to_owned()),
            last_class: Some("other".to_owned()),
        };
        Status { phase: Phase::Running, ready: true, tier: "primary".to_owned(), children: vec![child], ..Status::default() }
    }

    #[test]
    fn a_table_tells_what_is() {
        let table = status().table();
        assert!(table.starts_with("state     running, ready\n"), "{table}");
        assert!(table.contains("postgres  up, pid 7, ended 2 times, last (other): killed\n"), "{table}");
    }

    #[test]
    fn metrics_have_one_head_a_name() {
        let mut status = status();
        status.children.push(ChildStatus { name: "pgbouncer".to_owned(), state: "down".to_owned(), ..status.children[0].clone() });
        let metrics = status.metrics();
        assert_eq!(metrics.matches("# TYPE beyond_pg_child_up gauge").count(), 1);
        assert!(
            metrics.contains("beyond_pg_child_up{child=\"postgres\"} 1\nbeyond_pg_child_up{child=\"pgbouncer\"} 0\n"),
            "{metrics}"
        );
    }

    #[test]
    fn scripts_can_tell_states_apart() {
        let ready = status();
        assert_eq!(ready.exit_code(), 0);
        assert_eq!(Status { ready: false, ..ready.clone() }.exit_code(), 1);
        assert_eq!(Status { phase: Phase::Failed, ..ready.clone() }.exit_code(), 3);
        let text = serde_json::to_string(&ready).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), ready);
    }
}
