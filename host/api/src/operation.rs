//! Operations: what takes time.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::wire::wire;
use crate::{StatusCode, Timestamp};

/// The `class` of an operation that runs by itself.
pub const TASK: &str = "task";
/// The `class` of an operation that clients attach to by websockets.
pub const WEBSOCKET: &str = "websocket";
/// The `class` of an operation that is a secret to be redeemed.
pub const TOKEN: &str = "token";

wire! {
    /// An operation.
    pub struct Operation {
        /// Its UUID.
        pub id: String,
        /// `task`, `websocket`, `token`.
        pub class: String,
        /// What it does.
        pub description: String,
        /// When it was made.
        pub created_at: Timestamp,
        /// When it last changed.
        pub updated_at: Timestamp,
        /// The text of `status_code`.
        pub status: String,
        /// Its state; see [`StatusCode::is_final`].
        pub status_code: StatusCode,
        /// Paths of what it is about, by kind (`instances`, `images`, …).
        pub resources: BTreeMap<String, Vec<String>>,
        /// Progress and results.
        pub metadata: Map<String, Value>,
        /// Whether it can be cancelled.
        pub may_cancel: bool,
        /// What went wrong; empty while nothing has.
        pub err: String,
        /// The cluster member it is on; `none` without a cluster.
        pub location: String,
    }
}
