//! `/metrics`: names begin with `beyond_pg_cdc_` and end with their unit. All is read when it is asked for.

use std::fmt::Write as _;

use super::App;
use crate::state::Condition;

/// The text format that Prometheus reads.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const CONDITIONS: [Condition; 6] = [
    Condition::Connecting,
    Condition::DiskFull,
    Condition::Refused,
    Condition::SlotLost,
    Condition::Stopping,
    Condition::Streaming,
];

/// Writes one family after the other.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // A String takes whatever is written to it.
        let _infallible = write!(self.0, "# HELP beyond_pg_cdc_{name} {help}\n# TYPE beyond_pg_cdc_{name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        let _infallible = writeln!(self.0, "beyond_pg_cdc_{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.value(name, "", value);
    }
}

/// A label's value as the format has it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(super) fn encode(app: &App) -> String {
    let view = app.state.view();
    let head = app.log.head().commit_lsn.0;
    let mut page = Page(String::with_capacity(4 << 10));
    page.family("build_info", "gauge", "The version that runs");
    page.value("build_info", concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1);
    page.family("state", "gauge", "1 for what the source is doing");
    for condition in CONDITIONS {
        page.value("state", &format!("{{state=\"{}\"}}", condition.name()), u64::from(condition == view.condition));
    }
    page.single("transactions_total", "counter", "Transactions taken since the start", view.transactions);
    page.single("changes_total", "counter", "Changes taken since the start", view.changes);
    page.single("sessions_total", "counter", "Replication sessions begun since the start", view.sessions);
    let ended = view.disk_full_sessions;
    page.single("disk_full_sessions_total", "counter", "Sessions ended because the disk was full for too long", ended);
    page.single("primary_lsn_bytes", "gauge", "The end of WAL on the primary, as it said last", view.server_end.0);
    page.single("confirmed_lsn_bytes", "gauge", "What was confirmed to the slot", view.confirmed.0);
    let behind = view.server_end.0.saturating_sub(view.confirmed.0);
    page.single("slot_lag_bytes", "gauge", "WAL on the primary that is not confirmed", behind);
    page.single("head_lsn_bytes", "gauge", "The commit of the last transaction in the log", head);
    page.single("earliest_lsn_bytes", "gauge", "The log holds what is behind this", app.log.earliest().commit_lsn.0);
    page.single("log_size_bytes", "gauge", "Size of the event log's files", app.log.size_bytes());
    page.single("open_memory_bytes", "gauge", "Memory of transactions that are not committed", view.open_memory_bytes);
    page.single("open_spooled_bytes", "gauge", "Transactions that are not committed, on disk", view.spooled_bytes);
    let subscriptions = app.server.subscriptions();
    page.single("subscriptions", "gauge", "Subscriptions that are open", subscriptions.len() as u64);
    page.family("consumer_lag_bytes", "gauge", "WAL between a named consumer's acknowledged position and the head");
    let epoch = app.log.epoch();
    for consumer in app.consumers.list() {
        if let Some(place) = consumer.place.filter(|place| place.epoch == epoch) {
            let lag = head.saturating_sub(place.position.commit_lsn.0);
            page.value("consumer_lag_bytes", &format!("{{consumer=\"{}\"}}", label(&consumer.name)), lag);
        }
    }
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_label_is_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn a_family_is_described_before_its_values() {
        let mut page = Page(String::new());
        page.single("things_total", "counter", "Things", 7);
        let expected =
            "# HELP beyond_pg_cdc_things_total Things\n# TYPE beyond_pg_cdc_things_total counter\nbeyond_pg_cdc_things_total 7\n";
        assert_eq!(page.0, expected);
    }
}
