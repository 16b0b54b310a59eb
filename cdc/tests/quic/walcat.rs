//! What `walcat` prints, and where it goes on.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;
use tokio::time::timeout;
use walcat::args::{Args, Format};
use walcat::exit::Failure;
use walcat::follow::Follower;
use walcat::output::Printer;
use walcat::place::PositionFile;

use crate::harness::{SOON, Server, eventually, insert};

/// What was printed; it breaks as a pipe does after so many writes.
#[derive(Debug, Clone, Default)]
struct Out {
    text: Arc<Mutex<String>>,
    writes_left: Option<usize>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(left) = &mut self.writes_left {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        }
        self.text.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs it as the program does, and gives what it printed.
async fn walcat(server: &Server, flags: &[&str]) -> Result<String, Failure> {
    let out = Out::default();
    walcat_to(server, flags, out.clone()).await?;
    Ok(out.text.lock().unwrap().clone())
}

async fn walcat_to(server: &Server, flags: &[&str], out: Out) -> Result<(), Failure> {
    let args = Args::try_parse_from(["walcat", "quic://localhost"].iter().chain(flags)).unwrap();
    let (file, kept) = match &args.position_file {
        Some(path) => PositionFile::open(path).map(|(file, kept)| (Some(file), kept))?,
        None => (None, None),
    };
    let client = server.client().await;
    let follower = Follower {
        events: client.subscribe(args.subscription(kept, 0)),
        printer: Printer::new(args.format.unwrap_or(Format::Json), args.transactions, false),
        out,
        file,
        named: args.consumer.is_some(),
        left: args.count,
        until_now: args.until_now,
    };
    timeout(SOON, follower.run()).await.expect("it does not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_an_object_a_line() {
    let mut server = Server::start().await;
    server.commit(vec![insert(1, 1, "Ada"), insert(2, 2, "B,\"b\"")]);
    server.fill(1);
    let printed = walcat(&server, &["--from", "earliest", "--until-now"]).await.unwrap();
    let lines: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[1],
        serde_json::json!({
            "position": "0/200:2", "xid": 700, "commit_time": "1970-01-01T00:00:00.000512Z", "op": "insert",
            "schema": "public", "table": "orders", "new": {"id": 2, "name": "B,\"b\""}
        })
    );
    let ops = |printed: String| -> Vec<String> {
        let op = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["op"].as_str().unwrap().to_owned();
        printed.lines().map(op).collect()
    };
    let printed = walcat(&server, &["--from", "earliest", "--until-now", "--transactions"]).await.unwrap();
    assert_eq!(ops(printed), ["begin", "insert", "insert", "commit", "begin", "insert", "commit"]);
    let printed = walcat(&server, &["--from", "earliest", "--until-now", "--transactions", "-t", "*.orders"]).await.unwrap();
    assert_eq!(ops(printed), ["begin", "insert", "commit"], "of what a filter has left nothing of, nothing is printed");
    let printed = walcat(&server, &["--from", "earliest", "--count", "1", "--where", "name=Ada"]).await.unwrap();
    assert_eq!(ops(printed), ["insert"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_and_for_eyes() {
    let mut server = Server::start().await;
    server.commit(vec![insert(1, 1, "Ada"), insert(2, 1, ""), insert(3, 2, "B,\"b\"")]);
    let printed = walcat(&server, &["--from", "earliest", "--until-now", "--format", "csv"]).await.unwrap();
    let header = "position,xid,commit_time,op,table,id,name";
    let at = "700,1970-01-01T00:00:00.000512Z,insert";
    let wanted = [
        header.to_owned(),
        format!("0/200:1,{at},public.users,1,Ada"),
        format!("0/200:2,{at},public.users,2,\"\""),
        header.to_owned(),
        format!("0/200:3,{at},public.orders,3,\"B,\"\"b\"\"\""),
    ];
    assert_eq!(printed.split_terminator("\r\n").collect::<Vec<_>>(), wanted);
    let printed = walcat(&server, &["--from", "earliest", "--count", "1", "--format", "pretty"]).await.unwrap();
    assert_eq!(printed, "1970-01-01T00:00:00.000512Z 0/200:1 insert   public.users id=1 name='Ada'\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_file_keeps_the_place_across_runs() {
    let mut server = Server::start().await;
    server.fill(5);
    let path = server.dir.path().join("place");
    let flags = ["--from", "earliest", "--position-file", path.to_str().unwrap()];
    let lines = |printed: String| printed.lines().count();
    assert_eq!(lines(walcat(&server, &[&flags[..], &["--count", "2"]].concat()).await.unwrap()), 2);
    assert_eq!(lines(walcat(&server, &[&flags[..], &["--until-now"]].concat()).await.unwrap()), 3);
    assert_eq!(lines(walcat(&server, &[&flags[..], &["--until-now"]].concat()).await.unwrap()), 0);
    server.fill(1);
    assert_eq!(lines(walcat(&server, &[&flags[..], &["--until-now"]].concat()).await.unwrap()), 1);
    // A pipe that breaks is no error, and what nobody has read is not behind the place.
    server.fill(3);
    let before = std::fs::read_to_string(&path).unwrap();
    walcat_to(&server, &flags, Out { writes_left: Some(0), ..Out::default() }).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    assert_eq!(lines(walcat(&server, &[&flags[..], &["--until-now"]].concat()).await.unwrap()), 3);
    // A place of another epoch is an error with an exit code of its own, never a silent gap.
    let other = before.replace(&before[..32], &"0".repeat(32));
    std::fs::write(&path, other).unwrap();
    let failure = walcat(&server, &flags).await.unwrap_err();
    assert!(matches!(&failure, Failure::Client(beyond_cdc_client::Error::Gap { .. })), "{failure}");
    assert!(Path::new(&path).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_keeps_the_place_on_the_server() {
    let mut server = Server::start().await;
    server.fill(5);
    let flags = ["--from", "earliest", "--consumer", "cat"];
    for (more, wanted) in [(&["--count", "2"][..], 2), (&["--until-now"], 3), (&["--until-now"], 0)] {
        let printed = walcat(&server, &[&flags[..], more].concat()).await.unwrap();
        assert_eq!(printed.lines().count(), wanted, "{more:?}");
        eventually("the name is free", || server.consumers.list().iter().all(|info| info.agent.is_none())).await;
    }
}
