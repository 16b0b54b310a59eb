//! WAL in object storage: what its objects are called, what is in them, and the store that holds them.
//!
//! ```text
//!   plain file ──▶ envelope::seal ──▶ store::Archive::put ──▶ object, under the path of a layout::ObjectName
//!        └──────▶ index::SegmentIndex::of ──▶ the same way
//! ```
//!
//! [`layout`] and [`envelope::Header`] are pure and need no feature. Sealing, opening and indexing are pure as well, but need the libraries
//! of the feature `archive`; `store` does the I/O. `docs/archive-format.md` draws all of it byte by byte.

pub mod envelope;
#[cfg(feature = "archive")]
pub mod index;
#[cfg(feature = "archive")]
pub mod key;
pub mod layout;
#[cfg(feature = "archive")]
pub mod store;
