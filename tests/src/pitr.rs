//! Recovery to a point: a cluster that is archived, bases of it, and restores that must be exact to the row.
//!
//! ```text
//!   Story:  primary (its clock jumps) ── archive_command ──▶ archive in a folder
//!              │ base backup, snapshot                            │
//!              ▼                                                  ▼
//!           copies ◀── beyond-pg-archiver restore ── locate ──────┘     then: which rows are there?
//! ```
//!
//! The rows that must be there follow from the order of the commits and their times as the primary said them, not from what is tested.

mod archive;
mod restored;
mod round;
mod story;

pub use archive::Archive;
pub use restored::{Restored, Stop};
pub use round::{Outcome, Round, play};
pub use story::{Base, Event, Story};
