//! The harness of the end-to-end suite: real Postgres of any version, real sinks and CDC servers, and the faults that befall
//! them.
//!
//! ```text
//!   Ledger (writers) ──▶ Postgres ◀──▶ Proxy ◀──▶ Sink ──▶ FullDisk, FailingSync
//!                           │  cut, delay, throttle, corrupt      │
//!                           └── Snapshot: an older data folder ◀──┘ recover
//! ```
//!
//! What a test starts ends with it, also when it panics: values kill what they stand for when dropped, and the kernel kills it when
//! the test's process dies. No port is fixed. Nothing waits for a length of time: what waits, waits in [`eventually`], for a condition.
//!
//! Run as root, everything under test runs as another account ([`account`]), since Postgres refuses root; a full disk needs
//! root, and such tests say so where they are skipped.

pub mod account;
pub mod archive_crash;
pub mod archiver;
pub mod boot_loss;
pub mod cdc;
pub mod clock;
pub mod compare;
pub mod crash;
pub mod disk;
pub mod equality;
pub mod init;
pub mod ledger;
pub mod mmds;
pub mod pitr;
mod port;
pub mod postgres;
pub mod process;
pub mod program;
pub mod proxy;
pub mod s3;
mod scratch;
pub mod sink;
pub mod tls;
mod wait;
pub mod walsender;

pub use account::Account;
pub use archiver::{Archiver, Daemon};
pub use cdc::Cdc;
pub use clock::ShiftedClock;
pub use compare::{Held, compare, download};
pub use disk::{FailingSync, FullDisk};
pub use init::Init;
pub use ledger::Ledger;
pub use mmds::{Mmds, MmdsFault, MmdsVersion};
pub use postgres::{Auth, Postgres, Snapshot, StopMode};
pub use process::Process;
pub use proxy::{Cut, Direction, Proxy};
pub use s3::{Fault, Faults, Refuse, S3, When};
pub use scratch::Scratch;
pub use sink::{Sink, SinkStatus};
pub use wait::{DEADLINE, eventually};
