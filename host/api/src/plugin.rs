//! Plugins: `/1.0/plugins`, Hutch's own.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Timestamp;
use crate::wire::wire;

wire! {
    /// A plugin: one WebAssembly component that provides drivers.
    pub struct Plugin {
        /// Its id, a name in reverse DNS order.
        pub id: String,
        /// Its version.
        pub version: String,
        /// Its licence, as SPDX writes it.
        pub license: String,
        /// SHA-256 of the component, in hexadecimal.
        pub digest: String,
        /// The WIT world that it is written against.
        pub world: String,
        /// `loading`, `enabled`, `failed`, `quarantined`.
        pub state: String,
        /// Why it can't be called, or which of its names others have taken; empty where there is nothing to say.
        pub reason: String,
        /// The names it provides, by family (`storage`, `network`, `image`).
        pub provides: BTreeMap<String, Vec<String>>,
        /// The optional interfaces that it exports.
        pub abilities: Vec<String>,
        /// What its manifest asks for, and what the operator granted of it.
        pub permissions: PluginPermissions,
        /// Its limits as they are in force.
        pub limits: PluginLimits,
        /// The JSON Schema of the operator's settings for it; null where it takes none.
        pub config_schema: Value,
        /// The JSON Schema of the options of its pools, networks or images; null where its own check alone decides.
        pub options_schema: Value,
        /// What it has done since the daemon started.
        pub metrics: PluginMetrics,
        /// When its code was last brought into memory.
        pub loaded_at: Timestamp,
        /// Since when it is in quarantine; never where it is not.
        pub quarantined_at: Timestamp,
    }

    /// `PUT /1.0/plugins/ID/state`.
    pub struct PluginStatePut {
        /// `enable`: out of quarantine, and loaded again where that failed.
        pub action: String,
    }

    /// Permissions in the shape of the manifest.
    pub struct PluginPermissions {
        /// Asked for.
        pub requested: Value,
        /// Granted.
        pub granted: Value,
    }

    /// The limits of a plugin.
    pub struct PluginLimits {
        /// Bytes of memory of one instance.
        pub memory: u64,
        /// Milliseconds that a call may take.
        pub call_timeout_ms: u64,
        /// Calls at one time.
        pub concurrency: u64,
        /// Bytes in its key-value store.
        pub kv_bytes: u64,
    }

    /// Counters of a plugin.
    pub struct PluginMetrics {
        /// Calls.
        pub calls: u64,
        /// Failed calls, by the error's code.
        pub errors: BTreeMap<String, u64>,
        /// Calls that trapped.
        pub traps: u64,
        /// Calls that took too long.
        pub timeouts: u64,
        /// Host functions that were refused.
        pub denials: u64,
        /// Median time of a call, in microseconds.
        pub p50_us: u64,
        /// The time that 99 of 100 calls stay under, in microseconds.
        pub p99_us: u64,
    }

    /// A line that a plugin logged.
    pub struct PluginLogLine {
        /// When.
        pub timestamp: Timestamp,
        /// `error`, `warn`, `info`, `debug`, `trace`.
        pub level: String,
        /// The line.
        pub message: String,
    }
}
