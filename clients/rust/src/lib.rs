//! Subscribes to the changes of a `PostgreSQL` database that `beyond-pg-cdc` serves over QUIC.
//!
//! ```text
//!   connect() ──▶ Driver: the connection, made again when it breaks ──▶ server
//!        │           ▲ requests, acknowledgements      │ streams
//!        ▼           │                                 ▼
//!     Client ──▶ subscribe() ──────────▶ Events ──▶ Changes, Transactions
//! ```
//!
//! - Changes come in commit order, each position greater than the last, and nothing of what was rolled back.
//! - A connection that breaks is made again, and a subscription goes on behind what it has given out: no gap, nothing twice.
//! - A consumer with a name has its acknowledged position kept by the server: acknowledge what you have dealt with, and start with
//!   [`Start::Resume`] next time. What was given out and not acknowledged comes again then.
//! - A subscriber that does not read costs the server nothing: what is not read waits there, in its log.
//!
//! ```no_run
//! use beyond_cdc_client::{Options, Start, Subscription, connect};
//! use futures_util::StreamExt;
//!
//! #[derive(Debug, serde::Deserialize)]
//! struct Order {
//!     id: i64,
//!     total: String,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::new("quic://localhost:8433")?.ca("ca.pem").token_file("token");
//! let (client, driver) = connect(options).await?;
//! tokio::spawn(driver.run());
//!
//! let wanted = Subscription::new(Start::Resume { fresh_from_earliest: true }).consumer("orders-sync").table("public.orders");
//! let mut transactions = client.subscribe(wanted).transactions();
//! while let Some(transaction) = transactions.next().await {
//!     let transaction = transaction?;
//!     for change in transaction.changes() {
//!         println!("{:?} {:?}", change.operation(), change.row::<Order>()?);
//!     }
//!     transactions.acknowledge(transaction.position());
//! }
//! # Ok(())
//! # }
//! ```

mod change;
mod client;
mod decode;
mod driver;
mod error;
mod events;
mod options;
mod row;
mod subscription;
mod tls;
mod transactions;

pub use beyond_cdc_proto as proto;
pub use change::{Change, Column, Header, Operation, Row, Transaction};
pub use client::{Client, ServerInfo, connect};
pub use driver::Driver;
pub use error::Error;
pub use events::{Event, Events};
pub use options::{DEFAULT_PORT, Options};
pub use row::{RowError, Toast};
pub use subscription::{Epoch, ParseEpochError, Start, Subscription};
pub use transactions::{Changes, Transactions};
pub use walbus::{Lsn, Position};
