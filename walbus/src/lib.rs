//! Postgres' write-ahead log as a stream.
//!
//! ```text
//!   Postgres (walsender)
//!        │ CopyBoth
//!        ▼
//!   source ──▶ receive ──▶ log (segments on a Disk) ──▶ cursor ──▶ whoever reads
//!     ▲          │  ▲              │                       ▲
//!     │          │  └── proto::wal │ flushed               │ recent bytes
//!     │          ▼                 ▼                       │
//!     └──────  ledger ◀────────────┘        ring ──────────┘
//! ```
//!
//! Bytes flow one way. Only positions flow back, and only through the [`ledger`].
//!
//! What is below [`proto`], and the deciding types ([`lsn`], [`segment`], [`ledger`], [`receive`], [`logical`]), take bytes and values and give
//! values: they know no socket, file, clock or task, and build without any feature of this crate. Drivers do the I/O: [`source`]
//! the network, [`disk`] the files.

pub mod archive;
#[cfg(feature = "disk")]
pub mod causes;
pub mod clock;
pub mod conninfo;
pub mod disk;
pub mod ident;
pub mod index;
pub mod ledger;
pub mod log;
pub mod logical;
pub mod lsn;
#[cfg(feature = "pem")]
pub mod pem;
pub mod pgdata;
pub mod position;
pub mod proto;
pub mod receive;
pub mod ring;
pub mod segment;
#[cfg(feature = "service")]
pub mod service;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(feature = "source")]
pub mod source;
pub mod units;

pub use ident::{PgTime, SystemId, Timeline};
pub use lsn::Lsn;
pub use position::Position;
pub use segment::{Segment, SegmentName, SegmentSize, WalFile};
