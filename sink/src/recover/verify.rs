//! `recover --verify`: whether the server got there.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use walbus::conninfo::Config;
use walbus::source::{Mode, SourceError, SystemIdentity, connect, environment};
use walbus::{Lsn, SystemId};

use super::folder::Folders;
use super::record::Record;
use super::{RecoverArgs, guard, print};

/// How often a server is asked that does not take connections yet.
const RETRY: Duration = Duration::from_millis(200);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    /// Whether the server has replayed what was recovered.
    proven: bool,
    /// What shows it.
    proof: Proof,
    /// The LSN that had to be reached.
    target: String,
    /// The server's position.
    flushed: String,
    /// The server's system identifier.
    system_id: String,
    /// The server's timeline.
    timeline: u32,
    /// For people.
    text: String,
}

/// What shows that the WAL was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Proof {
    /// The recovered bytes are in `pg_wal`, and the server is behind them.
    Bytes,
    /// There is none.
    None,
    /// The server is behind them, and has removed or reused the segment since.
    Position,
}

pub(super) async fn run(args: &RecoverArgs) -> anyhow::Result<ExitCode> {
    let folders = Folders::open(&args.pgdata)?;
    let record = Record::read(&folders.pgdata)?;
    anyhow::ensure!(
        !guard::is_up(&folders.pgdata)?,
        "recover has not come to its end in {}: run it again before the start",
        args.pgdata.display()
    );
    let config = Config::parse(args.conninfo.as_deref().unwrap_or_default(), &environment())
        .context("--conninfo can't be used")?
        .or_application_name("beyond-pg-sink recover");
    let server = wait_for(&config, args.wait).await?;
    // Only now: while the server replays, it may still be writing there.
    let tail = record.tail.is_in(&folders.wal)?;
    let verdict = judge(&record, &server, tail)?;
    print(args, &verdict.text, &verdict)?;
    Ok(if verdict.proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The server's position, when it takes connections.
async fn wait_for(config: &Config, wait: Duration) -> anyhow::Result<SystemIdentity> {
    let mut last: Option<SourceError> = None;
    let asked = tokio::time::timeout(wait, async {
        loop {
            match ask(config).await {
                Err(error) if error.is_retryable() => last = Some(error),
                answer => return answer,
            }
            tokio::time::sleep(RETRY).await;
        }
    })
    .await;
    match (asked, last) {
        (Ok(answer), _) => Ok(answer?),
        (Err(_elapsed), Some(error)) => Err(anyhow::Error::new(error).context(format!(
            "the server took no connection within {} seconds: is it started? Replaying much WAL takes longer: give --wait",
            wait.as_secs()
        ))),
        (Err(_elapsed), None) => anyhow::bail!("the server did not answer within {} seconds (--wait)", wait.as_secs()),
    }
}

async fn ask(config: &Config) -> Result<SystemIdentity, SourceError> {
    connect(config, Mode::Physical).await?.identify_system().await
}

fn judge(record: &Record, server: &SystemIdentity, tail: Option<bool>) -> anyhow::Result<Verdict> {
    let target: Lsn = record.target.parse().context("read the target")?;
    let system_id: SystemId = record.system_id.parse().context("read the system identifier")?;
    let (proof, text) = if server.system_id != system_id {
        (
            Proof::None,
            format!("NOT PROVEN: the server is of another cluster ({}, not {system_id}): check --conninfo", server.system_id),
        )
    } else if server.timeline.get() < record.timeline {
        let timelines = format!("timeline {}, not on {}", server.timeline, record.timeline);
        (Proof::None, format!("NOT PROVEN: the server is on {timelines}: it is not this folder's"))
    } else if server.flushed < target {
        let text = format!(
            "LOST: the server is at {}, below {target}: it did not replay all that was recovered. Stop it; then take a copy of the folder \
             from before this start and run recover on it",
            server.flushed
        );
        (Proof::None, text)
    } else {
        match tail {
            Some(true) => (
                Proof::Bytes,
                format!("proven: the server is at {}, and the WAL up to {target} is what was recovered", server.flushed),
            ),
            Some(false) => {
                let text = format!(
                    "LOST: the server is at {}, but pg_wal/{} holds other WAL below {target} than was recovered: it was started without \
                     recover, or on another folder. Stop it; then take a copy of the folder from before that and run recover on it",
                    server.flushed, record.tail.segment
                );
                (Proof::None, text)
            }
            None => {
                let text = format!(
                    "proven by position: the server is at {}, behind {target}; pg_wal/{} was reused since, so that its bytes can't be compared",
                    server.flushed, record.tail.segment
                );
                (Proof::Position, text)
            }
        }
    };
    Ok(Verdict {
        proven: proof != Proof::None,
        proof,
        target: target.to_string(),
        flushed: server.flushed.to_string(),
        system_id: server.system_id.to_string(),
        timeline: server.timeline.get(),
        text: format!("{text}\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::record::Tail;
    use walbus::Timeline;

    fn record() -> Record {
        let tail = Tail { segment: "000000010000000000000003".to_owned(), offset: 0, bytes: 1, sha256: String::new() };
        Record {
            version: String::new(),
            system_id: "7".to_owned(),
            timeline: 1,
            redo: "0/300028".to_owned(),
            target: "0/3000100".to_owned(),
            sink: String::new(),
            time: 0,
            tail,
        }
    }

    fn server(flushed: u64) -> SystemIdentity {
        SystemIdentity { system_id: SystemId(7), timeline: Timeline::FIRST, flushed: Lsn(flushed), dbname: None }
    }

    #[test]
    fn a_server_that_is_there() {
        for (tail, proof) in [(Some(true), Proof::Bytes), (None, Proof::Position)] {
            let verdict = judge(&record(), &server(0x300_0100), tail).unwrap();
            assert_eq!((verdict.proven, verdict.proof), (true, proof));
        }
    }

    #[test]
    fn a_server_that_is_not() {
        let other = SystemIdentity { system_id: SystemId(8), ..server(0x400_0000) };
        let of_child = Record { timeline: 2, ..record() };
        let verdicts = [
            judge(&record(), &server(0x300_00F8), Some(true)),
            judge(&record(), &server(0x400_0000), Some(false)),
            judge(&record(), &other, Some(true)),
            judge(&of_child, &server(0x400_0000), Some(true)),
        ];
        for verdict in verdicts {
            let verdict = verdict.unwrap();
            assert!(!verdict.proven && (verdict.text.starts_with("LOST") || verdict.text.starts_with("NOT PROVEN")), "{verdict:?}");
        }
    }
}
