//! Clusters, as far as a machine alone has to answer for one.

use crate::wire::wire;

wire! {
    /// `GET /1.0/cluster`.
    pub struct Cluster {
        /// This member's name; empty without a cluster.
        pub server_name: String,
        /// Whether this server is part of one.
        pub enabled: bool,
        /// What one has to say to join.
        pub member_config: Vec<ClusterMemberConfigKey>,
    }

    /// A setting that each member has its own value of.
    pub struct ClusterMemberConfigKey {
        /// `storage-pool` or `network`.
        pub entity: String,
        /// Its name.
        pub name: String,
        /// The key.
        pub key: String,
        /// The value.
        pub value: String,
        /// What it means.
        pub description: String,
    }
}
