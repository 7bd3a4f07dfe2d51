//! What `GET /1.0/events` sends.

use serde_json::{Map, Value};

use crate::Timestamp;
use crate::wire::wire;

/// The `type` of events about operations; their metadata is an [`Operation`](crate::operation::Operation).
pub const OPERATION: &str = "operation";
/// The `type` of events about objects; their metadata is an [`EventLifecycle`].
pub const LIFECYCLE: &str = "lifecycle";
/// The `type` of log lines; their metadata is an [`EventLogging`].
pub const LOGGING: &str = "logging";

wire! {
    /// An event.
    pub struct Event {
        /// `operation`, `lifecycle`, `logging`.
        #[serde(rename = "type")]
        pub kind: String,
        /// When it happened.
        pub timestamp: Timestamp,
        /// What happened.
        pub metadata: Value,
        /// The cluster member it happened on; `none` without a cluster.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub location: String,
        /// The project it happened in.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub project: String,
    }

    /// Something happened to an object.
    pub struct EventLifecycle {
        /// What: `instance-created`, `network-updated`, …
        pub action: String,
        /// The object's path.
        pub source: String,
        /// More, for programs.
        #[serde(skip_serializing_if = "Map::is_empty")]
        pub context: Map<String, Value>,
        /// Who asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub requestor: Option<EventLifecycleRequestor>,
        /// The object's name.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub name: String,
        /// Its project.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub project: String,
    }

    /// Who asked for something.
    pub struct EventLifecycleRequestor {
        /// The user's name.
        pub username: String,
        /// `unix`, `tls`.
        pub protocol: String,
        /// Where from.
        pub address: String,
    }

    /// A log line.
    pub struct EventLogging {
        /// The line.
        pub message: String,
        /// `error`, `warning`, `info`, `debug`.
        pub level: String,
        /// What it is about.
        pub context: std::collections::BTreeMap<String, String>,
    }
}
