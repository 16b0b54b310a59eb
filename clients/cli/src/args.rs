//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use beyond_cdc_client::{Error, Operation, Options, Position, Start, Subscription};
use clap::{Parser, ValueEnum};
use walbus::units::{UnitError, parse_duration};

use crate::exit::CODES;

const EXAMPLES: &str = "\
Examples:
  The changes of all tables from now on, for eyes:
      walcat quic://cdc.example.com --ca ca.pem --token-file token

  All that the server still has of the orders, one JSON object a line, then end:
      walcat quic://cdc.example.com --table public.orders --from earliest --until-now --format json

  The inserts of one customer into a program that goes on where it was, however it ended:
      walcat quic://cdc.example.com --table public.orders --operation insert --where customer_id=42 \\
          --from earliest --position-file orders.position --format json | ./load-orders

  The same, with the place kept by the server under a name:
      walcat quic://cdc.example.com --table public.orders --consumer load-orders --from earliest --format json | ./load-orders

JSON, one object a line:
  {\"position\":\"0/16B3748:3\",\"xid\":742,\"commit_time\":\"2026-03-01T12:00:00.123456Z\",\"op\":\"update\",
   \"schema\":\"public\",\"table\":\"users\",\"new\":{\"id\":1,\"name\":\"Ada\"},\"old\":{\"id\":7},\"unchanged\":[\"avatar\"]}
  op is insert, update, delete, truncate or message. old is there when Postgres sent it. unchanged names large columns that the update did
  not touch and Postgres did not send: they are not NULL.

The server has the files for --ca and --token-file in its data folder: tls/ca.pem and token.
";

/// The changes of a PostgreSQL database, in a shell.
///
/// Subscribes to a beyond-pg-cdc and prints every committed change from the given place on, in commit order: nothing of what was rolled back,
/// nothing twice, nothing left out, also when the connection breaks in between.
#[derive(Debug, Parser)]
#[command(name = "walcat", version, max_term_width = 110, after_long_help = format!("{EXAMPLES}\n{CODES}"))]
pub struct Args {
    /// The server: quic://HOST:PORT (port 8433 where none is given).
    #[arg(value_name = "URL", env = "WALCAT_SERVER")]
    pub url: String,

    /// Print only tables that match: schema.table, each part a name or a pattern with * and ?. Again: those as well.
    #[arg(short, long = "table", value_name = "PATTERN", help_heading = "What to print")]
    pub tables: Vec<String>,

    /// Print only this operation. Again: that one as well.
    #[arg(short, long = "operation", value_name = "OPERATION", help_heading = "What to print")]
    pub operations: Vec<Op>,

    /// Print only this column, in tables that have it; the key always is. Again: that one as well.
    #[arg(long = "column", value_name = "NAME", help_heading = "What to print")]
    pub columns: Vec<String>,

    /// Print only rows whose column has this value, as Postgres writes it. COLUMN alone: those that have NULL in it. Again: both have to
    /// hold.
    #[arg(long = "where", value_name = "COLUMN=VALUE", help_heading = "What to print")]
    pub equals: Vec<String>,

    /// Where to start: earliest, latest, behind a POSITION (0/16B3748:3), or at a TIME (2026-03-01T12:00:00Z, or 15m for so long ago).
    ///
    /// A consumer or a position file that has a place already goes on from there, whatever this says.
    #[arg(short, long, value_name = "PLACE", default_value = "latest", value_parser = parse_from, help_heading = "From where to where")]
    pub from: From,

    /// End with what the server has at the start.
    #[arg(long, help_heading = "From where to where")]
    pub until_now: bool,

    /// End after so many changes.
    #[arg(short, long, value_name = "N", help_heading = "From where to where")]
    pub count: Option<u64>,

    /// Keep the place on the server, under this name, and go on from it next time. What was printed is acknowledged.
    #[arg(long, value_name = "NAME", help_heading = "Across runs")]
    pub consumer: Option<String>,

    /// Take the name over from a session that has it.
    #[arg(long, requires = "consumer", help_heading = "Across runs")]
    pub take_over: bool,

    /// Keep the place in this file, and go on from it next time. Written when what was printed is out.
    #[arg(long, value_name = "FILE", conflicts_with = "consumer", help_heading = "Across runs")]
    pub position_file: Option<PathBuf>,

    /// How to print: pretty for eyes, json for programs, csv for tables. Unless said, pretty in a terminal and json in a pipe.
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub format: Option<Format>,

    /// Print lines for the begin and the commit of each transaction too.
    #[arg(long, help_heading = "Output")]
    pub transactions: bool,

    /// The certificate authority that signed the server's certificate, as PEM; without it the system's are trusted.
    #[arg(long, value_name = "FILE", env = "WALCAT_CA", help_heading = "Connection")]
    pub ca: Option<PathBuf>,

    /// A file with the server's bearer token.
    #[arg(long, value_name = "FILE", env = "WALCAT_TOKEN_FILE", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,

    /// A client certificate (PEM, with its chain), for a server that was started with --client-ca.
    #[arg(long, value_name = "FILE", env = "WALCAT_CERT", requires = "key", help_heading = "Connection")]
    pub cert: Option<PathBuf>,

    /// The private key of --cert, as PEM.
    #[arg(long, value_name = "FILE", env = "WALCAT_KEY", requires = "cert", help_heading = "Connection")]
    pub key: Option<PathBuf>,

    /// How long a connection may take to be made.
    #[arg(long, value_name = "DURATION", env = "WALCAT_CONNECT_TIMEOUT", default_value = "10s", value_parser = parse_duration, help_heading = "Connection")]
    pub connect_timeout: Duration,

    /// Tell on standard error what the connection does. Again: more.
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Connection")]
    pub verbose: u8,
}

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Rows that were deleted.
    Delete,
    /// Rows that were inserted.
    Insert,
    /// Messages of `pg_logical_emit_message`.
    Message,
    /// Tables that were truncated.
    Truncate,
    /// Rows that were updated.
    Update,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Rows with their columns as CSV, behind a header for each table.
    Csv,
    /// An object a line.
    Json,
    /// For eyes.
    Pretty,
}

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// So long ago.
    Ago(Duration),
    /// With the oldest change there is.
    Earliest,
    /// With the next change.
    Latest,
    /// Behind a position.
    Position(Position),
    /// At a time, in microseconds since 1970-01-01 00:00 UTC.
    Time(i64),
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "earliest" => return Ok(From::Earliest),
        "latest" => return Ok(From::Latest),
        _ => {}
    }
    if let Ok(position) = text.parse() {
        return Ok(From::Position(position));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(From::Time(time.as_microsecond()));
    }
    parse_duration(text).map(From::Ago).map_err(|_: UnitError| {
        "write earliest, latest, a position as in 0/16B3748:3, a time as in 2026-03-01T12:00:00Z, or how long ago as in 15m"
            .to_owned()
    })
}

