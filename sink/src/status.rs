//! `beyond-pg-sink status`: what a sink does and holds, for people and programs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::api::{State, Status};
use crate::client::Client;
use crate::config::ClientArgs;

/// The exit code for a stream that is not connected, and tries again by itself.
const CONNECTING: u8 = 4;

/// The exit code for a stream on which nobody should depend any more before a person has looked at it.
const ALARM: u8 = 3;

/// Show what a sink does and holds.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 streaming; 3 alarm: commits may be waiting, or worse, and the sink says why; 4 not connected to the \
                  primary, tried again by itself; 1 the sink gave no answer; 2 wrong usage.\n\nWith --json the answer of GET /v1/status is \
                  printed as it is documented; the exit codes are the same."
)]
pub struct StatusArgs {
    /// The sink, as https://HOST:PORT.
    #[arg(long, value_name = "URL", env = "BEYOND_PG_SINK_URL")]
    pub url: String,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// How to reach the sink.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Runs the command.
///
/// # Errors
/// Where the sink gives no answer; the text says what to do.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let status = Client::new(&args.url, &args.client)?.status().await?;
    let text = if args.json { format!("{}\n", serde_json::to_string_pretty(&status)?) } else { text(&status) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print the status")?;
    Ok(exit_code(&status))
}

fn exit_code(status: &Status) -> ExitCode {
    match status.state {
        _ if status.alarm => ALARM.into(),
        State::Streaming => ExitCode::SUCCESS,
        State::Connecting => CONNECTING.into(),
        State::DiskFull | State::Diverged | State::Refused | State::Stopping | State::UpstreamBehind => ALARM.into(),
    }
}

fn text(status: &Status) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let mut row = |name: &str, value: Option<String>| {
        table.add_row([name.to_owned(), value.unwrap_or_else(|| "-".to_owned())]);
    };
    row("state", Some(state(status)));
    if let Some(problem) = &status.problem {
        row("problem", Some(problem.clone()));
    }
    row("cluster", status.system_id.clone());
    row("timeline", status.timeline.map(|timeline| timeline.to_string()));
    row("slot", Some(status.slot.clone()));
    row("received", status.received.clone());
    row("written", status.written.clone());
    row("flushed", status.flushed.clone());
    row("complete records", status.complete.clone());
    row("primary's end", status.server_end.clone());
    row("lag", Some(bytes(status.lag_bytes)));
    row("last commit", status.last_commit_time.and_then(time));
    row("held from", status.oldest.clone());
    row("held", Some(bytes(status.held_bytes)));
    row("segment size", status.segment_size.map(bytes));
    row("version", Some(status.version.clone()));
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}

fn state(status: &Status) -> String {
    let name = match status.state {
        State::Connecting => "connecting",
        State::DiskFull => "disk full",
        State::Diverged => "diverged",
        State::Refused => "refused",
        State::Stopping => "stopping",
        State::Streaming => "streaming",
        State::UpstreamBehind => "upstream behind",
    };
    if status.alarm { format!("{name} (ALARM)") } else { name.to_owned() }
}

/// A moment of microseconds since 1970-01-01 UTC, to the second.
fn time(micros: i64) -> Option<String> {
    let moment = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    let unit = UNITS.into_iter().find(|(_, bits)| count >> bits > 0);
    unit.map_or_else(
        || format!("{count} bytes"),
        |(name, bits)| {
            let tenths = (u128::from(count) * 10) >> bits;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, alarm: bool) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            state,
            problem: alarm.then(|| "no room on the disk: make some".to_owned()),
            system_id: Some("7000".to_owned()),
            segment_size: Some(16 << 20),
            timeline: Some(1),
            slot: "sink".to_owned(),
            received: Some("0/3000100".to_owned()),
            written: Some("0/3000100".to_owned()),
            flushed: Some("0/3000100".to_owned()),
            complete: Some("0/30000F8".to_owned()),
            server_end: None,
            lag_bytes: 1536,
            last_commit_time: Some(1_700_000_000_000_000),
            oldest: None,
            held_bytes: 3 << 40,
            alarm,
        }
    }

    #[test]
    fn what_people_read() {
        let text = text(&status(State::DiskFull, true));
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default().to_owned();
        assert_eq!(line("state"), "disk full (ALARM)");
        assert_eq!(line("problem"), "no room on the disk: make some");
        assert_eq!(
            (line("lag"), line("held from"), line("segment size")),
            ("1.5 kB".to_owned(), "-".to_owned(), "16.0 MB".to_owned())
        );
        assert_eq!(line("last commit"), "2023-11-14 22:13:20 UTC");
        assert!(text.contains("3.0 TB") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_scripts_read() {
        let codes = [
            (State::Streaming, false, 0),
            (State::Connecting, false, 4),
            (State::DiskFull, true, 3),
            (State::Diverged, true, 3),
            (State::UpstreamBehind, true, 3),
            // A later version's alarm counts, whatever the state.
            (State::Streaming, true, 3),
        ];
        for (state, alarm, code) in codes {
            assert_eq!(exit_code(&status(state, alarm)), ExitCode::from(code), "{state:?}");
        }
    }
}
