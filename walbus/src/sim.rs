//! A seeded simulator: what a clock, a disk and a link can do to a program, replayed by one number.
//!
//! Everything is a function of the seed: two runs with the same one do the same. The disk tells what was written from what is durable, and
//! [`SimDisk::lose_power`] leaves of the rest what the seed says; the link delays, and cuts.

mod clock;
mod disk;
mod link;
mod power;
mod random;

pub use clock::SimClock;
pub use disk::{DiskFaults, SimDisk, SimFile};
pub use link::SimLink;
pub use power::{PowerDisk, PowerFile};
pub use random::Random;
