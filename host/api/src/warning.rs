//! Warnings: what is wrong with the server and stays so until somebody sees to it.

use crate::Timestamp;
use crate::wire::wire;

wire! {
    /// A warning.
    pub struct Warning {
        /// Its id.
        pub uuid: String,
        /// The cluster member it is about.
        pub location: String,
        /// The project it is about.
        pub project: String,
        /// The path of what it is about.
        pub entity_url: String,
        /// `new`, `acknowledged`, `resolved`.
        pub status: String,
        /// `low`, `moderate`, `high`.
        pub severity: String,
        /// What is wrong, in general.
        #[serde(rename = "type")]
        pub kind: String,
        /// How often it was met.
        pub count: i64,
        /// When it was first met.
        pub first_seen_at: Timestamp,
        /// When it was last met.
        pub last_seen_at: Timestamp,
        /// What was said then.
        pub last_message: String,
    }

    /// `PUT /1.0/warnings/{uuid}`.
    pub struct WarningPut {
        /// `new` or `acknowledged`.
        pub status: String,
    }
}