impl Args {
    /// Where the server is, and who we are.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn options(&self) -> Result<Options, Error> {
        let mut options =
            Options::new(&self.url)?.agent(concat!("walcat/", env!("CARGO_PKG_VERSION"))).connect_timeout(self.connect_timeout);
        if let Some(file) = &self.ca {
            options = options.ca(file);
        }
        if let Some(file) = &self.token_file {
            options = options.token_file(file);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options = options.identity(cert, key);
        }
        Ok(options)
    }

    /// What to subscribe to: `kept` is what a position file says, `now` the time in microseconds since 1970.
    #[must_use]
    pub fn subscription(&self, kept: Option<Start>, now: i64) -> Subscription {
        let from = match self.from {
            From::Ago(ago) => Start::Time(now.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX))),
            From::Earliest => Start::Earliest,
            From::Latest => Start::Latest,
            From::Position(position) => Start::After { position, epoch: None },
            From::Time(micros) => Start::Time(micros),
        };
        let start = match (&self.consumer, from) {
            (Some(_), Start::Earliest) => Start::Resume { fresh_from_earliest: true },
            (Some(_), Start::Latest) => Start::Resume { fresh_from_earliest: false },
            (_, from) => kept.unwrap_or(from),
        };
        let mut subscription =
            Subscription::new(start).consumer(self.consumer.clone().unwrap_or_default()).take_over(self.take_over);
        for table in &self.tables {
            subscription = subscription.table(table);
        }
        for operation in &self.operations {
            subscription = subscription.operation(match operation {
                Op::Delete => Operation::Delete,
                Op::Insert => Operation::Insert,
                Op::Message => Operation::Message,
                Op::Truncate => Operation::Truncate,
                Op::Update => Operation::Update,
            });
        }
        for column in &self.columns {
            subscription = subscription.column(column);
        }
        for condition in &self.equals {
            subscription = match condition.split_once('=') {
                Some((column, value)) => subscription.equals(column, Some(value.to_owned())),
                None => subscription.equals(condition, None),
            };
        }
        subscription
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beyond_cdc_client::Lsn;

    fn from(text: &str) -> Option<From> {
        Args::try_parse_from(["walcat", "quic://a", "--from", text]).ok().map(|args| args.from)
    }

    #[test]
    fn places_are_read() {
        assert_eq!(from("earliest"), Some(From::Earliest));
        assert_eq!(from("latest"), Some(From::Latest));
        let position = Position { commit_lsn: Lsn(0x16B_3748), ordinal: 3 };
        assert_eq!(from("0/16B3748:3"), Some(From::Position(position)));
        assert_eq!(from("1970-01-01T00:00:01Z"), Some(From::Time(1_000_000)));
        assert_eq!(from("1970-01-01T01:00:01+01:00"), Some(From::Time(1_000_000)));
        assert_eq!(from("15m"), Some(From::Ago(Duration::from_secs(900))));
        for text in ["", "yesterday", "0/16B3748", "15", "1970-01-01"] {
            assert_eq!(from(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_place_that_was_kept_goes_before() {
        let shown = |args: &[&str], kept| {
            let args = Args::try_parse_from(["walcat", "quic://a"].iter().chain(args)).unwrap();
            format!("{:?}", args.subscription(kept, 10_000_000))
        };
        let kept = Start::After { position: Position { commit_lsn: Lsn(7), ordinal: 1 }, epoch: None };
        assert!(shown(&["--from", "earliest"], Some(kept)).contains("0/7:1"));
        assert!(shown(&["--from", "earliest"], None).contains("Earliest"));
        assert!(shown(&["--consumer", "c", "--from", "earliest"], None).contains("Resume { fresh_from_earliest: true }"));
        assert!(shown(&["--from", "1s"], None).contains("Time(9000000)"));
    }

    #[test]
    fn flags_that_contradict_are_refused() {
        for args in [
            &["--cert", "a"][..],
            &["--take-over"],
            &["--consumer", "a", "--position-file", "b"],
            &["--format", "xml"],
            &["--count", "-1"],
        ] {
            assert!(Args::try_parse_from(["walcat", "quic://a"].iter().chain(args)).is_err(), "{args:?}");
        }
    }
}
