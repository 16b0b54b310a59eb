//! The program that turns a volume and a few settings into a running Postgres behind PgBouncer, as PID 1 of a machine or as an ordinary
//! process.
//!
//! ```text
//!   metadata · file · environment · kernel command line
//!        │ sources                                     settings (pure): one table of names, each value with its source
//!        ▼                                             tune, tier, conf (pure): what Postgres and PgBouncer are told
//!     settings ──▶ boot: step by step, each looks before it acts ──▶ Postgres ──▶ PgBouncer ──▶ ready
//!        ▲                          │                                   ▲            ▲
//!        │ polled                   ▼                                   │ start, signal, exit
//!      engine (poll(2)) ──▶ supervise (pure): event + now ──▶ action ───┘
//! ```
//!
//! One thread; `sys` has the only unsafe code. It knows the other programs as programs: it imports none of them, and not walbus.

pub mod account;
pub mod boot;
pub mod conf;
pub mod engine;
pub mod ha;
pub mod http;
mod live;
pub mod log;
pub mod machine;
pub mod plan;
pub mod program;
pub mod settings;
pub mod sources;
pub mod sql;
pub mod status;
pub mod supervise;
pub mod sys;
pub mod tier;
pub mod tune;
pub mod volume;
