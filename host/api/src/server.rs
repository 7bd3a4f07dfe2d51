//! The server's information and configuration: `/1.0`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wire::wire;
use crate::{Config, config};

wire! {
    /// `GET /1.0`.
    pub struct Server {
        /// What this server can do beyond the first version; see [`crate::extensions`].
        pub api_extensions: Vec<String>,
        /// `stable`.
        pub api_status: String,
        /// `1.0`.
        pub api_version: String,
        /// `trusted` or `untrusted`.
        pub auth: String,
        /// Whether the server only offers public images.
        pub public: bool,
        /// How one can prove who one is: `tls`.
        pub auth_methods: Vec<String>,
        /// Who the caller is.
        pub auth_user_name: String,
        /// How that was proved: `unix`, `tls`.
        pub auth_user_method: String,
        /// The server's configuration; only for the trusted.
        pub config: Config,
        /// What it runs on; only for the trusted.
        pub environment: ServerEnvironment,
    }

    /// What a server runs on.
    pub struct ServerEnvironment {
        /// Addresses that the API is served on.
        pub addresses: Vec<String>,
        /// Processor architectures that instances may have.
        pub architectures: Vec<String>,
        /// The server's certificate, in PEM.
        pub certificate: String,
        /// Its SHA-256, in hexadecimal.
        pub certificate_fingerprint: String,
        /// What runs instances, separated by ` | `.
        pub driver: String,
        /// The versions of those, separated likewise.
        pub driver_version: String,
        /// What filters packets: `nftables`.
        pub firewall: String,
        /// `Linux`.
        pub kernel: String,
        /// As `uname -m` says.
        pub kernel_architecture: String,
        /// What the kernel can do, `true` or `false` each.
        pub kernel_features: BTreeMap<String, String>,
        /// As `uname -r` says.
        pub kernel_version: String,
        /// What the container runtime can do, `true` or `false` each.
        pub lxc_features: BTreeMap<String, String>,
        /// The distribution's name.
        pub os_name: String,
        /// Its version.
        pub os_version: String,
        /// The project that the request is for.
        pub project: String,
        /// `hutch`.
        pub server: String,
        /// Whether it is part of a cluster.
        pub server_clustered: bool,
        /// `full-mesh`.
        pub server_event_mode: String,
        /// The machine's name.
        pub server_name: String,
        /// The daemon's process id.
        pub server_pid: i64,
        /// The daemon's version.
        pub server_version: String,
        /// Storage drivers in use, separated by ` | `.
        pub storage: String,
        /// Their versions, separated likewise.
        pub storage_version: String,
        /// Storage drivers that pools can be made with.
        pub storage_supported_drivers: Vec<ServerStorageDriverInfo>,
    }

    /// A storage driver.
    pub struct ServerStorageDriverInfo {
        /// Its name.
        #[serde(rename = "Name")]
        pub name: String,
        /// Its version.
        #[serde(rename = "Version")]
        pub version: String,
        /// Whether its pools are shared between machines.
        #[serde(rename = "Remote")]
        pub remote: bool,
    }

    /// `PUT /1.0`.
    pub struct ServerPut {
        /// The server's configuration.
        pub config: Config,
    }
}

impl ServerPut {
    /// Changes this configuration as a PATCH with `patch` asks.
    pub fn apply(&mut self, patch: ServerPut) {
        config::merge(&mut self.config, patch.config);
    }
}

impl Server {
    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.config])
    }
}
