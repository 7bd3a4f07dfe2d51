//! A client of the database protocol of Open vSwitch and OVN: RFC 7047, with the extensions of `ovsdb-server(7)` that matter to who
//! shares a database with others.
//!
//! It opens no connection: bytes go through a [`Transport`], which in a driver is the host's `stream` and in a test a socket. So it is
//! the same in WebAssembly and outside. What comes from the server is not believed: each message has a largest size, each value is
//! checked against what its column is asked for as, and none of it can make the client panic.
//!
//! ```no_run
//! # use hutch_ovsdb::{Client, Condition, Row, Transaction, Transport};
//! # fn example(transport: impl Transport) -> hutch_ovsdb::Result<()> {
//! let mut client = Client::new(transport);
//! let mut change = Transaction::new("OVN_Northbound");
//! let port = change.insert("Logical_Switch_Port", Row::new().with("name", "c1"));
//! change.insert("Logical_Switch", Row::new().with("name", "net1").with("ports", &port));
//! let asked = change.select("Logical_Switch", [Condition::is("name", "net1")], ["_uuid"]);
//! let results = client.transact(&change)?;
//! assert_eq!(results.rows(asked)?.len(), 1);
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
mod frame;
mod monitor;
mod remote;
mod row;
mod schema;
mod transaction;
mod value;

pub use client::{Client, Transport};
pub use error::{Error, Result};
pub use frame::{Frames, LARGEST_MESSAGE};
pub use monitor::{Monitor, Replica, Table};
pub use remote::{ParseRemoteError, Remote, leader};
pub use row::Row;
pub use schema::{ColumnKind, Schema};
pub use transaction::{Condition, Inserted, Mutation, Results, Transaction};
pub use uuid::Uuid;
pub use value::{Atom, Value};
