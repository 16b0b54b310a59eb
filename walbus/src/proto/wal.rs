//! WAL pages and records: what Postgres 15 to 18 write, byte by byte, and what can be read off it.
//!
//! ```text
//!   bytes, in any chunks ──▶ Decoder ──▶ Record { lsn, end, prev, xid, event, .. }   one a CRC-valid record
//!                              │
//!                              ├─▶ position()        end of the bytes fed
//!                              ├─▶ complete_end()    end of the last complete record
//!                              └─▶ pending_record()  a record that has begun and is not complete
//! ```
//!
//! A segment is a row of pages of [`PAGE_BYTES`]. Each page starts with a header ([`PageHeader`]), the first one of a segment with
//! a longer one. Records start at multiples of 8 bytes and run on across pages and segments; where one does, the next page's
//! header says so and how much is left (a *contrecord*). Source: `access/xlog_internal.h`, `access/xlogrecord.h` and
//! `xlogreader.c` of Postgres 15 to 18, x86-64 and aarch64 (little-endian, `MAXALIGN` 8).

#![cfg_attr(not(test), deny(clippy::as_conversions, clippy::cast_possible_truncation, clippy::indexing_slicing))]

mod body;
#[cfg(any(test, feature = "sim"))]
mod build;
mod crc;
mod decoder;
mod error;
mod event;
mod field;
mod page;
mod record;
mod scan;

pub use body::{Body, BodyError};
#[cfg(any(test, feature = "sim"))]
pub use build::{Built, WalBuilder};
pub use decoder::Decoder;
pub use error::{Before, DecodeError, Reason};
pub use event::{Parameters, WalEvent, event_of, prepared_xid_of};
pub use page::{LongHeader, PAGE_BYTES, PageHeader, WalVersion};
pub use record::{MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Record, RecordHeader, rmgr_name};
#[cfg(feature = "archive")]
pub(crate) use record::{RM_XLOG, XLOG_SWITCH};
pub use scan::{Scan, ScanEnd};

pub(in crate::proto) use field::{i64_at, u8_at, u32_at, u64_at};
